"""Graphs: load time of the lineage graph, and questions to a large causal graph.

Every Dagster step and sensor tick pays for loading the code location.

Belongs here: the ``graph`` benchmark.
Does not belong here: the definitions themselves, or the causal-graph solver.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.evaluation.bench import Emit, compare, peer_version, seconds_of

__all__ = ["import_seconds", "run"]

_NODES, _EDGES = 10_000, 120_000
# Ours takes a fraction of a millisecond: too little to time alone on a busy machine.
_CALLS = 50


def import_seconds(module: str) -> float:
    """Seconds that a fresh interpreter needs to start and import a module.

    Parameters
    ----------
    module
        Its dotted name.
    """
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True)  # noqa: S603
    return time.perf_counter() - start


def run(emit: Emit, *, repetitions: int = 5) -> None:
    """Compare load time with that of Dagster alone, and the solver with NetworkX if installed.

    Parameters
    ----------
    emit
        Called with each row.
    repetitions
        Measurements of each side.
    """
    # The first import of each writes byte code and fills the page cache.
    import_seconds("acie_pipelines.definitions")
    emit(
        compare(
            lambda: import_seconds("acie_pipelines.definitions"),
            lambda: import_seconds("dagster"),
            name="graph/load code location",
            unit="s",
            peer_name="dagster",
            peer_version=peer_version("dagster"),
            better="less",
            repetitions=repetitions,
        )
    )
    if find_spec("networkx") is not None:
        _causal_graph(emit, repetitions)


def _random_edges() -> NDArray[np.int64]:
    """Edges of a random acyclic graph in random order, causes first."""
    rng = np.random.default_rng(17)
    pairs = np.sort(rng.integers(_NODES, size=(_EDGES + _EDGES // 10, 2)), axis=1)
    pairs = rng.permutation(np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0))[:_EDGES]
    return np.ascontiguousarray(rng.permutation(_NODES)[pairs], dtype=np.int64)


def _causal_graph(emit: Emit, repetitions: int) -> None:
    """Both sides answer from a prepared graph, unless the row says that it is built.

    The back-door peer finds a valid set; ours is minimal too. NetworkX's own search for a minimal
    one, `find_minimal_d_separator`, takes about a minute on this graph.
    """
    import networkx as nx

    from acie_native import CausalDag

    edges = _random_edges()
    ours, theirs = CausalDag(_NODES, edges), nx.DiGraph(edges.tolist())
    order = ours.topological_order()
    x, y = int(order[_NODES // 2]), int(order[3 * _NODES // 4])
    without_effects = theirs.copy()
    without_effects.remove_edges_from([*theirs.out_edges(x)])
    pruned = CausalDag(_NODES, np.array(without_effects.edges, dtype=np.int64))
    found = ours.back_door_set([x], [y])
    if found is None or not nx.is_d_separator(without_effects, {x}, {y}, set(found.tolist())):
        raise AssertionError("the sides disagree")
    blocking = found.tolist()

    def peer_back_door() -> set[int]:
        causes = nx.ancestors(without_effects, x) | nx.ancestors(without_effects, y)
        blockers: set[int] = causes - nx.descendants(theirs, x) - {x, y}
        if not nx.is_d_separator(without_effects, {x}, {y}, blockers):
            raise AssertionError("all of these nodes are observed")
        return blockers

    rows: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {
        "build and sort": (
            lambda: CausalDag(_NODES, edges).topological_order(),
            lambda: list(nx.topological_sort(nx.DiGraph(edges.tolist()))),
        ),
        "sort, ours with the build": (
            lambda: CausalDag(_NODES, edges).topological_order(),
            lambda: list(nx.topological_sort(theirs)),
        ),
        "ancestors": (lambda: ours.ancestors([y]), lambda: nx.ancestors(theirs, y)),
        "descendants": (lambda: ours.descendants([x]), lambda: nx.descendants(theirs, x)),
        "d-separation, separated": (
            lambda: pruned.d_separated([x], [y], blocking),
            lambda: nx.is_d_separator(without_effects, {x}, {y}, set(blocking)),
        ),
        "d-separation, connected": (
            lambda: ours.d_separated([x], [y], blocking),
            lambda: nx.is_d_separator(theirs, {x}, {y}, set(blocking)),
        ),
        "back-door set": (lambda: ours.back_door_set([x], [y]), peer_back_door),
    }
    for name, (mine, peer) in rows.items():
        emit(
            compare(
                _seconds_per_call(mine, _CALLS),
                _seconds_per_call(peer, 1),
                name=f"graph/{name}/{_NODES} nodes {_EDGES} edges",
                unit="s",
                peer_name="networkx",
                peer_version=peer_version("networkx"),
                better="less",
                repetitions=repetitions,
            )
        )


def _seconds_per_call(work: Callable[[], object], calls: int) -> Callable[[], float]:
    def repeat() -> None:
        for _ in range(calls):
            work()

    return lambda: seconds_of(repeat) / calls
