"""Questions about directed acyclic graphs: reachability, d-separation, adjustment sets.

Belongs here: the typed graph over node numbers and the checks of its arguments.
Does not belong here: names, units or the meaning of nodes.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from acie_native import _kernels
from acie_native._arrays import describe
from acie_native._kernels import CycleError

__all__ = ["CausalDag", "CycleError"]

NodeSet = Iterable[int] | npt.NDArray[np.integer[Any]]
Nodes = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

# The graph takes some twenty bytes a node: more than this is a mistake, not a graph.
MOST_NODES = 1 << 27
MOST_EDGES = (1 << 32) - 1
D_SEPARATION, BACK_DOOR, FRONT_DOOR = 0, 1, 2
NONE = np.empty(0, dtype=np.int64)


class CausalDag:
    """A directed acyclic graph on the nodes 0 to `n_nodes` - 1, in compressed sparse rows.

    Every question takes time linear in nodes and edges, and gives up the interpreter lock. Node
    sets are iterables of node numbers or integer arrays; sets in one question must be disjoint.

    Parameters
    ----------
    n_nodes
        Nodes, at most 2**27.
    edges
        ``int64[m, 2]``, C-contiguous: cause, effect.

    Raises
    ------
    CycleError
        If the edges form a cycle; its `nodes` names one.
    ValueError
        If an edge repeats, joins a node to itself or names a node that does not exist.
    """

    def __init__(self, n_nodes: int, edges: npt.NDArray[np.int64]) -> None:
        if not 0 <= n_nodes <= MOST_NODES:
            raise ValueError(f"n_nodes must be between 0 and {MOST_NODES}, got {n_nodes}")
        if not isinstance(edges, np.ndarray) or edges.dtype != np.int64:
            raise ValueError(f"edges must be an int64 array, got {describe(edges)}")
        if edges.ndim != 2 or edges.shape[1] != 2 or edges.shape[0] > MOST_EDGES:
            raise ValueError(f"edges must have shape [count, 2], got {list(edges.shape)}")
        if not edges.flags.c_contiguous:
            raise ValueError("edges must be C-contiguous; use numpy.ascontiguousarray")
        self.n_nodes = n_nodes
        self.n_edges = edges.shape[0]
        self._kernel = _kernels.DagKernel(n_nodes, edges, np.empty(n_nodes, dtype=np.int64))

    def topological_order(self) -> Nodes:
        """Return all nodes, causes before effects, as ``int64[n_nodes]``."""
        order = np.empty(self.n_nodes, dtype=np.int64)
        self._kernel.order(order)
        return order

    def ancestors(self, nodes: NodeSet) -> Mask:
        """Mark the causes of any of the nodes, direct or not.

        Returns
        -------
        ndarray
            ``bool[n_nodes]``, true also for the given nodes.
        """
        return self._reach(nodes, down=False)

    def descendants(self, nodes: NodeSet) -> Mask:
        """Mark the effects of any of the nodes, direct or not.

        Returns
        -------
        ndarray
            ``bool[n_nodes]``, true also for the given nodes.
        """
        return self._reach(nodes, down=True)

    def d_separated(self, x: NodeSet, y: NodeSet, z: NodeSet = ()) -> bool:
        """Whether `z` blocks every path between `x` and `y`.

        By reachability: Shachter 1998, arXiv:1301.7412.
        """
        return self._holds(D_SEPARATION, x, y, z)

    def d_separated_each(
        self, queries: Sequence[tuple[NodeSet, NodeSet, NodeSet]], *, threads: int = 0
    ) -> Mask:
        """Answer many questions of d-separation at once.

        Parameters
        ----------
        queries
            Triples x, y, z.
        threads
            Threads to use, 0 for all cores.

        Returns
        -------
        ndarray
            ``bool[len(queries)]``.
        """
        return self._check(D_SEPARATION, [each for query in queries for each in query], threads)

    def is_back_door_set(self, x: NodeSet, y: NodeSet, z: NodeSet) -> bool:
        """Whether `z` satisfies the back-door criterion for the effect of `x` on `y`.

        It holds no effect of `x` and blocks every path from `x` to `y` that begins with an arrow
        into `x` (Pearl 2009, "Causality", definition 3.3.1).
        """
        return self._holds(BACK_DOOR, x, y, z)

    def is_front_door_set(self, x: NodeSet, y: NodeSet, z: NodeSet) -> bool:
        """Whether `z` satisfies the front-door criterion for the effect of `x` on `y`.

        It meets every directed path from `x` to `y`, no path that begins with an arrow into `x`
        leads openly to `z`, and `x` blocks every path from `z` to `y` that begins with an arrow
        into `z` (Pearl 2009, "Causality", definition 3.3.3).
        """
        return self._holds(FRONT_DOOR, x, y, z)

    def back_door_set(self, x: NodeSet, y: NodeSet, *, excluded: NodeSet = ()) -> Nodes | None:
        """Find a minimal back-door set.

        From the candidates among the causes of `x` and `y`, by two walks: van der Zander and
        Liskiewicz 2019, "Finding minimal d-separators in linear time and applications".

        Parameters
        ----------
        x, y
            Cause and effect, not empty.
        excluded
            Nodes that are not observed.

        Returns
        -------
        ndarray or None
            ``int64[k]``, ascending; no proper subset is a back-door set. ``None`` if no set of
            observed nodes is one.
        """
        return self._find(BACK_DOOR, x, y, excluded)

    def front_door_set(self, x: NodeSet, y: NodeSet, *, excluded: NodeSet = ()) -> Nodes | None:
        """Find a minimal front-door set.

        By Wienoebst, van der Zander and Liskiewicz 2024, "Linear-time algorithms for front-door
        adjustment in causal graphs", arXiv:2211.16468.

        Parameters
        ----------
        x, y
            Cause and effect, not empty.
        excluded
            Nodes that are not observed.

        Returns
        -------
        ndarray or None
            ``int64[k]``, ascending; no proper subset is a front-door set. Empty if `x` is no cause
            of `y`. ``None`` if no set of observed nodes is one.
        """
        return self._find(FRONT_DOOR, x, y, excluded)

    def _reach(self, nodes: NodeSet, *, down: bool) -> Mask:
        reached = np.empty(self.n_nodes, dtype=np.uint8)
        self._kernel.reach(down, _checked_nodes(nodes), reached)
        return reached.view(np.bool_)

    def _holds(self, criterion: int, *sets: NodeSet) -> bool:
        return bool(self._check(criterion, sets, threads=1)[0])

    def _check(self, criterion: int, sets: Sequence[NodeSet], threads: int) -> Mask:
        if threads < 0:
            raise ValueError(f"threads must not be negative, got {threads}")
        arrays = [_checked_nodes(each) for each in sets]
        answers = np.empty(len(arrays) // 3, dtype=np.uint64)
        ends = np.array([*accumulate(map(len, arrays))], dtype=np.int64)
        self._kernel.check(criterion, np.concatenate([NONE, *arrays]), ends, answers, threads)
        return answers.astype(np.bool_)

    def _find(self, criterion: int, x: NodeSet, y: NodeSet, excluded: NodeSet) -> Nodes | None:
        causes, effects = _checked_nodes(x), _checked_nodes(y)
        if not len(causes) or not len(effects):
            raise ValueError("x and y must name at least one node each")
        members = np.zeros(self.n_nodes, dtype=np.uint8)
        if not self._kernel.find(criterion, causes, effects, _checked_nodes(excluded), members):
            return None
        return np.flatnonzero(members).astype(np.int64, copy=False)


def _checked_nodes(nodes: NodeSet) -> Nodes:
    array = nodes if isinstance(nodes, np.ndarray) else np.array([*nodes] or NONE)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"node sets must be one-dimensional and integer, got {describe(array)}")
    return np.ascontiguousarray(array, dtype=np.int64)
