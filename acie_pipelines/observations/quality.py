"""A bounded look at the samples: how many are invalid, zero or saturated.

Belongs here: statistics over a stated sample of an observation.
Does not belong here: judgement of the values; statistics of every tile (`acie_pipelines.tiling`).
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.observations.model import Observation, Plane, Window

__all__ = ["plane_quality", "sample_windows"]

_SIDE = 512
_WINDOWS = 9


def _starts(length: int, side: int, count: int) -> list[int]:
    """Find the starts of up to `count` disjoint stretches spread evenly over a length."""
    count = min(count, length // side)
    if count <= 1:
        return [(length - side) // 2]
    return [round(i * (length - side) / (count - 1)) for i in range(count)]


def sample_windows(plane: Plane) -> list[Window]:
    """Choose windows spread over a plane, about nine of 512 x 512 samples.

    Parameters
    ----------
    plane
        An image no larger than that is covered whole.
    """
    depth, height, width = plane.shape
    if depth == 1 and width <= _SIDE * _SIDE and height * width <= _WINDOWS * _SIDE * _SIDE:
        rows = _SIDE * _SIDE // width
        return [Window(0, y, min(y + rows, height), 0, width) for y in range(0, height, rows)]
    wide = min(width, _SIDE * _SIDE // min(_SIDE, height))
    high = min(height, _SIDE * _SIDE // wide)
    if depth == 1:
        across = math.isqrt(_WINDOWS)
        return [
            Window(0, y, y + high, x, x + wide)
            for y in _starts(height, high, _WINDOWS if wide == width else across)
            for x in _starts(width, wide, _WINDOWS if high == height else across)
        ]
    y, x = (height - high) // 2, (width - wide) // 2
    channels = sorted({round(i * (depth - 1) / (_WINDOWS - 1)) for i in range(_WINDOWS)})
    return [Window(channel, y, y + high, x, x + wide) for channel in channels]


def _saturation(plane: Plane) -> float | None:
    """Level at and above which a sample is saturated, if known."""
    stated = plane.header.get("SATURATE")
    if isinstance(stated, int | float) and not isinstance(stated, bool):
        return float(stated)
    if plane.kind == "image" and plane.dtype.kind in "iu" and plane.dtype.itemsize <= 2:
        return float(np.iinfo(plane.dtype).max)
    return None


def plane_quality(observation: Observation, plane: Plane) -> dict[str, Any]:
    """Summarise a sample of a plane.

    Parameters
    ----------
    observation
        Open observation.
    plane
        One of its planes.

    Returns
    -------
    dict
        ``sample_fraction`` (of all samples), ``invalid_fraction`` (not finite),
        ``zero_fraction``, ``saturated_fraction`` (``None`` without a known level), ``min`` and
        ``max`` of the finite samples (``None`` if there are none). Fractions lie in [0, 1].

    Raises
    ------
    ObservationError
        If a sampled window cannot be decoded.
    """
    level = _saturation(plane)
    seen = invalid = zero = saturated = 0
    lows: list[float] = []
    highs: list[float] = []
    for window in sample_windows(plane):
        samples = observation.read(plane, window)
        finite = _finite(samples)
        seen += samples.size
        invalid += samples.size - finite.size
        zero += int(np.count_nonzero(finite == 0))
        if level is not None:
            saturated += int(np.count_nonzero(finite >= level))
        if finite.size:
            lows.append(finite.min().item())
            highs.append(finite.max().item())
    return {
        "sample_fraction": seen / math.prod(plane.shape),
        "invalid_fraction": invalid / seen,
        "zero_fraction": zero / seen,
        "saturated_fraction": None if level is None else saturated / seen,
        "min": min(lows) if lows else None,
        "max": max(highs) if highs else None,
    }


def _finite(samples: NDArray[Any]) -> NDArray[Any]:
    return samples[np.isfinite(samples)] if samples.dtype.kind == "f" else samples.ravel()
