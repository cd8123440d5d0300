"""Minkowski intervals between events.

Belongs here: the typed calls and the checks of their arguments.
Does not belong here: coordinate frames, cosmology, units.
"""

from enum import IntEnum

import numpy as np
import numpy.typing as npt

from acie_native import _kernels
from acie_native._arrays import describe
from acie_native._dispatch import chosen_isa

__all__ = ["Separation", "causal_separation", "minkowski_interval"]

Floats = npt.NDArray[np.float64]


class Separation(IntEnum):
    """How two events lie to each other: the sign of their interval."""

    TIMELIKE = -1
    LIGHTLIKE = 0
    SPACELIKE = 1


def minkowski_interval(
    start: Floats, end: Floats, *, speed_of_light: float = 1.0, isa: str | None = None
) -> Floats:
    """Square the interval between pairs of events: ``dx² + dy² + dz² - (c dt)²``.

    The value is that of exact arithmetic on the given doubles to within two units in the last
    place however much cancels near the light cone, as long as no difference of coordinates leaves
    the range 1e-140 to 1e150.

    Parameters
    ----------
    start, end
        ``float64[n, 4]``, C-contiguous: t, x, y, z in units of time and length.
    speed_of_light
        In units of length over time, positive.
    isa
        Instruction set path, as for `cpu_features`; all give the same bits.

    Returns
    -------
    ndarray
        ``float64[n]`` in units of length squared; negative where light is fast enough.
    """
    for name, events in (("start", start), ("end", end)):
        if not isinstance(events, np.ndarray) or events.dtype != np.float64:
            raise ValueError(f"{name} must be a float64 array, got {describe(events)}")
        if events.ndim != 2 or events.shape[1] != 4:
            raise ValueError(f"{name} must have shape [count, 4], got {list(events.shape)}")
        if not events.flags.c_contiguous:
            raise ValueError(f"{name} must be C-contiguous; use numpy.ascontiguousarray")
    if start.shape != end.shape:
        raise ValueError(f"start has {len(start)} events and end has {len(end)}")
    if not 0 < speed_of_light < np.inf:
        raise ValueError(f"speed_of_light must be positive and finite, got {speed_of_light}")
    interval = np.empty(len(start))
    _kernels.minkowski_interval(start, end, speed_of_light, chosen_isa(isa), interval)
    return interval


def causal_separation(
    start: Floats, end: Floats, *, speed_of_light: float = 1.0
) -> npt.NDArray[np.int8]:
    """Say whether one of two events can have caused the other.

    The answer is exact for the given doubles, in the range that `minkowski_interval` names.

    Parameters
    ----------
    start, end, speed_of_light
        As for `minkowski_interval`; finite.

    Returns
    -------
    ndarray
        ``int8[n]``, values of `Separation`.

    Raises
    ------
    ValueError
        If an interval is not a number.
    """
    interval = minkowski_interval(start, end, speed_of_light=speed_of_light)
    if np.isnan(interval).any():
        raise ValueError(f"interval {int(np.isnan(interval).argmax())} is not a number")
    return np.sign(interval).astype(np.int8)
