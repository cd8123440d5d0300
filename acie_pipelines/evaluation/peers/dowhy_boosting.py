"""DoWhy's additive-noise models on histogram gradient boosting with early stopping.

Belongs here: this peer. Does not belong here: how DoWhy is asked
(`acie_pipelines.evaluation.peers.dowhy_gcm`).
"""

from typing import Final

from acie_pipelines.evaluation.counterfactual_problems import Answer, Problem
from acie_pipelines.evaluation.peers.dowhy_gcm import (
    DISTRIBUTION,
    PACKAGE,
    answer_with,
    empty_model,
    frame,
)

__all__ = ["DISTRIBUTION", "NAME", "PACKAGE", "fit"]

NAME: Final = "dowhy.gcm boosting"


def fit(problem: Problem, *, seed: int) -> Answer:
    """Fit boosted trees to every variable with causes.

    Raises
    ------
    ImportError
        If dowhy is not installed.
    """
    model = empty_model(problem, seed)
    from dowhy import gcm

    for name in problem.graph.nodes:
        if problem.graph.parents(name):
            regressor = gcm.ml.create_hist_gradient_boost_regressor(
                learning_rate=0.03,
                max_iter=2000,
                max_leaf_nodes=15,
                min_samples_leaf=40,
                early_stopping=True,
                n_iter_no_change=30,
                random_state=seed,
            )
            model.set_causal_mechanism(name, gcm.AdditiveNoiseModel(regressor))
        else:
            model.set_causal_mechanism(name, gcm.EmpiricalDistribution())
    gcm.fit(model, frame(problem, problem.train))
    return answer_with(problem, model)
