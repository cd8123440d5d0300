"""Families found from rows alone, in worlds where the right one is known."""

from collections.abc import Callable

import pytest
import torch

from acie_pipelines.causal.fitting import FitConfig, Fitter, TensorRows
from acie_pipelines.causal.graph import CausalGraph, Node
from acie_pipelines.causal.interventions import Intervention
from acie_pipelines.causal.kernel_basis import KernelBasis
from acie_pipelines.causal.mechanisms import MechanismConfig
from acie_pipelines.causal.scm import StructuralCausalModel
from acie_pipelines.causal.selection import fit_chosen_families

torch.set_num_threads(1)

WIDE = (-500.0, 500.0)
SHAPE = MechanismConfig(hidden=8, bins=4, points=20)
FIT = FitConfig(max_epochs=12, batch_rows=256)
Equation = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
GRAPH = CausalGraph([Node("x", "", False, WIDE), Node("y", "", False, WIDE, ("x",))])


def draw(equation: Equation, count: int = 3000, seed: int = 0) -> torch.Tensor:
    noise = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
    return torch.stack([noise[:, 0], equation(noise[:, 0], noise[:, 1])], dim=1)


def additive(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return x**2 + 0.5 * u


def bent(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return torch.sinh(1.5 * x + 0.7 * u)


def scaled(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return x + torch.exp(0.8 * x) * u


@pytest.mark.parametrize(
    ("equation", "family"),
    [(additive, "additive"), (bent, "post_nonlinear"), (scaled, "heteroscedastic")],
)
def test_the_family_of_the_equation_is_found(equation: Equation, family: str) -> None:
    rows = draw(equation)
    model = fit_chosen_families(GRAPH, rows[:2400], rows[2400:], SHAPE, FIT)
    assert model.graph.nodes["x"].mechanism == "additive"
    assert model.graph.nodes["y"].mechanism == family
    test = draw(equation, 500, 1)
    assert torch.isfinite(model.log_prob(test)).all()
    answer = model.counterfactual(test, [Intervention("x", "shift", 0.3)])
    noise = torch.randn(500, 2, generator=torch.Generator().manual_seed(1))[:, 1]
    truth = equation(test[:, 0] + 0.3, noise)
    error = (answer[:, 1] - truth).abs().median() / (truth - test[:, 1]).abs().median()
    assert float(error) < 0.15


def test_a_product_is_no_reason_for_a_kernel() -> None:
    # Correlated causes give their product a mean: where no constant takes it up, a kernel does.
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 2, generator=generator, dtype=torch.float64)
    x[:, 1] = torch.tanh(2 * x[:, 0]) + 0.3 * x[:, 1]
    noise = torch.randn(2000, generator=generator, dtype=torch.float64)
    basis = KernelBasis(2, 20)
    basis.maximise_evidence(x, 3.0 + x[:, 0] * x[:, 1] + 0.7 * noise)
    assert float(basis.hyper[2]) == -20.0
    basis = KernelBasis(2, 20)
    basis.maximise_evidence(x, 3.0 + torch.sin(3 * x[:, 0]) + 0.7 * noise)
    assert float(basis.hyper[2]) > -5.0


def test_what_bends_in_one_category_stays_straight_in_another() -> None:
    generator = torch.Generator().manual_seed(1)
    kind = torch.rand(3000, generator=generator) < 0.5
    x = torch.randn(3000, generator=generator, dtype=torch.float64)
    # Hardly any of the straight kind is where the other bends.
    x = torch.where(kind, x, x - 1.5)
    inputs = torch.stack([x, (~kind).double(), kind.double()], dim=1)
    curve = 0.5 * x + torch.where(kind, torch.sin(3 * x), torch.zeros_like(x))
    noise = torch.randn(3000, generator=generator, dtype=torch.float64)
    basis = KernelBasis(3, 40, (False, True, True))
    basis.maximise_evidence(inputs, curve + 0.3 * noise)
    straight, bent = basis.hyper[basis.polynomials : basis.amplitudes].exp()
    assert float(bent) > 3 * float(straight)
    features = torch.cat([basis(inputs), torch.ones(3000, 1, dtype=torch.float64)], dim=1)
    precision = features.T @ features / 0.09 + torch.eye(features.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(precision, features.T @ (curve + 0.3 * noise) / 0.09)
    places = torch.linspace(0.5, 1.5, 50, dtype=torch.float64)
    asked = torch.stack([places, torch.ones_like(places), torch.zeros_like(places)], dim=1)
    found = basis(asked) @ weights[:-1] + weights[-1]
    assert float((found - 0.5 * places).square().mean().sqrt()) < 0.1
    torch.testing.assert_close(basis.project(asked, weights[None, :-1])[:, 0] + weights[-1], found)


def test_categories_keep_their_mechanism() -> None:
    graph = CausalGraph(
        [
            Node("x", "", False, WIDE),
            Node(
                "kind",
                "",
                False,
                (0.0, 1.0),
                ("x",),
                mechanism="categorical",
                categories=("low", "high"),
            ),
        ]
    )
    rows = draw(lambda x, u: (x + u > 0).float(), 800)
    model = fit_chosen_families(graph, rows[:600], rows[600:], SHAPE, FIT)
    assert model.graph.nodes["kind"] == graph.nodes["kind"]
    likelihood = model.node_log_prob(rows[600:], "kind").detach()
    assert float(likelihood.mean()) > -0.6


def test_only_the_named_nodes_are_fitted() -> None:
    rows = draw(additive, 400)
    model = StructuralCausalModel(GRAPH, SHAPE, seed=0)
    fitter = Fitter(model, TensorRows(rows[:300]), TensorRows(rows[300:]), FIT, nodes=["x"])
    before = {k: v.clone() for k, v in model.mechanism("y").state_dict().items()}
    losses = fitter.epoch()
    assert set(losses.train) == set(losses.validation) == {"x"}
    after = model.mechanism("y").state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
