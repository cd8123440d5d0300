"""Mechanism families against worlds whose counterfactuals have a closed form."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from acie_pipelines.causal.categorical import gumbel, gumbel_posterior
from acie_pipelines.causal.fitting import FitConfig, Fitter, TensorRows, fit_scm
from acie_pipelines.causal.graph import CausalGraph, MechanismFamily, Node
from acie_pipelines.causal.interventions import Intervention
from acie_pipelines.causal.mechanisms import MechanismConfig
from acie_pipelines.causal.scm import StructuralCausalModel
from acie_pipelines.errors import ConfigurationError

torch.set_num_threads(1)

WIDE = (-500.0, 500.0)
SHAPE = MechanismConfig(hidden=8, bins=4, points=20)
FIT = FitConfig(max_epochs=15, batch_rows=256)
KERNELS: tuple[MechanismFamily, ...] = ("additive", "heteroscedastic", "post_nonlinear")
Equation = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def pair(family: MechanismFamily) -> CausalGraph:
    return CausalGraph(
        [
            Node("x", "", False, WIDE, mechanism="additive"),
            Node("y", "", False, WIDE, ("x",), mechanism=family),
        ]
    )


def draw(equation: Equation, count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    noise = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
    return torch.stack([noise[:, 0], equation(noise[:, 0], noise[:, 1])], dim=1), noise[:, 1]


def fitted(
    family: MechanismFamily, equation: Equation, count: int = 2000, seed: int = 0
) -> StructuralCausalModel:
    rows, _ = draw(equation, count, seed)
    model = StructuralCausalModel(pair(family), SHAPE, seed=0)
    held = count // 5
    fit_scm(model, rows[held:], rows[:held], FIT)
    return model


def error(model: StructuralCausalModel, equation: Equation) -> float:
    """Median error over the median change when x grows by a half; tails decide nothing."""
    rows, noise = draw(equation, 1000, 1)
    truth = equation(rows[:, 0] + 0.5, noise)
    answer = model.counterfactual(rows, [Intervention("x", "shift", 0.5)])[:, 1]
    return float((answer - truth).abs().median() / (truth - rows[:, 1]).abs().median())


@pytest.mark.parametrize("family", KERNELS)
def test_linear_gaussian_counterfactuals_are_analytic(family: MechanismFamily) -> None:
    model = fitted(family, lambda x, u: 1.0 + 2.0 * x + 0.7 * u)
    rows, _ = draw(lambda x, u: 1.0 + 2.0 * x + 0.7 * u, 200, 1)
    answer = model.counterfactual(rows, [Intervention("x", "set", 1.0)])
    expected = rows[:, 1] + 2.0 * (1.0 - rows[:, 0])
    assert float((answer[:, 1] - expected).abs().mean()) < 0.06


def multiplicative(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    return torch.exp(0.5 * x + 0.5 * u)


def test_multiplicative_noise_defeats_additive_mechanisms_only() -> None:
    additive, scaled, warped = (
        error(fitted(family, multiplicative, 4000), multiplicative) for family in KERNELS
    )
    assert additive > 2 * max(scaled, warped), (additive, scaled, warped)
    assert max(scaled, warped) < 0.15, (scaled, warped)


def test_tails_of_multiplicative_noise_sharpen_with_rows() -> None:
    # Few rows reach where the change is largest: the error there is that of a finite sample.
    truth, noise = draw(multiplicative, 1000, 1)
    changed = multiplicative(truth[:, 0] + 0.5, noise)

    def tail_error(count: int, seed: int) -> float:
        model = fitted("heteroscedastic", multiplicative, count, seed)
        answer = model.counterfactual(truth, [Intervention("x", "shift", 0.5)])[:, 1]
        change = (changed - truth[:, 1]).square().mean()
        return float(((answer - changed).square().mean() / change).sqrt())

    few, many = (np.mean([tail_error(n, seed) for seed in (11, 12, 13)]) for n in (1000, 8000))
    assert many < 0.8 * few and many < 0.15, (few, many)


@pytest.mark.parametrize("family", [*KERNELS, "spline"])
@pytest.mark.parametrize("cycles", [1, 10])
def test_abduction_is_undone_to_rounding(family: MechanismFamily, cycles: int) -> None:
    model = fitted(family, multiplicative)
    rows, _ = draw(multiplicative, 500, 2)
    there, back = Intervention("x", "shift", 0.25), Intervention("x", "shift", -0.25)
    composed = reversed_ = rows
    for _ in range(cycles):
        composed = model.predict(model.abduct(composed), factual=None)
        reversed_ = model.counterfactual(model.counterfactual(reversed_, [there]), [back])
    spread = rows.std(dim=0)
    assert float(((composed - rows).abs() / spread).max()) < 1e-5
    assert float(((reversed_ - rows).abs() / spread).max()) < 1e-5


def test_causes_of_the_intervened_node_do_not_move() -> None:
    rows, _ = draw(multiplicative, 100, 3)
    answer = fitted("heteroscedastic", multiplicative).counterfactual(
        rows, [Intervention("y", "set", 2.0)]
    )
    assert torch.equal(answer[:, 0], rows[:, 0])
    assert (answer[:, 1] == 2.0).all()


def test_a_resumed_kernel_fit_equals_an_uninterrupted_one() -> None:
    rows, _ = draw(multiplicative, 800, 0)
    sources = TensorRows(rows[:600]), TensorRows(rows[600:])

    def start() -> Fitter:
        graph = pair("heteroscedastic")
        return Fitter(StructuralCausalModel(graph, SHAPE, seed=0), *sources, FIT)

    whole, cut = start(), start()
    for _ in range(5):
        whole.epoch()
    for _ in range(2):
        cut.epoch()
    resumed = start()
    resumed.restore(cut.state())
    for _ in range(3):
        resumed.epoch()
    assert resumed.history == whole.history
    assert resumed.model.weights() == whole.model.weights()


def test_gumbel_posterior_is_consistent_and_has_the_exact_law() -> None:
    probabilities = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    count = 40_000
    logits = probabilities.log().expand(count, -1)
    generator = torch.Generator().manual_seed(0)
    observed = torch.full((count,), 2)
    noise = gumbel_posterior(logits, observed, generator)
    assert torch.equal((logits + noise).argmax(dim=1), observed)
    # Independent reference: rejection sampling from the prior.
    prior = gumbel((400_000, 3), torch.Generator().manual_seed(1))
    kept = prior[(probabilities.log() + prior).argmax(dim=1) == 2]
    other = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64).log()
    for k in range(3):
        exact = float(((other + kept).argmax(dim=1) == k).double().mean())
        found = float(((other + noise).argmax(dim=1) == k).double().mean())
        assert found == pytest.approx(exact, abs=0.01)
    torch.testing.assert_close(noise.mean(dim=0), kept.mean(dim=0), atol=0.03, rtol=0)


def states() -> CausalGraph:
    return CausalGraph(
        [
            Node("mass", "", False, WIDE, mechanism="additive"),
            Node(
                "state",
                "",
                False,
                (0.0, 1.0),
                ("mass",),
                mechanism="categorical",
                categories=("star-forming", "quenched"),
            ),
            Node("rate", "", False, WIDE, ("mass", "state"), mechanism="additive"),
        ]
    )


def test_categories_are_learned_kept_and_set() -> None:
    rng = np.random.default_rng(0)
    mass = rng.normal(size=4000)
    state = (rng.random(4000) < 1 / (1 + np.exp(-2 * mass))).astype(float)
    rate = mass - 3.0 * state + 0.3 * rng.normal(size=4000)
    model = StructuralCausalModel(states(), SHAPE, seed=0)
    rows = model.tensor({"mass": mass, "state": state, "rate": rate})
    fit_scm(model, rows[:3000], rows[3000:], FIT)
    test = rows[3000:]
    same = model.predict(model.abduct(test, seed=5))
    torch.testing.assert_close(same, test, atol=1e-4, rtol=1e-4)
    # More mass only ever quenches, by the stability of the Gumbel-max mechanism.
    heavier = model.counterfactual(test, [Intervention("mass", "shift", 1.0)], seed=1)
    assert (heavier[:, 1] >= test[:, 1]).all() and (heavier[:, 1] > test[:, 1]).any()
    quenched = model.counterfactual(test, [Intervention("state", "set", 1.0)])
    expected = test[:, 2] - 3.0 * (1.0 - test[:, 1])
    assert float((quenched[:, 2] - expected).abs().mean()) < 0.1
    assert torch.equal(quenched[:, 0], test[:, 0])
    for bad in (Intervention("state", "shift", 1.0), Intervention("state", "set", 0.5)):
        with pytest.raises(ConfigurationError):
            model.counterfactual(test, [bad])


@pytest.mark.parametrize(
    "node",
    [
        Node("a", "", False, (0.0, 1.0), mechanism="categorical"),
        Node("a", "", False, (0.0, 1.0), categories=("x", "y")),
        Node("a", "", False, (0.0, 2.0), mechanism="categorical", categories=("x", "y")),
        Node("a", "", False, WIDE, mechanism="nonsense"),  # type: ignore[arg-type]
    ],
)
def test_malformed_mechanisms_are_refused(node: Node) -> None:
    with pytest.raises(ConfigurationError, match="node a"):
        CausalGraph([node])


def test_declared_mechanisms_survive_yaml() -> None:
    assert CausalGraph.from_yaml(states().to_yaml()) == states()
