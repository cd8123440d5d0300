"""Spectra moved to another wavelength grid with flux and errors conserved.

Belongs here: the arithmetic of overlapping pixels, smoothing included. Does not belong here:
reading files, models.
"""

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.observations.line_spread import widening
from acie_pipelines.observations.spectra import Arm

__all__ = ["pixel_edges", "resample", "smoothing"]

_LEAST_COVER: Final = 0.5
# Standard deviations beyond which smoothing carries no light.
_REACH: Final = 6.0


def pixel_edges(centres: NDArray[np.float64]) -> NDArray[np.float64]:
    """Edges half way, in log wavelength, between the centres of pixels.

    Parameters
    ----------
    centres
        Rising, shape ``(pixels,)``.

    Returns
    -------
    ndarray
        Shape ``(pixels + 1,)``.
    """
    log = np.log(centres)
    middle = 0.5 * (log[1:] + log[:-1])
    edges: NDArray[np.float64] = np.exp(
        np.concatenate([[2 * log[0] - middle[0]], middle, [2 * log[-1] - middle[-1]]])
    )
    return edges


def smoothing(arm: Arm, resolving_power: float) -> NDArray[np.float64]:
    """Widths of Gaussians that bring an arm to a resolving power [Angstrom], shape ``(pixels,)``.

    0 where the arm states no line-spread function, NaN where it is too coarse; see
    `acie_pipelines.observations.line_spread.widening`.
    """
    if arm.spread_angstrom is None:
        return np.zeros_like(arm.flux)
    return widening(arm.wavelength_angstrom, arm.spread_angstrom, resolving_power)


def resample(
    arms: Sequence[Arm], edges: NDArray[np.float64], *, resolving_power: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean flux density over each new pixel, and its inverse variance.

    Parameters
    ----------
    arms
        Samples; where arms overlap they are averaged by inverse variance.
    edges
        Of the new pixels [Angstrom], rising, shape ``(pixels + 1,)``.
    resolving_power
        To smooth arms to that state their line-spread function. Samples that are coarser are left
        out; see `smoothing`.

    Returns
    -------
    tuple[ndarray, ndarray]
        Flux and inverse variance, shape ``(pixels,)``; both zero where valid samples cover less
        than half of a pixel.

    Notes
    -----
    The integral of flux over wavelength is kept, as in Carnall 2017, arXiv:1705.05165. Smoothing,
    and an old pixel that two new ones share, correlate the errors of neighbours. Whoever reads
    inverse variances takes errors for independent, so the variance stated here is the sum of a
    pixel's covariances with all: sums over several pixels have the errors that they should have,
    and one pixel alone scatters a little less than stated.
    """
    total = np.zeros(len(edges) - 1)
    weight = np.zeros(len(edges) - 1)
    for arm in arms:
        flux, ivar = _onto(arm, edges, smoothing(arm, resolving_power))
        total += flux * ivar
        weight += ivar
    seen = weight > 0
    return np.divide(total, weight, out=np.zeros_like(total), where=seen), weight


def _onto(
    arm: Arm, edges: NDArray[np.float64], widths: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    old = pixel_edges(arm.wavelength_angstrom)
    valid = (arm.ivar > 0) & np.isfinite(widths)
    low, high, sigma = old[:-1][valid], old[1:][valid], widths[valid]
    flux, variance = arm.flux[valid], 1 / arm.ivar[valid]
    count = len(edges) - 1
    # New pixels that light of an old one reaches; those beyond the grid get none.
    first = np.searchsorted(edges, low - _REACH * sigma, side="right") - 1
    last = np.searchsorted(edges, high + _REACH * sigma)
    reached = np.arange(1 + int((last - first).max(initial=0)))
    at = edges[np.clip(first[:, None] + reached, 0, count)]
    below = _share_below(at, low[:, None], high[:, None], sigma[:, None])
    width = ((high - low)[:, None] * np.diff(below, axis=1)).clip(min=0).ravel()
    target = np.clip(first[:, None] + reached[:-1], 0, count - 1).ravel()
    source = np.repeat(np.arange(len(low)), len(reached) - 1)
    cover = np.bincount(target, width, count)
    enough = cover >= _LEAST_COVER * np.diff(edges)
    part = np.divide(width, cover[target], out=np.zeros_like(width), where=enough[target])
    mean = np.bincount(target, part * flux[source], count).astype(np.float64)
    # Sum over new pixels of the covariance: errors of an old pixel times all that it gives.
    given = np.bincount(source, part, len(low))
    summed = np.bincount(target, part * (variance * given)[source], count)
    return mean, np.divide(1.0, summed, out=np.zeros(count), where=enough)


def _share_below(
    at: NDArray[np.float64],
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    sigma: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Share of the light of a pixel, smoothed by a Gaussian, at wavelengths below ``at``."""
    from scipy.special import ndtr

    def integral(t: NDArray[np.float64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = t * ndtr(t) + np.exp(-0.5 * t**2) / math.sqrt(2 * math.pi)
        return found

    sharp = np.clip((at - low) / (high - low), 0.0, 1.0)
    wide = np.where(sigma > 0, sigma, high - low)
    smooth = (integral((at - low) / wide) - integral((at - high) / wide)) * wide / (high - low)
    return np.where(sigma > 0, smooth, sharp)
