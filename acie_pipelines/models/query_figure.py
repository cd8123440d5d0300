"""The answer to a question as a picture.

Belongs here: drawing. Does not belong here: what is drawn (`acie_pipelines.models.query`).
"""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from numpy.typing import NDArray

from acie_pipelines.models.query import Band, CounterfactualResult
from acie_pipelines.physics.constants import LINE_WAVELENGTHS_ANGSTROM
from acie_pipelines.simulation.galaxy import galaxy_graph
from acie_pipelines.storage import atomic_writer

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["counterfactual_figure", "write_figure"]

_FACTUAL: Final = "#1b4f72"
_COUNTERFACTUAL: Final = "#c0392b"
_DIFFERENCE: Final = "#5b2c6f"
_OBSERVED: Final = "0.72"
_FLUX: Final = r"$f_\lambda$ [$10^{-17}$ erg s$^{-1}$ cm$^{-2}$ $\mathrm{\AA}^{-1}$]"
_ROOM: Final = 1.28
_TITLES: Final = {"metallicity": "12 + log O/H", "sfr": "log SFR"}
# Label to the wavelengths that share it; absorption lines are those of the stars.
_LINES: Final = (
    ("[O II]", (LINE_WAVELENGTHS_ANGSTROM["o_ii_3729"],)),
    ("Ca K, H", (3934.78, 3969.59)),
    (r"H$\gamma$", (LINE_WAVELENGTHS_ANGSTROM["h_gamma"],)),
    (r"H$\beta$", (LINE_WAVELENGTHS_ANGSTROM["h_beta"],)),
    (
        "[O III]",
        (LINE_WAVELENGTHS_ANGSTROM["o_iii_4959"], LINE_WAVELENGTHS_ANGSTROM["o_iii_5007"]),
    ),
    ("Mg b", (5176.63,)),
    ("Na D", (5894.57,)),
    (
        r"H$\alpha$ [N II]",
        (LINE_WAVELENGTHS_ANGSTROM["h_alpha"], LINE_WAVELENGTHS_ANGSTROM["n_ii_6584"]),
    ),
    (
        "[S II]",
        (LINE_WAVELENGTHS_ANGSTROM["s_ii_6717"], LINE_WAVELENGTHS_ANGSTROM["s_ii_6731"]),
    ),
)


def counterfactual_figure(result: CounterfactualResult) -> "Figure":
    """Draw factual and counterfactual spectrum, their difference, and what changed.

    Parameters
    ----------
    result
        Answer.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7.2), layout="constrained")
    grid = figure.add_gridspec(2, 2, height_ratios=(2.2, 1), width_ratios=(3.4, 1))
    spectra = figure.add_subplot(grid[0, 0])
    difference = figure.add_subplot(grid[1, 0], sharex=spectra)
    changes = figure.add_subplot(grid[:, 1])
    _draw_spectra(spectra, result)
    _draw_difference(difference, result)
    _draw_changes(changes, result)
    spectra.tick_params(labelbottom=False)
    subtitle = (
        f"model {result.model}, confidence {result.confidence:.0%} within 5 %, "
        rf"$\chi^2$ per pixel {result.chi_square:.2f}"
    )
    figure.suptitle(
        f"{result.observation}   do({result.question})",
        x=0.01,
        ha="left",
        fontsize=12,
        weight="bold",
    )
    spectra.set_title(subtitle, loc="left", fontsize=8.5, color="0.35")
    return figure


def _band(axes: "Axes", x: NDArray[np.float64], band: Band, colour: str, label: str) -> None:
    axes.fill_between(x, band.low, band.high, color=colour, alpha=0.22, lw=0)
    axes.plot(x, band.median, color=colour, lw=0.9, label=label)


def _draw_spectra(axes: "Axes", result: CounterfactualResult) -> None:
    x = result.wavelength_angstrom
    flux, ivar = result.observed
    axes.plot(
        x, np.where(ivar > 0, flux, np.nan), color=_OBSERVED, lw=0.7, label="observed", zorder=0
    )
    _band(axes, x, result.factual, _FACTUAL, "factual")
    _band(axes, x, result.counterfactual, _COUNTERFACTUAL, "counterfactual")
    top = max(float(band.high.max()) for band in (result.factual, result.counterfactual))
    axes.set(xlim=(x[0], x[-1]), ylim=(0, _ROOM * top), ylabel=_FLUX)
    axes.grid(alpha=0.15)
    axes.legend(loc="upper right", ncols=3, fontsize=8, frameon=False)
    _label_lines(axes, result)


def _label_lines(axes: "Axes", result: CounterfactualResult) -> None:
    """Mark lines at the galaxy's redshift above the spectra."""
    stretch = 1 + float(np.median(result.before["redshift"]))
    x = result.wavelength_angstrom
    places = [(label, np.array(rest) * stretch) for label, rest in _LINES]
    inside = [(label, at) for label, at in places if x[0] < at[0] and at[-1] < x[-1]]
    for k, (label, at) in enumerate(inside):
        axes.vlines(
            at, 0, 0.86, transform=axes.get_xaxis_transform(), color="0.8", lw=0.6, zorder=-1
        )
        axes.text(
            float(at.mean()),
            0.87 + 0.035 * (k % 2),
            label,
            transform=axes.get_xaxis_transform(),
            ha="center",
            va="bottom",
            fontsize=7,
            color="0.3",
        )


