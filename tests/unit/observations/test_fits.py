"""FITS planes against an independent read by astropy, sample for sample."""

import gzip
import itertools
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from acie_pipelines.errors import NoImagePlaneError
from acie_pipelines.observations.model import Observation, Plane, Window
from acie_pipelines.observations.opening import open_observation

IMAGES = [
    "arange.fits",
    "blank.fits",
    "comp.fits",
    "compressed_float_bzero.fits",
    "compressed_with_nan.fits",
    "dist_lookup.fits.gz",
    "double_ext.fits",
    "fixed-1890.fits",
    "ksb_staticmask_ood_v1.fits.fz",
    "m13.fits",
    "m13_gzip.fits",
    "m13_hcomp.fits",
    "m13_plio.fits",
    "m13_rice.fits",
    "o4sp040b0_raw.fits",
    "scale.fits",
    "stack-LRG.fits",
    "test0.fits",
    "tpv.fits.gz",
]


def whole(observation: Observation, plane: Plane) -> np.ndarray:
    _, height, width = plane.shape
    return np.stack(
        [observation.read(plane, Window(c, 0, height, 0, width)) for c in range(plane.shape[0])]
    )


def random_windows(plane: Plane, count: int = 12) -> list[Window]:
    rng = np.random.default_rng(7)
    depth, height, width = plane.shape
    found = []
    for _ in range(count):
        y0, x0 = int(rng.integers(height)), int(rng.integers(width))
        y1, x1 = int(rng.integers(y0, height)) + 1, int(rng.integers(x0, width)) + 1
        found.append(Window(int(rng.integers(depth)), y0, y1, x0, x1))
    return found


def images_by_astropy(path: Path) -> list[np.ndarray]:
    with fits.open(path, memmap=False) as hdus:
        return [
            np.array(hdu.data)
            for hdu in hdus
            if isinstance(hdu, fits.PrimaryHDU | fits.ImageHDU | fits.CompImageHDU)
            and hdu.data is not None
        ]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", IMAGES)
def test_every_image_equals_astropys(data: Path, name: str) -> None:
    expected = images_by_astropy(data / name)
    with open_observation(data / name) as observation:
        assert len(observation.planes) == len(expected)
        for plane, array in zip(observation.planes, expected, strict=True):
            flat = array.reshape(plane.shape)
            little = flat.astype(flat.dtype.newbyteorder("<"))
            if name != "blank.fits":  # 64-bit integers with blanks become doubles
                assert plane.dtype == little.dtype
            for window in random_windows(plane):
                read = observation.read(plane, window)
                part = little[window.channel, window.y0 : window.y1, window.x0 : window.x1]
                assert read.flags.c_contiguous
                assert read.dtype == plane.dtype
                np.testing.assert_array_equal(read, part)


def test_samples_that_ship_equal_astropys(samples: Path) -> None:
    for path in sorted(samples.glob("[cu1]*.fits")):
        expected = images_by_astropy(path)
        with open_observation(path) as observation:
            for plane, array in zip(observation.planes, expected, strict=True):
                np.testing.assert_array_equal(whole(observation, plane)[0], array)


@pytest.mark.parametrize(
    ("dtype", "compressed"),
    # astropy does not compress int8 and uint64
    [("i1", False), ("u2", False), ("u4", False), ("u8", False), ("u2", True), ("u4", True)],
)
def test_unsigned_integers_are_restored_exactly(
    tmp_path: Path, dtype: str, compressed: bool
) -> None:
    limits = np.iinfo(dtype)
    values = np.linspace(float(limits.min), float(limits.max) * 0.999, 600)
    values = values.astype(dtype).reshape(20, 30)
    values[0, 0], values[-1, -1] = limits.min, limits.max
    path = tmp_path / "unsigned.fits"
    hdu = fits.CompImageHDU(values) if compressed else fits.PrimaryHDU(values)
    hdu.writeto(path)
    with open_observation(path) as observation:
        (plane,) = observation.planes
        assert plane.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(whole(observation, plane)[0], values)


@pytest.mark.parametrize("bitpix", [8, 16, 32, 64, -32, -64])
def test_every_bitpix_round_trips(tmp_path: Path, bitpix: int) -> None:
    dtype = {8: "u1", 16: "i2", 32: "i4", 64: "i8", -32: "f4", -64: "f8"}[bitpix]
    values = np.random.default_rng(1).integers(0, 100, (3, 4, 7, 5)).astype(dtype)
    fits.PrimaryHDU(values).writeto(tmp_path / "a.fits")
    with open_observation(tmp_path / "a.fits") as observation:
        (plane,) = observation.planes
        assert plane.shape == (12, 7, 5)
        assert plane.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(whole(observation, plane), values.reshape(12, 7, 5))


@pytest.mark.parametrize(("dtype", "expected"), [("u1", "f4"), ("i2", "f4"), ("i4", "f8")])
def test_blank_becomes_nan(tmp_path: Path, dtype: str, expected: str) -> None:
    hdu = fits.PrimaryHDU(np.arange(12, dtype=dtype).reshape(3, 4))
    hdu.header["BLANK"] = 0
    hdu.writeto(tmp_path / "a.fits")
    with open_observation(tmp_path / "a.fits") as observation:
        (plane,) = observation.planes
        values = whole(observation, plane)[0]
    assert values.dtype == np.dtype(expected)
    assert np.isnan(values[0, 0])
    np.testing.assert_array_equal(values.ravel()[1:], np.arange(1, 12))


