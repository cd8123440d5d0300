"""Shared monotone curves, and what is built on them, against independent implementations."""

from functools import cache

import pytest
import torch
import zuko
from torch import Tensor

from acie_pipelines.causal.fitting import FitConfig, fit_scm
from acie_pipelines.causal.graph import CausalGraph, MechanismFamily, Node
from acie_pipelines.causal.interventions import Intervention
from acie_pipelines.causal.kernel import KernelMechanism
from acie_pipelines.causal.mechanisms import MechanismConfig
from acie_pipelines.causal.newton import NewtonTrainer
from acie_pipelines.causal.scm import StructuralCausalModel
from acie_pipelines.causal.splines import SharedSpline

torch.set_num_threads(1)

PIECES = 5
WIDE = (-500.0, 500.0)
KERNELS: tuple[MechanismFamily, ...] = ("additive", "heteroscedastic", "post_nonlinear")


def normal(*shape: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def reference(free: Tensor) -> zuko.transforms.MonotonicRQSTransform:
    return zuko.transforms.MonotonicRQSTransform(*free.split([PIECES, PIECES, PIECES - 1], -1))


def test_a_shared_curve_is_that_of_zuko_and_is_undone() -> None:
    free, x = 2 * normal(3 * PIECES - 1, seed=0), 4 * normal(2000, seed=1)
    x[:4] = torch.tensor([-5.0, 5.0, -5.0 - 1e-12, 400.0])
    curve, other = SharedSpline(free, PIECES), reference(free)
    y, log_slope = curve(x)
    expected = other.call_and_ladj(x)
    torch.testing.assert_close((y, log_slope), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(curve.inverse(x), other.inv(x), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(curve.inverse(y), x, rtol=1e-11, atol=1e-11)
    assert torch.equal(y[x.abs() > 5], x[x.abs() > 5])


def test_scores_of_free_numbers_are_those_of_every_row_differentiated_alone() -> None:
    free, x = normal(3 * PIECES - 1, seed=2), 4 * normal(300, seed=3)
    curve = SharedSpline(free, PIECES)
    y, log_slope, ends = curve.traced(x)
    (by_ends,) = torch.autograd.grad((log_slope - y.square()).sum(), ends)
    each = free.expand(300, -1).clone().requires_grad_()
    y, log_slope = reference(each).call_and_ladj(x)
    (expected,) = torch.autograd.grad((log_slope - y.square()).sum(), each)
    torch.testing.assert_close(curve.free_scores(x, by_ends), expected.T)


def graph(family: MechanismFamily) -> CausalGraph:
    return CausalGraph(
        [
            Node("x", "", False, WIDE, mechanism="additive"),
            Node(
                "kind",
                "",
                False,
                (0.0, 1.0),
                ("x",),
                mechanism="categorical",
                categories=("low", "high"),
            ),
            Node("y", "", False, WIDE, ("x", "kind"), mechanism=family),
            Node("z", "", False, WIDE, ("y",), mechanism="spline"),
        ]
    )


def rows(count: int, seed: int) -> Tensor:
    u = normal(count, 4, seed=seed)
    kind = (u[:, 0] + u[:, 1] > 0).double()
    y = torch.sinh(u[:, 0] * (1 + kind) + torch.exp(0.4 * u[:, 0]) * u[:, 2])
    return torch.stack([u[:, 0], kind, y, torch.tanh(y) + 0.1 * u[:, 3]], dim=1).float()


@cache
def fitted(family: MechanismFamily) -> StructuralCausalModel:
    model = StructuralCausalModel(graph(family), MechanismConfig(8, PIECES, 30), seed=0)
    data = rows(800, 4)
    fit_scm(model, data[:600], data[600:], FitConfig(max_epochs=3))
    return model


@pytest.mark.parametrize("family", KERNELS)
def test_counterfactuals_are_abduction_and_prediction_even_where_values_lack(
    family: MechanismFamily,
) -> None:
    model, data = fitted(family), rows(400, 5)
    data[::7, 1], data[::11, 2], data[::13, 0] = torch.nan, torch.nan, torch.nan
    for do in ([Intervention("x", "shift", 0.4)], [Intervention("kind", "set", 1.0)]):
        answer = model.counterfactual(data, do, seed=3)
        expected = model.predict(model.abduct(data, seed=3), do=do, factual=data)
        torch.testing.assert_close(answer, expected, rtol=1e-6, atol=1e-6, equal_nan=True)
        assert torch.isfinite(answer).any(dim=0).all()


@pytest.mark.parametrize("family", KERNELS)
def test_location_and_scale_are_weighted_features(family: MechanismFamily) -> None:
    mechanism, parents = fitted(family).mechanism("y"), rows(5000, 6)[:, :2]
    assert isinstance(mechanism, KernelMechanism)
    assert mechanism.basis is not None and mechanism.weights is not None
    inputs = mechanism.inputs(parents).double()
    expected = mechanism.basis(inputs) @ mechanism.weights.T
    found = mechanism.basis.project(inputs, mechanism.weights)
    torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("family", KERNELS)
def test_scores_of_constants_are_those_of_every_row_differentiated_alone(
    family: MechanismFamily,
) -> None:
    mechanism = fitted(family).mechanism("y")
    assert isinstance(mechanism, KernelMechanism)
    z, place, log_scale = normal(200, seed=7), normal(200, seed=8), 0.3 * normal(200, seed=9)
    values, scores = NewtonTrainer(mechanism, 0)._scores(z, place, log_scale)
    free = mechanism.constants.detach()[2:]
    each = torch.cat([torch.stack([place, log_scale], 1), free.expand(200, -1)], 1)
    each = each.requires_grad_()
    pieces = 3 * PIECES - 1
    bounds = 6 * torch.tanh(each[:, 1] / 6)
    total = -bounds
    if family == "post_nonlinear":
        z, slope = reference(each[:, 2 + pieces :]).call_and_ladj(z)
        total = total + slope
    u, slope = reference(each[:, 2 : 2 + pieces]).call_and_ladj((z - each[:, 0]) / bounds.exp())
    total = total + slope + torch.distributions.Normal(0, 1).log_prob(u)
    (expected,) = torch.autograd.grad(total.sum(), each)
    torch.testing.assert_close(values, total.detach())
    torch.testing.assert_close(scores, expected.T)
