"""Open any observation file by what it contains.

Belongs here: telling formats apart by magic bytes, and decompressing gzip.
Does not belong here: reading of any one format.
"""

import gzip
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from acie_pipelines.errors import (
    EmptyFileError,
    FormatMismatchError,
    TruncatedFileError,
    UnreadableObservationError,
)
from acie_pipelines.observations.base import Limits, Reader, check_expansion, decoding_errors
from acie_pipelines.storage import storage_errors

__all__ = ["detect_format", "open_observation"]

_SUFFIXES = {
    ".fits": "FITS",
    ".fit": "FITS",
    ".fts": "FITS",
    ".fz": "FITS",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".btf": "TIFF",
    ".h5": "HDF5",
    ".hdf5": "HDF5",
    ".he5": "HDF5",
    ".zarr": "Zarr",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".gif": "GIF",
    ".pdf": "PDF",
    ".csv": "text",
    ".txt": "text",
}
_PACKED = (".gz", ".zip")
_GZIP = b"\x1f\x8b"
_ZIP = b"PK\x03\x04"
_MAGIC = (
    (b"SIMPLE", "FITS"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG", "PNG"),
    (b"GIF8", "GIF"),
    (b"%PDF", "PDF"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ", "xz"),
    (b"\x1f\x9d", "compress (.Z)"),
)
_READABLE = ("FITS", "TIFF", "HDF5", "Zarr")
_ZARR_DOCUMENTS = ("zarr.json", ".zgroup", ".zarray")
_READ_BYTES = 1 << 20


def _claimed(path: Path) -> str | None:
    """Format that the file name claims, if any."""
    name = path.name.lower()
    for packing in _PACKED:
        name = name.removesuffix(packing)
    return _SUFFIXES.get(Path(name).suffix)


def _sniff(head: bytes) -> str | None:
    for magic, name in _MAGIC:
        if head.startswith(magic):
            return name
    return None


def _is_hdf5(path: Path) -> bool:
    # The signature may stand behind a user block.
    import h5py

    return bool(h5py.is_hdf5(path))


def detect_format(path: Path) -> str:
    """Tell the format of a file from its content.

    Parameters
    ----------
    path
        File, or Zarr directory.

    Returns
    -------
    str
        ``FITS``, ``FITS.gz``, ``TIFF``, ``HDF5``, ``Zarr`` or ``Zarr.zip``.

    Raises
    ------
    EmptyFileError
        If there are no bytes.
    FormatMismatchError
        If the content is no known format, or not the one the name claims.
    """
    if path.is_dir():
        if not any((path / name).is_file() for name in _ZARR_DOCUMENTS):
            if not any(path.iterdir()):
                raise EmptyFileError(path, "is an empty directory", "transfer it again")
            raise FormatMismatchError(
                path, "is a directory without Zarr metadata", "give the Zarr directory itself"
            )
        return _agreed(path, "Zarr", "Zarr")
    with storage_errors(path), path.open("rb") as handle:
        head = handle.read(16)
    if not head:
        raise EmptyFileError(path, "holds no bytes", "transfer the file again")
    if head.startswith(_GZIP):
        # FITS is the only format that is customarily compressed as a whole.
        return _agreed(path, "FITS", "FITS.gz")
    if head.startswith(_ZIP):
        return _agreed(path, "Zarr", "Zarr.zip")
    found = _sniff(head)
    if found is None and _is_hdf5(path):
        found = "HDF5"
    if found not in _READABLE:
        claim = _claimed(path)
        named = f" but is named as {claim}" if claim in _READABLE else ""
        raise FormatMismatchError(
            path,
            f"contains {found or 'no known format'}{named}",
            "supply FITS, TIFF, HDF5 or Zarr",
        )
    return _agreed(path, found, found)


def _agreed(path: Path, family: str, found: str) -> str:
    claim = _claimed(path)
    if claim is not None and claim != family:
        raise FormatMismatchError(
            path, f"contains {found} but is named as {claim}", "give it the right suffix"
        )
    return found


def _decompressed(path: Path, limits: Limits) -> IO[bytes]:
    """Expand a gzip file into a temporary file that no name refers to any more."""
    with tempfile.NamedTemporaryFile(prefix="acie-", suffix=".fits") as target:
        try:
            with gzip.open(path, "rb") as source:
                _expand(path, source, target, limits)
        except EOFError as error:
            raise TruncatedFileError(
                path, "the gzip stream ends early", "transfer the file again"
            ) from error
        except (gzip.BadGzipFile, zlib.error) as error:
            raise UnreadableObservationError(
                path, f"the gzip stream is damaged ({error})", "transfer the file again"
            ) from error
        # The new descriptor keeps the data; without a name, a kill leaves nothing behind.
        return Path(target.name).open("rb")


def _expand(path: Path, source: gzip.GzipFile, target: IO[bytes], limits: Limits) -> None:
    stored = path.stat().st_size
    written = 0
    while block := source.read(_READ_BYTES):
        if not written and not block.startswith(b"SIMPLE"):
            raise FormatMismatchError(
                path, "is gzip of something other than FITS", "decompress it first"
            )
        written += len(block)
        check_expansion(path, written, stored, limits)
        with storage_errors(tempfile.gettempdir()):
            target.write(block)
    if not written:
        raise EmptyFileError(path, "is gzip of nothing", "transfer the file again")
    with storage_errors(tempfile.gettempdir()):
        target.flush()


@contextmanager
def open_observation(path: Path, *, limits: Limits = Limits()) -> Iterator[Reader]:  # noqa: B008
    """Open a FITS, TIFF, HDF5 or Zarr observation.

    Parameters
    ----------
    path
        File, or Zarr directory.
    limits
        How much compressed data may expand to.

    Yields
    ------
    Reader
        An `acie_pipelines.observations.model.Observation` that also has `warnings` and
        `verify_checksums`. It is closed at the end of the block.

    Raises
    ------
    ObservationError
        If the file cannot become an observation; the subclass says why.
    StorageError
        If the file is absent or may not be read.
    """
    with storage_errors(path):
        path.stat()
    reader = _open(path, detect_format(path), limits)
    try:
        yield reader
    finally:
        reader.close()


def _open(path: Path, found: str, limits: Limits) -> Reader:
    # Each format's library is loaded when a file needs it: astropy alone takes a second.
    if found in ("FITS", "FITS.gz"):
        from acie_pipelines.observations.fits import FitsReader

        if found == "FITS.gz":
            return FitsReader(path, _decompressed(path, limits), limits)
        with storage_errors(path):
            handle = path.open("rb")
        return FitsReader(path, handle, limits)
    with decoding_errors(path, f"the {found} structure"):
        if found == "TIFF":
            from acie_pipelines.observations.tiff import TiffReader

            return TiffReader(path, limits)
        if found == "HDF5":
            from acie_pipelines.observations.hdf5 import Hdf5Reader

            return Hdf5Reader(path, limits)
        from acie_pipelines.observations.zarr import ZarrReader

        return ZarrReader(path, limits)
