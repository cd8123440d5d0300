"""Nothing but the intervened variable changes.

Belongs here: this peer. Does not belong here: any model.
"""

from typing import Final

from torch import Tensor

from acie_pipelines.causal.interventions import Intervention
from acie_pipelines.evaluation.counterfactual_problems import Answer, Problem

__all__ = ["DISTRIBUTION", "NAME", "PACKAGE", "fit"]

NAME: Final = "no change"
DISTRIBUTION: Final = "acie"
PACKAGE: Final = "acie_pipelines"


def fit(problem: Problem, *, seed: int) -> Answer:
    """Learn nothing."""
    names = list(problem.graph.nodes)

    def answer(factual: Tensor, do: Intervention) -> Tensor:
        result = factual.clone()
        k = names.index(do.node)
        result[:, k] = do.value if do.kind == "set" else result[:, k] + do.value
        return result

    return answer
