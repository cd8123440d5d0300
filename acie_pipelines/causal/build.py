"""The mechanism of a node, by the family that the graph declares.

Belongs here: the mapping from family names to classes. Does not belong here: the classes.
"""

from collections.abc import Sequence

from acie_pipelines.causal.categorical import CategoricalMechanism
from acie_pipelines.causal.graph import CausalGraph, Node
from acie_pipelines.causal.kernel import KernelMechanism
from acie_pipelines.causal.mechanisms import (
    Mechanism,
    MechanismConfig,
    SplineMechanism,
    Standardisation,
)

__all__ = ["build_mechanism"]


def build_mechanism(graph: CausalGraph, name: str, config: MechanismConfig) -> Mechanism:
    """Make the untrained mechanism of a node."""
    node = graph.nodes[name]
    causes = [graph.nodes[parent] for parent in node.parents]
    own, parents = _standardisation([node]), _standardisation(causes) if causes else None
    counts = tuple(len(cause.categories) for cause in causes)
    if node.mechanism == "categorical":
        return CategoricalMechanism(own, parents, counts, len(node.categories), config)
    if node.mechanism == "spline":
        return SplineMechanism(own, parents, counts, config)
    return KernelMechanism(own, parents, counts, node.mechanism, config)


def _standardisation(nodes: Sequence[Node]) -> Standardisation:
    return Standardisation(
        tuple(node.softening for node in nodes), shares=tuple(node.share for node in nodes)
    )
