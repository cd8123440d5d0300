"""Counterfactuals against the truth, and against what a researcher would use otherwise.

Belongs here: the ``counterfactual`` benchmark: its order, and the rows about variables.
Does not belong here: the problems (`acie_pipelines.evaluation.counterfactual_problems`,
`acie_pipelines.evaluation.public_sems`), values with errors
(`acie_pipelines.evaluation.measured_table`), spectra
(`acie_pipelines.evaluation.counterfactual_spectra`), fine-tuning
(`acie_pipelines.evaluation.fine_tuning_proof`), stamps
(`acie_pipelines.evaluation.galaxy_images`), figures
(`acie_pipelines.evaluation.counterfactual_figures`) or the peers
(`acie_pipelines.evaluation.peers`).

Both sides see the same rows and the same questions, seed by seed. Errors are means over seeds. What
is measured is kept in a folder, so that an interrupted run goes on where it stopped.
"""

import sys
import time
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import fmean
from tempfile import TemporaryDirectory
from typing import Final, Protocol

import torch
from torch import Tensor

from acie_pipelines.causal.interventions import Intervention
from acie_pipelines.causal.scm import StructuralCausalModel
from acie_pipelines.evaluation import (
    counterfactual_figures,
    counterfactual_spectra,
    fine_tuning_proof,
    galaxy_images,
    measured_table,
)
from acie_pipelines.evaluation.bench import Emit, Row, peer_version
from acie_pipelines.evaluation.counterfactual_problems import (
    GALAXY_STATE,
    Answer,
    Problem,
    Score,
    errors_by_variable,
    fit_problem,
    galaxy_oracle,
    galaxy_problem,
    mean_distance,
    relative_error,
)
from acie_pipelines.evaluation.measurements import Measured, Measurements, mean_and_spread
from acie_pipelines.evaluation.public_sems import PUBLIC_SEMS, public_problem
from acie_pipelines.evaluation.spectral_models import fit_mechanisms, learned_mechanisms
from acie_pipelines.evaluation.spectral_sources import MECHANISM_SOURCES
from acie_pipelines.simulation.galaxy import QUENCHED, STAR_FORMING

__all__ = ["run"]

_PEERS: Final = (
    "no_change",
    "causal_flow",
    "causal_spline_flow",
    "spline_scm",
    "dowhy_gcm",
    "dowhy_boosting",
)
# Sources that decide what each side finds. The graph of the galaxy is part of the question.
_OURS: Final = MECHANISM_SOURCES
_THEIRS: Final = ("simulation/galaxy.py", "simulation/mechanisms.py", "evaluation/peers")
_GALAXIES: Final = ("galaxy", "galaxy-states")
_TIMED_ROWS: Final = 10_000
_TIMED_REPETITIONS: Final = 5
_GOALS: Final = {
    ("triangle-nlin", "error"): 0.10,
    ("simpson-symprod", "error"): 0.05,
    ("largebd-nlin", "error"): 0.012,
    ("galaxy", "error"): 0.02,
    ("galaxy", "fit"): 60.0,
    ("galaxy", "answer 10k"): 0.1,
}


class _Peer(Protocol):
    """A module of `acie_pipelines.evaluation.peers`."""

    NAME: str
    DISTRIBUTION: str
    PACKAGE: str

    def fit(self, problem: Problem, *, seed: int) -> Answer:
        """Learn a problem's training rows."""
        ...


class _Ours:
    """Our own side, which keeps its fitted models."""

    NAME = "acie"
    DISTRIBUTION = "acie"
    PACKAGE = "acie_pipelines"

    def __init__(self, measurements: Measurements) -> None:
        self.measurements = measurements

    def fit(self, problem: Problem, *, seed: int) -> Answer:
        """Fit a structural causal model whose mechanism families are chosen from the rows.

        Galaxies whose state is held are asked about with a model of all mechanisms, that of the
        state included, which is kept for those whose state is free and for their spectra.
        """
        if problem.name not in _GALAXIES:
            return _answer_with(fit_problem(problem, seed=seed), seed)
        if problem.name == "galaxy-states":
            kept = learned_mechanisms(self.measurements, seed)
            return _answer_with(kept.model, seed)
        fitted = fit_mechanisms(self.measurements, seed)
        return _answer_with_state_held(fitted.model, seed)


def _answer_with(model: StructuralCausalModel, seed: int) -> Answer:
    def answer(factual: Tensor, do: Intervention) -> Tensor:
        return model.counterfactual(factual, [do], seed=seed)

    return answer


def _answer_with_state_held(model: StructuralCausalModel, seed: int) -> Answer:
    def answer(factual: Tensor, do: Intervention) -> Tensor:
        found = factual.clone()
        for state in (STAR_FORMING, QUENCHED):
            rows = factual[:, model.column[GALAXY_STATE]] == state
            held = Intervention(GALAXY_STATE, "set", state)
            found[rows] = model.counterfactual(factual[rows], [do, held], seed=seed)
        return found

    return answer