def test_scaling_that_float32_cannot_resolve_is_float64(tmp_path: Path) -> None:
    hdu = fits.PrimaryHDU(np.arange(12, dtype="i2").reshape(3, 4))
    hdu.header["BSCALE"] = 1e-3
    hdu.header["BZERO"] = 1e6
    hdu.writeto(tmp_path / "a.fits", output_verify="ignore")
    with fits.open(tmp_path / "a.fits", do_not_scale_image_data=True) as hdus:
        stored = np.array(hdus[0].data)
    with open_observation(tmp_path / "a.fits") as observation:
        (plane,) = observation.planes
        values = whole(observation, plane)[0]
    assert plane.dtype == np.dtype("f8")
    np.testing.assert_array_equal(values, stored * 1e-3 + 1e6)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("ooi", "image"), ("oow", "weight"), ("ood", "mask")],
)
def test_decam_kinds(samples: Path, name: str, kind: str) -> None:
    (path,) = samples.glob(f"c4d_*_{name}_*.fits")
    with open_observation(path) as observation:
        (plane,) = observation.planes
        assert (plane.name, plane.kind, plane.shape) == ("N2", kind, (1, 251, 245))
        assert plane.pixel_scale_arcsec == pytest.approx(0.2623, abs=1e-4)
        assert plane.wcs is not None
        original = WCS(fits.getheader(path, 1))
    copy = WCS(fits.Header.fromstring(plane.wcs))
    corners = [[0, 0], [244, 250]]
    np.testing.assert_allclose(
        copy.wcs_pix2world(corners, 0), original.wcs_pix2world(corners, 0), rtol=1e-12
    )


def test_kind_from_product_type_of_the_primary_header(data: Path) -> None:
    with open_observation(data / "ksb_staticmask_ood_v1.fits.fz") as observation:
        assert [plane.name for plane in observation.planes] == ["ccd1", "ccd2", "ccd3", "ccd4"]
        assert {plane.kind for plane in observation.planes} == {"mask"}


def test_names_are_unique_and_safe(tmp_path: Path) -> None:
    hdus = fits.HDUList([fits.PrimaryHDU(np.ones((2, 2)))])
    for name in ("SCI", "sci", "../etc/x y", "", "SCI_2"):
        hdu = fits.ImageHDU(np.ones((2, 2)))
        hdu.header["EXTNAME"] = name
        hdus.append(hdu)
    hdus.writeto(tmp_path / "a.fits")
    with open_observation(tmp_path / "a.fits") as observation:
        names = [plane.name for plane in observation.planes]
    assert names == ["primary", "SCI", "sci_2", "etc_x_y", "hdu4", "SCI_2_2"]


def test_sdss_spectrum(samples: Path) -> None:
    path = samples / "spec-0266-51630-0168.fits"
    table = fits.getdata(path, "COADD")
    with open_observation(path) as observation:
        planes = {plane.name: plane for plane in observation.planes}
        assert observation.header["redshift"] == pytest.approx(0.0674056336)
        assert observation.header["class"] == "GALAXY"
        assert planes["flux"].kind == "spectrum"
        assert planes["flux"].unit == "1e-17 erg / (s cm2 Angstrom)"
        assert planes["ivar"].kind == "weight"
        assert planes["and_mask"].kind == "mask"
        for name in ("flux", "loglam", "ivar", "and_mask"):
            assert planes[name].shape == (1, 1, 3808)
            read = observation.read(planes[name], Window(0, 0, 1, 100, 3700))
            np.testing.assert_array_equal(read[0], table[name][100:3700])


def test_one_dimensional_images_are_spectra(data: Path) -> None:
    with open_observation(data / "stack-LRG.fits") as observation:
        kinds = {plane.name: plane.kind for plane in observation.planes}
    assert kinds == {"FLUX": "image", "IVAR": "weight", "WAVE": "spectrum"}


@pytest.mark.parametrize(
    "name", ["ascii.fits", "group.fits", "history_header.fits", "random_groups.fits"]
)
def test_files_without_an_image(data: Path, name: str) -> None:
    with pytest.raises(NoImagePlaneError), open_observation(data / name):
        pass


def test_warnings_are_kept_and_do_not_escape(data: Path) -> None:
    with open_observation(data / "o4sp040b0_raw.fits") as observation:
        assert any("unitfix" in note for note in observation.warnings)


def test_broken_wcs_is_a_warning(tmp_path: Path) -> None:
    hdu = fits.PrimaryHDU(np.ones((4, 4)))
    hdu.header["CTYPE1"], hdu.header["CTYPE2"] = "RA---TAN", "DEC--SIN"
    hdu.header["CD1_1"], hdu.header["CD2_2"] = 0.0, 0.0
    hdu.writeto(tmp_path / "a.fits")
    with open_observation(tmp_path / "a.fits") as observation:
        assert observation.planes[0].wcs is None
        assert any("WCS" in note for note in observation.warnings)


def test_gzip_is_the_same_observation(tmp_path: Path, samples: Path) -> None:
    plain = samples / "unwise-1866p257-w1-img-m.fits"
    packed = tmp_path / "a.fits.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    with open_observation(plain) as one, open_observation(packed) as two:
        for a, b in itertools.product(one.planes, two.planes):
            np.testing.assert_array_equal(whole(one, a), whole(two, b))
            assert a.header == b.header


def test_a_window_outside_the_plane_is_refused(samples: Path) -> None:
    with open_observation(samples / "unwise-1866p257-w1-img-m.fits") as observation:
        for window in (Window(1, 0, 1, 0, 1), Window(0, 0, 26, 0, 1), Window(0, 3, 3, 0, 1)):
            with pytest.raises(ValueError, match="not inside"):
                observation.read(observation.planes[0], window)
