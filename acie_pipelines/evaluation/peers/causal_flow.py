"""Causal normalizing flow: one autoregressive flow masked by the graph.

Belongs here: the abductive model of Javaloy et al. 2023 (arXiv:2306.05415) on zuko, affine.
Does not belong here: other flows; `acie_pipelines.evaluation.peers.causal_spline_flow` is this one
with splines.
"""

from typing import Any, Final

import torch
import zuko
from torch import Tensor

from acie_pipelines.causal.interventions import Intervention
from acie_pipelines.evaluation.counterfactual_problems import Answer, Problem

__all__ = ["DISTRIBUTION", "NAME", "PACKAGE", "fit", "fit_flow"]

NAME: Final = "CausalNF MAF"
DISTRIBUTION: Final = "zuko"
PACKAGE: Final = "zuko"
_EPOCHS: Final = 200
_BATCH: Final = 2048


def fit(problem: Problem, *, seed: int) -> Answer:
    """Train with affine transforms."""
    return fit_flow(problem, seed)


def fit_flow(problem: Problem, seed: int, **univariate: Any) -> Answer:
    """Train with Adam and a cosine learning rate.

    Parameters
    ----------
    problem
        What to learn.
    seed
        Of the weights and the order of rows.
    univariate
        Transform of each variable, as `zuko.flows.MaskedAutoregressiveTransform` takes it.
    """
    names = list(problem.graph.nodes)
    size = len(names)
    adjacency = torch.eye(size, dtype=torch.bool)
    for k, name in enumerate(names):
        for parent in problem.graph.parents(name):
            adjacency[k, names.index(parent)] = True
    mean, spread = problem.train.mean(dim=0), problem.train.std(dim=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        flow = zuko.flows.Flow(
            [
                zuko.flows.MaskedAutoregressiveTransform(
                    size,
                    adjacency=adjacency,
                    hidden_features=[64, 64, 64],
                    activation=torch.nn.ELU,
                    **univariate,
                )
            ],
            zuko.lazy.UnconditionalDistribution(
                zuko.distributions.DiagNormal, torch.zeros(size), torch.ones(size), buffer=True
            ),
        )
        rows = (problem.train - mean) / spread
        steps = _EPOCHS * -(-len(rows) // _BATCH)
        optimiser = torch.optim.Adam(flow.parameters(), 3e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for _ in range(_EPOCHS):
            for chosen in torch.randperm(len(rows)).tensor_split(steps // _EPOCHS):
                loss = -flow().log_prob(rows[chosen]).mean()
                optimiser.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(flow.parameters(), 10.0)
                optimiser.step()
                schedule.step()

    @torch.no_grad()
    def answer(factual: Tensor, do: Intervention) -> Tensor:
        transform = flow().transform
        k = names.index(do.node)
        moved = factual.clone()
        moved[:, k] = do.value if do.kind == "set" else moved[:, k] + do.value
        noise = transform((factual - mean) / spread)
        noise[:, k] = transform((moved - mean) / spread)[:, k]
        found: Tensor = transform.inv(noise) * spread + mean
        return found

    return answer
