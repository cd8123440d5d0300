"""The evidence bound: its likelihood and prior are right, and it prefers the better network."""

import math

import torch

from acie_pipelines.models.decoder import SpectralDecoder
from acie_pipelines.models.evidence import evidence_bound, light_log_likelihood, light_log_prior
from acie_pipelines.models.parameters import unconstrain
from acie_pipelines.models.posterior import AmortisedPosterior, PosteriorConfig
from acie_pipelines.models.simulated import simulate_spectra


def test_modes_are_marginalised_as_by_quadrature() -> None:
    decoder = SpectralDecoder(modes=1, mode_rms=0.05)
    sky = simulate_spectra(3, seed=5)
    truth = unconstrain(sky.values)
    flux = decoder.render(truth, torch.full((3, 1), 0.7, dtype=torch.float64))
    grid = torch.linspace(-3.0, 4.0, 4001, dtype=torch.float64)
    found, exact = [], []
    for shift in (0.0, 0.02):
        moved = truth.clone()
        moved[:, 1] += shift
        found.append(light_log_likelihood(decoder, flux, sky.ivar, moved))
        rows = []
        for k in range(3):
            bare = decoder.render(moved[k : k + 1], torch.zeros(1, 1, dtype=torch.float64))[0]
            model = bare.double() * torch.exp(grid[:, None] * decoder.basis[0].double())
            misfit = (sky.ivar[k] * (flux[k] - model).square()).sum(dim=1)
            step = float(grid[1] - grid[0])
            log_joint = -0.5 * (misfit + grid.square()) - 0.5 * math.log(2 * math.pi)
            rows.append(torch.logsumexp(log_joint, 0) + math.log(step))
        exact.append(torch.stack(rows))
    for ours, theirs in zip(found, exact, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0.05)
    # The shift that is absorbed in part is neither free nor as dear as without a mode.
    assert (found[1] < found[0]).all()


def test_galaxies_as_they_are_have_the_largest_prior_density() -> None:
    truth = unconstrain(simulate_spectra(300, seed=6).values)
    right = light_log_prior(truth, seed=0)
    generator = torch.Generator().manual_seed(0)
    for column in (1, 2):
        mixed = truth.clone()
        mixed[:, column] = mixed[torch.randperm(300, generator=generator), column]
        assert right.mean() > light_log_prior(mixed, seed=0).nan_to_num(neginf=-100.0).mean() + 0.5


class Near(AmortisedPosterior):
    """Normal about a place, and so wide."""

    def __init__(self, place: torch.Tensor, width: torch.Tensor) -> None:
        super().__init__(PosteriorConfig(1000, 16, 1, 1, 16), seed=0)
        self.place, self.width = place, width

    def log_prob(self, parameters: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        normal = torch.distributions.Normal(self.place, self.width)
        return normal.log_prob(parameters).sum(dim=-1)

    def sample(
        self, flux: torch.Tensor, ivar: torch.Tensor, draws: int, *, seed: int
    ) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(draws, *self.place.shape, generator=generator, dtype=torch.float64)
        return self.place + self.width * noise


def test_the_bound_prefers_what_is_right() -> None:
    sky = simulate_spectra(6, seed=7)
    decoder = SpectralDecoder()
    truth = unconstrain(sky.values)
    width = torch.tensor([1e-4, 5e-3, 1e-2, 1e-2, 2e-2, 2e-2, 2e-2, 5e-2], dtype=torch.float64)
    ones = torch.ones(6, dtype=torch.float64)

    def bound(network: AmortisedPosterior, scale: torch.Tensor = ones) -> torch.Tensor:
        return evidence_bound(network, decoder, sky.flux, sky.ivar, scale, seed=0)

    right = bound(Near(truth, width))
    assert (right > bound(Near(truth + 10 * width, width))).all()
    assert (right > bound(Near(truth, 10 * width))).all()
    wide = Near(truth, 10 * width)
    # Larger noise forgives what is far away.
    assert (bound(wide, 10 * ones) > bound(wide)).all()
