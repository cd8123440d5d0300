"""A residual learned from spectra alone: it is the true one, bounded, and helps galaxies unseen."""

import math

import pytest
import torch

from acie_pipelines.errors import ModelError
from acie_pipelines.models.adaptation import LARGEST_NORM, learn_residual
from acie_pipelines.models.decoder import SpectralDecoder
from acie_pipelines.models.parameters import unconstrain
from acie_pipelines.models.refinement import refine
from acie_pipelines.models.residual import LearnedResidual, fit_residual
from acie_pipelines.models.simulated import SimulatedSpectra, simulate_spectra
from acie_pipelines.simulation.presets import preset

GRID = preset("sdss")


def features(rest: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
    """Bands at rest that the physics does not know; one grows and shrinks between galaxies."""

    def band(centre: float) -> torch.Tensor:
        return torch.exp(-0.5 * ((rest - centre) / 25.0) ** 2)

    return -0.15 * band(5300.0) + 0.1 * band(4600.0) + 0.06 * latent[:, None] * band(5900.0)


@pytest.fixture(scope="module")
def sky() -> SimulatedSpectra:
    return simulate_spectra(14, seed=77)


@pytest.fixture(scope="module")
def seen(sky: SimulatedSpectra) -> torch.Tensor:
    """Flux with the features, and noise."""
    generator = torch.Generator().manual_seed(1)
    latent = torch.randn(14, generator=generator)
    stretch = 1 + sky.values["redshift"][:, None]
    rest = (torch.from_numpy(GRID.wavelength_angstrom) / stretch).float()
    clean = sky.clean * torch.exp(features(rest, latent))
    return clean + sky.sigma * torch.randn(clean.shape, generator=generator)


def test_what_the_physics_leaves_out_is_found(sky: SimulatedSpectra, seen: torch.Tensor) -> None:
    physics = SpectralDecoder(modes=4, mode_rms=0.05)
    guess = unconstrain(sky.values) + 0.002
    train, test = slice(0, 11), slice(11, 14)
    start = refine(physics, seen[train], sky.ivar[train], guess[train], steps=10)
    residual = learn_residual(
        physics, seen[train], sky.ivar[train], sky.values["redshift"][train], start, seed=0
    )
    assert residual.spectral_norm <= LARGEST_NORM * 1.001
    at_rest = 3000.0 * torch.exp((torch.arange(residual.mean.numel()) + 0.5) * residual.log_step)
    covered = (at_rest > 3800) & (at_rest < 7500)
    truth = features(at_rest[covered][None], torch.zeros(1))[0]
    found = residual.mean[covered]
    correlation = torch.corrcoef(torch.stack([truth, found]))[0, 1]
    assert correlation > 0.6
    before = refine(physics, seen[test], sky.ivar[test], guess[test], steps=10)
    softer = SpectralDecoder(modes=4, mode_rms=0.05, residual=residual)
    after = refine(softer, seen[test], sky.ivar[test], guess[test], steps=10)
    assert (after.chi_square < before.chi_square).all()
    assert after.chi_square.median() < 1 + 0.5 * (before.chi_square.median() - 1)


def test_derivatives_know_the_residual() -> None:
    generator = torch.Generator().manual_seed(0)
    count = round(math.log(9500 / 3000) / GRID.log_step)
    smooth = torch.sin(torch.linspace(0, 60, count))
    components = 0.05 * torch.stack([smooth, smooth.cos()])
    residual = LearnedResidual(GRID.log_step, 0.1 * smooth, components)
    decoder = SpectralDecoder(modes=2, mode_rms=0.05, residual=residual)
    parameters = unconstrain(simulate_spectra(2, seed=1).values)
    amplitudes = torch.randn(2, 4, generator=generator, dtype=torch.float64)
    flux, derivative = decoder.linearise(parameters, amplitudes)
    assert derivative.shape == (2, 12, 1000)
    for k in range(4):
        moved = amplitudes.clone()
        moved[:, k] += 1e-2
        slope = (decoder.render(parameters, moved) - flux) / 1e-2
        torch.testing.assert_close(derivative[:, 8 + k], slope, rtol=2e-2, atol=2e-3 * flux.max())


def test_components_are_bounded_and_missing_pixels_ignored() -> None:
    generator = torch.Generator().manual_seed(2)
    redshift = torch.linspace(0.03, 0.2, 10, dtype=torch.float64)
    wild = 5 * torch.randn(10, 1000, generator=generator)
    weight = torch.full_like(wild, 400.0)
    found = fit_residual(wild, weight, GRID, redshift, rank=2, largest_norm=0.1, seed=0)
    assert found.spectral_norm <= 0.1001
    weight[:, 300:] = 0
    wild[:, 300:] = torch.nan
    found = fit_residual(wild, weight, GRID, redshift, rank=2, largest_norm=0.1, seed=0)
    assert found.mean.isfinite().all()
    assert not found.mean[-100:].any()
    with pytest.raises(ModelError, match="cannot teach"):
        fit_residual(wild[:2], weight[:2], GRID, redshift[:2], rank=2, largest_norm=0.1, seed=0)


def test_the_file_comes_back_or_is_refused() -> None:
    random = torch.Generator().manual_seed(1)
    mean, basis = torch.rand(50, generator=random), torch.rand(3, 50, generator=random)
    residual = LearnedResidual(GRID.log_step, mean, basis)
    again = LearnedResidual.from_bytes(residual.to_bytes())
    assert torch.equal(again.components, residual.components)
    assert again.log_step == residual.log_step
    with pytest.raises(ModelError, match="cannot be read"):
        LearnedResidual.from_bytes(residual.to_bytes()[:-40])
