"""Figures of the ``counterfactual`` benchmark.

Belongs here: pictures drawn from measurements, and which there are. Does not belong here: measuring
(`acie_pipelines.evaluation.bench_counterfactual`).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from acie_pipelines.evaluation.measurements import Measured, Measurements

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "calibration_figure",
    "error_figure",
    "example_figure",
    "residual_figure",
    "write",
]

_DPI: Final = 120
_RANK_BINS: Final = 20
_PROBLEMS: Final = ("galaxy", "galaxy-states")


def write(measurements: Measurements, seeds: range) -> list[Path]:
    """Draw every figure whose measurements are there, as PNG beside them.

    Parameters
    ----------
    measurements
        Of a run.
    seeds
        Of its repetitions.

    Returns
    -------
    list[Path]
        Files written.
    """
    drawn: dict[str, Callable[[], Figure]] = {}
    ranks = measurements.of("spectra/ranks", "acie")
    known = _chosen(measurements.of("spectra/known", "acie"), seeds)
    if ranks and known:
        drawn["calibration"] = lambda: calibration_figure(list(ranks.values()), known)
    if known:
        drawn["examples"] = lambda: example_figure(known[0])
        drawn["residuals"] = lambda: residual_figure(_residuals(measurements, seeds))
    for problem in _PROBLEMS:
        sides = {
            side: found
            for side in measurements.sides(problem)
            if (found := _chosen(measurements.of(problem, side), seeds))
        }
        if sides:
            drawn[f"error-by-variable-{problem}"] = (
                lambda sides=sides: error_figure(sides)  # type: ignore[misc]
            )
    written = []
    for name, draw in drawn.items():
        path = measurements.folder / f"{name}.png"
        draw().savefig(path, dpi=_DPI)
        written.append(path)
    return written


def _chosen(found: Mapping[int, Measured], seeds: range) -> list[Measured]:
    return [found[seed] for seed in seeds if seed in found]


def _residuals(measurements: Measurements, seeds: range) -> dict[str, list[Measured]]:
    """Label to measurements with residuals."""
    labelled = {}
    for part in measurements.parts():
        if part.startswith("spectra/"):
            for side in measurements.sides(part):
                found = _chosen(measurements.of(part, side), seeds)
                if found and "residuals" in found[0].series:
                    name = part.removeprefix("spectra/") if side == "acie" else side
                    labelled[name] = found
                    if "residuals, learned" in found[0].series:
                        labelled["learned"] = [_learned(each) for each in found]
    return labelled


def _learned(measured: Measured) -> Measured:
    series = {name: measured.series[f"{name}, learned"] for name in ("residuals", "errors")}
    return Measured({}, series)


def error_figure(sides: Mapping[str, list[Measured]]) -> "Figure":
    """Error of every variable, ours beside every peer; bars are means over seeds, dots seeds.

    Parameters
    ----------
    sides
        Side to its measurements.
    """
    from matplotlib.figure import Figure

    prefix = "error of "
    names = [
        name.removeprefix(prefix)
        for name in next(iter(sides.values()))[0].values
        if name.startswith(prefix)
    ]
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    axis = figure.add_subplot()
    width = 0.8 / len(sides)
    for k, (side, found) in enumerate(sides.items()):
        errors = np.array([[each.values[prefix + name] for name in names] for each in found])
        place = np.arange(len(names)) + (k - 0.5 * (len(sides) - 1)) * width
        axis.bar(place, errors.mean(axis=0), width, label=side, color=f"C{k}", alpha=0.75)
        for row in errors:
            axis.plot(place, row, ".", color="0.2", markersize=2)
    axis.set_yscale("log")
    axis.set_xticks(range(len(names)), names, rotation=20)
    axis.set_ylabel("RMS error / standard deviation")
    axis.set_title("Doubled stellar mass: error by variable", fontsize="medium")
    figure.legend(loc="outside lower center", fontsize="small", ncols=7)
    return figure


def calibration_figure(ranks: list[Measured], known: list[Measured]) -> "Figure":
    """Ranks of the truth by variable, and coverage of counterfactual pixels.

    Parameters
    ----------
    ranks
        Blocks of simulation-based calibration.
    known
        Measurements with a ``coverage`` series.
    """
    from matplotlib.figure import Figure

    from acie_pipelines.evaluation.spectral_measurements import DRAWS, SHARES

    names = list(ranks[0].series)
    columns = 5
    rows = -(-(len(names) + 1) // columns)
    figure = Figure(figsize=(11, 2.1 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, name in zip(axes, names, strict=False):
        found = np.concatenate([block.series[name] for block in ranks])
        counts, edges = np.histogram((found + 0.5) / (DRAWS + 1), bins=_RANK_BINS, range=(0, 1))
        expected = len(found) / _RANK_BINS
        axis.set_axis_on()
        axis.bar(edges[:-1], counts, 1 / _RANK_BINS, align="edge", color="C0", alpha=0.7)
        noise = 2 * np.sqrt(expected * (1 - 1 / _RANK_BINS))
        axis.axhspan(expected - noise, expected + noise, color="0.8", zorder=0)
        axis.set_title(name, fontsize="small")
        axis.set_yticks([])
        axis.set_xticks([0, 1])
    axis = axes[len(names)]
    axis.set_axis_on()
    for each in known:
        axis.plot(SHARES, each.series["coverage"], color="C1", linewidth=1)
    axis.plot([0, 1], [0, 1], ":", color="0.2")
    axis.set_title("pixels: coverage of intervals", fontsize="small")
    figure.suptitle("Ranks of the truth among the draws; grey: two standard deviations")
    return figure


def example_figure(measured: Measured) -> "Figure":
    """Factual, counterfactual and true spectra of a few galaxies.

    Parameters
    ----------
    measured
        With the ``example`` series.
    """
    from matplotlib.figure import Figure

    from acie_pipelines.simulation.presets import preset

    wavelength = preset("sdss").wavelength_angstrom
    count = len({name.split("/")[0] for name in measured.series if name.startswith("example")})
    figure = Figure(figsize=(11, 3.4 * count), layout="constrained")
    grid = figure.add_gridspec(2 * count, 1, height_ratios=[3, 1] * count)
    for k in range(count):
        flux = {
            name.split("/")[1]: np.array(values)
            for name, values in measured.series.items()
            if name.startswith(f"example {k}/")
        }
        axis = figure.add_subplot(grid[2 * k])
        axis.plot(wavelength, flux["observed"], color="0.8", linewidth=0.6, label="observed")
        axis.plot(wavelength, flux["factual"], color="C0", linewidth=0.8, label="factual")
        axis.fill_between(wavelength, flux["low"], flux["high"], color="C1", alpha=0.3, linewidth=0)
        axis.plot(wavelength, flux["answer"], color="C1", linewidth=0.8, label="mass doubled")
        axis.plot(wavelength, flux["truth"], ":", color="k", linewidth=0.8, label="truth")
        top = max(np.percentile(flux[name], 99.7) for name in ("observed", "truth"))
        axis.set_ylim(0, 1.2 * top)
        axis.set_ylabel("flux density")
        axis.tick_params(labelbottom=False)
        if k == 0:
            axis.legend(loc="upper right", fontsize="small", ncols=4)
        below = figure.add_subplot(grid[2 * k + 1], sharex=axis)
        below.plot(wavelength, (flux["answer"] - flux["truth"]) / flux["sigma"], linewidth=0.6)
        below.axhline(0, color="0.2", linestyle=":")
        below.set_ylabel("error [sigma]", fontsize="small")
    below.set_xlabel("observed wavelength [Angstrom]")
    return figure


def residual_figure(labelled: Mapping[str, list[Measured]]) -> "Figure":
    """Distributions of the error of pixels, and of galaxies.

    Parameters
    ----------
    labelled
        Label to measurements with ``residuals`` and ``errors``.
    """
    from matplotlib.figure import Figure

    from acie_pipelines.evaluation.spectral_measurements import HISTOGRAM

    bins, low, high = HISTOGRAM
    edges = np.linspace(low, high, bins + 1)
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    pixels, galaxies = figure.subplots(1, 2)
    for k, (label, found) in enumerate(labelled.items()):
        density = np.mean([each.series["residuals"] for each in found], axis=0)
        style = {"color": f"C{k % 10}", "linestyle": "-" if k < 10 else ":", "linewidth": 1}
        pixels.stairs(density / (edges[1] - edges[0]), edges, label=label, **style)
        errors = np.sort(np.concatenate([each.series["errors"] for each in found]))
        share = (np.arange(len(errors)) + 1) / len(errors)
        galaxies.plot(errors, share, label=label, **style)
    pixels.set_yscale("log")
    pixels.set_xlabel("error of a pixel [sigma]")
    pixels.set_ylabel("density")
    galaxies.set_xscale("log")
    galaxies.set_xlabel("RMS error of a galaxy's pixels [sigma]")
    galaxies.set_ylabel("share of galaxies below")
    figure.legend(handles=galaxies.lines, loc="outside right upper", fontsize="x-small")
    return figure
