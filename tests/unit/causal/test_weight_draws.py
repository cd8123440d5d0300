"""The error of learned mechanisms, against least squares and against the truth."""

from collections.abc import Callable

import pytest
import torch

from acie_pipelines.causal.fitting import FitConfig, fit_scm
from acie_pipelines.causal.graph import CausalGraph, MechanismFamily, Node
from acie_pipelines.causal.interventions import Intervention
from acie_pipelines.causal.kernel import KernelMechanism
from acie_pipelines.causal.mechanisms import MechanismConfig
from acie_pipelines.causal.scm import StructuralCausalModel
from acie_pipelines.causal.weight_draws import draw_weights, with_weights
from acie_pipelines.errors import ModelError

WIDE = (-500.0, 500.0)
SHAPE = MechanismConfig(hidden=8, bins=4, points=20)
Equation = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
SHIFT = Intervention("x", "shift", 0.5)


def graph(family: MechanismFamily) -> CausalGraph:
    return CausalGraph(
        [
            Node("x", "", False, WIDE, mechanism="additive"),
            Node("y", "", False, WIDE, ("x",), mechanism=family),
        ]
    )


def world(equation: Equation, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and what they would have been."""
    x, u = torch.randn(2, count, generator=torch.Generator().manual_seed(seed))
    return torch.stack([x, equation(x, u)], 1), torch.stack([x + 0.5, equation(x + 0.5, u)], 1)


def fitted(rows: torch.Tensor, family: MechanismFamily) -> StructuralCausalModel:
    model = StructuralCausalModel(graph(family), SHAPE, seed=0)
    held = len(rows) // 5
    fit_scm(model, rows[held:], rows[:held], FitConfig(max_epochs=15))
    return model.eval()


def answers(
    model: StructuralCausalModel, rows: torch.Tensor, test: torch.Tensor, count: int
) -> torch.Tensor:
    drawn = draw_weights(model, rows, count, seed=1)
    members = (with_weights(model, drawn, k) for k in range(count))
    return torch.stack([member.counterfactual(test, [SHIFT])[:, 1] for member in members])


def parabola(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return 1 + 2 * x + 0.7 * x**2 + 0.5 * u


def test_of_a_parabola_the_error_is_that_of_least_squares() -> None:
    rows, _ = world(parabola, 2000, 0)
    model = fitted(rows, "additive")
    mechanism = model.mechanism("y")
    assert isinstance(mechanism, KernelMechanism) and mechanism.basis is not None
    assert float(mechanism.basis.hyper[2]) == -20.0, "a kernel would add an error of its own"
    x = torch.linspace(-2, 2, 9)
    test = torch.stack([x, parabola(x, torch.zeros(9))], 1)
    spread = answers(model, rows, test, 400).std(dim=0)
    design = torch.stack([torch.ones(len(rows)), rows[:, 0], rows[:, 0] ** 2], 1).double()
    covariance = 0.25 * torch.linalg.inv(design.T @ design)
    change = torch.stack([torch.zeros(9), torch.full((9,), 0.5), (x + 0.5) ** 2 - x**2], 1).double()
    expected = torch.einsum("ni,ij,nj->n", change, covariance, change).sqrt()
    torch.testing.assert_close(spread.double(), expected, rtol=0.15, atol=0)


def wave(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return torch.sin(2 * x) + 0.3 * torch.exp(0.4 * x) * u


def lifted(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return torch.exp(0.5 * torch.tanh(x) + 0.3 * u)


@pytest.mark.parametrize(
    ("equation", "family"), [(wave, "heteroscedastic"), (lifted, "post_nonlinear")]
)
def test_intervals_hold_the_truth(equation: Equation, family: MechanismFamily) -> None:
    shares = []
    for seed in range(8):
        rows, _ = world(equation, 1500, seed)
        test, truth = world(equation, 300, seed + 100)
        low, high = answers(fitted(rows, family), rows, test, 39).sort(dim=0).values[[1, -2]]
        shares.append(((truth[:, 1] >= low) & (truth[:, 1] <= high)).double().mean())
    # One function a seed: its errors go together, so that the share scatters. At the axis of the
    # fit alone, six in ten of the second would be held.
    assert 0.68 < float(torch.stack(shares).mean()) < 0.99


def test_more_rows_leave_less_error_and_the_edge_of_the_data_more() -> None:
    test = torch.tensor([[0.0, 0.0], [2.5, 0.0]])
    spreads = []
    for count in (500, 4500):
        rows, _ = world(parabola, count, 3)
        spreads.append(answers(fitted(rows, "additive"), rows, test, 100).std(dim=0))
    assert float(spreads[0][0] / spreads[1][0]) == pytest.approx(3, rel=0.4)
    assert all(float(edge) > 1.5 * float(middle) for middle, edge in spreads)


def test_draws_leave_the_model_as_it_is() -> None:
    rows, _ = world(wave, 400, 0)
    model = fitted(rows, "heteroscedastic")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    drawn = draw_weights(model, rows, 2, seed=1)
    assert set(drawn) == {"y"} and len(drawn["y"]) == 2
    one = with_weights(model, drawn, 1)
    assert torch.equal(one.mechanism("y").vector, drawn["y"][1])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    again = draw_weights(model, rows, 2, seed=1)
    assert torch.equal(again["y"], drawn["y"])
    assert not torch.equal(draw_weights(model, rows, 2, seed=2)["y"], drawn["y"])
    # Abduction with a draw is undone with the same draw.
    noise = one.abduct(rows)
    torch.testing.assert_close(one.predict(noise), rows, rtol=1e-5, atol=1e-5)


def test_draws_of_another_model_are_refused() -> None:
    rows, _ = world(wave, 400, 0)
    drawn = draw_weights(fitted(rows, "heteroscedastic"), rows, 1, seed=1)
    with pytest.raises(ModelError, match="draws of other weights"):
        with_weights(fitted(rows, "additive"), drawn, 0)
