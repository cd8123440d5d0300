"""Tile-compressed FITS images, decoded tile by tile.

Belongs here: checks of a compressed image's claims, and windows of it.
Does not belong here: the codecs, which are astropy's.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.errors import InvalidGeometryError, TruncatedFileError, UnsupportedDtypeError
from acie_pipelines.observations.base import Limits, check_expansion, check_segment
from acie_pipelines.observations.fits_layout import Hdu, axis_lengths, integer_card
from acie_pipelines.observations.model import Window

__all__ = ["CompressedImage"]

_CACHE_BYTES = 64 << 20
_MAX_AXES = 8
_DESCRIPTOR_BYTES = {"B": 1, "I": 2, "J": 4, "E": 4, "D": 8}


class CompressedImage:
    """One tile-compressed image HDU.

    Parameters
    ----------
    path
        File named in messages.
    hdu
        The table that holds the tiles.
    open_hdu
        Returns astropy's `CompImageHDU`; called only after the claims were checked.
    limits
        How much the image and a tile may expand to.

    Raises
    ------
    ObservationError
        If the header contradicts itself or the file, or claims too much.
    """

    def __init__(self, path: Path, hdu: Hdu, open_hdu: Callable[[], Any], limits: Limits) -> None:
        self._path = path
        self._hdu = hdu
        header = hdu.header
        self.bitpix = integer_card(path, header, "ZBITPIX")
        if self.bitpix not in (8, 16, 32, 64, -32, -64):
            raise UnsupportedDtypeError(
                path, f"ZBITPIX = {self.bitpix} is not a FITS sample type", "compress it again"
            )
        lengths = axis_lengths(path, header, "ZNAXIS")
        if not 1 <= len(lengths) <= _MAX_AXES or 0 in lengths:
            raise InvalidGeometryError(
                path,
                f"compressed HDU {hdu.index} declares axes {lengths}",
                "obtain an undamaged copy",
            )
        tiles = [
            integer_card(path, header, f"ZTILE{axis}", length if axis == 1 else 1)
            for axis, length in enumerate(lengths, start=1)
        ]
        if any(tile <= 0 for tile in tiles):
            raise InvalidGeometryError(
                path, f"compressed HDU {hdu.index} declares tiles {tiles}", "compress it again"
            )
        self.shape = tuple(reversed(lengths))
        self._tile = tuple(
            min(tile, length) for tile, length in zip(tiles[::-1], lengths[::-1], strict=True)
        )
        itemsize = abs(self.bitpix) // 8
        check_expansion(path, math.prod(lengths) * itemsize, hdu.data_bytes, limits)
        check_segment(path, math.prod(self._tile) * itemsize, "tile", limits)
        check_segment(path, header["NAXIS1"] * header["NAXIS2"], "tile table", limits)
        expected = math.prod(
            -(-length // tile) for length, tile in zip(self.shape, self._tile, strict=True)
        )
        if header["NAXIS2"] != expected:
            raise InvalidGeometryError(
                path,
                f"compressed HDU {hdu.index} stores {header['NAXIS2']} tiles, "
                f"its axes need {expected}",
                "obtain an undamaged copy",
            )
        self._image = open_hdu()
        self.image_header = self._image.header
        self._check_tiles(math.prod(self._tile) * itemsize)
        self._cached: tuple[tuple[slice, ...], NDArray[Any]] | None = None

    def _check_tiles(self, tile_bytes: int) -> None:
        """Every tile must lie in the heap, and none may be much larger than its pixels."""
        header = self._hdu.header
        table = self._image.compressed_data
        rows = header["NAXIS1"] * header["NAXIS2"]
        heap = self._hdu.data_bytes - int(header.get("THEAP", rows))
        for index, name in enumerate(table.columns.names, start=1):
            if not name.endswith("_DATA"):
                continue
            form = str(header[f"TFORM{index}"]).lstrip("1")
            element = _DESCRIPTOR_BYTES.get(form[1:2])
            if element is None or form[0] not in "PQ":
                raise UnsupportedDtypeError(
                    self._path, f"column {name} has the format {form}", "compress it again"
                )
            found = np.asarray(table[name]).reshape(-1, 2).astype(np.int64)
            ends = found[:, 1] + found[:, 0] * element
            if found.size and (found.min() < 0 or int(ends.max()) > heap):
                raise TruncatedFileError(
                    self._path,
                    f"HDU {self._hdu.index} places tiles beyond its heap",
                    "transfer the file again",
                )
            if found.size and int(found[:, 0].max()) * element > 2 * tile_bytes + 65536:
                raise InvalidGeometryError(
                    self._path,
                    f"HDU {self._hdu.index} stores tiles larger than their pixels",
                    "obtain an undamaged copy",
                )

    def window(self, window: Window) -> NDArray[Any]:
        """Read samples of a window, before scaling, shape ``(rows, columns)``."""
        lead = self.shape[:-2]
        box = [slice(int(i), int(i) + 1) for i in np.unravel_index(window.channel, lead or (1,))]
        box = box[len(box) - len(lead) :]
        if len(self.shape) > 1:
            box.append(slice(window.y0, window.y1))
        box.append(slice(window.x0, window.x1))
        samples = self._section(tuple(box))
        return samples.reshape(window.y1 - window.y0, window.x1 - window.x0)

    def _section(self, box: tuple[slice, ...]) -> NDArray[Any]:
        """Decode whole tiles once when neighbouring windows share them."""
        if self._cached is not None:
            region, pixels = self._cached
            if all(
                a.start <= b.start and b.stop <= a.stop for a, b in zip(region, box, strict=True)
            ):
                shifted = tuple(
                    slice(b.start - a.start, b.stop - a.start)
                    for a, b in zip(region, box, strict=True)
                )
                return pixels[shifted].copy()
        # Rows of tiles are the usual layout, so the whole width is worth keeping.
        wide = tuple(
            slice(
                0 if axis == len(box) - 1 else part.start // tile * tile,
                length if axis == len(box) - 1 else min(-(-part.stop // tile) * tile, length),
            )
            for axis, (part, tile, length) in enumerate(
                zip(box, self._tile, self.shape, strict=True)
            )
        )
        size = math.prod(part.stop - part.start for part in wide) * abs(self.bitpix) // 8
        if self._tile[-1] <= box[-1].stop - box[-1].start or size > _CACHE_BYTES:
            return np.asarray(self._image.section[box])
        pixels = np.asarray(self._image.section[wide])
        self._cached = (wide, pixels)
        return self._section(box)
