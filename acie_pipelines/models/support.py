"""Whether a question leaves the galaxies that a model was made from, and what it costs.

Belongs here: the support score and the uncertainty of mechanisms beyond the support. Does not
belong here: the mechanisms, or the posterior that a spectrum leaves.

An intervention is supported if galaxies with the same causes take such a value (positivity: Hernan
and Robins 2020, "Causal Inference: What If", section 3.3). The score is the probability of a value
at least as odd. Where it falls below 1 %, the mechanisms downstream are extrapolated: their change
from the edge of the support on is known only as a direction and an order of size, and gets a
normal error as large as itself, one per variable.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from acie_pipelines.causal.graph import CausalGraph
from acie_pipelines.causal.interventions import Intervention
from acie_pipelines.models.counterfactual import SpectralEngine, SpectralPosterior
from acie_pipelines.models.mechanisms import Mechanisms
from acie_pipelines.simulation.cosmology import age_of_universe_gyr

__all__ = ["LEAST_SUPPORT", "Intervened", "intervene"]

LEAST_SUPPORT: Final = 0.01
"""Support scores below this are outside the support."""

_HALVINGS: Final = 24
_LARGEST_AGE_SHARE: Final = 0.99

Values = dict[str, Tensor]


@dataclass(frozen=True)
class Intervened:
    """Galaxies after an intervention.

    Attributes
    ----------
    values
        Draws of every node, shape ``(draws, n)``; wider beyond the support.
    support
        Node to the mean over draws of the probability of a value at least as odd.
    """

    values: Values
    support: dict[str, float]

    @property
    def outside(self) -> tuple[str, ...]:
        """Nodes whose new values lie outside the support."""
        return tuple(name for name, score in self.support.items() if score < LEAST_SUPPORT)


def intervene(
    engine: SpectralEngine,
    graph: CausalGraph,
    posterior: SpectralPosterior,
    do: Sequence[Intervention],
    *,
    seed: int,
) -> Intervened:
    """Intervene on one galaxy, with the uncertainty of what is beyond the support.

    Parameters
    ----------
    engine
        Gives mechanisms.
    graph
        Of its nodes.
    posterior
        Of one galaxy.
    do
        Interventions.
    seed
        Of noise that a category only bounds, and of the errors of extrapolation.
    """
    values = engine.intervene(posterior, do, seed=seed)
    support = {each.node: _score(engine.mechanisms, values, each.node) for each in do}
    found = Intervened(values, support)
    if not found.outside:
        return found
    inside = [
        nearer
        for each in do
        for nearer in _to_edge(engine.mechanisms, posterior.values, values, each, graph)
    ]
    edge = engine.intervene(posterior, inside, seed=seed)
    nodes = {each.node for each in do}
    reached = [n for n in graph.order if n in graph.descendants(*nodes) and n not in nodes]
    return Intervened(_extrapolated(graph, values, edge, reached, seed), support)


def _score(mechanisms: Mechanisms, values: Mapping[str, Tensor], node: str) -> float:
    flat = {name: column.flatten() for name, column in values.items()}
    return float(mechanisms.tail(flat, node).mean())


def _to_edge(
    mechanisms: Mechanisms,
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    each: Intervention,
    graph: CausalGraph,
) -> list[Intervention]:
    """Shorten an intervention to where its support ends; nothing is left of a category's."""
    if _score(mechanisms, after, each.node) >= LEAST_SUPPORT:
        return [each]
    if graph.nodes[each.node].categories or each.node == "star_formation_state":
        return []
    start, end = before[each.node], after[each.node]
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = 0.5 * (low + high)
        moved = {**after, each.node: start + middle * (end - start)}
        if _score(mechanisms, moved, each.node) >= LEAST_SUPPORT:
            low = middle
        else:
            high = middle
    if each.kind == "shift":
        return [Intervention(each.node, "shift", low * each.value)]
    origin = float(start.median())
    return [Intervention(each.node, "set", origin + low * (each.value - origin))]


def _extrapolated(
    graph: CausalGraph, full: Values, edge: Values, nodes: Sequence[str], seed: int
) -> Values:
    generator = torch.Generator().manual_seed(seed)
    values = dict(full)
    for name in nodes:
        node = graph.nodes[name]
        size = full[name].shape
        error = torch.randn(size, generator=generator, dtype=torch.float64)
        if node.categories or name == "star_formation_state":
            continue
        moved = full[name] + error * (full[name] - edge[name])
        values[name] = moved.clamp(*node.support)
    if "age" in nodes:
        oldest = torch.log10(_LARGEST_AGE_SHARE * age_of_universe_gyr(values["redshift"]))
        values["age"] = torch.minimum(values["age"], oldest)
    return values
