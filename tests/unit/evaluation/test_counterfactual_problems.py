"""Benchmark problems: their truths, their scores and what the benchmark prints."""

import sys
from pathlib import Path

import pytest
import torch

from acie_pipelines.causal.mechanisms import MechanismConfig
from acie_pipelines.causal.scm import StructuralCausalModel
from acie_pipelines.evaluation import bench_counterfactual
from acie_pipelines.evaluation.bench import Row
from acie_pipelines.evaluation.bench_counterfactual import _installed_peers
from acie_pipelines.evaluation.counterfactual_problems import (
    GALAXY_STATE,
    Answer,
    Problem,
    errors_by_variable,
    galaxy_oracle,
    galaxy_problem,
    mean_distance,
    relative_error,
)
from acie_pipelines.evaluation.measurements import Measurements
from acie_pipelines.evaluation.peers import no_change
from acie_pipelines.evaluation.public_sems import PUBLIC_SEMS, public_problem

torch.set_num_threads(1)


def test_equations_of_triangle_by_hand() -> None:
    noise = torch.tensor([[1.0, 0.5, -2.0]])
    values = PUBLIC_SEMS["triangle-nlin"].values(noise)
    second = 2 * 1.0 + 0.5
    third = 20 / (1 + torch.exp(torch.tensor(1.0 - second**2))) - 2.0
    torch.testing.assert_close(values, torch.tensor([[1.0, second, float(third)]]))
    held = PUBLIC_SEMS["triangle-nlin"].values(noise, (1, 0.0))
    expected = 20 / (1 + torch.exp(torch.tensor(1.0))) - 2.0
    torch.testing.assert_close(held, torch.tensor([[1.0, 0.0, float(expected)]]))


@pytest.mark.parametrize("name", sorted(PUBLIC_SEMS))
def test_truths_move_effects_only(name: str) -> None:
    problem = public_problem(name, 3, train=400, test=50)
    names = list(problem.graph.nodes)
    for do, truth in problem.questions:
        moved = problem.graph.descendants(do.node) | {do.node}
        for k, node in enumerate(names):
            if node not in moved:
                assert torch.equal(truth[:, k], problem.factual[:, k])
        assert (truth[:, names.index(do.node)] == torch.tensor(do.value)).all()
    assert mean_distance(problem, lambda factual, do: dict(problem.questions)[do]) == 0.0


def test_a_held_state_stays_and_decides_the_answer() -> None:
    held = galaxy_problem(7, hold_state=True, train=200, test=400)
    free = galaxy_problem(7, hold_state=False, train=200, test=400)
    state = list(held.graph.nodes).index(GALAXY_STATE)
    assert torch.equal(held.factual, free.factual) and torch.equal(held.train, free.train)
    (do, kept), (_, moved) = held.questions[0], free.questions[0]
    assert torch.equal(kept[:, state], held.factual[:, state])
    flips = moved[:, state] != free.factual[:, state]
    assert 0 < int(flips.sum()) < 200
    assert torch.equal(kept[~flips], moved[~flips])
    assert not torch.equal(kept[flips], moved[flips])
    assert GALAXY_STATE not in held.graph.descendants(do.node)
    assert GALAXY_STATE in free.graph.descendants(do.node)


def test_the_oracle_errs_where_the_state_is_open_only() -> None:
    problem = galaxy_problem(7, hold_state=False, train=200, test=400)
    do, truth = problem.questions[0]
    oracle = galaxy_oracle(problem, seed=0)
    found = oracle(problem.factual, do)
    state = list(problem.graph.nodes).index(GALAXY_STATE)
    same = found[:, state] == truth[:, state]
    torch.testing.assert_close(found[same], truth[same], rtol=1e-3, atol=1e-3)
    assert int((~same).sum()) > 0
    nothing = no_change.fit(problem, seed=0)
    assert 0 < relative_error(problem, oracle) < relative_error(problem, nothing)


def test_a_missing_peer_is_named_and_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "dowhy", None)
    found = [peer.NAME for peer in _installed_peers()]
    assert "no change" in found and not any(name.startswith("dowhy") for name in found)
    message = capsys.readouterr().err
    assert "dowhy.gcm auto is left out: install dowhy with pip install 'acie[peers]'" in message


