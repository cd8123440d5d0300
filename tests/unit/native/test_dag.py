"""Causal-graph solver against NetworkX and against the definitions, path by path."""

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acie_native import CausalDag, CycleError

Subset = tuple[int, ...]


def dag(nodes: int, edges: list[tuple[int, int]]) -> CausalDag:
    return CausalDag(nodes, np.array(edges, dtype=np.int64).reshape(-1, 2))


def digraph(nodes: int, edges: list[tuple[int, int]]) -> nx.DiGraph:
    graph = nx.DiGraph()
    graph.add_nodes_from(range(nodes))
    graph.add_edges_from(edges)
    return graph


@st.composite
def graphs(draw: st.DrawFn, most: int = 12) -> tuple[int, list[tuple[int, int]]]:
    nodes = draw(st.integers(2, most))
    names = draw(st.permutations(range(nodes)))
    pairs = list(itertools.combinations(range(nodes), 2))
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=3 * nodes))
    return nodes, [(names[a], names[b]) for a, b in chosen]


@st.composite
def questions(
    draw: st.DrawFn, most: int = 12
) -> tuple[int, list[tuple[int, int]], Subset, Subset, Subset]:
    """A graph and three disjoint sets of its nodes, the first two not empty."""
    nodes, edges = draw(graphs(most))
    roles = draw(st.lists(st.sampled_from("xyz-"), min_size=nodes, max_size=nodes))
    x_node, y_node = draw(st.permutations(range(nodes)))[:2]
    roles[x_node], roles[y_node] = "x", "y"
    x, y, z = (tuple(v for v in range(nodes) if roles[v] == role) for role in "xyz")
    return nodes, edges, x, y, z


@given(graphs())
def test_order_and_reach_equal_networkx(graph: tuple[int, list[tuple[int, int]]]) -> None:
    ours, theirs = dag(*graph), digraph(*graph)
    position = {v: k for k, v in enumerate(ours.topological_order().tolist())}
    assert sorted(position) == list(range(graph[0]))
    assert all(position[a] < position[b] for a, b in graph[1])
    for v in range(graph[0]):
        assert set(np.flatnonzero(ours.ancestors([v]))) == nx.ancestors(theirs, v) | {v}
        assert set(np.flatnonzero(ours.descendants([v]))) == nx.descendants(theirs, v) | {v}


@settings(max_examples=400)
@given(questions())
def test_d_separation_equals_networkx(
    question: tuple[int, list[tuple[int, int]], Subset, Subset, Subset],
) -> None:
    nodes, edges, x, y, z = question
    expected = nx.is_d_separator(digraph(nodes, edges), set(x), set(y), set(z))
    assert dag(nodes, edges).d_separated(x, y, z) == expected


def open_paths(graph: nx.DiGraph, start: int, goal: int, observed: Subset) -> Iterator[list[int]]:
    """Every path that the observed nodes leave open, by the definition of d-separation."""
    opened = set(observed).union(*(nx.ancestors(graph, v) for v in observed))
    for path in nx.all_simple_paths(graph.to_undirected(), start, goal):
        inner = zip(path, path[1:], path[2:], strict=False)
        if all(
            v in opened if graph.has_edge(a, v) and graph.has_edge(b, v) else v not in observed
            for a, v, b in inner
        ):
            yield path


def begins_with_arrow_into_start(graph: nx.DiGraph, path: list[int]) -> bool:
    return bool(graph.has_edge(path[1], path[0]))


def satisfies_back_door(graph: nx.DiGraph, x: int, y: int, z: Subset) -> bool:
    return not nx.descendants(graph, x) & set(z) and not any(
        begins_with_arrow_into_start(graph, path) for path in open_paths(graph, x, y, z)
    )


def satisfies_front_door(graph: nx.DiGraph, x: int, y: int, z: Subset) -> bool:
    if any(not set(path) & set(z) for path in nx.all_simple_paths(graph, x, y)):
        return False
    for m in z:
        into_x = (begins_with_arrow_into_start(graph, p) for p in open_paths(graph, x, m, ()))
        if any(into_x):
            return False
        # Between members of Z only the last one on a path to y counts.
        if any(
            begins_with_arrow_into_start(graph, p) and not leaves_member(graph, p, z)
            for p in open_paths(graph, m, y, (x,))
        ):
            return False
    return True


