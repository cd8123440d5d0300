"""One conditional neural spline flow per variable, as in a deep structural causal model.

Belongs here: the approach of Pawlowski, Castro and Glocker 2020 (arXiv:2006.06485) on zuko.
Does not belong here: our own mechanisms.
"""

from typing import Final

import torch
import zuko
from torch import Tensor

from acie_pipelines.causal.interventions import Intervention
from acie_pipelines.evaluation.counterfactual_problems import Answer, Problem

__all__ = ["DISTRIBUTION", "NAME", "PACKAGE", "fit"]

NAME: Final = "DeepSCM-like spline flows"
DISTRIBUTION: Final = "zuko"
PACKAGE: Final = "zuko"
_EPOCHS: Final = 60
_BATCH: Final = 1024


def fit(problem: Problem, *, seed: int) -> Answer:
    """Train every variable's flow with Adam and a cosine learning rate."""
    names = list(problem.graph.nodes)
    parents = {n: [names.index(p) for p in problem.graph.parents(n)] for n in names}
    mean, spread = problem.train.mean(dim=0), problem.train.std(dim=0)
    rows = (problem.train - mean) / spread
    flows: dict[str, zuko.flows.NSF] = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for k, name in enumerate(names):
            causes = parents[name]
            flow = zuko.flows.NSF(
                1, context=len(causes), transforms=1, bins=8, hidden_features=[64, 64]
            )
            steps = _EPOCHS * -(-len(rows) // _BATCH)
            optimiser = torch.optim.Adam(flow.parameters(), 5e-3)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
            for _ in range(_EPOCHS):
                for chosen in torch.randperm(len(rows)).tensor_split(steps // _EPOCHS):
                    given = rows[chosen][:, causes] if causes else None
                    loss = -flow(given).log_prob(rows[chosen, k : k + 1]).mean()
                    optimiser.zero_grad()
                    loss.backward()
                    optimiser.step()
                    schedule.step()
            flows[name] = flow

    @torch.no_grad()
    def answer(factual: Tensor, do: Intervention) -> Tensor:
        before = (factual - mean) / spread
        target = names.index(do.node)
        result = factual.clone()
        result[:, target] = do.value if do.kind == "set" else result[:, target] + do.value
        after = (result - mean) / spread
        reached = problem.graph.descendants(do.node)
        for name in problem.graph.order:
            if name in reached:
                k, causes = names.index(name), parents[name]
                noise = flows[name](before[:, causes]).transform(before[:, k : k + 1])
                after[:, k : k + 1] = flows[name](after[:, causes]).transform.inv(noise)
                result[:, k] = after[:, k] * spread[k] + mean[k]
        return result

    return answer
