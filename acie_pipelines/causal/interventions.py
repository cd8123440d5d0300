"""Interventions on one node, checked against its unit and support.

Belongs here: what may be asked of a model. Does not belong here: the answer.
"""

import math
from dataclasses import dataclass
from typing import Literal

from acie_pipelines.causal.graph import CausalGraph
from acie_pipelines.errors import ConfigurationError

__all__ = ["Intervention"]


@dataclass(frozen=True)
class Intervention:
    """Set a node to a value, or move it from where it is.

    Attributes
    ----------
    node
        Name of the variable.
    kind
        ``set`` or ``shift``.
    value
        New value or difference, in the scale of the node's values (decimal logarithm if it has
        one).
    """

    node: str
    kind: Literal["set", "shift"]
    value: float

    @classmethod
    def scale(cls, node: str, factor: float, graph: CausalGraph) -> "Intervention":
        """Multiply the quantity behind a logarithmic node.

        Raises
        ------
        ConfigurationError
            If the node is not logarithmic or the factor is not positive.
        """
        if node not in graph.nodes or not graph.nodes[node].log10 or factor <= 0:
            raise ConfigurationError(
                f"intervention on {node}",
                "only a logarithmic quantity can be multiplied, by a positive factor",
                "set or shift the node instead",
            )
        return cls(node, "shift", math.log10(factor))

    def check(self, graph: CausalGraph) -> None:
        """Refuse what makes no physical sense.

        Raises
        ------
        ConfigurationError
            If the node is unknown, the value is not finite, or the new value is outside the
            node's support, or the shift wider than it.
        """
        subject = f"intervention on {self.node}"
        if self.node not in graph.nodes:
            raise ConfigurationError(
                subject, "the node is unknown", f"choose one of {list(graph.nodes)}"
            )
        node = graph.nodes[self.node]
        low, high = node.support
        if node.categories and (self.kind != "set" or self.value != int(self.value)):
            raise ConfigurationError(
                subject,
                f"{self.kind} {self.value} is none of its categories",
                f"set it to the index of one of {list(node.categories)}",
            )
        allowed = low <= self.value <= high if self.kind == "set" else abs(self.value) < high - low
        if not math.isfinite(self.value) or not allowed:
            scale = f"log10({node.unit})" if node.log10 else node.unit
            raise ConfigurationError(
                subject,
                f"{self.kind} {self.value} leaves the support [{low}, {high}] {scale}",
                "choose a value inside it",
            )
