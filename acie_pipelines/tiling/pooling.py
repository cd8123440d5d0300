"""Exact formulas that turn statistics of tiles into statistics of a plane.

Belongs here: pure arithmetic on tile statistics and running block means.
Does not belong here: reading tiles or observations.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.observations.model import Window

__all__ = ["BlockMean", "StreamingTotal", "pool_statistics", "weighted_median"]

_LIMB_BITS = 32


def pool_statistics(tiles: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Combine the statistics of disjoint tiles.

    Mean and variance are those of all samples together: the variance between the tiles' means
    is added to the mean variance within them.

    Parameters
    ----------
    tiles
        ``statistics`` of tile records; those of tiles without a valid sample are null.

    Returns
    -------
    dict
        ``count``, ``invalid_count``, ``minimum``, ``maximum``, ``mean``, ``variance``,
        ``total`` (an exact integer where the tiles' are), ``background`` (median of the tiles'
        backgrounds weighted by their valid samples) and ``background_rms`` (weighted likewise);
        null where no sample is valid.
    """
    records = list(tiles)
    used = [record for record in records if record["count"]]
    count = sum(record["count"] for record in records)
    pooled: dict[str, Any] = {
        "count": count,
        "invalid_count": sum(record["invalid_count"] for record in records),
    }
    if not used:
        names = ("minimum", "maximum", "mean", "variance", "total", "background", "background_rms")
        return pooled | dict.fromkeys(names)
    mean = math.fsum(record["mean"] * record["count"] for record in used) / count
    squares = math.fsum(
        record["count"] * (record["variance"] + (record["mean"] - mean) ** 2) for record in used
    )
    weights = [record["count"] for record in used]
    totals = [record["total"] for record in used]
    return pooled | {
        "minimum": min(record["minimum"] for record in used),
        "maximum": max(record["maximum"] for record in used),
        "mean": mean,
        "variance": squares / count,
        "total": sum(totals) if all(isinstance(t, int) for t in totals) else math.fsum(totals),
        "background": weighted_median([record["background"] for record in used], weights),
        "background_rms": weighted_median([record["background_rms"] for record in used], weights),
    }


def weighted_median(values: Sequence[float], weights: Sequence[float]) -> float:
    """Smallest value with at least half of the weight at or below it.

    Where exactly half lies at or below it, the mean of it and the next value.

    Parameters
    ----------
    values
        At least one number.
    weights
        A positive weight for each.
    """
    order = np.argsort(np.asarray(values, dtype=np.float64), kind="stable")
    ordered = np.asarray(values, dtype=np.float64)[order]
    reached = np.cumsum(np.asarray(weights, dtype=np.float64)[order])
    half = reached[-1] / 2
    index = int(np.searchsorted(reached, half))
    if reached[index] == half and index + 1 < ordered.size:
        return float((ordered[index] + ordered[index + 1]) / 2)
    return float(ordered[index])


class StreamingTotal:
    """Total of a stream of samples, independent of the tile kernel.

    One stream holds either integers or floats. Integers are summed exactly. Floats are summed
    pairwise along rows in double precision, then without further rounding across rows; samples
    that are not finite are left out.
    """

    def __init__(self) -> None:
        self._integer = 0
        self._integer_magnitude = 0
        self._rows: list[float] = []
        self._magnitudes: list[float] = []

    def add(self, pixels: NDArray[Any]) -> None:
        """Take in a 2-D block of samples."""
        if pixels.dtype.kind in "bui":
            self._add_integers(pixels)
            return
        values = pixels.astype(np.float64)
        values[~np.isfinite(values)] = 0.0
        self._rows.append(math.fsum(values.sum(axis=1)))
        np.abs(values, out=values)
        self._magnitudes.append(math.fsum(values.sum(axis=1)))

    def _add_integers(self, pixels: NDArray[Any]) -> None:
        if pixels.dtype.itemsize < 8:
            total = int(pixels.sum(dtype=np.int64))
            negative = int(pixels.sum(dtype=np.int64, where=pixels < 0))
        else:
            # Halves of 32 bits cannot overflow a 64-bit sum of fewer than 2**31 samples.
            total = _wide_sum(pixels)
            negative = _wide_sum(np.where(pixels < 0, pixels, pixels.dtype.type(0)))
        self._integer += total
        self._integer_magnitude += total - 2 * negative

    @property
    def total(self) -> float:
        """Sum of the samples; of integers, the exact integer."""
        return math.fsum(self._rows) if self._rows else self._integer

    @property
    def magnitude(self) -> float:
        """Sum of the samples' absolute values; of integers, the exact integer."""
        return math.fsum(self._magnitudes) if self._magnitudes else self._integer_magnitude


def _wide_sum(pixels: NDArray[Any]) -> int:
    high = int((pixels >> _LIMB_BITS).sum())
    low = int((pixels & pixels.dtype.type((1 << _LIMB_BITS) - 1)).sum())
    return (high << _LIMB_BITS) + low


class BlockMean:
    """Mean of square blocks of a plane over all channels, from tiles in any order.

    Parameters
    ----------
    height, width
        Size of the plane.
    longest
        Upper bound of either side of the result.
    """

    def __init__(self, height: int, width: int, *, longest: int) -> None:
        self.factor = -(-max(height, width) // longest)
        shape = (-(-height // self.factor), -(-width // self.factor))
        self._sums = np.zeros(shape)
        self._counts = np.zeros(shape, dtype=np.int64)

    def add(self, tile: Window, pixels: NDArray[Any]) -> None:
        """Take in a tile; samples that are not finite are left out."""
        rows, row_starts = self._blocks(tile.y0, tile.y1)
        columns, column_starts = self._blocks(tile.x0, tile.x1)
        values = pixels.astype(np.float64)
        valid = np.isfinite(values)
        values[~valid] = 0.0
        sums = np.add.reduceat(values, column_starts, axis=1)
        self._sums[rows, columns] += np.add.reduceat(sums, row_starts, axis=0)
        counts = np.add.reduceat(valid, column_starts, axis=1, dtype=np.int64)
        self._counts[rows, columns] += np.add.reduceat(counts, row_starts, axis=0)

    def _blocks(self, start: int, stop: int) -> tuple[slice, NDArray[np.intp]]:
        """Blocks that an interval touches, and where in the interval each begins."""
        first, last = start // self.factor, (stop - 1) // self.factor
        edges = np.arange(first, last + 1) * self.factor - start
        return slice(first, last + 1), np.maximum(edges, 0).astype(np.intp)

    def result(self) -> NDArray[np.float32]:
        """Means; NaN where a block holds no finite sample."""
        means = np.full(self._sums.shape, np.nan)
        np.divide(self._sums, self._counts, out=means, where=self._counts > 0)
        # Means beyond the range of float32 become infinite.
        with np.errstate(over="ignore"):
            return means.astype(np.float32)
