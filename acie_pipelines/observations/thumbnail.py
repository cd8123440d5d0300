"""Small grey previews of planes.

Belongs here: reducing a plane to a few hundred pixels in bounded memory.
Does not belong here: PNG encoding, colours and labels.
"""

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.observations.model import Observation, Plane, Window

__all__ = ["plane_preview", "stretch"]

_ROWS_PER_BAND = 8
_SAMPLES_AT_ONCE = 1 << 22


def plane_preview(observation: Observation, plane: Plane, *, size: int = 512) -> NDArray[np.uint8]:
    """Preview the first channel of a plane.

    Parameters
    ----------
    observation
        Open observation.
    plane
        One of its planes.
    size
        Pixels of the longer side; a smaller plane keeps its own size.

    Returns
    -------
    ndarray of uint8
        Shape ``(rows, columns)``, the first row at the bottom of the sky image as stored. Samples
        that are not finite are 0. A plane one sample high is drawn as a curve of
        ``size // 4`` rows, brightest on the curve.

    Raises
    ------
    ObservationError
        If the samples cannot be decoded.
    """
    if plane.shape[1] == 1:
        return _curve(observation, plane, size)
    return stretch(_reduced(observation, plane, size))


def _reduced(observation: Observation, plane: Plane, size: int) -> NDArray[np.float64]:
    """Block means; of tall blocks only the first rows are read."""
    _, height, width = plane.shape
    step = max(1, -(-max(height, width) // size))
    rows, columns = -(-height // step), -(-width // step)
    result = np.full((rows, columns), np.nan)
    taken = min(step, _ROWS_PER_BAND)
    chunk = max(1, _SAMPLES_AT_ONCE // (taken * step))
    for row in range(rows):
        y0 = row * step
        y1 = min(y0 + taken, height)
        for first in range(0, columns, chunk):
            last = min(first + chunk, columns)
            window = Window(0, y0, y1, first * step, min(last * step, width))
            samples = observation.read(plane, window)
            result[row, first:last] = _block_means(samples, step)
    return result


def _block_means(samples: NDArray[Any], step: int) -> NDArray[np.float64]:
    """Mean of the finite samples of each run of `step` columns; NaN where there is none."""
    starts = np.arange(0, samples.shape[1], step)
    finite = np.isfinite(samples)
    sums = np.add.reduceat(np.where(finite, samples, 0).sum(axis=0, dtype=np.float64), starts)
    counts = np.add.reduceat(finite.sum(axis=0), starts)
    means: NDArray[np.float64] = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return means


def stretch(values: NDArray[np.floating[Any]]) -> NDArray[np.uint8]:
    """Map samples to grey levels for display: zscale limits, arcsinh in between.

    Parameters
    ----------
    values
        Samples of any shape; those that are not finite become 0.
    """
    from astropy.visualization import AsinhStretch, ZScaleInterval

    finite = np.isfinite(values)
    result = np.zeros(values.shape, np.uint8)
    if not finite.any():
        return result
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        low, high = ZScaleInterval().get_limits(values[finite])
    if not high > low:
        low, high = float(values[finite].min()), float(values[finite].max())
    if high > low:
        scaled = np.clip((values[finite] - low) / (high - low), 0, 1)
        result[finite] = np.rint(255 * AsinhStretch()(scaled)).astype(np.uint8)
    return result


def _curve(observation: Observation, plane: Plane, size: int) -> NDArray[np.uint8]:
    """Draw a row of samples: for each column the span between its smallest and largest value."""
    width = plane.shape[2]
    step = max(1, -(-width // size))
    columns, rows = -(-width // step), max(2, size // 4)
    lows, highs = np.full(columns, np.nan), np.full(columns, np.nan)
    chunk = max(1, _SAMPLES_AT_ONCE // step)
    for first in range(0, columns, chunk):
        last = min(first + chunk, columns)
        window = Window(0, 0, 1, first * step, min(last * step, width))
        samples = observation.read(plane, window)[0].astype(np.float64)
        starts = np.arange(0, len(samples), step)
        finite = np.isfinite(samples)
        lows[first:last] = np.minimum.reduceat(np.where(finite, samples, np.inf), starts)
        highs[first:last] = np.maximum.reduceat(np.where(finite, samples, -np.inf), starts)
    drawn = np.isfinite(lows) & np.isfinite(highs)
    result = np.zeros((rows, columns), np.uint8)
    if not drawn.any():
        return result
    floor, ceiling = float(lows[drawn].min()), float(highs[drawn].max())
    scale = (rows - 1) / (ceiling - floor) if ceiling > floor else 0.0
    bottom = rows - 1 - np.rint((np.where(drawn, lows, floor) - floor) * scale).astype(int)
    top = rows - 1 - np.rint((np.where(drawn, highs, floor) - floor) * scale).astype(int)
    row = np.arange(rows)[:, np.newaxis]
    result[(row >= top) & (row <= bottom) & drawn] = 255
    return result
