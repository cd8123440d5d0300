"""What one property of a galaxy does to another, as engines ask it.

Belongs here: the common form of known and learned mechanisms, saving and loading the latter. Does
not belong here: how they are learned (`acie_pipelines.causal.selection`), or spectra.
"""

import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any, Final, Protocol

import torch
from torch import Tensor

from acie_pipelines.causal.interventions import Intervention
from acie_pipelines.causal.scm import StructuralCausalModel
from acie_pipelines.causal.weight_draws import draw_weights, with_weights
from acie_pipelines.errors import ModelError
from acie_pipelines.simulation.galaxy import GalaxySCM
from acie_pipelines.simulation.mechanisms import CONTINUOUS, quenching_log_odds

__all__ = ["LearnedMechanisms", "Mechanisms", "SimulatorMechanisms"]

_STATE: Final = "star_formation_state"
_MEMBERS: Final = 32


class Mechanisms(Protocol):
    """What one property does to another."""

    @property
    def taken_as_known(self) -> frozenset[str]:
        """Nodes whose mechanisms were learned but are answered with as if they had no error."""
        ...

    def counterfactual(
        self, values: Mapping[str, Tensor], do: Sequence[Intervention], *, seed: int
    ) -> dict[str, Tensor]:
        """Say what galaxies with these values would have been."""
        ...

    def tail(self, values: Mapping[str, Tensor], node: str) -> Tensor:
        """Probability of a value of a node at least as odd, given its causes, shape ``(n,)``."""
        ...


class SimulatorMechanisms:
    """The mechanisms that made the simulated galaxies."""

    taken_as_known: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.scm = GalaxySCM()

    def counterfactual(
        self, values: Mapping[str, Tensor], do: Sequence[Intervention], *, seed: int
    ) -> dict[str, Tensor]:
        """Abduct the noise, intervene, predict."""
        noise = self.scm.abduct(values, seed=seed)
        return self.scm.values(noise, do=do, factual=values)

    def tail(self, values: Mapping[str, Tensor], node: str) -> Tensor:
        """Probability of both tails of a continuous node's noise, or of a category."""
        if node == _STATE:
            odds = quenching_log_odds(values)
            return torch.sigmoid(torch.where(values[node] > 0.5, odds, -odds))
        # A root's constants take their shape and dtype from its value.
        causes = values if self.scm.graph.parents(node) else {node: values[node]}
        return _both_tails(CONTINUOUS[node].noise(values[node], causes))


class LearnedMechanisms:
    """Mechanisms fitted to a table of galaxies, and how far they may be off.

    Parameters
    ----------
    model
        On the nodes of the galaxy graph.
    draws
        Node to draws of its mechanism's weights, as many of each, from
        `acie_pipelines.causal.weight_draws.draw_weights`. Each row is answered with one of them, so
        that the draws of a galaxy spread by the error of the mechanisms as well. Without any, all
        rows are answered with the best fit.
    """

    def __init__(
        self, model: StructuralCausalModel, draws: Mapping[str, Tensor] | None = None
    ) -> None:
        self.model, self.draws = model, dict(draws or {})
        count = max((len(drawn) for drawn in self.draws.values()), default=0)
        self._members = [with_weights(model, self.draws, k) for k in range(count)] or [model]

    @property
    def taken_as_known(self) -> frozenset[str]:
        """Nodes with causes of which there are no draws."""
        return frozenset(n for n in self.model.names if self.model.graph.parents(n)) - set(
            self.draws
        )

    @classmethod
    def of(cls, model: StructuralCausalModel, rows: Tensor, *, seed: int) -> "LearnedMechanisms":
        """Find how far a fitted model may be off.

        Parameters
        ----------
        model
            Fitted.
        rows
            That it was fitted to, shape ``(n, nodes)``.
        seed
            Of the draws.
        """
        return cls(model, draw_weights(model, rows, _MEMBERS, seed=seed))

    def counterfactual(
        self, values: Mapping[str, Tensor], do: Sequence[Intervention], *, seed: int
    ) -> dict[str, Tensor]:
        """Abduct the noise, intervene, predict; untouched nodes keep float64 values."""
        batch = torch.stack([values[name] for name in self.model.names], dim=1).float()
        generator = torch.Generator().manual_seed(seed)
        member = torch.randperm(len(batch), generator=generator) % len(self._members)
        found = torch.empty_like(batch)
        for k, model in enumerate(self._members):
            rows = torch.nonzero(member == k)[:, 0]
            found[rows] = model.counterfactual(batch[rows], do, seed=seed + k)
        nodes = [intervention.node for intervention in do]
        touched = set(nodes) | self.model.graph.descendants(*nodes)
        return {
            name: found[:, k].double() if name in touched else values[name]
            for k, name in enumerate(self.model.names)
        }

    @torch.no_grad()
    def tail(self, values: Mapping[str, Tensor], node: str) -> Tensor:
        """Probability of both tails of a continuous node's noise, or of a category."""
        batch = torch.stack([values[name] for name in self.model.names], dim=1).float()
        if self.model.graph.nodes[node].categories:
            return torch.exp(self.model.node_log_prob(batch, node)).double()
        noise = self.model.abduct(batch, only=[node])[:, self.model.noise_columns[node]]
        return _both_tails(noise[:, 0])

    def spec(self) -> dict[str, Any]:
        """Everything but the weights, as JSON values."""
        return self.model.spec()

    def weights(self) -> bytes:
        """Weights and their draws, loadable with ``weights_only=True``."""
        buffer = BytesIO()
        model = torch.frombuffer(bytearray(self.model.weights()), dtype=torch.uint8)
        torch.save({"model": model, "draws": self.draws}, buffer)
        return buffer.getvalue()

    @classmethod
    def load(cls, spec: bytes, weights: bytes) -> "LearnedMechanisms":
        """Build from what `spec` (as JSON) and `weights` gave.

        Raises
        ------
        ModelError
            If either is damaged or they do not belong together.
        """
        try:
            state = torch.load(BytesIO(weights), map_location="cpu", weights_only=True)
            model = StructuralCausalModel.load(spec, state["model"].numpy().tobytes())
            return cls(model, state["draws"])
        except ModelError:
            raise
        except Exception as error:  # a damaged archive can fail in any way
            raise ModelError(
                "mechanisms", f"cannot be loaded ({error})", "train the model again"
            ) from error


def _both_tails(noise: Tensor) -> Tensor:
    """Probability of a standard normal beyond the noise on either side; 0 where there is none."""
    tails: Tensor = torch.special.erfc(noise.abs() / math.sqrt(2)).nan_to_num(nan=0.0)
    return tails
