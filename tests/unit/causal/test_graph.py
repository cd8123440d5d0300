"""Graph structure, against networkx where it has the same question."""

import copy
import itertools
import pickle

import networkx as nx
import numpy as np
import pytest

from acie_pipelines.causal.graph import CausalGraph, Node, catalogue_graph
from acie_pipelines.causal.identification import Status
from acie_pipelines.errors import ConfigurationError


def node(name: str, *parents: str, latent: bool = False) -> Node:
    return Node(name, "Angstrom", False, (-1.0, 1.0), parents, latent=latent)


def smoking() -> CausalGraph:
    """Pearl's front-door example: tar mediates, a genotype confounds."""
    return CausalGraph(
        [
            node("genotype", latent=True),
            node("smoking", "genotype"),
            node("tar", "smoking"),
            node("cancer", "tar", "genotype"),
        ]
    )


def random_graph(seed: int, size: int = 6) -> CausalGraph:
    rng = np.random.default_rng(seed)
    names = [f"n{k}" for k in range(size)]
    return CausalGraph(
        node(name, *[p for p in names[:k] if rng.random() < 0.4]) for k, name in enumerate(names)
    )


def as_networkx(graph: CausalGraph) -> nx.DiGraph:
    result = nx.DiGraph()
    result.add_nodes_from(graph.nodes)
    result.add_edges_from((p, n) for n in graph.nodes for p in graph.parents(n))
    return result


@pytest.mark.parametrize("seed", range(8))
def test_d_separation_equals_networkx_on_random_graphs(seed: int) -> None:
    graph = random_graph(seed)
    reference = as_networkx(graph)
    names = list(graph.nodes)
    for a, b in itertools.combinations(names, 2):
        rest = [n for n in names if n not in (a, b)]
        for size in range(4):
            for given in itertools.combinations(rest, size):
                expected = nx.is_d_separator(reference, {a}, {b}, set(given))
                assert graph.d_separated([a], [b], given) == expected, (a, b, given)


@pytest.mark.parametrize("seed", range(4))
def test_order_ancestors_and_descendants_equal_networkx(seed: int) -> None:
    graph = random_graph(seed)
    reference = as_networkx(graph)
    position = {name: k for k, name in enumerate(graph.order)}
    for name in graph.nodes:
        assert graph.ancestors(name) == nx.ancestors(reference, name)
        assert graph.descendants(name) == nx.descendants(reference, name)
        assert all(position[p] < position[name] for p in graph.parents(name))


def test_a_cycle_is_refused_and_named() -> None:
    with pytest.raises(ConfigurationError, match=r"cycle: .*a.*b"):
        CausalGraph([node("a", "b"), node("b", "a")])


@pytest.mark.parametrize(
    "nodes",
    [
        [node("a"), node("a")],
        [node("a", "missing")],
        [node("a", "a")],
        [node("a"), node("b", "a", "a")],
        [Node("a", "Angstrom", False, (1.0, 1.0))],
        [Node("a", "Angstrom", False, (0.0, 1.0), softening=-1.0)],
    ],
)
def test_malformed_graphs_are_refused(nodes: list[Node]) -> None:
    with pytest.raises(ConfigurationError):
        CausalGraph(nodes)


@pytest.mark.parametrize("text", ["nodes: [", "nodes: [{name: a}]", "[]", "nodes: 3"])
def test_malformed_yaml_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        CausalGraph.from_yaml(text)


def test_the_shipped_graph_round_trips_and_says_what_it_should() -> None:
    graph = catalogue_graph()
    assert CausalGraph.from_yaml(graph.to_yaml()) == graph
    assert graph.order[0] == "stellar_mass"
    assert graph.descendants("stellar_mass") == set(graph.nodes) - {"stellar_mass"}
    # The doublet law: given one line of the pair, nothing else about the galaxy matters.
    assert graph.d_separated(["n_ii_6548"], ["stellar_mass", "sfr"], ["n_ii_6584"])
    assert not graph.d_separated(["h_alpha"], ["stellar_mass"], ["sfr"])
    assert graph.without_edges().ancestors(*graph.nodes) == frozenset()


def test_smoking_is_identified_by_the_front_door() -> None:
    answer = smoking().identify("smoking", "cancer")
    assert answer.status is Status.FRONT_DOOR and answer.identified
    assert answer.adjustment == ("tar",)
    assert any("but genotype causes" in sentence for sentence in answer.assumptions)
    assert "positivity: every value of tar occurs at every value of smoking" in answer.assumptions
    assert smoking().back_door_set("smoking", "cancer") is None


def test_m_bias_needs_no_adjustment() -> None:
    graph = CausalGraph(
        [
            node("u", latent=True),
            node("v", latent=True),
            node("m", "u", "v"),
            node("x", "u"),
            node("y", "v", "x"),
        ]
    )
    answer = graph.identify("x", "y")
    assert (answer.status, answer.adjustment) == (Status.BACK_DOOR, ())
    assert not graph.d_separated(["x"], ["v"], ["m"])


def test_the_napkin_is_identified_by_neither_criterion() -> None:
    graph = CausalGraph(
        [
            node("u", latent=True),
            node("v", latent=True),
            node("w", "u", "v"),
            node("z", "w"),
            node("x", "z", "u"),
            node("y", "x", "v"),
        ]
    )
    answer = graph.identify("x", "y")
    assert answer.status is Status.NEITHER and not answer.identified
    assert answer.adjustment == ()
    assert not any(sentence.startswith("positivity") for sentence in answer.assumptions)


def test_an_effect_against_the_arrows_is_none() -> None:
    answer = smoking().identify("cancer", "smoking")
    assert (answer.status, answer.adjustment) == (Status.NO_EFFECT, ())


def test_adjustment_is_listed_causes_first_and_survives_a_round_trip() -> None:
    graph = catalogue_graph()
    answer = graph.identify("sfr", "n_ii_6548")
    assert (answer.status, answer.adjustment) == (Status.BACK_DOOR, ("stellar_mass",))
    assert graph.d_separated(["sfr"], ["n_ii_6548"], ["h_alpha", "stellar_mass"])
    restored = CausalGraph.from_yaml(smoking().to_yaml())
    assert restored.latent() == ("genotype",)
    for copied in (restored, copy.deepcopy(smoking()), pickle.loads(pickle.dumps(smoking()))):  # noqa: S301
        assert copied == smoking()
        assert copied.identify("smoking", "cancer") == smoking().identify("smoking", "cancer")


@pytest.mark.parametrize(
    ("treatment", "outcome", "reason"),
    [
        ("genotype", "cancer", "is latent"),
        ("smoking", "smoking", "both treatment and outcome"),
        ("smoking", "age", "is not in the causal graph"),
    ],
)
def test_questions_without_an_answer_are_refused(treatment: str, outcome: str, reason: str) -> None:
    with pytest.raises(ConfigurationError, match=reason):
        smoking().identify(treatment, outcome)


def test_overlapping_sets_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="tar: is in two of the sets"):
        smoking().d_separated(["tar"], ["cancer"], ["tar"])
