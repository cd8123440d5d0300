"""Figures of validation reports.

Belongs here: pictures drawn from `acie_pipelines.evaluation.validation.read_report` and
`acie_pipelines.evaluation.counterfactual_validation.read_counterfactual_report`.
Does not belong here: computing what is drawn.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "coverage_figure",
    "error_figure",
    "examples_figure",
    "mass_doubling_figure",
    "physics_figure",
    "pit_figure",
]


def pit_figure(report: Mapping[str, Any]) -> "Figure":
    """Histograms of the probability integral transform of each mechanism; flat is calibrated.

    Parameters
    ----------
    report
        Validation report.
    """
    from matplotlib.figure import Figure

    summaries = report["calibration"]
    columns = 4
    rows = -(-len(summaries) // columns)
    figure = Figure(figsize=(9, 1.8 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    for axis in axes:
        axis.set_axis_off()
    for axis, (name, summary) in zip(axes, summaries.items(), strict=False):
        counts = summary["histogram"]
        axis.set_axis_on()
        axis.bar([(k + 0.5) / len(counts) for k in range(len(counts))], counts, 1 / len(counts))
        axis.axhline(sum(counts) / len(counts), color="0.2", linestyle=":")
        axis.set_title(name, fontsize="small")
        axis.set_yticks([])
    return figure


def mass_doubling_figure(report: Mapping[str, Any]) -> "Figure":
    """Change of each line's equivalent width if each galaxy's stellar mass doubled.

    Parameters
    ----------
    report
        Validation report. Bars span the central 68 % of held-out galaxies, whiskers 90 %.
    """
    from matplotlib.figure import Figure

    lines = [entry for entry in report["mass_doubling"] if entry["unit"] == "Angstrom"]
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axis = figure.add_subplot()
    for k, entry in enumerate(lines):
        axis.plot([entry["q05"], entry["q95"]], [k, k], color="0.6", linewidth=1)
        axis.plot([entry["q16"], entry["q84"]], [k, k], color="C0", linewidth=5, alpha=0.5)
        axis.plot(entry["q50"], k, "o", color="C0")
    axis.axvline(0, color="0.2", linestyle=":")
    axis.set_yticks(range(len(lines)), [entry["node"] for entry in lines])
    axis.set_xlabel(
        "change of equivalent width under doubled stellar mass, by the model [Angstrom]"
    )
    return figure


def error_figure(report: Mapping[str, Any]) -> "Figure":
    """Error of every held-out galaxy, sorted, beside that of changing nothing."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    axis = figure.add_subplot()
    answered = sorted(error for error in report["errors"] if error is not None)
    axis.plot(sorted(report["errors_of_no_change"]), ".", color="0.6", label="nothing changed")
    axis.plot(answered, ".", color="C0", label="answered")
    axis.set(
        xlabel="held-out galaxies, sorted",
        ylabel="error at twice the mass [noise of a pixel]",
        yscale="log",
    )
    figure.legend(loc="outside upper right", fontsize="small", ncols=2)
    return figure


def coverage_figure(report: Mapping[str, Any]) -> "Figure":
    """Share of the truth inside 90 % intervals, by property and for pixels."""
    from matplotlib.figure import Figure

    shares = {
        **report["coverage_by_latent"],
        "pixels": report["coverage_pixels"],
        "pixels at twice the mass": report["coverage_counterfactual"],
    }
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axis = figure.add_subplot()
    axis.barh(list(shares), list(shares.values()), color="C0", alpha=0.7)
    axis.axvline(0.9, color="0.2", linestyle=":")
    axis.set(xlim=(0, 1), xlabel="truth inside 90 % intervals")
    axis.invert_yaxis()
    return figure


def physics_figure(checks: Sequence[Mapping[str, Any]]) -> "Figure":
    """Residual of each law in answered pixels, beside its limit."""
    from matplotlib.figure import Figure

    laws = [c for c in checks if c["name"].startswith("answered_") and c["name"].endswith("cent")]
    figure = Figure(figsize=(8, 2.5), layout="constrained")
    axis = figure.add_subplot()
    for k, entry in enumerate(laws):
        axis.plot(entry["threshold"], k, "|", color="C3", markersize=20)
        if entry["value"] is not None:
            axis.plot(max(entry["value"], 1e-9), k, "o", color="C0")
    names = [entry["name"].removeprefix("answered_").removesuffix("_percent") for entry in laws]
    axis.set_yticks(range(len(laws)), names)
    axis.set(xscale="log", xlabel="root mean square residual and limit [per cent]")
    axis.margins(y=0.3)
    return figure


def examples_figure(report: Mapping[str, Any]) -> "Figure":
    """Factual, answered and true spectra of a few held-out galaxies at twice the mass."""
    from matplotlib.figure import Figure

    examples = report["examples"]
    figure = Figure(figsize=(9, 2.6 * len(examples)), layout="constrained")
    axes = figure.subplots(len(examples), 1, squeeze=False, sharex=True).ravel()
    for axis, spectra in zip(axes, examples, strict=True):
        wavelength = report["wavelength_angstrom"]
        numbers = {
            name: [float("nan") if value is None else value for value in values]
            for name, values in spectra.items()
        }
        axis.fill_between(wavelength, numbers["low"], numbers["high"], color="C0", alpha=0.3)
        axis.plot(wavelength, numbers["factual"], color="0.6", linewidth=0.8, label="factual")
        axis.plot(wavelength, numbers["answer"], color="C0", linewidth=0.8, label="answered")
        axis.plot(wavelength, numbers["truth"], ":", color="k", linewidth=0.8, label="truth")
        axis.set_ylabel("flux density")
    figure.legend(handles=axes[0].lines, loc="outside upper right", fontsize="small", ncols=3)
    axes[-1].set_xlabel("observed wavelength in vacuum [Angstrom]")
    return figure
