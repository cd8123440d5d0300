"""Where tiles lie: an exact cover of a plane by rectangles, edges not padded.

Belongs here: tile and group geometry, in pixels.
Does not belong here: samples, files, Zarr.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from acie_pipelines.errors import ConfigurationError
from acie_pipelines.observations.model import Window

__all__ = ["DEFAULT_TILE_SIZE", "MAX_GROUP_BYTES", "TileGrid", "TileGroup"]

DEFAULT_TILE_SIZE = 1024
MAX_GROUP_BYTES = 64 << 20
# Wide enough for most detectors' rows, and beside it the reader's own copy fits into memory too.
_GROUP_BYTES = 32 << 20
# Zarr assembles a shard in memory, encoded and raw at once, so shards are smaller than groups.
_MAX_SHARD_BYTES = 16 << 20
_MAX_SHARD_TILES = 16


@dataclass(frozen=True)
class TileGroup:
    """Neighbouring tiles of one row band, read from the source in one go.

    Attributes
    ----------
    window
        The rectangle that the tiles cover together.
    tiles
        The tiles, by ascending ``x0``.
    """

    window: Window
    tiles: tuple[Window, ...]


@dataclass(frozen=True)
class TileGrid:
    """Square tiles over a plane; those at the right and lower edge are as small as they are.

    Attributes
    ----------
    shape
        ``(depth, height, width)`` of the plane.
    tile_size
        Side of an inner tile in pixels.

    Raises
    ------
    ConfigurationError
        If the tile size or an axis is not positive.
    """

    shape: tuple[int, int, int]
    tile_size: int = DEFAULT_TILE_SIZE

    def __post_init__(self) -> None:
        if self.tile_size < 1:
            raise ConfigurationError(
                "tile_size", f"is {self.tile_size}", "use a positive number of pixels"
            )
        if min(self.shape) < 1:
            raise ConfigurationError("TileGrid", f"has shape {self.shape}", "use positive axes")

    @property
    def rows(self) -> int:
        """Number of tiles along y."""
        return -(-self.shape[1] // self.tile_size)

    @property
    def columns(self) -> int:
        """Number of tiles along x."""
        return -(-self.shape[2] // self.tile_size)

    def __len__(self) -> int:
        return self.shape[0] * self.rows * self.columns

    def __iter__(self) -> Iterator[Window]:
        """Tiles in storage order: channel, then y, then x."""
        for channel in range(self.shape[0]):
            for row in range(self.rows):
                for column in range(self.columns):
                    yield self.tile(channel, row, column)

    def tile(self, channel: int, row: int, column: int) -> Window:
        """Tile at a position of the grid, in global pixel coordinates."""
        y0, x0 = row * self.tile_size, column * self.tile_size
        return Window(
            channel,
            y0,
            min(y0 + self.tile_size, self.shape[1]),
            x0,
            min(x0 + self.tile_size, self.shape[2]),
        )

    def _tile_bytes(self, dtype: np.dtype[np.generic]) -> int:
        side_y = min(self.tile_size, self.shape[1])
        side_x = min(self.tile_size, self.shape[2])
        size = side_y * side_x * dtype.itemsize
        if size > MAX_GROUP_BYTES:
            raise ConfigurationError(
                "tile_size",
                f"{self.tile_size} makes a tile of {size >> 20} MiB",
                f"keep a tile within {MAX_GROUP_BYTES >> 20} MiB",
            )
        return size

    def shard_columns(self, dtype: np.dtype[np.generic]) -> int:
        """Tiles along x that share one stored object.

        Parameters
        ----------
        dtype
            Type of the samples.
        """
        fitting = _MAX_SHARD_BYTES // self._tile_bytes(dtype)
        return max(1, min(self.columns, fitting, _MAX_SHARD_TILES))

    def groups(self, dtype: np.dtype[np.generic]) -> Iterator[TileGroup]:
        """Row-band groups of whole shards, each at most `MAX_GROUP_BYTES` large.

        Files compressed row by row decode whole rows however narrow the window is; wide windows
        keep them from being decoded once per tile. A group passes 32 MiB only if one tile does.

        Parameters
        ----------
        dtype
            Type of the samples.
        """
        shard = self.shard_columns(dtype)
        # One band of a plane flatter than a tile is cheaper than a full tile: use true heights.
        width = max(1, _GROUP_BYTES // (self._tile_bytes(dtype) * shard)) * shard
        for channel in range(self.shape[0]):
            for row in range(self.rows):
                for first in range(0, self.columns, width):
                    last = min(first + width, self.columns)
                    tiles = tuple(self.tile(channel, row, c) for c in range(first, last))
                    window = Window(channel, tiles[0].y0, tiles[0].y1, tiles[0].x0, tiles[-1].x1)
                    yield TileGroup(window, tiles)
