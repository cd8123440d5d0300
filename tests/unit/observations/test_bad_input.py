"""Everything that must be refused, by the right type, fast and without escaping warnings."""

import gzip
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile
import zarr
from astropy.io import fits

from acie_pipelines import errors
from acie_pipelines.errors import ObservationError
from acie_pipelines.observations.base import Limits
from acie_pipelines.observations.model import Window
from acie_pipelines.observations.opening import open_observation

IMAGE = np.arange(40 * 50, dtype="f4").reshape(40, 50)


def fits_bytes(**cards: object) -> bytes:
    """A primary image of 40 x 50 floats, with header cards overwritten or added."""
    hdu = fits.PrimaryHDU(IMAGE)
    for keyword, value in cards.items():
        hdu.header[keyword] = value
    text = hdu.header.tostring().encode()
    body = IMAGE.astype(">f4").tobytes()
    return text + body + bytes(-len(body) % 2880)


def refused(path: Path, kind: type[ObservationError], limits: Limits | None = None) -> str:
    """Open, read a corner of everything and verify; return the message of the expected error."""
    started = time.process_time()
    with pytest.raises(kind) as caught, open_observation(path, limits=limits or Limits()) as found:
        found.verify_checksums()
        for plane in found.planes:
            found.read(plane, Window(0, 0, 1, 0, 1))
    assert time.process_time() - started < 5
    message = str(caught.value)
    assert type(caught.value) is kind
    assert "\n" not in message
    assert message.startswith(str(path))
    assert caught.value.fix
    return message


FITS_CASES: dict[str, tuple[bytes, type[ObservationError]]] = {
    "empty": (b"", errors.EmptyFileError),
    "text": (b"this is not an image\n" * 200, errors.FormatMismatchError),
    "jpeg": (b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(5000), errors.FormatMismatchError),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(5000), errors.FormatMismatchError),
    "tiff": (b"II*\0" + bytes(5000), errors.FormatMismatchError),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(5000), errors.FormatMismatchError),
    "bzip2": (b"BZh9" + bytes(5000), errors.FormatMismatchError),
    "cut header": (fits_bytes()[:1000], errors.TruncatedFileError),
    "header only": (fits_bytes()[:2880], errors.TruncatedFileError),
    "cut second header block": (
        fits_bytes(**{f"KEY{k}": k for k in range(60)})[:4000],
        errors.TruncatedFileError,
    ),
    "cut data": (fits_bytes()[:-4000], errors.TruncatedFileError),
    "no end": (fits_bytes()[:2880].replace(b"END", b"ABC") * 2, errors.TruncatedFileError),
    "negative axis": (fits_bytes(NAXIS1=-50), errors.InvalidGeometryError),
    "zero axis": (fits_bytes(NAXIS1=0), errors.InvalidGeometryError),
    "2e9 x 2e9": (fits_bytes(NAXIS1=2 * 10**9, NAXIS2=2 * 10**9), errors.InvalidGeometryError),
    "long axis": (fits_bytes(NAXIS1=2 * 10**9), errors.TruncatedFileError),
    "NAXIS 999": (fits_bytes(NAXIS=999), errors.InvalidGeometryError),
    "NAXIS 1000": (fits_bytes(NAXIS=1000), errors.InvalidGeometryError),
    "NAXIS -1": (fits_bytes(NAXIS=-1), errors.InvalidGeometryError),
    "NAXIS text": (fits_bytes(NAXIS="two"), errors.InvalidGeometryError),
    "NAXIS1 real": (fits_bytes(NAXIS1=50.5), errors.InvalidGeometryError),
    "NAXIS1 logical": (fits_bytes(NAXIS1=True), errors.InvalidGeometryError),
    "BITPIX 17": (fits_bytes(BITPIX=17), errors.UnsupportedDtypeError),
    "BSCALE 0": (fits_bytes(BSCALE=0.0), errors.UnreadableObservationError),
    "BZERO text": (fits_bytes(BZERO="x"), errors.UnreadableObservationError),
    "no image": (fits_bytes(NAXIS=0)[:2880], errors.NoImagePlaneError),
    "wrong DATASUM": (fits_bytes(DATASUM="12345"), errors.ChecksumMismatchError),
    "absurd DATASUM": (fits_bytes(DATASUM="-1"), errors.ChecksumMismatchError),
    "wrong CHECKSUM": (fits_bytes(CHECKSUM="a" * 16), errors.ChecksumMismatchError),
}


