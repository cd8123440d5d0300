"""Rendered spectra: atomic ratios, dust, energy, redshift, instrument, gradients."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from astropy.cosmology import FlatLambdaCDM
from scipy.integrate import quad
from scipy.stats import norm

from acie_pipelines.errors import ConfigurationError, ModelError
from acie_pipelines.simulation import light as light_module
from acie_pipelines.simulation import spectrum as spectrum_module
from acie_pipelines.simulation.dust import calzetti_curve, dust_emission
from acie_pipelines.simulation.galaxy import GalaxySCM
from acie_pipelines.simulation.light import PARAMETERS
from acie_pipelines.simulation.nebula import EMISSION_LINES_ANGSTROM, line_luminosities
from acie_pipelines.simulation.photometry import PhotometryRenderer
from acie_pipelines.simulation.presets import DEPARTURES, PRESETS, Preset, departure, preset
from acie_pipelines.simulation.profiles import add_profiles
from acie_pipelines.simulation.spectrum import SpectrumRenderer
from acie_pipelines.simulation.stamps import StampRenderer
from acie_pipelines.simulation.stars import absorption_widths, stellar_luminosity

SDSS = PRESETS["sdss"]
GALAXIES = GalaxySCM().sample(64, seed=2)
LSUN_ERG_S = 3.828e33


def galaxy(**changes: float) -> dict[str, torch.Tensor]:
    values = {
        "redshift": 0.1,
        "stellar_mass": 10.3,
        "sfr": 0.4,
        "metallicity": 8.65,
        "attenuation": 0.6,
        "age": 0.7,
        "velocity_dispersion": 2.0,
        "ionisation": 0.1,
    }
    return {k: torch.tensor([v], dtype=torch.float64) for k, v in {**values, **changes}.items()}


def lines_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        light_module, "stellar_luminosity", lambda wavelength, _: torch.zeros_like(wavelength)
    )


def integral(renderer: SpectrumRenderer, flux: torch.Tensor, rest: float, half: float) -> float:
    """Flux of whole pixels around a line [1e-17 erg/s/cm2]."""
    wavelength = renderer.wavelength / 1.1
    inside = (wavelength - rest).abs() < half
    widths = torch.from_numpy(renderer.preset.pixel_width_angstrom)
    return float((flux[0].double() * widths)[inside].sum())


@pytest.mark.parametrize("name", ["sdss", "sdss_full"])
def test_integrated_lines_have_atomic_ratios(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines_only(monkeypatch)
    renderer = SpectrumRenderer(PRESETS[name])
    flux = renderer(galaxy(attenuation=0.0, velocity_dispersion=1.5))

    def line(which: str, half: float) -> float:
        return integral(renderer, flux, EMISSION_LINES_ANGSTROM[which], half)

    assert line("o_iii_5007", 20) / line("o_iii_4959", 20) == pytest.approx(2.98, rel=1e-4)
    h_beta = line("h_beta", 30)
    assert line("h_gamma", 30) / h_beta == pytest.approx(0.468, rel=1e-4)
    assert line("h_delta", 30) / h_beta == pytest.approx(0.259, rel=1e-4)
    # H alpha and [N II] overlap at this resolution: their sum is exact.
    blend = integral(renderer, flux, 6567.6, 45.0)
    truth = renderer.render(galaxy(attenuation=0.0, velocity_dispersion=1.5)).line_fluxes
    expected = truth["h_alpha"] + truth["n_ii_6548"] + truth["n_ii_6584"]
    assert blend == pytest.approx(float(expected), rel=1e-4)
    assert float(truth["n_ii_6584"] / truth["n_ii_6548"]) == pytest.approx(3.05)
    assert float(truth["h_alpha"] / truth["h_beta"]) == pytest.approx(2.86)


def test_line_fluxes_are_the_integrals_of_the_spectrum(monkeypatch: pytest.MonkeyPatch) -> None:
    lines_only(monkeypatch)
    renderer = SpectrumRenderer(PRESETS["sdss"])
    inside = [n for n in EMISSION_LINES_ANGSTROM if 3550 < EMISSION_LINES_ANGSTROM[n] < 7000]
    parameters = {k: v[GALAXIES["redshift"] < 0.2] for k, v in GALAXIES.items()}
    parameters = {k: v[parameters["redshift"] > 0.1] for k, v in parameters.items()}
    truth = renderer.render(parameters)
    widths = torch.from_numpy(renderer.preset.pixel_width_angstrom)
    total = (truth.flux.double() * widths).sum(dim=1)
    expected = sum(truth.line_fluxes[name] for name in inside)
    torch.testing.assert_close(total, expected, rtol=1e-5, atol=0.0)
    assert (truth.flux >= 0).all()


def test_balmer_lines_share_one_reddening() -> None:
    truth = SpectrumRenderer(SDSS).render(galaxy(attenuation=0.9)).line_fluxes
    curve = {
        name: float(calzetti_curve(torch.tensor(EMISSION_LINES_ANGSTROM[name] * 1e-4)))
        for name in ("h_alpha", "h_beta", "h_gamma", "h_delta")
    }
    expected = 0.9 / 4.05 / 0.44
    for name, intrinsic in (("h_alpha", 2.86), ("h_gamma", 0.468), ("h_delta", 0.259)):
        observed = float(truth[name] / truth["h_beta"])
        reddening = 2.5 * math.log10(observed / intrinsic) / (curve["h_beta"] - curve[name])
        assert reddening == pytest.approx(expected, rel=1e-4)


def test_h_alpha_is_kennicutt_and_evans() -> None:
    found = line_luminosities(galaxy(sfr=0.0))["h_alpha"]
    assert float(found) * LSUN_ERG_S == pytest.approx(10**41.27, rel=1e-6)


def test_calzetti_curve_has_its_published_values() -> None:
    # R_V at 0.55 micron; 3.33 and 4.60 at H alpha and H beta, as used throughout the literature.
    wavelength = torch.tensor([0.55, 0.6563, 0.4861, 0.16, 4.0], dtype=torch.float64)
    found = calzetti_curve(wavelength)
    np.testing.assert_allclose(found[:3].numpy(), [4.05, 3.33, 4.60], atol=0.01)
    by_hand = 2.659 * (-2.156 + 1.509 / 0.16 - 0.198 / 0.16**2 + 0.011 / 0.16**3) + 4.05
    assert float(found[3]) == pytest.approx(by_hand)
    assert found[4] == 0.0


def test_dust_emits_what_it_absorbs() -> None:
    total, _ = quad(
        lambda log: (
            float(dust_emission(torch.tensor(math.exp(log), dtype=torch.float64))) * math.exp(log)
        ),
        math.log(1.0),
        math.log(1e5),
        limit=200,
    )
    assert total == pytest.approx(1.0, rel=1e-6)


def test_absorbed_light_is_what_the_spectrum_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        spectrum_module, "absorption_widths", lambda p: torch.zeros_like(absorption_widths(p))
    )
    redshift = 0.1
    wide = Preset("wide", 912.0 * (1 + redshift), 31500.0 * (1 + redshift), 40000, 2000.0, 20.0)
    renderer = SpectrumRenderer(wide, dtype=torch.float64)
    widths = torch.from_numpy(wide.pixel_width_angstrom)
    dusty, clear = ((renderer(galaxy(attenuation=a))[0] * widths).sum() for a in (0.8, 0.0))
    distance_cm = FlatLambdaCDM(70, 0.3, Tcmb0=0).luminosity_distance(redshift).to("cm").value
    lost = float(clear - dusty) * 1e-17 * 4 * math.pi * distance_cm**2 / LSUN_ERG_S
    absorbed = float(renderer.render(galaxy(attenuation=0.8)).absorbed_luminosity)
    assert absorbed == pytest.approx(lost, rel=1e-4)
    assert float(renderer.render(galaxy(attenuation=0.0)).absorbed_luminosity) == 0.0


def test_distance_dims_and_redshift_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    lines_only(monkeypatch)
    near, far = (SpectrumRenderer(PRESETS["sdss_full"])(galaxy(redshift=z)) for z in (0.05, 0.15))
    wavelength = PRESETS["sdss_full"].wavelength_angstrom
    peak_near, peak_far = (wavelength[int(f.argmax())] for f in (near, far))
    assert peak_far / peak_near == pytest.approx(1.15 / 1.05, rel=2.5e-4)
    cosmology = FlatLambdaCDM(70, 0.3, Tcmb0=0)
    ratio = (cosmology.luminosity_distance(0.15) / cosmology.luminosity_distance(0.05)).value
    renderer = SpectrumRenderer(SDSS)
    fluxes = [
        float(renderer.render(galaxy(redshift=z)).line_fluxes["h_beta"]) for z in (0.05, 0.15)
    ]
    assert fluxes[0] / fluxes[1] == pytest.approx(ratio**2, rel=1e-6)


def test_line_spread_and_velocities_conserve_flux() -> None:
    grid = Preset("grid", 4000.0, 9000.0, 3000, 2000.0, 20.0)
    centre = torch.log(torch.tensor([[5000.0, 6123.4, 8000.7]], dtype=torch.float64))
    weight = torch.tensor([[1.0, 2.0, 0.5]], dtype=torch.float64)
    for width in (1e-5, 2e-4, 2e-3):
        sigma = torch.full_like(centre, width)
        found = add_profiles(grid, centre, sigma, weight, torch.float64)
        assert float(found.sum()) == pytest.approx(3.5, rel=1e-8)
        log_wavelength = torch.from_numpy(np.log(grid.wavelength_angstrom))
        mean = float((found[0] * log_wavelength).sum() / 3.5)
        # A line narrower than a pixel may lie anywhere in it.
        tolerance = grid.log_step / 2 if width < grid.log_step else 1e-8
        assert mean == pytest.approx(float((centre * weight).sum()) / 3.5, abs=tolerance)


def test_lines_outside_the_grid_leave_no_flux() -> None:
    grid = Preset("grid", 4000.0, 9000.0, 1000, 2000.0, 20.0)
    centre = torch.log(torch.tensor([[3000.0, 9500.0, 4000.0]], dtype=torch.float64))
    found = add_profiles(grid, centre, torch.full_like(centre, 1e-4), centre * 0 + 1, torch.float64)
    # The one on the edge leaves half.
    assert float(found.sum()) == pytest.approx(0.5, abs=1e-9)


@pytest.mark.parametrize("sigma", [0.02, 0.06, 0.07, 0.14, 1.0, 1e9, math.inf])
def test_lines_as_wide_as_the_grid_and_wider(sigma: float) -> None:
    grid = Preset("grid", 4000.0, 9000.0, 1000, 2000.0, 20.0)
    centre = torch.log(torch.tensor([[3900.0, 6000.0], [9500.0, 6100.0]], dtype=torch.float64))
    weight = torch.tensor([[1.0, 2.0], [0.5, -1.0]], dtype=torch.float64)
    found = add_profiles(grid, centre, torch.full_like(centre, sigma), weight, torch.float64)
    assert found.shape == (2, 1000)
    edges = math.log(4000.0) + grid.log_step * np.arange(1001)
    expected = [
        sum(
            w * np.diff(norm.cdf(edges, loc=c, scale=sigma))
            for c, w in zip(centres, weights, strict=True)
        )
        for centres, weights in zip(centre.tolist(), weight.tolist(), strict=True)
    ]
    cut_at_six_sigma = 1e-9 if sigma < 0.065 else 1e-15
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-7, atol=cut_at_six_sigma)


def test_absorption_lines_have_their_equivalent_widths() -> None:
    parameters = galaxy(sfr=-2.0, age=1.0, velocity_dispersion=2.2)
    renderer = SpectrumRenderer(PRESETS["sdss_full"], dtype=torch.float64)
    rest = renderer.wavelength / 1.1
    shift = torch.log1p(parameters["redshift"])[:, None]
    depth = renderer._absorption(parameters, shift)[0]
    widths = torch.from_numpy(renderer.preset.pixel_width_angstrom) / 1.1
    around = (rest - 5176.63).abs() < 45
    expected = float(absorption_widths(parameters)[0, 3])
    assert float((depth * widths)[around].sum()) == pytest.approx(expected, rel=0.01)


def test_old_metal_rich_stars_are_redder_with_a_deeper_break() -> None:
    wavelength = torch.tensor([3900.0, 4100.0, 5500.0, 7000.0], dtype=torch.float64)

    def colours(**changes: float) -> tuple[float, float]:
        light = stellar_luminosity(wavelength, galaxy(sfr=-4.0, **changes))[0]
        return float(light[1] / light[0]), float(light[3] / light[2])

    young, old = colours(age=-0.3), colours(age=1.0)
    poor, rich = colours(age=0.8, metallicity=8.2), colours(age=0.8, metallicity=8.9)
    assert old[0] > young[0] and old[1] > young[1]
    assert rich[0] > poor[0] and rich[1] > poor[1]


def test_noise_has_the_stated_level() -> None:
    renderer = SpectrumRenderer(SDSS)
    flux = renderer(GALAXIES)
    sigma = renderer.noise_sigma(flux)
    assert (sigma > 0).all()
    uniform = torch.full((2, 1000), 3.0)
    torch.testing.assert_close(renderer.noise_sigma(uniform), uniform / 20.0)
    noise = renderer.draw_pixel_noise(100, seed=1)
    assert abs(float(noise.mean())) < 0.02
    assert float(noise.std()) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("variant", ["none", "all"])
def test_gradients_are_exact(variant: str) -> None:
    small = Preset("small", 5400.0, 5600.0, 24, 800.0, 20.0, 3, 0.05)
    renderer = SpectrumRenderer(small, DEPARTURES[variant], torch.float64)
    names = (*PARAMETERS, "continuum_modes")
    values = {k: v.repeat(2) for k, v in galaxy().items()}
    values["redshift"] = torch.tensor([0.1, 0.11], dtype=torch.float64)
    values["continuum_modes"] = renderer.draw_modes(2, seed=1)["continuum_modes"]
    inputs = tuple(values[name].clone().requires_grad_() for name in names)

    def render(*columns: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = renderer.render(dict(zip(names, columns, strict=True)))
        return found.flux, found.line_fluxes["h_beta"], found.absorbed_luminosity * 1e-10

    # Windows of narrow lines end at 6 sigma, a step of 1e-9 of the line.
    assert torch.autograd.gradcheck(render, inputs, atol=1e-5, rtol=1e-4)


def test_single_precision_is_enough() -> None:
    single = SpectrumRenderer(PRESETS["sdss_full"])(GALAXIES)
    double = SpectrumRenderer(PRESETS["sdss_full"], dtype=torch.float64)(GALAXIES)
    assert single.dtype == torch.float32
    assert float((single / double - 1).abs().max()) < 1e-4


def test_seed_preset_has_two_thousand_latents_and_six_thousand_pixels() -> None:
    renderer = SpectrumRenderer(PRESETS["seed"])
    modes = renderer.draw_modes(3, seed=4)
    assert len(GalaxySCM().names) + modes["continuum_modes"].shape[1] == 2000
    parameters = {k: v[:3] for k, v in GALAXIES.items()} | modes
    flux = renderer(parameters)
    flat = renderer(parameters | {"continuum_modes": torch.zeros_like(modes["continuum_modes"])})
    assert flux.shape == (3, 6000)
    assert float((flux / flat).log().std()) == pytest.approx(0.03, rel=0.5)
    truth = [renderer.render(p).line_fluxes["h_alpha"] for p in (parameters, parameters | modes)]
    assert torch.equal(*truth)


def test_departures_differ_by_the_stated_amount() -> None:
    blue = torch.tensor([0.4003], dtype=torch.float64)
    change = calzetti_curve(blue, DEPARTURES["dust_slope"].dust_slope) / calzetti_curve(blue)
    assert float(change) == pytest.approx(1.10, abs=0.001)

    plain = SpectrumRenderer(SDSS).render(galaxy())
    for name, found in (
        (n, SpectrumRenderer(SDSS, DEPARTURES[n]).render(galaxy())) for n in DEPARTURES
    ):
        assert torch.equal(found.flux, plain.flux) == (name == "none")
    unseen = SpectrumRenderer(SDSS, DEPARTURES["unseen_line"]).render(galaxy(attenuation=0.0))
    ratio = unseen.line_fluxes["o_i_6300"] / unseen.line_fluxes["h_alpha"]
    assert float(ratio) == pytest.approx(0.1)


def test_wider_line_spread_widens_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    lines_only(monkeypatch)

    def width(name: str) -> float:
        renderer = SpectrumRenderer(PRESETS["sdss_full"], DEPARTURES[name], torch.float64)
        flux = renderer(galaxy(velocity_dispersion=1.0))[0].numpy()
        rest = renderer.wavelength.numpy() / 1.1
        inside = np.abs(rest - 4862.683) < 15
        velocity = 299792.458 * np.log(rest[inside] / 4862.683)
        weights = flux[inside] * renderer.preset.pixel_width_angstrom[inside]
        return float(np.average(velocity**2, weights=weights))

    # Variance in km/s squared: instrument, galaxy (10 km/s) and pixel.
    instrument = (299792.458 / 2000 / 2.35482) ** 2
    pixel = (299792.458 * PRESETS["sdss_full"].log_step) ** 2 / 12
    # The pixel's box counts twice: once integrated over, once placed at its centre.
    assert width("none") == pytest.approx(instrument + 100 + pixel, rel=5e-3)
    assert width("line_spread") - width("none") == pytest.approx(0.21 * instrument, rel=1e-3)


def test_missing_and_misshapen_parameters_are_refused() -> None:
    renderer = SpectrumRenderer(SDSS)
    with pytest.raises(ModelError, match="lack parameters"):
        renderer({"redshift": torch.zeros(2)})
    with pytest.raises(ModelError, match="misshapen"):
        renderer(galaxy() | {"sfr": torch.zeros(3)})
    with pytest.raises(ModelError, match="continuum_modes"):
        SpectrumRenderer(PRESETS["seed"])(galaxy())


def test_unknown_names_are_refused() -> None:
    assert preset("sdss") is SDSS
    with pytest.raises(ConfigurationError, match="is unknown"):
        preset("hst")
    with pytest.raises(ConfigurationError, match="is unknown"):
        departure("aliens")


def test_grid_is_uniform_in_log_wavelength() -> None:
    for each in PRESETS.values():
        wavelength = each.wavelength_angstrom
        assert wavelength.shape == (each.pixels,)
        np.testing.assert_allclose(np.diff(np.log(wavelength)), each.log_step, rtol=1e-8)
        span = each.highest_angstrom - each.lowest_angstrom
        assert each.pixel_width_angstrom.sum() == pytest.approx(span)
    full = dataclasses.asdict(PRESETS["sdss_full"])
    assert math.log10(full["highest_angstrom"] / full["lowest_angstrom"]) / 3840 == pytest.approx(
        1e-4
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_light_is_the_same_on_a_gpu() -> None:
    scm = GalaxySCM()
    noise = {name: values.cuda() for name, values in scm.draw_noise(64, seed=2).items()}
    galaxies = scm.values(noise)
    for name in ("sdss", "seed"):
        modes = SpectrumRenderer(PRESETS[name]).draw_modes(64, seed=2)
        on_gpu = {k: v.cuda() for k, v in modes.items()} | galaxies
        flux = SpectrumRenderer(PRESETS[name], device="cuda")(on_gpu).cpu()
        expected = SpectrumRenderer(PRESETS[name])(GALAXIES | modes)
        torch.testing.assert_close(flux, expected, rtol=2e-3, atol=1e-6)
    bands, expected_bands = (
        PhotometryRenderer(device="cuda")(galaxies),
        PhotometryRenderer()(GALAXIES),
    )
    torch.testing.assert_close(bands["r"].cpu(), expected_bands["r"], rtol=1e-4, atol=0.0)
    orientation = StampRenderer().draw_orientation(64, seed=2)
    on_gpu = {k: v.cuda() for k, v in orientation.items()} | galaxies
    stamps = StampRenderer(device="cuda")(on_gpu, bands["r"]).cpu()
    expected = StampRenderer()(GALAXIES | orientation, expected_bands["r"])
    torch.testing.assert_close(stamps, expected, rtol=1e-3, atol=1e-6)
