"""TIFF observations: tiled, striped, BigTIFF, multi-page, compressed or not.

Belongs here: reading windows of TIFF pages, decoding only the segments they touch.
Does not belong here: the codecs, which are tifffile's; geographic tags.
"""

import logging
import math
import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from acie_pipelines.errors import (
    InvalidGeometryError,
    NoImagePlaneError,
    TruncatedFileError,
    UnreadableObservationError,
    UnsupportedDtypeError,
)
from acie_pipelines.observations.base import (
    Limits,
    Reader,
    check_expansion,
    check_segment,
    json_value,
    kind_from_names,
)
from acie_pipelines.observations.byteio import read_exactly
from acie_pipelines.observations.model import Plane, Window

__all__ = ["TiffReader"]

_CACHE_BYTES = 16 << 20
_MAX_PAGES = 65536
# Codecs whose output size can be bounded before decoding.
_CODECS = {1: "none", 5: "LZW", 8: "deflate", 32946: "deflate", 32773: "PackBits", 50000: "zstd"}
_SKIPPED_TAGS = frozenset({"StripOffsets", "StripByteCounts", "TileOffsets", "TileByteCounts"})


@dataclass(frozen=True)
class _Page:
    """Geometry of one page.

    Attributes
    ----------
    page
        tifffile's page.
    axes
        ``(separate samples, depth, height, width, interleaved samples)``.
    segment
        ``(depth, height, width)`` of a tile or strip.
    plain
        Whether strips hold samples as they are, so that any row can be found by arithmetic.
    """

    index: int
    page: Any
    axes: tuple[int, int, int, int, int]
    segment: tuple[int, int, int]
    plain: bool

    @property
    def across(self) -> tuple[int, int, int]:
        """Number of segments along depth, height and width."""
        _, depth, height, width, _ = self.axes
        return (
            -(-depth // self.segment[0]),
            -(-height // self.segment[1]),
            -(-width // self.segment[2]),
        )

    @property
    def segments(self) -> int:
        """Number of segments in the page."""
        return self.axes[0] * math.prod(self.across)

    def channel(self, channel: int) -> tuple[int, int, int]:
        """Separate sample, depth and interleaved sample of a channel."""
        _, depth, _, _, interleaved = self.axes
        rest, sample = divmod(channel, interleaved)
        separate, plane = divmod(rest, depth)
        return separate, plane, sample


class TiffReader(Reader):
    """An open TIFF file.

    Parameters
    ----------
    path
        File to read.
    limits
        How much the file and one segment may expand to.

    Raises
    ------
    ObservationError
        If the file is damaged or holds no readable page.
    """

    format = "TIFF"

    def __init__(self, path: Path, limits: Limits) -> None:
        super().__init__(path)
        self._limits = limits
        self._size = path.stat().st_size
        self._segments: OrderedDict[tuple[int, int], NDArray[Any] | None] = OrderedDict()
        self._cached_bytes = 0
        self._pages: dict[str, _Page] = {}
        self._tiff: Any = None
        self._descriptor = os.open(path, os.O_RDONLY)
        try:
            with self.collecting("the TIFF structure"), _LogCapture(self):
                self._tiff = tifffile.TiffFile(path)
                self.planes = tuple(self._find_planes())
        except BaseException:
            self.close()
            raise
        if not self.planes:
            self.close()
            raise NoImagePlaneError(path, "holds no full-resolution page", "export it again")
        self.header = dict(self.planes[0].header)

    def _find_planes(self) -> Iterator[Plane]:
        expanded = 0
        for index, page in enumerate(self._tiff.pages):
            if index >= _MAX_PAGES:
                raise InvalidGeometryError(
                    self.path, f"has more than {_MAX_PAGES} pages", "split the file"
                )
            # Pyramid levels, thumbnails and transparency masks repeat what a page holds.
            if page.is_reduced or page.is_mask:
                continue
            layout = self._layout(index, page)
            dtype = _value_dtype(page.dtype)
            height, width = layout.axes[2], layout.axes[3]
            depth = layout.axes[0] * layout.axes[1] * layout.axes[4]
            if not layout.plain:
                expanded += depth * height * width * dtype.itemsize
                check_expansion(self.path, expanded, self._size, self._limits)
            name = f"page{index}"
            self._pages[name] = layout
            yield Plane(
                name=name,
                kind=kind_from_names([self.path.name], dtype) or "image",
                shape=(depth, height, width),
                dtype=dtype,
                header=_tags(page),
            )

    def _layout(self, index: int, page: Any) -> _Page:
        if page.dtype is None or page.dtype.kind not in "biuf":
            raise UnsupportedDtypeError(
                self.path,
                f"page {index} has {page.bitspersample}-bit samples of an unreadable type",
                "convert it to integers or floats",
            )
        if int(page.compression) not in _CODECS:
            raise UnreadableObservationError(
                self.path,
                f"page {index} is compressed with {page.compression!r}",
                "save it uncompressed or with deflate, LZW or zstd",
            )
        separate, depth, height, width, interleaved = (int(length) for length in page.shaped)
        axes = (separate, depth, height, width, interleaved)
        if min(axes) <= 0:
            raise InvalidGeometryError(
                self.path, f"page {index} declares axes {list(axes)}", "export it again"
            )
        if page.is_tiled:
            segment = (page.tiledepth, page.tilelength, page.tilewidth)
        else:
            segment = (1, min(page.rowsperstrip, axes[2]), axes[3])
        if min(segment) <= 0:
            raise InvalidGeometryError(
                self.path, f"page {index} declares segments {list(segment)}", "export it again"
            )
        plain = (
            not page.is_tiled
            and int(page.compression) == 1
            and page.predictor == 1
            and page.fillorder == 1
            and page.bitspersample == 8 * page.dtype.itemsize
        )
        layout = _Page(index, page, axes, segment, plain)
        self._check_segments(layout)
        return layout

    def _check_segments(self, layout: _Page) -> None:
        offsets = np.asarray(layout.page.dataoffsets, np.uint64).astype(np.float64)
        counts = np.asarray(layout.page.databytecounts, np.uint64).astype(np.float64)
        if len(offsets) < layout.segments or len(counts) < layout.segments:
            raise InvalidGeometryError(
                self.path,
                f"page {layout.index} stores {len(offsets)} segments, its axes need "
                f"{layout.segments}",
                "obtain an undamaged copy",
            )
        size = math.prod(layout.segment) * layout.axes[4] * layout.page.dtype.itemsize
        if layout.plain:
            ends = offsets[: layout.segments] + self._strip_bytes(layout)
        else:
            check_segment(
                self.path, size, "tile" if layout.page.is_tiled else "strip", self._limits
            )
            ends = (offsets + counts)[: layout.segments]
        if ends.max() > self._size:
            raise TruncatedFileError(
                self.path,
                f"page {layout.index} points {int(ends.max()) - self._size} bytes beyond the end",
                "transfer the file again",
            )

    @staticmethod
    def _strip_bytes(layout: _Page) -> NDArray[np.float64]:
        """Bytes that each uncompressed strip must hold."""
        _, _, height, width, interleaved = layout.axes
        rows = layout.segment[1]
        count = layout.across[1]
        strip = np.full(count, rows)
        strip[-1] = height - rows * (count - 1)
        repeats = layout.segments // count
        sizes = strip * float(width * interleaved * layout.page.dtype.itemsize)
        return np.tile(sizes, repeats)

    def _read(self, plane: Plane, window: Window) -> NDArray[Any]:
        layout = self._pages[plane.name]
        with _LogCapture(self):
            if layout.plain:
                return self._read_plain(layout, window)
            return self._read_segments(layout, plane, window)

    def _read_plain(self, layout: _Page, window: Window) -> NDArray[Any]:
        """Rows of uncompressed strips, found by arithmetic."""
        separate, plane, sample = layout.channel(window.channel)
        _, depth, _, width, interleaved = layout.axes
        dtype = layout.page.dtype.newbyteorder(self._tiff.byteorder)
        columns = window.x1 - window.x0
        samples = np.empty((window.y1 - window.y0, columns, interleaved), dtype)
        target = samples.view(np.uint8).reshape(-1).data
        rows_per_strip, strips = layout.segment[1], layout.across[1]
        row_bytes = width * interleaved * dtype.itemsize
        span = columns * interleaved * dtype.itemsize
        y = window.y0
        while y < window.y1:
            strip, row = divmod(y, rows_per_strip)
            base = layout.page.dataoffsets[(separate * depth + plane) * strips + strip]
            # A run is as many rows as lie side by side in the file.
            run = min(rows_per_strip - row, window.y1 - y) if columns == width else 1
            first = (y - window.y0) * span
            start = base + row * row_bytes + window.x0 * interleaved * dtype.itemsize
            read_exactly(self._descriptor, target[first : first + run * span], start)
            y += run
        return samples[:, :, sample]

    def _read_segments(self, layout: _Page, plane: Plane, window: Window) -> NDArray[Any]:
        separate, z, sample = layout.channel(window.channel)
        deep, high, wide = layout.segment
        across = layout.across
        result = np.zeros((window.y1 - window.y0, window.x1 - window.x0), plane.dtype)
        for row in range(window.y0 // high, -(-window.y1 // high)):
            for column in range(window.x0 // wide, -(-window.x1 // wide)):
                number = ((separate * across[0] + z // deep) * across[1] + row) * across[2] + column
                block = self._segment(layout, number)
                if block is None:
                    continue
                top, left = row * high, column * wide
                y0, y1 = max(window.y0, top), min(window.y1, top + block.shape[1])
                x0, x1 = max(window.x0, left), min(window.x1, left + block.shape[2])
                result[y0 - window.y0 : y1 - window.y0, x0 - window.x0 : x1 - window.x0] = block[
                    z % deep, y0 - top : y1 - top, x0 - left : x1 - left, sample
                ]
        return result

    def _segment(self, layout: _Page, number: int) -> NDArray[Any] | None:
        """Decode a segment, or take it from the bounded cache; ``None`` if it was never stored."""
        key = (layout.index, number)
        if key in self._segments:
            self._segments.move_to_end(key)
            return self._segments[key]
        count = int(layout.page.databytecounts[number])
        block: NDArray[Any] | None = None
        if count:
            data = bytearray(count)
            offset = int(layout.page.dataoffsets[number])
            read_exactly(self._descriptor, memoryview(data), offset)
            decoded, _, _ = layout.page.decode(bytes(data), number)
            block = np.asarray(decoded)
        self._segments[key] = block
        self._cached_bytes += 0 if block is None else block.nbytes
        while self._cached_bytes > _CACHE_BYTES and len(self._segments) > 1:
            _, dropped = self._segments.popitem(last=False)
            self._cached_bytes -= 0 if dropped is None else dropped.nbytes
        return block

    def close(self) -> None:
        """Release the file."""
        self._segments.clear()
        if self._tiff is not None:
            self._tiff.close()
            self._tiff = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class _LogCapture(logging.Handler):
    """Moves tifffile's log messages into the reader's warnings for the time of a block."""

    def __init__(self, reader: Reader) -> None:
        super().__init__(logging.WARNING)
        self._reader = reader
        self._logger = logging.getLogger("tifffile")

    def emit(self, record: logging.LogRecord) -> None:
        self._reader.warn(record.getMessage())

    def __enter__(self) -> None:
        self._propagate = self._logger.propagate
        self._logger.propagate = False
        self._logger.addHandler(self)

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)
        self._logger.propagate = self._propagate


def _value_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Bilevel pages are read as flags 0 and 1."""
    return np.dtype("u1") if dtype.kind == "b" else dtype.newbyteorder("<")


def _tags(page: Any) -> dict[str, Any]:
    return {
        str(tag.name): json_value(tag.value) for tag in page.tags if tag.name not in _SKIPPED_TAGS
    }
