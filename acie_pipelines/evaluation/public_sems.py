"""Published structural equations with known counterfactuals.

Belongs here: the equations, noise and protocol of Javaloy, Sanchez-Martin and Valera 2023 ("Causal
normalizing flows: from theory to practice", arXiv:2306.05415), after the authors' repository
psanch21/causal-flows. Does not belong here: other problems or any model.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import softplus

from acie_pipelines.causal.graph import CausalGraph, Node
from acie_pipelines.causal.interventions import Intervention
from acie_pipelines.evaluation.counterfactual_problems import Problem

__all__ = ["PUBLIC_SEMS", "PublicSEM", "public_problem"]

_PERCENTILES: Final = (25, 50, 75)
_WIDE: Final = (-1e6, 1e6)

Equation = Callable[[list[Tensor], Tensor], Tensor]


@dataclass(frozen=True)
class PublicSEM:
    """Equations of one system.

    Attributes
    ----------
    parents
        Indices of the causes of each variable.
    equations
        Each variable from all earlier ones and its noise.
    intervened
        Indices of the variables that are set.
    last_noise_is_uniform
        Whether the last noise is uniform on (0, 1); all others are standard normal.
    """

    parents: tuple[tuple[int, ...], ...]
    equations: tuple[Equation, ...]
    intervened: tuple[int, ...]
    last_noise_is_uniform: bool = False

    def draw_noise(self, count: int, generator: torch.Generator) -> Tensor:
        """Exogenous noise, shape ``(count, variables)``."""
        noise = torch.randn(count, len(self.parents), generator=generator)
        if self.last_noise_is_uniform:
            noise[:, -1] = torch.rand(count, generator=generator).clamp(1e-4, 1 - 1e-4)
        return noise

    def values(self, noise: Tensor, do: tuple[int, float] | None = None) -> Tensor:
        """Variables from noise, one of them set if asked."""
        values: list[Tensor] = []
        for k, equation in enumerate(self.equations):
            if do is not None and do[0] == k:
                values.append(torch.full_like(noise[:, k], do[1]))
            else:
                values.append(equation(values, noise[:, k]))
        return torch.stack(values, dim=1)


def _layer(x: Tensor, u: Tensor | float) -> Tensor:
    return softplus(x + 1) + softplus(0.5 + torch.as_tensor(u)) - 3.0


def _laplace(location: Tensor, scale: float, u: Tensor) -> Tensor:
    centred = u - 0.5
    return location - scale * centred.sign() * torch.log1p(-2 * centred.abs())


PUBLIC_SEMS: Final = {
    "triangle-nlin": PublicSEM(
        ((), (0,), (0, 1)),
        (
            lambda x, u: u,
            lambda x, u: 2 * x[0] ** 2 + u,
            lambda x, u: 20 / (1 + torch.exp(x[0] - x[1] ** 2)) + u,
        ),
        (0, 1),
    ),
    "simpson-symprod": PublicSEM(
        ((), (0,), (0, 1), (0,)),
        (
            lambda x, u: u,
            lambda x, u: 2 * torch.tanh(2 * x[0]) + u / 10**0.5,
            lambda x, u: 0.5 * x[0] * x[1] + u / 2**0.5,
            lambda x, u: torch.tanh(1.5 * x[0]) + 0.3**0.5 * u,
        ),
        (0, 1, 2),
    ),
    "largebd-nlin": PublicSEM(
        ((), (0,), (0,), (1,), (2,), (3,), (4,), (5,), (6, 7)),
        (
            lambda x, u: softplus(1.8 * u) - 1,
            lambda x, u: 0.25 * u + 1.5 * _layer(x[0], 0.0),
            lambda x, u: _layer(x[0], u),
            lambda x, u: _layer(x[1], u),
            lambda x, u: _layer(x[2], u),
            lambda x, u: _layer(x[3], u),
            lambda x, u: _layer(x[4], u),
            lambda x, u: 0.3 * u + softplus(x[5] + 1) - 1,
            lambda x, u: _laplace(2 - softplus((1.3 * x[6] + x[7]) / 3 + 1), 0.6, u),
        ),
        (0, 1, 2, 4),
        last_noise_is_uniform=True,
    ),
}


def public_problem(name: str, seed: int, *, train: int = 20_000, test: int = 2_500) -> Problem:
    """One system as a problem: variables are set to their training percentiles.

    Parameters
    ----------
    name
        Key of `PUBLIC_SEMS`.
    seed
        Of all draws.
    train, test
        Rows.
    """
    sem = PUBLIC_SEMS[name]
    generator = torch.Generator().manual_seed(seed)
    learned = sem.values(sem.draw_noise(train, generator))
    noise = sem.draw_noise(test, generator)
    graph = CausalGraph(
        Node(f"x{k}", "", False, _WIDE, tuple(f"x{p}" for p in parents))
        for k, parents in enumerate(sem.parents)
    )
    questions = []
    for k in sem.intervened:
        for percentile in _PERCENTILES:
            value = float(np.round(np.percentile(learned[:, k].numpy(), percentile), 2))
            questions.append((Intervention(f"x{k}", "set", value), sem.values(noise, (k, value))))
    return Problem(name, graph, learned, sem.values(noise), tuple(questions))
