"""Causal normalizing flow with rational-quadratic splines.

Belongs here: this peer. Does not belong here: how it is trained
(`acie_pipelines.evaluation.peers.causal_flow`).
"""

from typing import Final

import zuko

from acie_pipelines.evaluation.counterfactual_problems import Answer, Problem
from acie_pipelines.evaluation.peers.causal_flow import DISTRIBUTION, PACKAGE, fit_flow

__all__ = ["DISTRIBUTION", "NAME", "PACKAGE", "fit"]

NAME: Final = "CausalNF NSF"
_BINS: Final = 8


def fit(problem: Problem, *, seed: int) -> Answer:
    """Train with splines of eight pieces."""
    return fit_flow(
        problem,
        seed,
        univariate=zuko.transforms.MonotonicRQSTransform,
        shapes=[(_BINS,), (_BINS,), (_BINS - 1,)],
    )
