"""Large observation files for benchmarks, written as a stream.

Belongs here: synthetic FITS and TIFF files of any size.
Does not belong here: timing, or data that anything but a benchmark reads.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

__all__ = ["square_side", "write_large_fits", "write_large_tiff"]

_FITS_BLOCK = 2880
_BAND_ROWS = 256
_TIFF_TILE = 256


def square_side(gigabytes: float, sample_bytes: int = 4) -> int:
    """Side of a square image of about this size, a multiple of the TIFF tile.

    Parameters
    ----------
    gigabytes
        Size in 10**9 bytes.
    sample_bytes
        Size of a sample.
    """
    side = math.sqrt(gigabytes * 1e9 / sample_bytes)
    return max(1, round(side / _TIFF_TILE)) * _TIFF_TILE


def _bands(side: int) -> Iterator[NDArray[np.float32]]:
    """Noisy rows, 256 at a time; no two bands are alike."""
    rng = np.random.default_rng(5)
    noise = rng.normal(100.0, 5.0, (_BAND_ROWS, side)).astype(np.float32)
    for first in range(0, side, _BAND_ROWS):
        shift = int(rng.integers(side))
        yield np.roll(noise, shift, axis=1) + np.float32(first / side)


def write_large_fits(
    path: Path, gigabytes: float, dtype: Literal["float32", "int16"] = "float32"
) -> None:
    """Write a square image with WCS and unit.

    Parameters
    ----------
    path
        Where to write.
    gigabytes
        Size in 10**9 bytes.
    dtype
        Type of its samples; integers are the floats cut off.
    """
    from astropy.io import fits

    stored = np.dtype(dtype).newbyteorder(">")
    side = square_side(gigabytes, stored.itemsize)
    header = fits.PrimaryHDU(np.zeros((1, 1), dtype=dtype)).header
    header.update(
        NAXIS1=side,
        NAXIS2=side,
        BUNIT="adu",
        CTYPE1="RA---TAN",
        CTYPE2="DEC--TAN",
        CRPIX1=side / 2,
        CRPIX2=side / 2,
        CRVAL1=150.0,
        CRVAL2=2.0,
        CDELT1=-7e-5,
        CDELT2=7e-5,
    )
    with path.open("wb") as handle:
        handle.write(header.tostring().encode("ascii"))
        for band in _bands(side):
            handle.write(band.astype(stored).data)
        handle.write(bytes(-handle.tell() % _FITS_BLOCK))


def write_large_tiff(path: Path, gigabytes: float) -> None:
    """Write a square float32 image in tiles of 256 pixels.

    Parameters
    ----------
    path
        Where to write.
    gigabytes
        Size in 10**9 bytes.
    """
    import tifffile

    side = square_side(gigabytes)

    def tiles() -> Iterator[NDArray[Any]]:
        for band in _bands(side):
            for x0 in range(0, side, _TIFF_TILE):
                yield np.ascontiguousarray(band[:, x0 : x0 + _TIFF_TILE])

    tifffile.imwrite(
        path,
        tiles(),
        shape=(side, side),
        dtype=np.float32,
        tile=(_TIFF_TILE, _TIFF_TILE),
        photometric="minisblack",
        bigtiff=True,
    )