def _draw_difference(axes: "Axes", result: CounterfactualResult) -> None:
    x = result.wavelength_angstrom
    _band(axes, x, result.difference, _DIFFERENCE, "counterfactual - factual")
    noise = 1 / np.sqrt(np.where(result.observed[1] > 0, result.observed[1], np.nan))
    axes.fill_between(x, -noise, noise, color="0.85", lw=0, zorder=0, label="noise of a pixel")
    axes.axhline(0, color="0.4", lw=0.6)
    axes.set(xlabel=r"observed wavelength in vacuum [$\mathrm{\AA}$]", ylabel=r"$\Delta f_\lambda$")
    axes.grid(alpha=0.15)
    axes.legend(loc="upper right", ncols=2, fontsize=8, frameon=False)


def _draw_changes(axes: "Axes", result: CounterfactualResult) -> None:
    """Intervals of each property before and after, each on a scale of its own."""
    names = list(result.before)
    for row, name in enumerate(names):
        before, after = (_interval(draws[name]) for draws in (result.before, result.after))
        ends = np.concatenate([before, after])
        low, width = ends.min(), np.ptp(ends) or 1.0
        for offset, edges, colour in ((0.14, before, _FACTUAL), (-0.14, after, _COUNTERFACTUAL)):
            scaled = (edges - low) / width
            y = -row + offset - 0.12
            axes.plot(scaled[[0, 2]], [y, y], color=colour, lw=2.5, alpha=0.35)
            axes.plot(scaled[1], y, "o", color=colour, ms=4)
        node = galaxy_graph().nodes[name]
        unit = "" if name == "metallicity" else node.unit
        digits = 4 if name == "redshift" else 2
        title = _TITLES.get(name, f"{'log ' if node.log10 else ''}{name.replace('_', ' ')}")
        axes.text(0, -row + 0.22, title, fontsize=7.5, color="0.15")
        axes.text(
            1.0,
            -row + 0.22,
            f"{before[1]:.{digits}f} → {after[1]:.{digits}f} {unit}",
            fontsize=7,
            ha="right",
            color="0.35",
        )
    axes.set(xlim=(-0.05, 1.05), ylim=(-len(names) + 0.4, 0.7))
    axes.set_title("properties, 90 % intervals", fontsize=9, loc="left")
    axes.set_axis_off()


def _interval(draws: NDArray[np.float32]) -> NDArray[np.float32]:
    band = Band.of(torch.from_numpy(draws))
    return np.stack([band.low, band.median, band.high])


def write_figure(path: Path, result: CounterfactualResult) -> None:
    """Write the picture as PNG; the file appears whole or not at all.

    Raises
    ------
    StorageError
        If the path cannot be written.
    """
    figure = counterfactual_figure(result)
    with atomic_writer(path) as handle:
        figure.savefig(handle, format="png", dpi=140, metadata={"Software": None})
