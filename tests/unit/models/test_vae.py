"""The generic autoencoder: any size, physics in its loss, laws that can fail."""

from dataclasses import replace

import pytest
import torch

from acie_pipelines.errors import ConfigurationError
from acie_pipelines.models.log_flux_laws import LogFluxLaws
from acie_pipelines.models.simulated import SimulatedSpectra, simulate_spectra
from acie_pipelines.models.vae import ConditionalVAE, VAEConfig, train_vae
from acie_pipelines.simulation.presets import preset


@pytest.fixture(scope="module")
def sky() -> SimulatedSpectra:
    return simulate_spectra(300, seed=3)


def laws_of(sky: SimulatedSpectra) -> tuple[LogFluxLaws, torch.Tensor, torch.Tensor]:
    log_flux = torch.log(sky.clean)
    mean, scale = log_flux.mean(dim=0), log_flux.std(dim=0).mean()
    redshift = sky.values["redshift"].float()
    parents = torch.stack([sky.values["stellar_mass"].float() - 10.5, redshift], dim=1)
    laws = LogFluxLaws(preset("sdss"), mean, scale, 1, 0.0, 1.0)
    return laws, (log_flux - mean) / scale, parents


def test_the_largest_size_builds_and_learns() -> None:
    config = VAEConfig(obs_dim=6000, parents=4, latent_dim=2000, hidden=32)
    model = ConditionalVAE(config, seed=0)
    generator = torch.Generator().manual_seed(0)
    observed = torch.randn(16, 6000, generator=generator)
    parents = torch.randn(16, 4, generator=generator)
    mean, _ = model.encode(observed, parents)
    assert mean.shape == (16, 2000)
    first, _ = model.loss(observed, parents, torch.Generator().manual_seed(1))
    train_vae(model, observed, parents, epochs=4, seed=0, batch=16)
    last, _ = model.loss(observed, parents, torch.Generator().manual_seed(1))
    assert last < first
    assert model.counterfactual(observed, parents, parents + 1).shape == (16, 6000)


def test_the_law_holds_for_simulated_light_and_can_fail(sky: SimulatedSpectra) -> None:
    laws, shape, parents = laws_of(sky)
    (residual,) = laws(shape, parents).values()
    lines = sky.values["star_formation_state"] == 0
    assert residual[lines].square().mean().sqrt() < 0.3
    broken = shape.clone()
    stretch = torch.log(4960.295 * (1 + sky.values["redshift"]) / preset("sdss").lowest_angstrom)
    pixel = (stretch / preset("sdss").log_step).long()
    broken[torch.arange(300), pixel] += torch.log(torch.tensor(2.0)) / laws.scale
    (worse,) = laws(broken, parents).values()
    torch.testing.assert_close(worse.median(), torch.tensor(-2.98), atol=0.6, rtol=0)


def test_physics_in_the_loss_lowers_its_residual(sky: SimulatedSpectra) -> None:
    laws, shape, parents = laws_of(sky)
    base = VAEConfig(obs_dim=1000, parents=2, latent_dim=4, hidden=32)
    found = {}
    for weight in (0.0, 10.0):
        model = ConditionalVAE(replace(base, physics_weight=weight), seed=0)
        history = train_vae(model, shape, parents, epochs=8, seed=0, batch=50, laws=laws)
        assert len(history) == 8
        (found[weight],) = history[-1].values()
    assert found[10.0] < 0.7 * found[0.0]


def test_negative_weights_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="negative weight"):
        VAEConfig(obs_dim=10, parents=1, physics_weight=-1.0)
