"""Learned mechanisms: their error in the answers, and on the disk."""

import json
from dataclasses import replace

import pytest
import torch

from acie_pipelines.causal.fitting import FitConfig, fit_scm
from acie_pipelines.causal.graph import CausalGraph
from acie_pipelines.causal.interventions import Intervention
from acie_pipelines.causal.mechanisms import MechanismConfig
from acie_pipelines.causal.scm import StructuralCausalModel
from acie_pipelines.errors import ModelError
from acie_pipelines.evaluation.spectral_measures import coverage
from acie_pipelines.models.mechanisms import LearnedMechanisms
from acie_pipelines.simulation.galaxy import QUENCHED, STAR_FORMING, GalaxySCM
from acie_pipelines.training.counterfactual_training import learnable_graph

DOUBLED = Intervention("stellar_mass", "shift", 0.30103)
STATE = "star_formation_state"
SHAPE = MechanismConfig(hidden=8, bins=4, points=20)


def rows(graph: CausalGraph, count: int, seed: int) -> torch.Tensor:
    values = GalaxySCM().sample(count, seed=seed)
    return torch.stack([values[name] for name in graph.nodes], dim=1).float()


@pytest.fixture(scope="module")
def learned() -> LearnedMechanisms:
    graph = CausalGraph(
        node if node.categories else replace(node, mechanism="heteroscedastic")
        for node in learnable_graph().nodes.values()
    )
    table = rows(graph, 1500, 0)
    model = StructuralCausalModel(graph, SHAPE, seed=0)
    fit_scm(model, table[300:], table[:300], FitConfig(max_epochs=10))
    return LearnedMechanisms.of(model.eval(), table[300:], seed=0)


def galaxies(count: int, draws: int) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Galaxies, each so many times, and what they would have been with their state kept."""
    world = GalaxySCM()
    noise = world.draw_noise(count, seed=9)
    values = world.values(noise)
    kept = [
        world.counterfactual(noise, [DOUBLED, Intervention(STATE, "set", state)])
        for state in (STAR_FORMING, QUENCHED)
    ]
    quenched = values[STATE] == QUENCHED
    truth = {name: torch.where(quenched, kept[1][name], kept[0][name]) for name in values}
    return {name: column.repeat(draws) for name, column in values.items()}, truth


def test_answers_spread_by_the_error_of_the_mechanisms(learned: LearnedMechanisms) -> None:
    count, draws = 300, 60
    values, truth = galaxies(count, draws)
    best = LearnedMechanisms(learned.model)
    found: dict[str, dict[str, torch.Tensor]] = {}
    for name, mechanisms in (("varied", learned), ("best", best)):
        answers = {node: column.clone() for node, column in values.items()}
        for state in (STAR_FORMING, QUENCHED):
            part = values[STATE] == state
            held = [DOUBLED, Intervention(STATE, "set", state)]
            some = {node: column[part] for node, column in values.items()}
            for node, column in mechanisms.counterfactual(some, held, seed=1).items():
                answers[node][part] = column
        found[name] = {node: column.view(draws, count) for node, column in answers.items()}
    for node in ("redshift", "environment"):
        assert torch.equal(found["varied"][node], values[node].view(draws, count))
    inside = []
    # Relations that so small a basis can hold; of the others it is the basis that errs.
    for node in ("size", "velocity_dispersion"):
        # Of one galaxy every draw is the same where only the best fit answers.
        assert float(found["best"][node].std(dim=0).max()) < 1e-6
        assert float(found["varied"][node].std(dim=0).min()) > 0
        inside.append(coverage(found["varied"][node], truth[node]))
    assert 0.75 < sum(inside) / len(inside) < 0.99


def test_a_seed_decides_the_answer(learned: LearnedMechanisms) -> None:
    values, _ = galaxies(20, 4)
    one, same, other = (
        learned.counterfactual(values, [DOUBLED], seed=seed)["size"] for seed in (1, 1, 2)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_what_is_taken_as_known_is_named(learned: LearnedMechanisms) -> None:
    assert learned.taken_as_known == {STATE}
    everything = LearnedMechanisms(learned.model).taken_as_known
    assert everything == set(learned.draws) | {STATE}


def test_saved_mechanisms_answer_as_before(learned: LearnedMechanisms) -> None:
    spec, weights = json.dumps(learned.spec()).encode(), learned.weights()
    again = LearnedMechanisms.load(spec, weights)
    values, _ = galaxies(10, 8)
    before, after = (m.counterfactual(values, [DOUBLED], seed=3) for m in (learned, again))
    assert all(torch.equal(before[name], after[name]) for name in before)
    for damaged in (weights[:-200], learned.model.weights(), b""):
        with pytest.raises(ModelError, match="cannot be loaded"):
            LearnedMechanisms.load(spec, damaged)
