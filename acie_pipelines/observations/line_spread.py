"""How sharp an instrument shows a line, and what brings it to another sharpness.

Belongs here: widths of line-spread functions. Does not belong here: moving light between pixels
(`acie_pipelines.observations.resampling`), or reading files.
"""

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["COARSEST", "FWHM_PER_SIGMA", "spread_of_resolution", "widening"]

COARSEST: Final = 1.1
"""Line-spread functions wider than wanted by more than this factor cannot be used."""

FWHM_PER_SIGMA: Final = math.sqrt(8 * math.log(2))
"""Full width at half maximum of a Gaussian over its standard deviation."""


def spread_of_resolution(
    bands: NDArray[np.float64], wavelength_angstrom: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Find the width of the line-spread function that DESI states as a matrix.

    Parameters
    ----------
    bands
        Shape ``(diagonals, pixels)``: each column says how the light of one wavelength falls on the
        pixels around it (Bolton and Schlegel 2010, arXiv:0911.2689; Guy et al. 2023,
        arXiv:2209.14482).
    wavelength_angstrom
        Shape ``(pixels,)``.

    Returns
    -------
    ndarray
        Standard deviation [Angstrom], the pixel's own width in it; NaN where a column is empty.
    """
    offset = np.arange(len(bands))[:, None]
    total = bands.sum(axis=0)
    full = np.isfinite(total) & (total > 0)
    share = np.divide(bands, total, out=np.zeros_like(bands), where=full)
    middle = (share * offset).sum(axis=0)
    variance = (share * (offset - middle) ** 2).sum(axis=0)
    spread: NDArray[np.float64] = np.sqrt(np.where(full & (variance > 0), variance, np.nan))
    return spread * np.gradient(wavelength_angstrom)


def widening(
    wavelength_angstrom: NDArray[np.float64],
    spread_angstrom: NDArray[np.float64],
    resolving_power: float,
) -> NDArray[np.float64]:
    """Width of the Gaussian that makes samples as coarse as a model.

    Parameters
    ----------
    wavelength_angstrom, spread_angstrom
        Of the samples, and the standard deviation of their line-spread function, pixel included.
    resolving_power
        Of the model: wavelength over full width at half maximum, without its pixels.

    Returns
    -------
    ndarray
        Standard deviation [Angstrom]: 0 where samples are not sharper than the model, NaN where
        they are coarser by more than `COARSEST` or their sharpness is unknown.

    Notes
    -----
    Light is spread evenly over a pixel when it is moved to another grid. That widens lines by the
    pixel, whose variance is a twelfth of its width squared.
    """
    wanted = wavelength_angstrom / (resolving_power * FWHM_PER_SIGMA)
    shown = spread_angstrom**2 + np.gradient(wavelength_angstrom) ** 2 / 12
    missing = np.sqrt(np.maximum(wanted**2 - shown, 0))
    return np.where(shown <= (COARSEST * wanted) ** 2, missing, np.nan)
