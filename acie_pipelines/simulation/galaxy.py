"""The structural causal model of a galaxy, with known mechanisms and noise.

Belongs here: the graph, drawing, abduction, interventions and true counterfactuals.
Does not belong here: the mechanisms' equations (`acie_pipelines.simulation.mechanisms`), or light.

Batches are dictionaries of float64 tensors of shape ``(n,)``, one per node.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final

import torch
from torch import Tensor

from acie_pipelines.causal.graph import CausalGraph, Node
from acie_pipelines.causal.interventions import Intervention
from acie_pipelines.errors import ConfigurationError, ModelError
from acie_pipelines.simulation.mechanisms import CONTINUOUS, quenching_log_odds
from acie_pipelines.simulation.streams import uniforms

__all__ = ["QUENCHED", "STAR_FORMING", "GalaxySCM", "galaxy_graph"]

STAR_FORMING: Final = 0.0
"""Value of ``star_formation_state`` of a galaxy on the main sequence."""

QUENCHED: Final = 1.0
"""Value of ``star_formation_state`` of a galaxy below it."""

_STATE: Final = "star_formation_state"
_NOISE_STREAM: Final = 0
_ABDUCTION_STREAM: Final = 1

_NODES: Final = (
    Node("redshift", "", False, (0.001, 1.0), description="Cosmological redshift"),
    Node("environment", "", True, (-2.0, 3.0), description="Local density over the mean density"),
    Node("stellar_mass", "Msun", True, (7.0, 12.5), ("environment",), description="Stellar mass"),
    Node(
        _STATE,
        "",
        False,
        (STAR_FORMING, QUENCHED),
        ("stellar_mass", "environment"),
        description="0 star-forming, 1 quenched",
    ),
    Node(
        "sfr",
        "Msun/yr",
        True,
        (-6.0, 3.5),
        ("stellar_mass", "redshift", _STATE),
        description="Star formation rate",
    ),
    Node(
        "size",
        "kpc",
        True,
        (-1.5, 2.0),
        ("stellar_mass", "redshift", _STATE),
        description="Effective radius",
    ),
    Node(
        "gas_fraction",
        "",
        False,
        (0.0, 1.0),
        ("sfr", "size", "stellar_mass"),
        share=True,
        description="Cold gas over cold gas and stars",
    ),
    Node(
        "metallicity",
        "1e-12",
        True,
        (6.5, 9.5),
        ("stellar_mass", "sfr"),
        description="Gas-phase O/H by number; the values are 12 + log O/H",
    ),
    Node(
        "attenuation",
        "mag",
        False,
        (0.0, 30.0),
        ("gas_fraction", "stellar_mass", "size", "metallicity"),
        softening=0.01,
        description="A_V of the stars",
    ),
    Node(
        "age",
        "Gyr",
        True,
        (-2.0, 1.14),
        ("sfr", "stellar_mass", "redshift"),
        description="Mass-weighted mean age of the stars",
    ),
    Node(
        "velocity_dispersion",
        "km/s",
        True,
        (0.5, 2.8),
        ("stellar_mass", "size", "gas_fraction"),
        description="Line-of-sight velocity dispersion of stars and gas",
    ),
    Node(
        "black_hole_mass",
        "Msun",
        True,
        (-1.0, 11.0),
        ("velocity_dispersion", _STATE),
        description="Mass of the central black hole",
    ),
    Node(
        "ionisation",
        "dex",
        False,
        (-2.0, 2.0),
        ("sfr", "stellar_mass"),
        description="Log ionisation parameter against its mean at the metallicity",
    ),
)


@cache
def galaxy_graph() -> CausalGraph:
    """Graph of the simulated galaxy.

    The star formation rate causes the gas fraction and not the reverse: gas follows from the
    inverted Kennicutt-Schmidt law, so that the main sequence can be used as it is published.
    """
    return CausalGraph(_NODES)


class GalaxySCM:
    """Galaxies from noise, noise from galaxies, and what a galaxy would have been.

    Notes
    -----
    The noise of every continuous node is standard normal. That of ``star_formation_state`` is
    standard logistic, which is the difference of the two Gumbel noises of a Gumbel-max choice
    between two categories (Maddison et al. 2014, arXiv:1411.0030).
    """

    def __init__(self) -> None:
        self.graph = galaxy_graph()
        self.names = tuple(self.graph.nodes)

    def draw_noise(self, count: int, *, seed: int, start: int = 0) -> dict[str, Tensor]:
        """Exogenous noise of galaxies ``start`` to ``start + count`` of a seed.

        A galaxy depends on the seed and its number only, not on what is drawn with it.
        """
        table = uniforms(seed, _NOISE_STREAM, start, start + count, len(self.names))
        noise = {}
        for k, name in enumerate(self.names):
            column = table[:, k]
            noise[name] = torch.logit(column) if name == _STATE else torch.special.ndtri(column)
        return noise

    def sample(
        self, count: int, *, seed: int, do: Sequence[Intervention] = ()
    ) -> dict[str, Tensor]:
        """Draw galaxies, if asked under interventions."""
        return self.values(self.draw_noise(count, seed=seed), do=do)

    def values(
        self,
        noise: Mapping[str, Tensor],
        *,
        do: Sequence[Intervention] = (),
        factual: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Values from noise, in topological order; differentiable in noise and ``factual``.

        Parameters
        ----------
        noise
            As from `draw_noise`.
        do
            Interventions, at most one per node.
        factual
            Values from which nodes that no intervention reaches are copied, and from which shifted
            nodes are shifted.

        Raises
        ------
        ModelError
            If a node is named twice or noise is missing.
        ConfigurationError
            If an intervention leaves the support of its node.
        """
        targets = self._targets(do)
        missing = [name for name in self.names if name not in noise]
        if missing:
            raise ModelError("noise", f"lacks {missing}", "draw it with draw_noise")
        touched = set(targets) | self.graph.descendants(*targets)
        values: dict[str, Tensor] = {}
        for name in self.graph.order:
            target = targets.get(name)
            if factual is not None and name not in touched:
                values[name] = factual[name]
            elif target is not None and target.kind == "set":
                values[name] = torch.full_like(noise[name], target.value)
            elif target is not None and factual is not None:
                values[name] = factual[name] + target.value
            else:
                values[name] = self._mechanism_value(name, noise[name], values)
                if target is not None:
                    values[name] = values[name] + target.value
        return {name: values[name] for name in self.names}

    def _mechanism_value(self, name: str, noise: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        parents = self._parents(name, noise, values)
        if name == _STATE:
            return (quenching_log_odds(parents) + noise > 0).to(noise.dtype)
        return CONTINUOUS[name].value(noise, parents)

    def _parents(
        self, name: str, like: Tensor, values: Mapping[str, Tensor]
    ) -> Mapping[str, Tensor]:
        # A root's constants take their shape and dtype from its noise.
        return {p: values[p] for p in self.graph.parents(name)} or {name: like}

    def _targets(self, do: Sequence[Intervention]) -> dict[str, Intervention]:
        targets = {intervention.node: intervention for intervention in do}
        if len(targets) != len(do):
            raise ModelError("intervention", "names a node twice", "merge the two")
        for intervention in do:
            intervention.check(self.graph)
            if intervention.node == _STATE and (
                intervention.kind != "set" or intervention.value not in (STAR_FORMING, QUENCHED)
            ):
                raise ConfigurationError(
                    f"intervention on {_STATE}",
                    "only a category can be set",
                    f"set it to {STAR_FORMING:g} (star-forming) or {QUENCHED:g} (quenched)",
                )
        return targets

    def abduct(self, values: Mapping[str, Tensor], *, seed: int) -> dict[str, Tensor]:
        """Noise behind observed galaxies.

        Exact for continuous nodes. A category only bounds its noise, which is drawn from its
        posterior, the logistic distribution cut at the bound.

        Parameters
        ----------
        values
            Values of every node.
        seed
            Of that draw.
        """
        noise: dict[str, Tensor] = {}
        for name in self.names:
            value = values[name]
            parents = self._parents(name, value, values)
            if name == _STATE:
                draw = uniforms(seed, _ABDUCTION_STREAM, 0, value.numel(), 1)[:, 0].to(value)
                star_forming = torch.sigmoid(-quenching_log_odds(parents))
                quantile = torch.where(
                    value > 0.5, star_forming + (1 - star_forming) * draw, star_forming * draw
                )
                noise[name] = torch.logit(quantile)
            else:
                noise[name] = CONTINUOUS[name].noise(value, parents)
        return noise

    def counterfactual(
        self, noise: Mapping[str, Tensor], do: Sequence[Intervention]
    ) -> dict[str, Tensor]:
        """Say what the galaxies with this noise would have been: the truth.

        Parameters
        ----------
        noise
            As drawn, or abducted with `abduct`.
        do
            Interventions. A shift counts from the factual value; nodes that no intervention
            reaches keep their values exactly.
        """
        return self.values(noise, do=do, factual=self.values(noise))