def run(emit: Emit, *, seeds: int = 5, first_seed: int = 0, out: Path | None = None) -> None:
    """Measure everything.

    Parameters
    ----------
    emit
        Called with each row.
    seeds
        Repetitions, each with its own data and initial weights.
    first_seed
        Seed of the first repetition; the others follow it.
    out
        Folder of measurements, models and figures; what it holds already is not measured again.
        Without one, nothing is kept.
    """
    if out is None:
        with TemporaryDirectory() as folder:
            _run(emit, Measurements(Path(folder)), range(first_seed, first_seed + seeds))
        return
    measurements = Measurements(out)
    numbers = range(first_seed, first_seed + seeds)
    _run(emit, measurements, numbers)
    counterfactual_figures.write(measurements, numbers)


def _run(emit: Emit, measurements: Measurements, seeds: range) -> None:
    peers = list(_installed_peers())
    for name in PUBLIC_SEMS:
        problems = {seed: public_problem(name, seed) for seed in seeds}
        _scalar_rows(problems, mean_distance, "L2", emit, peers, measurements)
    problems = {seed: galaxy_problem(seed, hold_state=True) for seed in seeds}
    _scalar_rows(problems, relative_error, "sd", emit, peers, measurements)
    problems = {seed: galaxy_problem(seed, hold_state=False) for seed in seeds}
    floor = fmean(
        relative_error(problem, galaxy_oracle(problem, seed=seed))
        for seed, problem in problems.items()
    )
    # Without a state that is held, no answer is certain: only the bounds are worth a comparison.
    bounds = [peer for peer in peers if peer.NAME == "no change"]
    _scalar_rows(problems, relative_error, "sd", emit, bounds, measurements, floor)
    measured_table.run(emit, measurements, seeds)
    counterfactual_spectra.run(emit, measurements, seeds)
    fine_tuning_proof.run(emit, measurements, seeds)
    galaxy_images.run(emit, measurements, seeds)


def _scalar_rows(
    problems: dict[int, Problem],
    score: Score,
    unit: str,
    emit: Emit,
    peers: list["_Peer"],
    measurements: Measurements,
    floor: float | None = None,
) -> None:
    """Rows of one problem: error, fit and answer time, against every peer."""
    name = next(iter(problems.values())).name
    ours = _sides(_Ours(measurements), _OURS, problems, score, measurements)
    for peer in peers:
        theirs = _sides(peer, _THEIRS, problems, score, measurements)
        measures = (
            ("error", unit),
            ("fit", "s"),
            ("fit, processor", "s"),
            ("answer 10k", "s"),
        )
        for measure, measured_unit in measures[: 1 if peer.NAME == "no change" else None]:
            mine, spread = mean_and_spread([m.values[measure] for m in ours])
            other, peer_spread = mean_and_spread([m.values[measure] for m in theirs])
            least = floor if measure == "error" else None
            emit(
                Row(
                    f"counterfactual/{name}/{measure}",
                    mine,
                    other,
                    other / mine if mine else float("inf"),
                    measured_unit,
                    len(ours),
                    spread,
                    peer.NAME,
                    peer_version(peer.DISTRIBUTION),
                    least,
                    least / mine if least is not None and mine else None,
                    len(theirs),
                    peer_spread,
                    _GOALS.get((name, measure)),
                )
            )


def _sides(
    side: "_Peer | _Ours",
    sources: tuple[str, ...],
    problems: dict[int, Problem],
    score: Score,
    measurements: Measurements,
) -> list[Measured]:
    """Measurements of one side, seed by seed."""
    return [
        measurements.measure(
            problem.name,
            side.NAME,
            seed,
            partial(_measure, side, problem, score, seed),
            depends_on=sources,
        )
        for seed, problem in problems.items()
    ]


def _measure(side: "_Peer | _Ours", problem: Problem, score: Score, seed: int) -> Measured:
    start, processor = time.perf_counter(), time.process_time()
    answer = side.fit(problem, seed=seed)
    values = {
        "fit": time.perf_counter() - start,
        "fit, processor": time.process_time() - processor,
    }
    values["error"] = score(problem, answer)
    for name, error in errors_by_variable(problem, answer).items():
        values[f"error of {name}"] = error
    repeats = -(-_TIMED_ROWS // len(problem.factual))
    many = problem.factual.repeat(repeats, 1)[:_TIMED_ROWS]
    times = []
    for _ in range(_TIMED_REPETITIONS):
        start = time.perf_counter()
        answer(many, problem.questions[0][0])
        times.append(time.perf_counter() - start)
    values["answer 10k"] = float(torch.tensor(times).median())
    return Measured(values)


def _installed_peers() -> Iterator["_Peer"]:
    for name in _PEERS:
        module = import_module(f"acie_pipelines.evaluation.peers.{name}")
        try:
            import_module(module.PACKAGE)
        except ImportError:
            sys.stderr.write(
                f"{module.NAME} is left out: install {module.PACKAGE} with pip install "
                "'acie[peers]'\n"
            )
            continue
        yield module
