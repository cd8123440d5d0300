"""Spectra of every survey on one grid: units, masks, flux and errors."""

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from acie_pipelines.errors import FormatMismatchError, InvalidGeometryError, ObservationError
from acie_pipelines.observations.line_spread import FWHM_PER_SIGMA
from acie_pipelines.observations.resampling import pixel_edges, resample
from acie_pipelines.observations.spectra import SDSS_BAD_PIXEL, Arm, read_spectrum
from acie_pipelines.samples import OBSERVATIONS, sample_observations
from acie_pipelines.simulation.dataset import Simulation, write_dataset
from tests.desi_file import RANGES, SPREAD, STEP, wavelengths, write_desi, write_redshifts

EDGES = 3800.0 * np.exp(np.arange(1001) * np.log(9200 / 3800) / 1000)
SDSS = sorted(OBSERVATIONS.glob("spec-*.fits"))


@pytest.mark.parametrize("path", SDSS, ids=lambda path: path.stem)
def test_sdss_keeps_its_light(path: Path) -> None:
    found = read_spectrum(path)
    (arm,) = found.arms
    assert found.survey == "SDSS"
    with fits.open(path) as file:
        assert found.redshift == pytest.approx(float(file[2].data["Z"][0]), rel=1e-6)
        table = file[1].data
        bad = (table["ivar"] <= 0) | (table["and_mask"] & SDSS_BAD_PIXEL != 0)
        assert ((arm.ivar == 0) == bad).all()
        np.testing.assert_array_equal(arm.flux[~bad], table["flux"][~bad])
    flux, ivar = resample(found.arms, EDGES, resolving_power=2000)
    seen = slice(100, 900)
    old = np.diff(pixel_edges(arm.wavelength_angstrom))
    inside = (arm.wavelength_angstrom > EDGES[100]) & (arm.wavelength_angstrom < EDGES[900])
    before, after = (old * arm.flux)[inside].sum(), (np.diff(EDGES) * flux)[seen].sum()
    assert after == pytest.approx(before, rel=1e-2)
    # About four old pixels in a new one: half the error.
    ratio = np.median(ivar[seen]) / np.median(arm.ivar[inside])
    assert 3.5 < ratio < 4.5


def test_desi_arms_are_joined_in_its_units(tmp_path: Path) -> None:
    flux, ivar, masks = {}, {}, {}
    for arm in RANGES:
        wave = wavelengths(arm)
        flux[arm] = 0.1 * np.stack([np.full(len(wave), 2.0), 1e-4 * wave, np.ones(len(wave))])
        ivar[arm] = np.full(flux[arm].shape, 400.0)
        masks[arm] = np.zeros(flux[arm].shape, dtype=np.int32)
        flux[arm][1, 300:302], masks[arm][1, 300:302] = 1e8, 1
    path = write_desi(
        tmp_path / "coadd-1-2.fits",
        flux,
        ivar,
        masks=masks,
        objects=("TGT", "TGT", "SKY"),
        unit="10**-16 erg/(s cm2 Angstrom)",
    )
    assert read_spectrum(path, row=1).redshift is None
    kinds = ("GALAXY", "GALAXY")
    write_redshifts(tmp_path / "redrock-1-2.fits", (8, 7), (0.11, 0.22), kinds, (0, 4))
    found = read_spectrum(path, row=1)
    assert found.redshift == 0.11
    assert read_spectrum(path, row=0).redshift is None  # its redshift carries a warning
    for arm, name in zip(found.arms, RANGES, strict=True):
        # The pixel is in it.
        assert arm.spread_angstrom is not None
        np.testing.assert_allclose(
            arm.spread_angstrom, np.hypot(SPREAD[name], STEP / 12**0.5), 1e-3
        )
    flux_on_grid, weight = resample(found.arms, EDGES, resolving_power=2000)
    assert (weight > 0).all()
    middle = 0.5 * (EDGES[1:] + EDGES[:-1])
    # Missing pixels lie off the middle of the new pixel that they leave a part of.
    np.testing.assert_allclose(flux_on_grid, 1e-4 * middle, rtol=2e-3)
    both = (middle > 5770) & (middle < 5790)
    one = (middle > 5700) & (middle < 5720)
    assert weight[both].mean() == pytest.approx(2 * weight[one].mean(), rel=0.05)
    with pytest.raises(InvalidGeometryError, match="row 3"):
        read_spectrum(path, row=3)
    with pytest.raises(ObservationError, match="row 2 is a fibre on the sky"):
        read_spectrum(path, row=2)
    (tmp_path / "redrock-1-2.fits").unlink()
    write_redshifts(tmp_path / "redrock-1-2.fits", (8,), (1.3,), ("QSO",), (0,))
    with pytest.raises(ObservationError, match="row 1 is a QSO"):
        read_spectrum(path, row=1)
    with fits.open(path) as file:
        del file["Z_RESOLUTION"]
        file.writeto(tmp_path / "coadd-1-3.fits")
    with pytest.raises(FormatMismatchError, match="lacks a part of arm Z"):
        read_spectrum(tmp_path / "coadd-1-3.fits")


