"""Counterfactual questions whose true answers are known.

Belongs here: the common form of such a problem, its scores, our model of it, and the simulated
galaxy as one.
Does not belong here: the published equations (`acie_pipelines.evaluation.public_sems`), models.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import torch
from torch import Tensor

from acie_pipelines.causal.fitting import FitConfig
from acie_pipelines.causal.graph import CausalGraph
from acie_pipelines.causal.interventions import Intervention
from acie_pipelines.causal.mechanisms import MechanismConfig
from acie_pipelines.causal.refitting import refit
from acie_pipelines.causal.scm import StructuralCausalModel
from acie_pipelines.causal.selection import fit_chosen_families
from acie_pipelines.simulation.galaxy import QUENCHED, STAR_FORMING, GalaxySCM

__all__ = [
    "GALAXY_STATE",
    "Answer",
    "Problem",
    "Score",
    "errors_by_variable",
    "fit_problem",
    "galaxy_oracle",
    "galaxy_problem",
    "mean_distance",
    "relative_error",
]

Answer = Callable[[Tensor, Intervention], Tensor]
"""Counterfactual of factual rows, shape ``(n, nodes)`` both, under one intervention."""

GALAXY_STATE: Final = "star_formation_state"
"""The categorical node of the simulated galaxy."""

_STATES: Final = ("star-forming", "quenched")
_MAX_EPOCHS: Final = 40
_VALIDATION_FRACTION: Final = 0.1
# Held-out galaxies come from another stream than training ones.
_TEST_SEED_OFFSET: Final = 1_000_003


@dataclass(frozen=True)
class Problem:
    """Rows to learn from, and questions with their true answers.

    Attributes
    ----------
    name
        Identifier.
    graph
        Variables, causes and declared mechanisms.
    train
        Shape ``(n, nodes)``, columns in the graph's node order.
    factual
        Held-out rows, shape ``(m, nodes)``.
    questions
        Interventions with the truth about `factual` under each, shape ``(m, nodes)``.
    """

    name: str
    graph: CausalGraph
    train: Tensor
    factual: Tensor
    questions: tuple[tuple[Intervention, Tensor], ...]


Score = Callable[[Problem, Answer], float]
"""Error of an answer."""


def fit_problem(problem: Problem, *, seed: int) -> StructuralCausalModel:
    """Fit a structural causal model to the training rows, some of which choose its families."""
    judges = int(len(problem.train) * _VALIDATION_FRACTION)
    model = fit_chosen_families(
        problem.graph,
        problem.train[judges:],
        problem.train[:judges],
        MechanismConfig(),
        FitConfig(seed=seed, max_epochs=_MAX_EPOCHS),
    )
    refit(model, problem.train, seed=seed)
    return model


def mean_distance(problem: Problem, answer: Answer) -> float:
    """Mean over questions and rows of the Euclidean distance between answer and truth."""
    errors = [
        (answer(problem.factual, do) - truth).square().sum(dim=1).sqrt().mean()
        for do, truth in problem.questions
    ]
    return float(torch.stack(errors).mean())


def relative_error(problem: Problem, answer: Answer) -> float:
    """RMS error over the standard deviation of each effect, mean over effects and questions.

    Categorical effects have no standard deviation worth the name and are left out.
    """
    names, scores = list(problem.graph.nodes), []
    for do, truth in problem.questions:
        error = _column_errors(problem, answer, do, truth)
        effects = [
            names.index(name)
            for name in problem.graph.descendants(do.node)
            if not problem.graph.nodes[name].categories
        ]
        scores.append(error[effects].mean())
    return float(torch.stack(scores).mean())


def errors_by_variable(problem: Problem, answer: Answer) -> dict[str, float]:
    """RMS error of each variable over its standard deviation, mean over questions.

    Only continuous variables that at least one question reaches; questions that do not reach a
    variable are left out of its mean.
    """
    names = list(problem.graph.nodes)
    found: dict[str, list[float]] = {}
    for do, truth in problem.questions:
        error = _column_errors(problem, answer, do, truth)
        for name in sorted(problem.graph.descendants(do.node), key=names.index):
            if not problem.graph.nodes[name].categories:
                found.setdefault(name, []).append(float(error[names.index(name)]))
    return {name: sum(errors) / len(errors) for name, errors in found.items()}


def _column_errors(problem: Problem, answer: Answer, do: Intervention, truth: Tensor) -> Tensor:
    error = (answer(problem.factual, do) - truth).square().mean(dim=0).sqrt()
    return error / problem.train.std(dim=0)


def galaxy_problem(
    seed: int, *, hold_state: bool, train: int = 10_000, test: int = 2_000
) -> Problem:
    """Doubled stellar mass of simulated galaxies.

    Parameters
    ----------
    seed
        Of all draws.
    hold_state
        Whether every galaxy also keeps its star-formation state. That intervention cuts what
        causes the state, so the problem's graph is without those edges, and the truth is
        determined by the galaxy. Otherwise the state may change, as the noise behind it says: an
        observed category only bounds that noise, and `galaxy_oracle` says how well one can answer.
    train, test
        Galaxies to learn from, and to ask about.
    """
    world, state = GalaxySCM(), GALAXY_STATE
    graph = _galaxy_problem_graph(world.graph, hold_state)
    do = Intervention.scale("stellar_mass", 2.0, graph)
    noise = world.draw_noise(test, seed=seed + _TEST_SEED_OFFSET)
    factual = world.values(noise)
    truth = world.counterfactual(noise, [do])
    if hold_state:
        kept = [
            world.counterfactual(noise, [do, Intervention(state, "set", value)])
            for value in (STAR_FORMING, QUENCHED)
        ]
        quenched = factual[state] == QUENCHED
        truth = {n: torch.where(quenched, kept[1][n], kept[0][n]) for n in graph.nodes}
    learned = _rows(world.sample(train, seed=seed), graph)
    name = "galaxy" if hold_state else "galaxy-states"
    return Problem(name, graph, learned, _rows(factual, graph), ((do, _rows(truth, graph)),))


def galaxy_oracle(problem: Problem, *, seed: int) -> Answer:
    """Answer with the true mechanisms, and a draw of the noise that the state leaves open.

    Parameters
    ----------
    problem
        As from `galaxy_problem` without a held state.
    seed
        Of the draw.
    """
    world, names = GalaxySCM(), list(problem.graph.nodes)

    def answer(factual: Tensor, do: Intervention) -> Tensor:
        values = {name: factual[:, k].double() for k, name in enumerate(names)}
        found = world.values(world.abduct(values, seed=seed), do=[do], factual=values)
        return _rows(found, problem.graph)

    return answer


def _rows(values: dict[str, Tensor], graph: CausalGraph) -> Tensor:
    return torch.stack([values[name] for name in graph.nodes], dim=1).float()


def _galaxy_problem_graph(graph: CausalGraph, hold_state: bool) -> CausalGraph:
    state = replace(
        graph.nodes[GALAXY_STATE],
        mechanism="categorical",
        categories=_STATES,
        parents=() if hold_state else graph.parents(GALAXY_STATE),
    )
    return CausalGraph(state if n == GALAXY_STATE else node for n, node in graph.nodes.items())
