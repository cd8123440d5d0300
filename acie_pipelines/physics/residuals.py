"""How far a batch of galaxies is from laws of atomic physics, in per cent, with an uncertainty.

Belongs here: ratios that no galaxy may violate. Does not belong here: scaling relations, which
scatter and are mechanisms of the causal model.

Two lines 50 Angstrom apart share their continuum, so the ratio of their equivalent widths is the
ratio of their fluxes, and the [O III] and [N II] doublets can be tested on widths. Left out on
purpose: the Balmer decrement (H alpha and H beta have different continua, so widths bound no flux
ratio), and non-negativity (a width may be negative: absorption, or noise about zero).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.physics.constants import N_II_6584_6548_RATIO, O_III_5007_4959_RATIO

__all__ = ["DOUBLETS", "Doublet", "LawResidual", "doublet_residuals", "slope_through_origin"]

_BOOTSTRAP_DRAWS: Final = 200
_MIN_DETECTIONS: Final = 20
# No galaxy weighs more than this many typical detections.
_LEVERAGE_BOUND: Final = 4.0


@dataclass(frozen=True)
class Doublet:
    """Two lines from one upper level.

    Attributes
    ----------
    strong, weak
        Node names.
    ratio
        Flux of the strong over the weak line.
    """

    strong: str
    weak: str
    ratio: float


DOUBLETS: Final = MappingProxyType(
    {
        "o_iii": Doublet("o_iii_5007", "o_iii_4959", O_III_5007_4959_RATIO),
        "n_ii": Doublet("n_ii_6584", "n_ii_6548", N_II_6584_6548_RATIO),
    }
)


@dataclass(frozen=True)
class LawResidual:
    """Deviation of a batch from one law.

    Attributes
    ----------
    ratio
        Strong over weak line, from the fitted slope; NaN with too few detections.
    residual_percent
        100 (ratio / law - 1).
    error_percent
        Its bootstrap standard error.
    detections
        Galaxies that entered.
    """

    ratio: float
    residual_percent: float
    error_percent: float
    detections: int


def _weighted_median_angle(angle: NDArray[np.float64], radius: NDArray[np.float64]) -> float:
    order = np.argsort(angle)
    cumulative = np.cumsum(radius[order])
    return float(angle[order][np.searchsorted(cumulative, 0.5 * cumulative[-1])])


def slope_through_origin(
    strong: NDArray[Any],
    weak: NDArray[Any],
    expected_ratio: float,
    *,
    detection_angstrom: float,
    seed: int,
) -> tuple[float, float, int]:
    """Ratio of two noisy variables by least absolute orthogonal deviations.

    Regressing one noisy width on the other is biased towards zero. The angle of the point (strong,
    weak) is unbiased in the median when both carry the same noise, which neighbouring lines do,
    and if detections are chosen by the coordinate along the law, whose noise is independent of
    the angle's. The median weighted by distance is the slope that minimises the sum of absolute
    orthogonal distances; the weight is bounded, so that a minority of wild measurements cannot move
    it far.

    Parameters
    ----------
    strong, weak
        Equivalent widths [Angstrom], shape ``(n,)``; NaN allowed.
    expected_ratio
        Law, used only to choose detections.
    detection_angstrom
        Smallest coordinate along the law's direction that counts as a detection.
    seed
        Of the bootstrap.

    Returns
    -------
    tuple[float, float, int]
        Ratio strong / weak, its standard error, and the number of detections; NaN below 20.
    """
    x, y = np.asarray(strong, dtype=np.float64), np.asarray(weak, dtype=np.float64)
    direction = np.arctan2(1.0, expected_ratio)
    along = x * np.cos(direction) + y * np.sin(direction)
    chosen = np.isfinite(along) & (along > detection_angstrom)
    count = int(chosen.sum())
    if count < _MIN_DETECTIONS:
        return float("nan"), float("nan"), count
    angle = np.arctan2(y[chosen], x[chosen])
    radius = np.hypot(x[chosen], y[chosen])
    radius = np.minimum(radius, _LEVERAGE_BOUND * np.median(radius))
    rng = np.random.default_rng(seed)
    draws = [
        1.0 / np.tan(_weighted_median_angle(angle[rows], radius[rows]))
        for rows in rng.integers(0, count, (_BOOTSTRAP_DRAWS, count))
    ]
    ratio = 1.0 / np.tan(_weighted_median_angle(angle, radius))
    return float(ratio), float(np.std(draws, ddof=1)), count


def doublet_residuals(
    widths: Mapping[str, NDArray[Any]], *, detection_angstrom: float = 5.0, seed: int = 0
) -> dict[str, LawResidual]:
    """Test the [O III] and [N II] ratios on a batch.

    Parameters
    ----------
    widths
        Node name to equivalent widths [Angstrom], shape ``(n,)``.
    detection_angstrom
        Smallest width of a detection; about ten times the noise of an SDSS line.
    seed
        Of the bootstrap.
    """
    result = {}
    for name, doublet in DOUBLETS.items():
        ratio, error, count = slope_through_origin(
            widths[doublet.strong],
            widths[doublet.weak],
            doublet.ratio,
            detection_angstrom=detection_angstrom,
            seed=seed,
        )
        result[name] = LawResidual(
            ratio, 100 * (ratio / doublet.ratio - 1), 100 * error / doublet.ratio, count
        )
    return result