@pytest.mark.parametrize("case", FITS_CASES)
def test_bad_fits(tmp_path: Path, case: str) -> None:
    content, kind = FITS_CASES[case]
    path = tmp_path / "bad.fits"
    path.write_bytes(content)
    refused(path, kind)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("checksum_false.fits", errors.ChecksumMismatchError),
        ("tpv.fits.gz", errors.ChecksumMismatchError),
        ("header_newlines.fits", errors.ChecksumMismatchError),
        ("zerowidth.fits", errors.InvalidGeometryError),
        ("btable.fits", errors.NoImagePlaneError),
        ("memtest.fits", errors.NoImagePlaneError),
        ("lzw.fits.Z", errors.FormatMismatchError),
    ],
)
def test_bad_real_files(data: Path, name: str, kind: type[ObservationError]) -> None:
    refused(data / name, kind)


@pytest.mark.parametrize("name", ["checksum.fits", "stack-LRG.fits", "m13_rice.fits", "m13.fits"])
def test_good_checksums_pass(data: Path, name: str) -> None:
    with open_observation(data / name) as observation:
        assert observation.verify_checksums().checked >= 2


def test_a_flipped_bit_is_found(tmp_path: Path, data: Path) -> None:
    content = bytearray((data / "stack-LRG.fits").read_bytes())
    content[7000] ^= 1
    path = tmp_path / "flipped.fits"
    path.write_bytes(content)
    refused(path, errors.ChecksumMismatchError)


def test_a_cut_last_hdu_is_found(tmp_path: Path, data: Path) -> None:
    content = (data / "test0.fits").read_bytes()
    path = tmp_path / "cut.fits"
    for size in (len(content) - 5000, len(content) - 11000, 46080 + 4):
        path.write_bytes(content[:size])
        refused(path, errors.TruncatedFileError)


def test_missing_padding_and_trailing_bytes_are_only_warnings(tmp_path: Path) -> None:
    whole = fits_bytes()
    for content in (whole[: 2880 + IMAGE.nbytes], whole + b"junk" * 100):
        path = tmp_path / "odd.fits"
        path.write_bytes(content)
        with open_observation(path) as observation:
            assert observation.warnings
            values = observation.read(observation.planes[0], Window(0, 0, 40, 0, 50))
        np.testing.assert_array_equal(values, IMAGE)


def test_a_header_without_end_is_not_read_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "endless.fits"
    with path.open("wb") as handle:
        handle.write(fits_bytes()[:2880].replace(b"END", b"ABC"))
        handle.truncate(1 << 36)
    refused(path, errors.InvalidGeometryError, Limits(max_header_bytes=1 << 20))


def test_suffixes(tmp_path: Path) -> None:
    good = fits_bytes()
    for name in ("a.tif", "a.h5", "a.zarr", "a.jpg"):
        (tmp_path / name).write_bytes(good)
        refused(tmp_path / name, errors.FormatMismatchError)
    for name in ("a.dat", "a", "a.fits.1", "b.FITS", "b.fz"):
        (tmp_path / name).write_bytes(good)
        with open_observation(tmp_path / name) as observation:
            assert observation.format == "FITS"


def test_damaged_gzip(tmp_path: Path) -> None:
    packed = gzip.compress(fits_bytes())
    path = tmp_path / "a.fits.gz"
    path.write_bytes(packed[:-30])
    refused(path, errors.TruncatedFileError)
    path.write_bytes(packed[:-8] + bytes(8))
    refused(path, errors.UnreadableObservationError)
    path.write_bytes(gzip.compress(b"text" * 1000))
    refused(path, errors.FormatMismatchError)
    path.write_bytes(gzip.compress(b""))
    refused(path, errors.EmptyFileError)


def test_gzip_bomb(tmp_path: Path) -> None:
    path = tmp_path / "bomb.fits.gz"
    with gzip.open(path, "wb") as handle:
        handle.write(fits_bytes())
        for _ in range(100):
            handle.write(bytes(1 << 20))
    refused(path, errors.DecompressionBombError, Limits(max_ratio=100))
    refused(path, errors.DecompressionBombError, Limits(max_expanded_bytes=1 << 24))


def rewrite(path: Path, changes: dict[str, object]) -> None:
    """Change cards of the first extension in place."""
    content = bytearray(path.read_bytes())
    for keyword, value in changes.items():
        card = fits.Card(keyword, value).image.encode()
        start = content.index(keyword.ljust(8).encode() + b"=")
        content[start : start + 80] = card
    path.write_bytes(content)


