"""Spectra of every survey on one grid: units, masks, flux and errors."""

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st

from acie_pipelines.errors import FormatMismatchError, InvalidGeometryError, ObservationError
from acie_pipelines.observations.resampling import pixel_edges, resample
from acie_pipelines.observations.spectra import SDSS_BAD_PIXEL, Arm, read_spectrum
from acie_pipelines.samples import OBSERVATIONS, sample_observations
from acie_pipelines.simulation.dataset import Simulation, write_dataset

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
    flux, ivar = resample(found.arms, EDGES)
    seen = slice(100, 900)
    old = np.diff(pixel_edges(arm.wavelength_angstrom))
    inside = (arm.wavelength_angstrom > EDGES[100]) & (arm.wavelength_angstrom < EDGES[900])
    before, after = (old * arm.flux)[inside].sum(), (np.diff(EDGES) * flux)[seen].sum()
    assert after == pytest.approx(before, rel=1e-2)
    # About four old pixels in a new one: half the error.
    ratio = np.median(ivar[seen]) / np.median(arm.ivar[inside])
    assert 3.5 < ratio < 4.5


def test_desi_arms_are_joined_in_its_units(tmp_path: Path) -> None:
    path = tmp_path / "coadd-1-2.fits"
    hdus = [fits.PrimaryHDU()]
    ranges = {"B": (3600.0, 5800.0), "R": (5760.0, 7620.0), "Z": (7520.0, 9824.0)}
    for arm, (low, high) in ranges.items():
        wave = np.arange(low, high, 0.8)
        flux = np.stack([np.full(len(wave), 2.0), 1e-4 * wave]).astype(np.float32)
        mask = np.zeros(flux.shape, dtype=np.int32)
        flux[1, 300:302], mask[1, 300:302] = 1e9, 1
        hdus.append(fits.ImageHDU(wave, name=f"{arm}_WAVELENGTH"))
        hdus.append(fits.ImageHDU(0.1 * flux, name=f"{arm}_FLUX"))
        hdus[-1].header["BUNIT"] = "10**-16 erg/(s cm2 Angstrom)"
        hdus.append(fits.ImageHDU(np.full(flux.shape, 400.0, np.float32), name=f"{arm}_IVAR"))
        hdus.append(fits.ImageHDU(mask, name=f"{arm}_MASK"))
    targets = fits.Column("TARGETID", "K", array=np.array([7, 8]))
    hdus.append(fits.BinTableHDU.from_columns([targets], name="FIBERMAP"))
    fits.HDUList(hdus).writeto(path)
    assert read_spectrum(path, row=1).redshift is None
    columns = [
        fits.Column("TARGETID", "K", array=np.array([8, 7])),
        fits.Column("Z", "D", array=np.array([0.11, 0.22])),
        fits.Column("ZWARN", "K", array=np.array([0, 4])),
    ]
    fits.HDUList(
        [fits.PrimaryHDU(), fits.BinTableHDU.from_columns(columns, name="REDSHIFTS")]
    ).writeto(tmp_path / "redrock-1-2.fits")
    found = read_spectrum(path, row=1)
    assert found.redshift == 0.11
    assert read_spectrum(path, row=0).redshift is None  # its redshift carries a warning
    flux, ivar = resample(found.arms, EDGES)
    assert (ivar > 0).all()
    middle = 0.5 * (EDGES[1:] + EDGES[:-1])
    # Missing pixels lie off the middle of the new pixel that they leave a part of.
    np.testing.assert_allclose(flux, 1e-4 * middle, rtol=2e-3)
    both = (middle > 5770) & (middle < 5790)
    one = (middle > 5700) & (middle < 5720)
    assert ivar[both].mean() == pytest.approx(2 * ivar[one].mean(), rel=0.05)
    with pytest.raises(InvalidGeometryError, match="row 2"):
        read_spectrum(path, row=2)


def test_simulated_galaxies_come_back(tmp_path: Path) -> None:
    path = tmp_path / "sky.h5"
    write_dataset(path, Simulation(3, "sdss", 5))
    found = read_spectrum(path, row=2)
    flux, ivar = resample(found.arms, EDGES)
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
    found, weight = resample([Arm(old, flux, ivar)], edges)
    np.testing.assert_allclose(found[weight > 0], level, rtol=1e-9, atol=1e-12)
    assert not found[weight == 0].any()


def test_errors_are_those_of_repeated_noise() -> None:
    generator = np.random.default_rng(3)
    old = np.linspace(4000, 4400, 400)
    sigma = generator.uniform(0.5, 2.0, 400)
    edges = np.linspace(4010, 4390, 41)
    runs = np.array(
        [resample([Arm(old, generator.normal(0, sigma), sigma**-2)], edges)[0] for _ in range(2000)]
    )
    _, ivar = resample([Arm(old, sigma, sigma**-2)], edges)
    np.testing.assert_allclose(runs.std(axis=0), ivar**-0.5, rtol=0.08)
