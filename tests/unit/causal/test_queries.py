"""Interventions as text."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acie_pipelines.causal.graph import CausalGraph, Node
from acie_pipelines.causal.interventions import Intervention
from acie_pipelines.causal.queries import parse_interventions
from acie_pipelines.errors import ConfigurationError

GRAPH = CausalGraph(
    [
        Node("mass", "Msun", True, (6.0, 13.0)),
        Node("oxygen", "1e-12", True, (6.0, 10.0), ("mass",)),
        Node("velocity", "km/s", False, (-500.0, 500.0), ("mass",)),
        Node("redshift", "", False, (0.0, 1.0)),
    ]
)


@pytest.mark.parametrize(
    ("text", "node", "kind", "value"),
    [
        ("mass*=2", "mass", "shift", math.log10(2)),
        ("mass=2e10", "mass", "set", math.log10(2e10)),
        (" mass = 2e10 Msun ", "mass", "set", math.log10(2e10)),
        ("mass=10.5 dex", "mass", "set", 10.5),
        ("mass-=0.3 dex", "mass", "shift", -0.3),
        ("oxygen=8.7 dex", "oxygen", "set", 8.7),
        ("oxygen=5e8", "oxygen", "set", math.log10(5e8)),
        ("velocity=-0.2e5 m/s", "velocity", "set", -20.0),
        ("velocity+=30", "velocity", "shift", 30.0),
        ("redshift=.1", "redshift", "set", 0.1),
    ],
)
def test_terms_are_read_in_their_units(text: str, node: str, kind: str, value: float) -> None:
    (found,) = parse_interventions(text, GRAPH)
    assert (found.node, found.kind) == (node, kind)
    assert found.value == pytest.approx(value)


def test_terms_are_separated_by_commas() -> None:
    found = parse_interventions("mass*=10, redshift=0.2", GRAPH)
    assert found == (Intervention("mass", "shift", 1.0), Intervention("redshift", "set", 0.2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "cannot be read"),
        ("mass", "cannot be read"),
        ("mass*=2,", "cannot be read"),
        ("mass=two", "cannot be read"),
        ("luck=1", "unknown"),
        ("mass=-1", "not positive"),
        ("mass=3 km", "does not convert"),
        ("mass=3 parsnips", "does not convert"),
        ("mass*=2 Msun", "a factor has no unit"),
        ("mass+=1e9", "shifted in dex"),
        ("velocity*=2", "only a logarithmic quantity"),
        ("velocity=1 dex", "does not convert"),
        ("mass=1e20", "leaves the support"),
        ("redshift=3", "leaves the support"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parse_interventions(text, GRAPH)


@given(st.floats(6.0, 13.0))
def test_any_value_of_the_support_can_be_written(value: float) -> None:
    (as_dex,) = parse_interventions(f"mass={value!r} dex", GRAPH)
    (as_mass,) = parse_interventions(f"mass={10**value!r}", GRAPH)
    assert as_dex.value == value
    assert as_mass.value == pytest.approx(min(max(value, 6.0), 13.0), rel=1e-12)
