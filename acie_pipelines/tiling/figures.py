"""Plots of what tiles add up to.

Belongs here: figures for people. Does not belong here: computing what they show.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["histogram_figure"]


def histogram_figure(values: NDArray[np.floating[Any]], label: str) -> "Figure":
    """Histogram of samples, on a logarithmic count axis, with the median marked.

    Parameters
    ----------
    values
        Samples of any shape; those that are not finite are left out. The axis spans the central
        99.8 per cent, so that a few bright pixels do not hide the sky.
    label
        Name and unit of the samples.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 3), layout="constrained")
    axis = figure.add_subplot()
    finite = values[np.isfinite(values)].astype(np.float64)
    if finite.size:
        low, high = np.quantile(finite, [0.001, 0.999])
        axis.hist(finite, bins=100, range=(low, high) if high > low else None, log=True)
        axis.axvline(float(np.median(finite)), color="black", linewidth=1, label="median")
        axis.legend(loc="upper right")
    axis.set_xlabel(label)
    axis.set_ylabel("pixels of the mosaic")
    return figure
