"""Whether stated probabilities come true: probability integral transforms.

Belongs here: statistics of uniform variates. Does not belong here: models.
"""

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["PIT_BINS", "calibration", "pit_values"]

PIT_BINS: Final = 20


def pit_values(noise: NDArray[Any]) -> NDArray[np.float64]:
    """Map noise through the normal distribution function: uniform if the noise is normal."""
    from scipy.special import ndtr

    return np.asarray(ndtr(np.asarray(noise, dtype=np.float64)))


def calibration(noise: NDArray[Any]) -> dict[str, Any]:
    """Summarise abducted noise, which a calibrated mechanism makes standard normal.

    Parameters
    ----------
    noise
        Shape ``(n,)``; NaN is left out.

    Returns
    -------
    dict
        ``rows``; ``ks``, the Kolmogorov-Smirnov distance from uniform; ``coverage_90``, the share
        inside the central 90 % interval; ``histogram`` of 20 bins. ``None`` where n is 0.
    """
    pit = np.sort(pit_values(noise[np.isfinite(noise)]))
    n = pit.size
    if n == 0:
        return {"rows": 0, "ks": None, "coverage_90": None, "histogram": [0] * PIT_BINS}
    steps = np.arange(n + 1) / n
    return {
        "rows": n,
        "ks": float(max((steps[1:] - pit).max(), (pit - steps[:-1]).max())),
        "coverage_90": float(((pit >= 0.05) & (pit <= 0.95)).mean()),
        "histogram": np.histogram(pit, bins=PIT_BINS, range=(0, 1))[0].tolist(),
    }
