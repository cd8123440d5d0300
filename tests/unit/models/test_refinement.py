"""The exact posterior: coordinates, densities, the mode, what is carried over."""

import math

import pytest
import torch
from scipy import stats

from acie_pipelines.models.decoder import SpectralDecoder
from acie_pipelines.models.importance import exact_draws
from acie_pipelines.models.latents import (
    LATENTS,
    galaxies,
    light_and_prior,
    to_coordinates,
)
from acie_pipelines.models.outliers import exogenous_residual
from acie_pipelines.models.parameters import PARAMETERS, constrain, unconstrain
from acie_pipelines.models.redshift import align_redshift
from acie_pipelines.models.refinement import refine
from acie_pipelines.models.simulated import SimulatedSpectra, simulate_spectra
from acie_pipelines.models.unseen import complete
from acie_pipelines.simulation.galaxy import GalaxySCM


@pytest.fixture(scope="module")
def sky() -> SimulatedSpectra:
    return simulate_spectra(12, seed=11)


@pytest.fixture(scope="module")
def guess(sky: SimulatedSpectra) -> torch.Tensor:
    scatter = torch.tensor([0.003, 0.05, 0.15, 0.05, 0.2, 0.1, 0.1, 0.1], dtype=torch.float64)
    noise = torch.randn(12, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return unconstrain(sky.values) + scatter * noise


def test_unconstrained_parameters_come_back() -> None:
    values = GalaxySCM().sample(50, seed=1)
    back = constrain(unconstrain(values))
    for name in PARAMETERS:
        torch.testing.assert_close(back[name], values[name], rtol=1e-14, atol=0)


@pytest.mark.parametrize("state", [0.0, 1.0])
def test_coordinates_and_density_follow_from_a_change_of_variables(state: float) -> None:
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(40, len(LATENTS), generator=generator, dtype=torch.float64)
    coordinates, turn = to_coordinates(latents, state)
    values, density = galaxies(coordinates, torch.full((40,), state, dtype=torch.float64))
    found = light_and_prior(latents, state)
    torch.testing.assert_close(unconstrain(values), found[:, :8], rtol=1e-9, atol=1e-9)
    log_det = torch.linalg.slogdet(turn).logabsdet
    expected = -0.5 * latents.square().sum(1) + found[:, 8] - log_det
    torch.testing.assert_close(density - density[0], expected - expected[0], rtol=0, atol=2e-3)


def test_mode_fits_and_errs_by_what_noise_allows(
    sky: SimulatedSpectra, guess: torch.Tensor
) -> None:
    decoder = SpectralDecoder()
    fit = refine(decoder, sky.flux, sky.ivar, guess, steps=40)
    assert fit.chi_square.max() < 1.2
    error = (decoder.render(fit.parameters, fit.amplitudes) - sky.clean) / sky.sigma
    # Eight parameters on a thousand pixels: sqrt(8 / 1000) = 0.09.
    assert error.square().mean().sqrt() < 0.12


def test_missing_pixels_do_not_matter(sky: SimulatedSpectra, guess: torch.Tensor) -> None:
    decoder = SpectralDecoder()
    ivar = sky.ivar.clone()
    ivar[:, 300:350] = 0
    broken = sky.flux.clone()
    broken[:, 300:350] = 1e6
    whole = refine(decoder, sky.flux[:3], ivar[:3], guess[:3], steps=3)
    other = refine(decoder, broken[:3], ivar[:3], guess[:3], steps=3)
    assert torch.equal(whole.parameters, other.parameters)


def test_smooth_modes_take_up_a_wrong_continuum(sky: SimulatedSpectra, guess: torch.Tensor) -> None:
    wave = torch.cos(2 * math.pi * torch.linspace(0, 1, 1000))
    warped = sky.flux * (1 + 0.08 * wave)
    rigid = refine(SpectralDecoder(), warped, sky.ivar, guess, steps=30)
    soft = refine(SpectralDecoder(modes=6, mode_rms=0.1), warped, sky.ivar, guess, steps=30)
    assert rigid.chi_square.median() > 1.1
    assert soft.chi_square.median() < 1.05
    truth = unconstrain(sky.values)[:, 1]
    assert (soft.parameters[:, 1] - truth).abs().mean() < 0.12


def test_an_unknown_line_is_told_from_noise() -> None:
    generator = torch.Generator().manual_seed(5)
    model = torch.full((4, 1000), 10.0)
    ivar = torch.full_like(model, 4.0)
    flux = model + 0.5 * torch.randn(4, 1000, generator=generator)
    assert not exogenous_residual(flux, ivar, model).any()
    flux[1, 500:503] += 4.0
    residual = exogenous_residual(flux, ivar, model)
    assert not residual[[0, 2, 3]].any()
    assert residual[1, 501] == pytest.approx(0.4, abs=0.12)
    assert not residual[1, :490].any()


def test_a_bad_fit_is_no_feature() -> None:
    model = torch.full((1, 1000), 10.0)
    assert not exogenous_residual(2 * model, torch.full_like(model, 4.0), model).any()


def test_what_light_does_not_show_is_drawn_from_its_posterior() -> None:
    truth = GalaxySCM().sample(10_000, seed=8)
    found = complete({name: truth[name] for name in PARAMETERS}, seed=1)
    assert all(torch.equal(found[name], truth[name]) for name in PARAMETERS)
    # Draws given the rest of a galaxy are distributed like the galaxies themselves.
    for name in ("size", "gas_fraction", "environment", "black_hole_mass"):
        assert stats.ks_2samp(found[name].numpy(), truth[name].numpy()).pvalue > 0.01
        a, b = truth[name] - truth[name].mean(), found[name] - found[name].mean()
        for other in PARAMETERS:
            given = truth[other] - truth[other].mean()
            scale = given.std() * truth[name].std()
            assert (given * a).mean() / scale == pytest.approx(
                float((given * b).mean() / scale), abs=0.04
            )
    state = "star_formation_state"
    assert (found[state] == truth[state]).double().mean() > 0.97


def test_redshift_is_found_from_seventy_pixels_away(sky: SimulatedSpectra) -> None:
    decoder = SpectralDecoder()
    truth = sky.values["redshift"]
    scatter = torch.tensor([0, 0.05, 0.15, 0.05, 0.1, 0.1, 0.1, 0.1], dtype=torch.float64)
    guess = unconstrain(sky.values) + scatter
    for pixels in (-40, 70):
        wrong = (1 + truth) * math.exp(pixels * decoder.preset.log_step) - 1
        guess[:, 0] = torch.log(wrong.clamp_min(1e-3))
        reached = constrain(guess)["redshift"] == wrong
        found = constrain(align_redshift(decoder, sky.flux, sky.ivar, guess)[0])["redshift"]
        away = torch.log1p(found) - torch.log1p(truth)
        assert (away[reached].abs() < 0.6 * decoder.preset.log_step).double().mean() > 0.9


def test_no_start_and_no_spectrum_raises(sky: SimulatedSpectra) -> None:
    decoder = SpectralDecoder(modes=2, mode_rms=0.05)
    truth = unconstrain(sky.values)
    starts = truth.clone()
    for row, column in enumerate(range(8)):
        starts[row, column] += 30.0 if row % 2 else -30.0
    starts[8], starts[9], starts[10] = torch.nan, torch.inf, -40.0
    flux, ivar = sky.flux.clone(), sky.ivar.clone()
    ivar[11] = 0  # nothing seen
    fit = refine(decoder, flux, ivar, starts, steps=12)
    found = exact_draws(decoder, flux, ivar, fit, 8, seed=0)
    for each in (fit.mean, fit.factor, fit.log_weight, fit.amplitudes, found.coordinates):
        assert each.isfinite().all()
    again = refine(decoder, flux[:8], ivar[:8], starts[:8], steps=60)
    assert (again.chi_square < 1.2).double().mean() > 0.3
