"""Figures of a training run.

Belongs here: pictures of graphs and losses. Does not belong here: pictures of validation results
(`acie_pipelines.evaluation.figures`).
"""

from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING

from acie_pipelines.causal.graph import CausalGraph

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from acie_pipelines.models.posterior_training import PosteriorEpoch

__all__ = ["figure_png", "graph_figure", "loss_figure", "monitor_figure"]


def figure_png(figure: "Figure") -> bytes:
    """Render a figure as PNG, small enough for asset metadata."""
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=80, metadata={"Software": None})
    return buffer.getvalue()


def graph_figure(graph: CausalGraph) -> "Figure":
    """Draw the graph, causes above effects."""
    from matplotlib.figure import Figure

    depth: dict[str, int] = {}
    for name in graph.order:
        depth[name] = 1 + max((depth[p] for p in graph.parents(name)), default=-1)
    rows: dict[int, list[str]] = {}
    for name in graph.order:
        rows.setdefault(depth[name], []).append(name)
    place = {
        name: ((k + 1) / (len(names) + 1), -float(level))
        for level, names in rows.items()
        for k, name in enumerate(names)
    }
    figure = Figure(figsize=(9, 6), layout="constrained")
    axes = figure.add_subplot()
    for name in graph.nodes:
        for parent in graph.parents(name):
            axes.annotate(
                "",
                xy=place[name],
                xytext=place[parent],
                arrowprops={"arrowstyle": "->", "color": "0.6", "shrinkA": 12, "shrinkB": 12},
            )
        axes.text(*place[name], name, ha="center", va="center", bbox={"fc": "white", "ec": "0.3"})
    axes.set(xlim=(0, 1), ylim=(-max(rows) - 0.5, 0.5))
    axes.set_axis_off()
    return figure


def loss_figure(
    train: Sequence[Mapping[str, float]], validation: Sequence[Mapping[str, float]]
) -> "Figure":
    """Loss of every mechanism by epoch, training dotted, validation solid.

    Parameters
    ----------
    train, validation
        Per epoch, node name to negative log-likelihood [nats per row]; a stopped mechanism is
        absent.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for k, name in enumerate(validation[0]):
        for history, style, label in ((train, ":", None), (validation, "-", name)):
            points = [(e, loss[name]) for e, loss in enumerate(history, 1) if name in loss]
            axes.plot(*zip(*points, strict=True), style, color=f"C{k % 10}", label=label)
    axes.set(xlabel="epoch", ylabel="negative log-likelihood [nats per row]")
    figure.legend(loc="outside right upper", fontsize="x-small")
    return figure


def monitor_figure(history: "Sequence[PosteriorEpoch]") -> "Figure":
    """Entropy that draws lack, and the largest gradient, by epoch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    epochs = [epoch.epoch for epoch in history]
    for space in ("latent", "decoded"):
        name = f"entropy.{space}.lost"
        lost = [epoch.monitors.get(name, float("nan")) for epoch in history]
        above.plot(epochs, lost, ".-", label=space)
    above.set_ylabel("entropy lacking [nats]")
    figure.legend(loc="outside upper right", fontsize="small", ncols=2)
    below.plot(epochs, [epoch.gradient_norm for epoch in history], ".-")
    below.set(xlabel="epoch", ylabel="largest gradient norm", yscale="log")
    return figure