def test_tile_compressed_claims(tmp_path: Path, data: Path) -> None:
    path = tmp_path / "m13.fits"

    def changed(**cards: object) -> Path:
        shutil.copyfile(data / "m13_rice.fits", path)
        rewrite(path, cards)
        return path

    refused(changed(ZNAXIS1=10**6, ZNAXIS2=10**6), errors.DecompressionBombError)
    refused(changed(ZNAXIS1=20000, ZNAXIS2=20000), errors.DecompressionBombError)
    refused(changed(ZNAXIS2=400), errors.InvalidGeometryError)
    refused(changed(ZNAXIS1=0), errors.InvalidGeometryError)
    refused(changed(ZTILE1=0), errors.InvalidGeometryError)
    refused(changed(ZTILE2=-1), errors.InvalidGeometryError)
    refused(changed(ZBITPIX=7), errors.UnsupportedDtypeError)
    refused(changed(TFIELDS=2**40), errors.InvalidGeometryError)


def test_the_real_mask_with_ratio_1223_passes(data: Path) -> None:
    with open_observation(data / "ksb_staticmask_ood_v1.fits.fz") as observation:
        assert sum(plane.nbytes for plane in observation.planes) > 264e6


def tiff_with(path: Path, change: Callable[[tifffile.TiffFile], None], **options: object) -> Path:
    tifffile.imwrite(path, IMAGE, **options)
    with tifffile.TiffFile(path, mode="r+") as file:
        change(file)
    return path


def test_bad_tiff(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"

    def overwrite(tag: str, value: object) -> Callable[[tifffile.TiffFile], None]:
        return lambda file: file.pages[0].tags[tag].overwrite(value)

    refused(tiff_with(path, overwrite("StripOffsets", 10**6)), errors.TruncatedFileError)
    refused(tiff_with(path, overwrite("ImageWidth", 60000)), errors.TruncatedFileError)
    refused(tiff_with(path, overwrite("ImageLength", 0)), errors.InvalidGeometryError)
    refused(
        tiff_with(path, overwrite("ImageLength", 4000), rowsperstrip=8),
        errors.InvalidGeometryError,
    )
    refused(
        tiff_with(path, overwrite("ImageWidth", 10**8), compression="zlib"),
        errors.DecompressionBombError,
    )
    tifffile.imwrite(path, IMAGE.astype("c8"))
    refused(path, errors.UnsupportedDtypeError)
    tifffile.imwrite(path, np.zeros((8192, 8192), "f4"), compression="zlib", rowsperstrip=8192)
    refused(path, errors.DecompressionBombError, Limits(max_segment_bytes=1 << 26))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    refused(path, errors.TruncatedFileError)
    path.write_bytes(content[:6])
    with pytest.raises(ObservationError), open_observation(path):
        pass


def test_bad_hdf5(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["image"] = np.random.default_rng(0).random((100, 100))
    content = path.read_bytes()
    path.write_bytes(content[:-1000])
    refused(path, errors.TruncatedFileError)
    with h5py.File(path, "w") as file:
        file.create_dataset("image", (10**6, 10**6), "f4", chunks=(64, 64), compression="gzip")
    refused(path, errors.DecompressionBombError)
    with h5py.File(path, "w") as file:
        file.create_dataset("image", data=np.ones((600, 600)), chunks=(600, 600))
    refused(path, errors.DecompressionBombError, Limits(max_segment_bytes=1 << 20))
    with h5py.File(path, "w") as file:
        file.create_dataset("image", (0, 5), "f4")
    refused(path, errors.InvalidGeometryError)


def test_bad_zarr(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    zarr.create_array(path, shape=(10**6, 10**6), chunks=(100, 100), dtype="f4")
    refused(path, errors.DecompressionBombError)
    shutil.rmtree(path)
    zarr.create_array(path, shape=(100, 100), chunks=(50, 50), dtype="f4")[:] = 1
    (path / "c" / "0" / "0").write_bytes(b"damaged")
    refused(path, errors.UnreadableObservationError)
    (path / "zarr.json").write_text("{")
    refused(path, errors.UnreadableObservationError)
    (path / "link").symlink_to("/etc/passwd")
    refused(path, errors.UnreadableObservationError)
    shutil.rmtree(path)
    path.mkdir()
    refused(path, errors.EmptyFileError)
    (path / "x").write_text("x")
    refused(path, errors.FormatMismatchError)


def test_bad_zip(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "x")
    refused(path, errors.FormatMismatchError)
    content = path.read_bytes()
    path.write_bytes(content[:-10])
    refused(path, errors.TruncatedFileError)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zarr.json", bytes(100 << 20))
    refused(path, errors.DecompressionBombError, Limits(max_ratio=100))


def test_absent_files_are_not_observations(tmp_path: Path) -> None:
    with pytest.raises(errors.StorageError), open_observation(tmp_path / "none.fits"):
        pass
