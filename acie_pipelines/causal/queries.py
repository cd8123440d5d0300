"""Interventions as text: ``stellar_mass*=2, metallicity=8.9 dex, redshift=0.1``.

Belongs here: the grammar and its units. Does not belong here: what an intervention does.
"""

import math
import re
from difflib import get_close_matches
from typing import Final

from acie_pipelines.causal.graph import CausalGraph, Node
from acie_pipelines.causal.interventions import Intervention
from acie_pipelines.errors import ConfigurationError

__all__ = ["parse_interventions"]

_TERM: Final = re.compile(
    r"(?P<node>\w+)\s*(?P<operator>\*=|\+=|-=|=)\s*"
    r"(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(?P<unit>.*)"
)
_DEX: Final = "dex"


def parse_interventions(text: str, graph: CausalGraph) -> tuple[Intervention, ...]:
    """Parse interventions separated by commas.

    ``node=number unit`` sets a node, ``node+=number unit`` and ``node-=number unit`` shift it, and
    ``node*=factor`` multiplies the quantity behind a logarithmic node. The unit may be any that
    converts to the node's and is the node's own if left out; ``dex`` means that the number is a
    decimal logarithm of the quantity in the node's unit, or a difference of logarithms.

    Raises
    ------
    ConfigurationError
        If a term cannot be read, names no node, has a unit that does not fit, or leaves the
        node's support.
    """
    interventions = []
    for term in text.split(","):
        match = _TERM.fullmatch(term.strip())
        if match is None:
            raise ConfigurationError(
                f"intervention {term.strip()!r}",
                "cannot be read",
                "write it like stellar_mass*=2 or redshift=0.1",
            )
        name = match["node"]
        if name not in graph.nodes:
            raise ConfigurationError(
                f"intervention on {name}",
                "the node is unknown",
                _suggestion(name, graph) + f"choose one of {list(graph.nodes)}",
            )
        found = _intervention(
            graph.nodes[name], match["operator"], float(match["number"]), match["unit"], graph
        )
        found.check(graph)
        interventions.append(found)
    return tuple(interventions)


def _suggestion(name: str, graph: CausalGraph) -> str:
    close = [n for n in graph.nodes if n in name] or get_close_matches(name, graph.nodes, 1)
    return f"did you mean {close[0]}? otherwise " if close else ""


def _intervention(
    node: Node, operator: str, number: float, unit: str, graph: CausalGraph
) -> Intervention:
    if operator == "*=":
        if unit:
            raise _misfit(node, unit, "a factor has no unit")
        return Intervention.scale(node.name, number, graph)
    if operator == "=":
        return Intervention(node.name, "set", _value(node, number, unit))
    if node.log10 and unit != _DEX:
        raise _misfit(node, unit, "a logarithmic node is shifted in dex, or multiplied with *=")
    shift = number if node.log10 else _converted(node, number, unit)
    return Intervention(node.name, "shift", -shift if operator == "-=" else shift)


def _value(node: Node, number: float, unit: str) -> float:
    """Value in the node's own scale."""
    if unit == _DEX and node.log10:
        return number
    quantity = _converted(node, number, unit)
    if not node.log10:
        return quantity
    if quantity <= 0:
        raise ConfigurationError(
            f"intervention on {node.name}",
            f"{number:g} is not positive",
            "choose a positive value",
        )
    return math.log10(quantity)


def _converted(node: Node, number: float, unit: str) -> float:
    import astropy.units as u

    if not unit:
        return number
    try:
        return float((number * u.Unit(unit)).to_value(u.Unit(node.unit)))
    except (ValueError, TypeError) as error:
        raise _misfit(node, unit, "it does not convert to the node's unit") from error


def _misfit(node: Node, unit: str, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"intervention on {node.name}",
        f"the unit {unit!r} does not fit: {reason}",
        f"give the number in {node.unit or 'no unit'}" + (" or in dex" if node.log10 else ""),
    )
