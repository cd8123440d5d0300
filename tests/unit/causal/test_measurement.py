"""Measurement errors: the true slope comes back, missing values do not disturb it."""

import pytest
import torch

from acie_pipelines.causal import measurement
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
    turns: list[tuple[int, int]] = []
    found = fit_with_errors(
        GRAPH,
        train[:2],
        held[:2],
        MechanismConfig(),
        CONFIG,
        rounds=30,
        progress=lambda *turn: turns.append(turn),
    )
    assert turns == [(turn, 30) for turn in range(1, 31)]
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
    drawn = draw_true_values(model, measured, errors, start=measured, seed=0)
    assert torch.equal(drawn.isnan(), measured.isnan())
    assert torch.equal(drawn[:, 1].nan_to_num(), measured[:, 1].nan_to_num())
    assert not torch.equal(drawn[:, 0].nan_to_num(), measured[:, 0].nan_to_num())
    none = torch.zeros_like(errors)
    exact = draw_true_values(model, measured, none, start=measured, seed=0)
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
    drawn = table
    for seed in range(6):
        drawn = draw_true_values(model, table, errors, start=drawn, seed=seed)
    assert float(drawn[:, 0].mean()) == pytest.approx(0.75, abs=0.08)
    assert float(drawn[:, 0].std()) == pytest.approx(0.5**0.5, abs=0.07)


def test_few_candidates_leave_no_trace_of_the_measured_values(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The rate says where the mass is three times better than its measurement does, so that of few
    # candidates about the measured value most lie wrong.
    monkeypatch.setattr(measurement, "_CANDIDATES", 4)
    generator = torch.Generator().manual_seed(3)
    mass = torch.randn(6000, generator=generator)
    rate = SLOPE * mass + SCATTER * torch.randn(6000, generator=generator)
    truth = torch.stack([mass, rate], dim=1)
    model = StructuralCausalModel(GRAPH, MechanismConfig(), seed=0)
    fit_scm(model, truth, truth[:500], FitConfig(max_epochs=10))
    errors = torch.tensor([1.0, 0.0]).expand_as(truth)
    measured = truth + errors * torch.randn(6000, 2, generator=generator)
    precision = 1 + 1 + (SLOPE / SCATTER) ** 2
    mean = (measured[:, 0] + SLOPE / SCATTER**2 * rate) / precision
    drawn = measured
    for seed in range(40):
        drawn = draw_true_values(model, measured, errors, start=drawn, seed=seed)
    off, towards = drawn[:, 0] - mean, measured[:, 0] - mean
    assert float((off * towards).mean() / towards.square().mean()) == pytest.approx(0, abs=0.02)
    assert float(off.std()) == pytest.approx(precision**-0.5, rel=0.1)


def test_impossible_errors_are_refused() -> None:
    measured, errors, _ = rows(20, 3, 0.6, 0.0)
    for wrong in (-errors, torch.full_like(errors, torch.nan), errors[:, :1]):
        with pytest.raises(ModelError, match="measurement error"):
            fit_with_errors(GRAPH, (measured, wrong), (measured, errors), MechanismConfig(), CONFIG)