def leaves_member(graph: nx.DiGraph, path: list[int], z: Subset) -> bool:
    """Whether the path uses an edge out of a member of z after its start."""
    return any(
        (a in z and graph.has_edge(a, b)) or (b in z and graph.has_edge(b, a))
        for a, b in itertools.pairwise(path)
    )


def subsets(nodes: list[int]) -> list[Subset]:
    return [s for size in range(len(nodes) + 1) for s in itertools.combinations(nodes, size)]


def check_adjustment(
    nodes: int, edges: list[tuple[int, int]], x: int, y: int, hidden: Subset
) -> tuple[bool, bool]:
    """Compare criteria and searches with the definitions; say which kinds of set exist."""
    graph, ours = digraph(nodes, edges), dag(nodes, edges)
    candidates = subsets([v for v in range(nodes) if v not in (x, y, *hidden)])
    exists = []
    for holds, criterion, search in (
        (satisfies_back_door, ours.is_back_door_set, ours.back_door_set),
        (satisfies_front_door, ours.is_front_door_set, ours.front_door_set),
    ):
        valid = [set(z) for z in candidates if holds(graph, x, y, z)]
        assert [set(z) for z in candidates if criterion([x], [y], z)] == valid
        found = search([x], [y], excluded=hidden)
        exists.append(bool(valid))
        if found is None:
            assert not valid
        else:
            assert set(found.tolist()) in valid
            assert not any(z < set(found.tolist()) for z in valid)
    return exists[0], exists[1]


@settings(max_examples=300, deadline=None)
@given(graphs(most=6), st.data())
def test_adjustment_sets_satisfy_the_definitions_and_are_minimal(
    graph: tuple[int, list[tuple[int, int]]], data: st.DataObject
) -> None:
    x, y, *others = data.draw(st.permutations(range(graph[0])))
    hidden = data.draw(st.sets(st.sampled_from(others)) if others else st.just(set()))
    check_adjustment(*graph, x, y, tuple(hidden))


@pytest.mark.parametrize("seed", range(60))
def test_front_door_sets_of_confounded_mediators(seed: int) -> None:
    """Hidden 0 confounds 1 and 6, so that only sets of mediators can be valid."""
    rng = np.random.default_rng(seed)
    pairs = [p for p in itertools.combinations(range(1, 7), 2) if p != (1, 6)]
    edges = [(0, 1), (0, 6), *[p for p in pairs if rng.random() < 0.35]]
    back, _ = check_adjustment(7, edges, 1, 6, (0,))
    assert not back


@pytest.mark.parametrize(
    ("nodes", "edges", "hidden", "back", "front"),
    [
        # A fork: x 0, y 1, confounder 2.
        (3, [(2, 0), (2, 1), (0, 1)], (), [2], None),
        # M-bias: 2 is a collider of hidden 3 and 4.
        (5, [(3, 0), (3, 2), (4, 2), (4, 1), (0, 1)], (3, 4), [], None),
        # Smoking: mediator 2, hidden confounder 3.
        (4, [(0, 2), (2, 1), (3, 0), (3, 1)], (3,), None, [2]),
        # A confounded mediator ends the front door.
        (5, [(0, 2), (2, 1), (3, 0), (3, 1), (4, 0), (4, 2)], (3, 4), None, None),
        # Napkin: w 2, z 3, hidden 4 and 5.
        (6, [(4, 2), (5, 2), (2, 3), (3, 0), (4, 0), (0, 1), (5, 1)], (4, 5), None, None),
        # No effect: the empty set is a front-door set.
        (3, [(2, 0), (2, 1)], (2,), None, []),
    ],
)
def test_textbook_graphs(
    nodes: int,
    edges: list[tuple[int, int]],
    hidden: Subset,
    back: list[int] | None,
    front: list[int] | None,
) -> None:
    graph = dag(nodes, edges)
    answers = [
        search([0], [1], excluded=hidden) for search in (graph.back_door_set, graph.front_door_set)
    ]
    assert [None if found is None else found.tolist() for found in answers] == [back, front]


def sparse(nodes: int, edges: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    pairs = np.sort(rng.integers(nodes, size=(edges, 2)), axis=1)
    pairs = np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)
    return np.ascontiguousarray(rng.permutation(nodes)[pairs])


