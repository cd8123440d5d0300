"""The last steps of a fit, on all rows: nearer the truth, and no mechanism but kernels moves."""

from dataclasses import replace

import torch

from acie_pipelines.causal.fitting import FitConfig, fit_scm
from acie_pipelines.causal.graph import CausalGraph, MechanismFamily, Node
from acie_pipelines.causal.interventions import Intervention
from acie_pipelines.causal.mechanisms import MechanismConfig
from acie_pipelines.causal.refitting import refit
from acie_pipelines.causal.scm import StructuralCausalModel

torch.set_num_threads(1)

WIDE = (-500.0, 500.0)
SHAPE = MechanismConfig(hidden=8, bins=4, points=20)
FIT = FitConfig(max_epochs=12, batch_rows=256)
X, Y = Node("x", "", False, WIDE), Node("y", "", False, WIDE, ("x",))


def draw(count: int, seed: int) -> torch.Tensor:
    noise = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
    x = noise[:, 0]
    return torch.stack([x, torch.sin(2 * x) + torch.exp(0.4 * x) * noise[:, 1]], dim=1)


def fitted(family: MechanismFamily, rows: torch.Tensor, judges: int) -> StructuralCausalModel:
    graph = CausalGraph([replace(X, mechanism=family), replace(Y, mechanism=family)])
    model = StructuralCausalModel(graph, SHAPE, seed=0)
    fit_scm(model, rows[judges:], rows[:judges], FIT)
    return model


def error(model: StructuralCausalModel) -> float:
    """RMS error of a counterfactual."""
    test = draw(1000, 999)
    noise = torch.randn(1000, 2, generator=torch.Generator().manual_seed(999))
    moved = test[:, 0] + 0.5
    truth = torch.sin(2 * moved) + torch.exp(0.4 * moved) * noise[:, 1]
    answer = model.counterfactual(test, [Intervention("x", "shift", 0.5)])[:, 1]
    return float((answer - truth).square().mean().sqrt())


def test_more_rows_bring_it_nearer_the_truth() -> None:
    before, after = [], []
    for seed in range(6):
        rows = draw(1200, seed)
        model = fitted("heteroscedastic", rows, 600)
        before.append(error(model))
        likelihood = model.log_prob(rows).mean()
        refit(model, rows, seed=0)
        assert model.log_prob(rows).mean() > likelihood
        after.append(error(model))
    # Twice the rows: the error falls by up to the root of two.
    assert sum(after) < 0.9 * sum(before)


def test_it_ends_at_an_optimum() -> None:
    rows = draw(800, 3)
    model = fitted("additive", rows, 200)
    likelihoods = [float(model.log_prob(rows).sum())]
    for seed in range(2):
        refit(model, rows, seed=seed)
        likelihoods.append(float(model.log_prob(rows).sum()))
    first, second = likelihoods[1] - likelihoods[0], likelihoods[2] - likelihoods[1]
    assert first > 5
    assert abs(second) < 0.2 * first


def test_the_seed_decides() -> None:
    rows = draw(600, 2)
    models = [fitted("heteroscedastic", rows, 200) for _ in range(2)]
    for model in models:
        refit(model, rows, seed=7)
    one, other = (model.state_dict() for model in models)
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_flows_stay_as_validation_rows_judged_them() -> None:
    rows = draw(600, 3)
    model = fitted("spline", rows, 200)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    refit(model, rows, seed=0)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_rows_without_a_cause_or_the_variable_do_not_count() -> None:
    rows = draw(600, 4)
    gaps = torch.tensor([[0.5, float("nan")], [float("nan"), 9.0]])
    whole, gappy = (fitted("additive", rows, 200) for _ in range(2))
    refit(whole, rows, seed=0)
    refit(gappy, torch.cat([rows, gaps]), seed=0)
    one, other = (model.mechanism("y").state_dict() for model in (whole, gappy))
    assert all(torch.equal(one[key], other[key]) for key in one)
