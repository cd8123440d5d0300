"""Classification by measured shapes, the established alternative to a network.

Belongs here: concentration, asymmetry, smoothness, Gini, M20 and colours of stamps, and a logistic
regression on them. Does not belong here: networks.

Concentration, asymmetry, smoothness: Conselice 2003, ApJS 147, 1, doi:10.1086/375001. Gini and M20:
Lotz, Primack & Madau 2004, AJ 128, 163, doi:10.1086/421849. Their Petrosian apertures are replaced
by multiples of the radius that holds 80 % of the light, for stamps are cut to the galaxy.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

__all__ = ["FEATURES", "LogisticRegression", "measure_shapes"]

FEATURES: Final = (
    "concentration",
    "asymmetry",
    "smoothness",
    "gini",
    "m20",
    "green_over_red",
    "blue_over_green",
)
"""Columns of `measure_shapes`."""

_BORDER_PIXELS: Final = 4
_BOX_PIXELS: Final = 5
_PENALTY: Final = 1e-3


def measure_shapes(stamps: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Measure stamps.

    Parameters
    ----------
    stamps
        Display values, red, green and blue, shape ``(n, 3, side, side)``.

    Returns
    -------
    NDArray[np.float64]
        Columns of `FEATURES`, shape ``(n, 7)``.
    """
    return np.array([_shape(stamp.astype(np.float64)) for stamp in stamps])


def _shape(stamp: NDArray[np.float64]) -> list[float]:
    side = stamp.shape[-1]
    position = np.arange(side) - (side - 1) / 2
    distance = np.hypot(position[:, None], position[None, :])
    frame = np.ones((side, side), dtype=bool)
    frame[_BORDER_PIXELS:-_BORDER_PIXELS, _BORDER_PIXELS:-_BORDER_PIXELS] = False
    bands = stamp - np.median(stamp[:, frame], axis=1)[:, None, None]
    light = bands.mean(axis=0)
    circle = distance <= side / 2
    order = np.argsort(distance[circle], kind="stable")
    growth = np.cumsum(light[circle][order].clip(min=0))
    radii = distance[circle][order]
    r20, r80 = (radii[np.searchsorted(growth, q * growth[-1])] for q in (0.2, 0.8))
    inside = distance <= 1.2 * r80
    total = max(np.abs(light[inside]).sum(), 1e-9)
    turned = np.abs(light - light[::-1, ::-1])
    asymmetry = turned[inside].sum() / (2 * total)
    clumps = (light - uniform_filter(light, _BOX_PIXELS)).clip(min=0)
    ring = inside & (distance > r20)
    within = np.sort(np.abs(light[inside]))
    rank = np.arange(1, within.size + 1)
    gini = ((2 * rank - within.size - 1) * within).sum() / (
        max(within.mean(), 1e-9) * within.size * (within.size - 1)
    )
    brightest = np.argsort(-light[inside], kind="stable")
    moment = (light * distance**2)[inside].clip(min=0)
    share = np.cumsum(light[inside][brightest].clip(min=0))
    first = brightest[: int(np.searchsorted(share, 0.2 * share[-1])) + 1]
    m20 = np.log10(max(moment[first].sum(), 1e-9) / max(moment.sum(), 1e-9))
    red, green, blue = (max(band[distance <= r80].sum(), 1.0) for band in bands)
    return [
        5 * np.log10(r80 / max(r20, 0.5)),
        float(asymmetry),
        float(clumps[ring].sum() / total),
        float(gini),
        float(m20),
        float(np.log(green / red)),
        float(np.log(blue / green)),
    ]


@dataclass(frozen=True)
class LogisticRegression:
    """Multinomial regression on standardised features, their squares and products."""

    mean: NDArray[np.float64]
    scale: NDArray[np.float64]
    weights: NDArray[np.float64]

    @classmethod
    def fit(
        cls, features: NDArray[np.float64], labels: NDArray[np.int64], classes: int
    ) -> "LogisticRegression":
        """Maximise the penalised likelihood in which every class weighs alike.

        Parameters
        ----------
        features
            Shape ``(n, k)``.
        labels
            Class numbers, shape ``(n,)``.
        classes
            Number of classes.
        """
        mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-9
        design = _design((features - mean) / scale)
        weight = 1 / (classes * np.bincount(labels, minlength=classes).clip(min=1))[labels]
        truth = np.eye(classes)[labels]

        def loss(flat: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
            matrix = flat.reshape(design.shape[1], classes)
            scores = design @ matrix
            value = -(weight[:, None] * truth * log_softmax(scores, axis=1)).sum()
            slope = design.T @ (weight[:, None] * (softmax(scores, axis=1) - truth))
            return (
                float(value + 0.5 * _PENALTY * (flat**2).sum()),
                (slope + _PENALTY * matrix).ravel(),
            )

        start = np.zeros(design.shape[1] * classes)
        found = minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 500})
        return cls(mean, scale, found.x.reshape(design.shape[1], classes))

    def probabilities(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Class probabilities, shape ``(n, classes)``.

        Parameters
        ----------
        features
            Shape ``(n, k)``.
        """
        found: NDArray[np.float64] = softmax(
            _design((features - self.mean) / self.scale) @ self.weights, axis=1
        )
        return found


def _design(standard: NDArray[np.float64]) -> NDArray[np.float64]:
    # Outliers of a ratio must not rule the products.
    clipped = standard.clip(-4, 4)
    rows, columns = np.triu_indices(clipped.shape[1])
    products = clipped[:, rows] * clipped[:, columns]
    return np.hstack([np.ones((len(clipped), 1)), clipped, products])
