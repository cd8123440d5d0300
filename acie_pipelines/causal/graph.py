"""Directed acyclic graphs of variables with units.

Belongs here: the graph, its YAML form and questions about its structure.
Does not belong here: mechanisms or data.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any, Final, Literal, get_args

import numpy as np
import yaml
from numpy.typing import NDArray

from acie_native import CausalDag, CycleError
from acie_pipelines.causal.identification import Identification, Status, assumptions
from acie_pipelines.errors import ConfigurationError

__all__ = ["CausalGraph", "MechanismFamily", "Node", "catalogue_graph"]

MechanismFamily = Literal["spline", "additive", "heteroscedastic", "post_nonlinear", "categorical"]
_FAMILIES: Final[tuple[str, ...]] = get_args(MechanismFamily)


@dataclass(frozen=True)
class Node:
    """One variable.

    Attributes
    ----------
    name
        Identifier; column name of the training table.
    unit
        Unit of the quantity; of the number inside the logarithm when `log10` is true.
    log10
        Whether values are decimal logarithms.
    support
        Smallest and largest value that makes physical sense, in the values' own scale; of a
        categorical node the first and last code.
    parents
        Direct causes, in the order in which mechanisms see them.
    softening
        Scale below which ``arcsinh(value / softening)`` is linear, for quantities that span
        decades and take both signs; ``None`` models the value as it is.
    share
        Whether values are shares of a whole, strictly between 0 and 1, modelled by their log odds.
    mechanism
        Family of its mechanism: ``spline`` (every part depends on the parents), ``additive``,
        ``heteroscedastic``, ``post_nonlinear`` (see `acie_pipelines.causal.kernel`) or
        ``categorical``.
    categories
        Labels of a categorical node, whose values are their indices; empty otherwise.
    description
        One line.
    latent
        Whether the quantity is never observed, and so no variable to adjust for.
    """

    name: str
    unit: str
    log10: bool
    support: tuple[float, float]
    parents: tuple[str, ...] = ()
    softening: float | None = None
    share: bool = False
    mechanism: MechanismFamily = "spline"
    categories: tuple[str, ...] = ()
    description: str = ""
    latent: bool = False


class CausalGraph:
    """A directed acyclic graph.

    Parameters
    ----------
    nodes
        Variables, in any order.

    Raises
    ------
    ConfigurationError
        If a name or a parent repeats, a parent is unknown, a support is empty, or there is a cycle.
    """

    def __init__(self, nodes: Iterable[Node]) -> None:
        given = list(nodes)
        self.nodes: dict[str, Node] = {node.name: node for node in given}
        if len(self.nodes) != len(given):
            raise ConfigurationError("causal graph", "a node name repeats", "name each node once")
        for node in given:
            unknown = [parent for parent in node.parents if parent not in self.nodes]
            if unknown:
                raise ConfigurationError(
                    f"node {node.name}", f"has unknown parents {unknown}", "declare them as nodes"
                )
            if node.name in node.parents or len(set(node.parents)) != len(node.parents):
                raise ConfigurationError(
                    f"node {node.name}", "is its own parent or names one twice", "remove it"
                )
            if not node.support[0] < node.support[1] or (node.softening or 1.0) <= 0:
                raise ConfigurationError(
                    f"node {node.name}", "has an empty support or no positive softening", "fix it"
                )
            if node.mechanism not in _FAMILIES:
                raise ConfigurationError(
                    f"node {node.name}",
                    f"has no mechanism {node.mechanism!r}",
                    f"choose one of {_FAMILIES}",
                )
            if node.share and (node.support != (0.0, 1.0) or node.log10 or node.softening):
                raise ConfigurationError(
                    f"node {node.name}",
                    "is no share of a whole",
                    "give it the support [0, 1], no log10, no softening",
                )
            _check_categories(node)
        names = tuple(self.nodes)
        self._number = {name: number for number, name in enumerate(names)}
        edges = [
            (self._number[parent], number)
            for number, node in enumerate(self.nodes.values())
            for parent in node.parents
        ]
        try:
            self._dag = CausalDag(len(names), np.array(edges, dtype=np.int64).reshape(-1, 2))
        except CycleError as error:
            cycle = " → ".join(names[k] for k in (*error.nodes, error.nodes[0]))
            raise ConfigurationError(
                "causal graph", f"has a cycle: {cycle}", "remove one of its edges"
            ) from None
        self.order: tuple[str, ...] = tuple(names[k] for k in self._dag.topological_order())

    def __reduce__(self) -> tuple[type["CausalGraph"], tuple[tuple[Node, ...]]]:
        return CausalGraph, (tuple(self.nodes.values()),)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CausalGraph) and self.nodes == other.nodes

    def __hash__(self) -> int:
        return hash(tuple(self.nodes.values()))

    def parents(self, name: str) -> tuple[str, ...]:
        """Direct causes of a node.

        Raises
        ------
        ConfigurationError
            If the graph has no such node.
        """
        return self._node(name).parents

    def _node(self, name: str) -> Node:
        if name not in self.nodes:
            raise ConfigurationError(
                f"node {name}", "is not in the causal graph", f"choose one of {list(self.nodes)}"
            )
        return self.nodes[name]

    def children(self, name: str) -> tuple[str, ...]:
        """Direct effects of a node, in topological order."""
        self._node(name)
        return tuple(n for n in self.order if name in self.nodes[n].parents)

    def ancestors(self, *names: str) -> frozenset[str]:
        """Causes of any of the nodes, direct or not; a node is no cause of itself."""
        parents = {parent for name in names for parent in self.parents(name)}
        return self._marked(self._dag.ancestors(self._numbers(parents)))

    def descendants(self, *names: str) -> frozenset[str]:
        """Effects of any of the nodes, direct or not; a node is no effect of itself."""
        children = {child for name in names for child in self.children(name)}
        return self._marked(self._dag.descendants(self._numbers(children)))

    def latent(self) -> tuple[str, ...]:
        """Nodes that are never observed, in topological order."""
        return tuple(name for name in self.order if self.nodes[name].latent)

    def d_separated(self, a: Iterable[str], b: Iterable[str], given: Iterable[str]) -> bool:
        """Whether every path between two sets is blocked by a third.

        Parameters
        ----------
        a, b, given
            Disjoint sets of node names.

        Raises
        ------
        ConfigurationError
            If the graph has no such node or the sets share one.
        """
        sets = [frozenset(names) for names in (a, b, given)]
        shared = sets[0] & sets[1] | sets[0] & sets[2] | sets[1] & sets[2]
        if shared:
            raise ConfigurationError(
                f"node {min(shared)}", "is in two of the sets", "ask about disjoint sets"
            )
        return self._dag.d_separated(*map(self._numbers, sets))

    def back_door_set(self, treatment: str, outcome: str) -> frozenset[str] | None:
        """Find a minimal set of observed nodes that satisfies the back-door criterion.

        Returns
        -------
        frozenset of str or None
            ``None`` if there is no such set.
        """
        causes, effects, hidden = self._question(treatment, outcome)
        found = self._dag.back_door_set(causes, effects, excluded=hidden)
        return None if found is None else self._named(found)

    def front_door_set(self, treatment: str, outcome: str) -> frozenset[str] | None:
        """Find a minimal set of observed nodes that satisfies the front-door criterion.

        Returns
        -------
        frozenset of str or None
            Empty if the treatment is no cause of the outcome; ``None`` if there is no such set.
        """
        causes, effects, hidden = self._question(treatment, outcome)
        found = self._dag.front_door_set(causes, effects, excluded=hidden)
        return None if found is None else self._named(found)

    def identify(self, treatment: str, outcome: str) -> Identification:
        """Say whether observations determine an effect, and under which assumptions.

        Raises
        ------
        ConfigurationError
            If the graph has no such node, or they are one, or one is latent.
        """
        self._question(treatment, outcome)
        found: frozenset[str] | None = frozenset()
        if outcome not in self.descendants(treatment):
            status = Status.NO_EFFECT
        elif (found := self.back_door_set(treatment, outcome)) is not None:
            status = Status.BACK_DOOR
        elif (found := self.front_door_set(treatment, outcome)) is not None:
            status = Status.FRONT_DOOR
        else:
            status = Status.NEITHER
        adjustment = tuple(name for name in self.order if name in (found or ()))
        return Identification(
            treatment,
            outcome,
            status,
            adjustment,
            assumptions(treatment, status, adjustment, self.latent()),
        )

    def _question(self, treatment: str, outcome: str) -> tuple[list[int], list[int], list[int]]:
        """Numbers of treatment, outcome and latent nodes, after checks."""
        for name in (treatment, outcome):
            if self._node(name).latent:
                raise ConfigurationError(
                    f"node {name}", "is latent", "ask about the effects of observed nodes"
                )
        if treatment == outcome:
            raise ConfigurationError(
                f"node {treatment}", "is both treatment and outcome", "name two nodes"
            )
        return [self._number[treatment]], [self._number[outcome]], self._numbers(self.latent())

    def _numbers(self, names: Iterable[str]) -> list[int]:
        return [self._number[self._node(name).name] for name in names]

    def _named(self, numbers: NDArray[np.int64]) -> frozenset[str]:
        names = tuple(self.nodes)
        return frozenset(names[number] for number in numbers)

    def _marked(self, mask: NDArray[np.bool_]) -> frozenset[str]:
        return self._named(np.flatnonzero(mask))

    def without_edges(self) -> "CausalGraph":
        """Build the graph of the same variables without any cause."""
        return CausalGraph(Node(**{**vars(n), "parents": ()}) for n in self.nodes.values())

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in the YAML form."""
        nodes = []
        for node in self.nodes.values():
            nodes.append({**asdict(node), "support": list(node.support)})
            nodes[-1]["parents"] = list(node.parents)
            nodes[-1]["categories"] = list(node.categories)
        return {"nodes": nodes}

    @classmethod
    def from_dict(cls, body: Mapping[str, Any]) -> "CausalGraph":
        """Build from plain values.

        Raises
        ------
        ConfigurationError
            If a field is missing, unknown or of the wrong type.
        """
        try:
            entries: Sequence[Mapping[str, Any]] = body["nodes"]
            nodes = [
                Node(
                    **{
                        **entry,
                        "support": (float(entry["support"][0]), float(entry["support"][1])),
                        "parents": tuple(entry.get("parents", ())),
                        "categories": tuple(entry.get("categories", ())),
                    }
                )
                for entry in entries
            ]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ConfigurationError(
                "causal graph", f"is malformed ({error!r})", "see catalogue_graph.yaml"
            ) from error
        return cls(nodes)

    def to_yaml(self) -> str:
        """Serialise."""
        text: str = yaml.safe_dump(self.to_dict(), sort_keys=False)
        return text

    @classmethod
    def from_yaml(cls, text: str) -> "CausalGraph":
        """Parse what `to_yaml` writes.

        Raises
        ------
        ConfigurationError
            If it is not YAML or not a graph.
        """
        try:
            body = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigurationError("causal graph", f"is not YAML ({error})", "fix it") from error
        if not isinstance(body, dict):
            raise ConfigurationError("causal graph", "holds no mapping", "see catalogue_graph.yaml")
        return cls.from_dict(body)


def _check_categories(node: Node) -> None:
    count = len(node.categories)
    if (node.mechanism == "categorical") != (count > 0):
        raise ConfigurationError(
            f"node {node.name}",
            "has categories without a categorical mechanism, or the reverse",
            "give both or neither",
        )
    if count and (
        count < 2
        or len(set(node.categories)) != count
        or node.support != (0.0, count - 1.0)
        or node.log10
        or node.share
        or node.softening is not None
    ):
        raise ConfigurationError(
            f"node {node.name}",
            "is not a well-formed categorical node",
            f"name at least two distinct categories, support [0, {count - 1}], no log10, no "
            "softening",
        )


def catalogue_graph() -> CausalGraph:
    """Graph of the emission-line catalogue."""
    text = resources.files("acie_pipelines.causal").joinpath("catalogue_graph.yaml").read_text()
    return CausalGraph.from_yaml(text)
