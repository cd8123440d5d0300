"""Spectra moved to another wavelength grid with flux and errors conserved.

Belongs here: the arithmetic of overlapping pixels. Does not belong here: reading files, models.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.observations.spectra import Arm

__all__ = ["pixel_edges", "resample"]

_LEAST_COVER: Final = 0.5


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


def resample(
    arms: Sequence[Arm], edges: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean flux density over each new pixel, and its inverse variance.

    Parameters
    ----------
    arms
        Samples; where arms overlap they are averaged by inverse variance.
    edges
        Of the new pixels [Angstrom], rising, shape ``(pixels + 1,)``.

    Returns
    -------
    tuple[ndarray, ndarray]
        Flux and inverse variance, shape ``(pixels,)``; both zero where valid samples cover less
        than half of a pixel.

    Notes
    -----
    The integral of flux over wavelength is kept, as in Carnall 2017, arXiv:1705.05165. An old pixel
    that two new ones share correlates their errors; the new inverse variances leave that out, which
    matters if new pixels are not much wider than old ones.
    """
    total = np.zeros(len(edges) - 1)
    weight = np.zeros(len(edges) - 1)
    for arm in arms:
        flux, ivar = _onto(arm, edges)
        total += flux * ivar
        weight += ivar
    seen = weight > 0
    return np.divide(total, weight, out=np.zeros_like(total), where=seen), weight


def _onto(arm: Arm, edges: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    old = pixel_edges(arm.wavelength_angstrom)
    # Pieces between any two neighbouring edges belong to one old and one new pixel.
    cuts = np.unique(np.concatenate([old, edges]))
    middle = 0.5 * (cuts[1:] + cuts[:-1])
    source = np.searchsorted(old, middle) - 1
    target = np.searchsorted(edges, middle) - 1
    inside = (source >= 0) & (source < len(arm.flux)) & (target >= 0) & (target < len(edges) - 1)
    source, target, width = source[inside], target[inside], np.diff(cuts)[inside]
    valid = arm.ivar[source] > 0
    source, target, width = source[valid], target[valid], width[valid]
    count = len(edges) - 1
    cover = np.bincount(target, width, count)
    light = np.bincount(target, width * arm.flux[source], count)
    variance = np.bincount(target, width**2 / arm.ivar[source], count)
    enough = cover >= _LEAST_COVER * np.diff(edges)
    flux = np.divide(light, cover, out=np.zeros(count), where=enough)
    ivar = np.divide(cover**2, variance, out=np.zeros(count), where=enough)
    return flux, ivar