def test_large_graph_equals_networkx() -> None:
    edges = sparse(400, 1600, seed=3)
    ours, theirs = CausalDag(400, edges), nx.DiGraph(edges.tolist())
    order = ours.topological_order()
    found = 0
    for x, y in zip(order[40:80], order[-40:], strict=True):
        cut = theirs.copy()
        cut.remove_edges_from([*theirs.out_edges(x)])
        allowed = set(theirs) - nx.descendants(theirs, x) - {x, y}
        expected = nx.find_minimal_d_separator(cut, x, y, restricted=allowed)
        ours_found = ours.back_door_set([x], [y])
        assert (ours_found is None) == (expected is None)
        if ours_found is not None and expected is not None:
            found += len(expected) > 0
            assert nx.is_minimal_d_separator(cut, x, y, set(ours_found.tolist()))
            assert ours.is_back_door_set([x], [y], ours_found)
    assert found > 5


def test_many_questions_from_many_threads() -> None:
    edges = sparse(300, 900, seed=5)
    graph = CausalDag(300, edges)
    rng = np.random.default_rng(6)
    queries = []
    for _ in range(400):
        chosen = rng.permutation(300)[: rng.integers(2, 30)]
        queries.append((chosen[:1], chosen[1:2], chosen[2:]))
    one_by_one = [graph.d_separated(*query) for query in queries]
    assert 50 < sum(one_by_one) < 350
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(
            lambda threads: graph.d_separated_each(queries, threads=threads), [0, 1, 2, 7] * 4
        )
    for each in answers:
        assert each.tolist() == one_by_one
    assert graph.d_separated_each([]).tolist() == []


def test_cycles_are_named() -> None:
    edges = [(0, 1), (1, 2), (2, 3), (3, 1), (3, 4), (4, 5)]
    with pytest.raises(CycleError, match=r"cycle: \d → \d → \d → \d") as caught:
        dag(6, edges)
    cycle = caught.value.nodes
    assert set(cycle) == {1, 2, 3}
    assert all(pair in edges for pair in itertools.pairwise((*cycle, cycle[0])))


@pytest.mark.parametrize(
    ("nodes", "edges", "message"),
    [
        (2, [(0, 2)], "edge 0 names a node that does not exist"),
        (2, [(0, 1), (-1, 0)], "edge 1 names a node that does not exist"),
        (2, [(0, 1), (1, 1)], "edge 1 joins a node to itself"),
        (3, [(0, 1), (1, 2), (0, 1)], "edge 2 repeats an earlier one"),
        (-1, [], "n_nodes must be between"),
        (1 << 40, [], "n_nodes must be between"),
    ],
)
def test_what_is_no_graph_is_refused(
    nodes: int, edges: list[tuple[int, int]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        dag(nodes, edges)


@pytest.mark.parametrize(
    "edges",
    [
        [[0, 1]],
        np.zeros((1, 2), dtype=np.int32),
        np.zeros((1, 3), dtype=np.int64),
        np.zeros(2, dtype=np.int64),
        np.array([[0, 1], [1, 2]])[:, ::-1],
    ],
)
def test_edges_of_another_form_are_refused(edges: object) -> None:
    with pytest.raises(ValueError, match="edges must"):
        CausalDag(3, edges)  # type: ignore[arg-type]


def test_sets_are_checked() -> None:
    graph = dag(3, [(0, 1), (1, 2)])
    with pytest.raises(ValueError, match="there is no node 3"):
        graph.ancestors([3])
    with pytest.raises(ValueError, match="there is no node -1"):
        graph.d_separated([0], [-1], [])
    with pytest.raises(ValueError, match="node 1 is in two of the sets"):
        graph.d_separated([0, 1], [2], [1])
    with pytest.raises(ValueError, match="node 0 is in two of the sets"):
        graph.back_door_set([0], [0])
    with pytest.raises(ValueError, match="at least one node"):
        graph.front_door_set([], [0])
    with pytest.raises(ValueError, match="there is no node 9"):
        graph.back_door_set([0], [2], excluded=[9])
    for bad in (np.zeros((1, 1), dtype=np.int64), np.zeros(1), [0.5], ["a"]):
        with pytest.raises(ValueError, match="one-dimensional and integer"):
            graph.descendants(bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="threads"):
        graph.d_separated_each([], threads=-1)


def test_empty_graphs_and_sets() -> None:
    empty = dag(0, [])
    assert empty.topological_order().tolist() == []
    assert empty.ancestors([]).tolist() == []
    pair = dag(2, [])
    assert pair.d_separated([], [1], [])
    assert pair.d_separated([0], [1], [])
    assert pair.ancestors([]).tolist() == [False, False]
    assert pair.descendants(np.array([1], dtype=np.uint8)).tolist() == [False, True]