class _Oracle:
    """Knows every answer, and counts how often it is fitted."""

    NAME, DISTRIBUTION, PACKAGE = "oracle", "acie", "acie_pipelines"

    def __init__(self) -> None:
        self.fits = 0

    def fit(self, problem: Problem, *, seed: int) -> Answer:
        self.fits += 1
        return lambda factual, do: dict(problem.questions).get(do, factual)[: len(factual)]


class _Other(_Oracle):
    NAME = "other"


@pytest.fixture
def oracle(monkeypatch: pytest.MonkeyPatch) -> _Oracle:
    found = _Oracle()
    monkeypatch.setattr(bench_counterfactual, "_Ours", lambda measurements: found)
    monkeypatch.setattr(bench_counterfactual, "_TIMED_ROWS", 50)
    return found


def _rows_of(folder: Path, seeds: tuple[int, ...], *peers: object) -> list[Row]:
    problems = {seed: public_problem("triangle-nlin", seed, train=200, test=50) for seed in seeds}
    rows: list[Row] = []
    bench_counterfactual._scalar_rows(
        problems, mean_distance, "L2", rows.append, list(peers), Measurements(folder), 0.5
    )
    return rows


def test_an_oracle_errs_nowhere_and_no_change_by_what_it_leaves_out(
    oracle: _Oracle, tmp_path: Path
) -> None:
    (row,) = _rows_of(tmp_path, (4, 9), no_change)
    assert row.name == "counterfactual/triangle-nlin/error"
    problems = {seed: public_problem("triangle-nlin", seed, train=200, test=50) for seed in (4, 9)}
    expected = [mean_distance(p, no_change.fit(p, seed=s)) for s, p in problems.items()]
    assert row.ours == 0.0 and row.peer == pytest.approx(sum(expected) / 2)
    assert (row.n, row.floor, row.peer_name, row.goal) == (2, 0.5, "no change", 0.10)
    assert row.peer_spread == pytest.approx(
        abs(expected[0] - expected[1]) / 2**0.5 / (sum(expected) / 2)
    )


def test_an_interrupted_run_ends_with_the_rows_of_an_uninterrupted_one(
    oracle: _Oracle, tmp_path: Path
) -> None:
    whole = _rows_of(tmp_path, (4, 9, 11), no_change, _Other())
    fits = oracle.fits
    path = tmp_path / "measurements.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    # Killed while it wrote its fourth measurement.
    path.write_text("".join(lines[:3]) + lines[3][: len(lines[3]) // 2])
    again = _rows_of(tmp_path, (4, 9, 11), no_change, _Other())
    assert oracle.fits == fits
    assert [row for row in again if row.unit == "L2"] == [row for row in whole if row.unit == "L2"]
    assert len(path.read_text().splitlines()) == len(lines)
    kept = [row for row in again if row.peer_name == "no change"]
    assert kept == [row for row in whole if row.peer_name == "no change"]


def test_error_by_variable_is_that_of_the_questions_that_reach_it() -> None:
    problem = public_problem("simpson-symprod", 3, train=400, test=50)
    truth = dict(problem.questions)
    assert set(errors_by_variable(problem, lambda _, do: truth[do]).values()) == {0.0}
    spread = problem.train.std(dim=0)
    found = errors_by_variable(problem, lambda _, do: truth[do] + spread)
    assert found == pytest.approx(dict.fromkeys(("x1", "x2", "x3"), 1.0), abs=1e-5)


def test_a_held_state_is_asked_of_the_model_of_all_mechanisms() -> None:
    problem = galaxy_problem(7, hold_state=True, train=300, test=40)
    free = galaxy_problem(7, hold_state=False, train=300, test=40)
    model = StructuralCausalModel(free.graph, MechanismConfig(points=8), seed=0)
    answer = bench_counterfactual._answer_with_state_held(model, 0)
    (do, truth), state = problem.questions[0], model.column[GALAXY_STATE]
    found = answer(problem.factual, do)
    assert torch.equal(found[:, state], problem.factual[:, state])
    mass = model.column["stellar_mass"]
    torch.testing.assert_close(found[:, mass], truth[:, mass])