def test_simulated_galaxies_come_back(tmp_path: Path) -> None:
    path = tmp_path / "sky.h5"
    write_dataset(path, Simulation(3, "sdss", 5))
    found = read_spectrum(path, row=2)
    flux, ivar = resample(found.arms, EDGES, resolving_power=2000)
    np.testing.assert_allclose(flux, found.arms[0].flux, rtol=1e-6)
    np.testing.assert_allclose(ivar, found.arms[0].ivar, rtol=1e-5)
    with pytest.raises(InvalidGeometryError, match="holds 3 galaxies"):
        read_spectrum(path, row=3)


def test_what_is_no_spectrum_is_refused(tmp_path: Path) -> None:
    image = next(p for p in sample_observations() if p.name.startswith("unwise"))
    with pytest.raises(FormatMismatchError, match="no spectrum"):
        read_spectrum(image)
    text = tmp_path / "notes.fits"
    text.write_text("not a spectrum")
    with pytest.raises(FormatMismatchError):
        read_spectrum(text)


def test_stars_and_empty_spectra_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "spec-1-2-3.fits"
    with fits.open(SDSS[0]) as file:
        file[2].data["CLASS"][0] = "STAR"
        file.writeto(path)
    with pytest.raises(ObservationError, match="is a STAR"):
        read_spectrum(path)
    with fits.open(SDSS[0]) as file:
        file[1].data["ivar"][:] = 0
        file.writeto(path, overwrite=True)
    with pytest.raises(ObservationError, match="no valid pixel"):
        read_spectrum(path)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.3, 6.0), st.floats(0.0, 0.3), st.floats(-3.0, 3.0))
def test_any_grid_conserves_a_flat_spectrum(
    seed: int, width: float, missing: float, level: float
) -> None:
    generator = np.random.default_rng(seed)
    old = np.cumsum(generator.uniform(0.5, 1.5, 300) * width) + 4000
    ivar = np.where(generator.uniform(size=300) < missing, 0.0, 4.0)
    flux = np.where(ivar > 0, level, 1e12)
    edges = np.linspace(3990, old[-1] + 10, 40)
    found, weight = resample([Arm(old, flux, ivar)], edges, resolving_power=2000)
    np.testing.assert_allclose(found[weight > 0], level, rtol=1e-9, atol=1e-12)
    assert not found[weight == 0].any()


@pytest.mark.parametrize("spread", [None, 0.6])
def test_errors_of_sums_are_exact_and_of_pixels_a_bound(spread: float | None) -> None:
    generator = np.random.default_rng(3)
    old = np.linspace(4000, 4100, 100)
    sigma = generator.uniform(0.5, 2.0, 100)
    edges = np.linspace(4010, 4090, 17)
    width = None if spread is None else np.full(100, spread)

    def moved(flux: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return resample([Arm(old, flux, sigma**-2, width)], edges, resolving_power=1000)

    # Resampling is linear: what it does to each old pixel is all that it does.
    matrix = np.stack([moved(unit)[0] for unit in np.eye(100)], axis=1)
    noise = generator.normal(0, sigma)
    np.testing.assert_allclose(moved(noise)[0], matrix @ noise, atol=1e-12)
    covariance = (matrix * sigma**2) @ matrix.T
    stated = 1 / moved(noise)[1]
    assert stated.sum() == pytest.approx(covariance.sum(), rel=1e-12)
    alone = covariance.diagonal() / stated
    assert alone.max() < 1
    assert alone.mean() > (0.8 if spread is None else 0.6)


def test_smoothing_makes_lines_as_wide_as_wanted() -> None:
    """A Gaussian line keeps its light, and its width becomes the model's."""
    old = np.arange(4900.0, 5100.0, 0.8)
    spread, middle = 0.75, 5003.3
    share = np.diff(ndtr((pixel_edges(old) - middle) / np.sqrt(spread**2 - 0.8**2 / 12)))
    arm = Arm(old, share / 0.8, np.ones(len(old)), np.full(len(old), spread))
    edges = np.linspace(4950, 5050, 401)
    flux, _ = resample([arm], edges, resolving_power=1500)
    at = 0.5 * (edges[1:] + edges[:-1])
    light = flux * np.diff(edges)
    assert light.sum() == pytest.approx(1, abs=1e-4)
    mean = (light * at).sum()
    assert mean == pytest.approx(middle, abs=0.01)
    found = np.sqrt((light * (at - mean) ** 2).sum())
    assert found == pytest.approx(5003.3 / (1500 * FWHM_PER_SIGMA), rel=0.01)
    # What is coarser than wanted cannot be sharpened: it is left out.
    coarse = Arm(old, share / 0.8, np.ones(len(old)), np.full(len(old), 1.6))
    assert not resample([coarse], edges, resolving_power=2000)[1].any()
