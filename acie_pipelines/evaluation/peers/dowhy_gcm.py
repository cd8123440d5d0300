"""DoWhy's graphical causal models: mechanisms chosen by its own cross-validation.

Belongs here: this peer. Does not belong here: other regressors.
"""

from typing import Any, Final

import pandas as pd
import torch
from torch import Tensor

from acie_pipelines.causal.interventions import Intervention
from acie_pipelines.evaluation.counterfactual_problems import Answer, Problem

__all__ = ["DISTRIBUTION", "NAME", "PACKAGE", "answer_with", "empty_model", "fit", "frame"]

NAME: Final = "dowhy.gcm auto"
DISTRIBUTION: Final = "dowhy"
PACKAGE: Final = "dowhy"


def frame(problem: Problem, rows: Tensor) -> pd.DataFrame:
    """Rows with named columns."""
    return pd.DataFrame(rows.double().numpy(), columns=list(problem.graph.nodes))


def empty_model(problem: Problem, seed: int) -> Any:
    """Invertible model of the graph without mechanisms.

    Raises
    ------
    ImportError
        If dowhy is not installed.
    """
    import networkx as nx
    from dowhy import gcm

    gcm.config.disable_progress_bars()
    gcm.util.general.set_random_seed(seed)
    graph = nx.DiGraph()
    graph.add_nodes_from(problem.graph.nodes)
    graph.add_edges_from((p, n) for n in problem.graph.nodes for p in problem.graph.parents(n))
    return gcm.InvertibleStructuralCausalModel(graph)


def answer_with(problem: Problem, model: Any) -> Answer:
    """Counterfactuals of a fitted model."""
    from dowhy import gcm

    names = list(problem.graph.nodes)

    def answer(factual: Tensor, do: Intervention) -> Tensor:
        def change(value: float) -> float:
            return do.value if do.kind == "set" else value + do.value

        found = gcm.counterfactual_samples(
            model, {do.node: change}, observed_data=frame(problem, factual)
        )
        return torch.from_numpy(found[names].to_numpy()).float()

    return answer


def fit(problem: Problem, *, seed: int) -> Answer:
    """Assign mechanisms with quality GOOD, and fit them.

    Categories stay numbers: an invertible model of DoWhy abducts no categorical noise.

    Raises
    ------
    ImportError
        If dowhy is not installed.
    """
    model = empty_model(problem, seed)
    from dowhy import gcm

    train = frame(problem, problem.train)
    gcm.auto.assign_causal_mechanisms(model, train, quality=gcm.auto.AssignmentQuality.GOOD)
    gcm.fit(model, train)
    return answer_with(problem, model)
