"""Measurement errors: the true slope comes back, missing values do not disturb it."""

import pytest
import torch

from acie_pipelines.causal.fitting import FitConfig, fit_scm
from acie_pipelines.causal.graph import CausalGraph, Node
from acie_pipelines.causal.interventions import Intervention
from acie_pipelines.causal.measurement import draw_true_values, fit_with_errors
from acie_pipelines.causal.mechanisms import MechanismConfig
from acie_pipelines.causal.scm import StructuralCausalModel
from acie_pipelines.errors import ModelError

SLOPE, SCATTER = 0.8, 0.3
GRAPH = CausalGraph(
    [
        Node("mass", "", False, (-20.0, 20.0), mechanism="additive"),
        Node("rate", "", False, (-20.0, 20.0), ("mass",), mechanism="additive"),
    ]
)
CONFIG = FitConfig(max_epochs=6, patience=3)


def rows(count: int, seed: int, error: float, missing: float) -> tuple[torch.Tensor, ...]:
    """Measured values, their errors, and the truth; errors differ from row to row."""
    generator = torch.Generator().manual_seed(seed)
    mass = torch.randn(count, generator=generator)
    rate = SLOPE * mass + SCATTER * torch.randn(count, generator=generator)
    truth = torch.stack([mass, rate], dim=1)
    errors = torch.zeros(count, 2)
    errors[:, 0] = error * (0.5 + torch.rand(count, generator=generator))
    measured = truth + errors * torch.randn(count, 2, generator=generator)
    measured[torch.rand(count, 2, generator=generator) < missing] = torch.nan
    return measured, errors, truth


def slope(model: StructuralCausalModel) -> float:
    """Effect of one unit of mass on the rate, around the mean."""
    batch = torch.stack([torch.linspace(-1, 0, 50), torch.zeros(50)], dim=1)
    changed = model.counterfactual(batch, [Intervention("mass", "shift", 1.0)])
    return float((changed - batch)[:, 1].mean())


@pytest.mark.slow
def test_the_true_slope_is_recovered_with_values_missing() -> None:
    train = rows(800, 1, 0.6, 0.1)
    held = rows(300, 2, 0.6, 0.1)
    ignoring = StructuralCausalModel(GRAPH, MechanismConfig(), seed=0)
    fit_scm(ignoring, train[0], held[0], CONFIG)
    found = fit_with_errors(GRAPH, train[:2], held[:2], MechanismConfig(), CONFIG, rounds=7)
    # Attenuation by 1 / (1 + 0.6^2 x 13 / 12).
    assert slope(ignoring) == pytest.approx(SLOPE / 1.39, abs=0.07)
    assert slope(found) == pytest.approx(SLOPE, abs=0.08)
    noise = found.abduct(train[2])[:, 1]
    wide = ignoring.abduct(train[2])[:, 1]
    # The scatter about the relation is the true one: noise of true rows is standard normal.
    assert abs(float(noise.std()) - 1) < 0.7 * abs(float(wide.std()) - 1)


def test_exact_and_missing_values_stay() -> None:
    measured, errors, _ = rows(200, 3, 0.6, 0.2)
    model = StructuralCausalModel(GRAPH, MechanismConfig(), seed=0)
    fit_scm(model, measured, measured, FitConfig(max_epochs=3))
    drawn = draw_true_values(model, measured, errors, seed=0)
    assert torch.equal(drawn.isnan(), measured.isnan())
    assert torch.equal(drawn[:, 1].nan_to_num(), measured[:, 1].nan_to_num())
    assert not torch.equal(drawn[:, 0].nan_to_num(), measured[:, 0].nan_to_num())
    exact = draw_true_values(model, measured, torch.zeros_like(errors), seed=0)
    assert torch.equal(exact.nan_to_num(), measured.nan_to_num())


def test_draws_follow_the_posterior_of_a_normal() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(4000, generator=generator)
    table = torch.stack([truth, torch.full_like(truth, torch.nan)], dim=1)
    rate = SLOPE * truth + SCATTER * torch.randn(4000, generator=generator)
    whole = torch.stack([truth, rate], dim=1)
    model = StructuralCausalModel(GRAPH, MechanismConfig(), seed=0)
    fit_scm(model, whole, whole[:500], FitConfig(max_epochs=10))
    table[:, 0] = 1.5  # measured with error 1: posterior mean 0.75, variance 0.5
    errors = torch.tensor([1.0, 0.0]).expand_as(table)
    drawn = draw_true_values(model, table, errors, seed=4)[:, 0]
    assert float(drawn.mean()) == pytest.approx(0.75, abs=0.08)
    assert float(drawn.std()) == pytest.approx(0.5**0.5, abs=0.07)


def test_impossible_errors_are_refused() -> None:
    measured, errors, _ = rows(20, 3, 0.6, 0.0)
    for wrong in (-errors, torch.full_like(errors, torch.nan), errors[:, :1]):
        with pytest.raises(ModelError, match="measurement error"):
            fit_with_errors(GRAPH, (measured, wrong), (measured, errors), MechanismConfig(), CONFIG)
