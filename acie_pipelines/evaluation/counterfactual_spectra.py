"""The benchmark of counterfactual spectra of simulated galaxies whose truth is known.

Belongs here: its run, goals and rows. Does not belong here: what is measured
(`acie_pipelines.evaluation.spectral_measurements`), problems, models, peers.

The question is doubled stellar mass with the star formation state held: a state that changes is
decided by noise that no spectrum shows. The natural question, where it may change, is scored by
coverage. Every seed has its own galaxies; the amortised posterior, which depends on none of them,
is trained once.

A typical error is the median over galaxies, an error their root mean square. Beside it stands, as
its floor, the error that the posterior expects: what spectra leave open, no method can know.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from statistics import fmean
from typing import Final

import torch

from acie_pipelines.evaluation.bench import Emit, Row, peer_version
from acie_pipelines.evaluation.measurements import Measured, Measurements, mean_and_spread
from acie_pipelines.evaluation.spectral_measurements import (
    CYCLES,
    DRAWS,
    GALAXIES,
    measure_cycles,
    measure_departure,
    measure_known,
    measure_peer,
    measure_ranks,
    measure_speed,
)
from acie_pipelines.evaluation.spectral_measures import p_values_of_ranks
from acie_pipelines.evaluation.spectral_models import learned_mechanisms, trained_posterior
from acie_pipelines.evaluation.spectral_peers import SPECTRAL_PEERS
from acie_pipelines.evaluation.spectral_sources import PEER_SOURCES, SOURCES
from acie_pipelines.models.posterior import AmortisedPosterior
from acie_pipelines.simulation.presets import DEPARTURES

__all__ = ["calibration_seeds", "run"]

# Simulation-based calibration: so many blocks of galaxies.
_CALIBRATION_BLOCKS: Final = 10
_CALIBRATION_SEED: Final = 40_000

_GOALS: Final = {
    "known mechanisms/typical error": ("sigma/px", 0.1),
    "known mechanisms/error": ("sigma/px", 0.1),
    "learned mechanisms/typical error": ("sigma/px", 0.3),
    "learned mechanisms/error": ("sigma/px", 0.3),
    "composition, 1 cycle": ("sigma/px", 0.1),
    f"composition, {CYCLES} cycles": ("sigma/px", 0.1),
    "reversibility, 1 cycle": ("sigma/px", 0.1),
    f"reversibility, {CYCLES} cycles": ("sigma/px", 0.1),
    "abducted anew/composition, 1 cycle": ("sigma/px", 0.1),
    f"abducted anew/composition, {CYCLES} cycles": ("sigma/px", 0.1),
    "abducted anew/reversibility, 1 cycle": ("sigma/px", 0.1),
    f"abducted anew/reversibility, {CYCLES} cycles": ("sigma/px", 0.1),
    "scalars/composition, 1 cycle": ("", 1e-5),
    f"scalars/composition, {CYCLES} cycles": ("", 1e-5),
    "scalars/reversibility, 1 cycle": ("", 1e-5),
    f"scalars/reversibility, {CYCLES} cycles": ("", 1e-5),
    "known mechanisms, sure/error": ("sigma/px", 0.1),
    "known mechanisms, light known/error": ("sigma/px", 0.1),
    "do nothing/error": ("sigma/px", 0.1),
    "coverage of pixels, off 0.9": ("", 0.02),
    "coverage of latents, off 0.9": ("", 0.02),
    "natural state/coverage of pixels, off 0.9": ("", 0.02),
    "learned mechanisms/coverage of pixels, off 0.9": ("", 0.02),
    "learned mechanisms, best fit alone/coverage of pixels, off 0.9": ("", 0.02),
    "effectiveness": ("dex", 0.02),
    "change of non-descendants": ("", 1e-6),
    "law/doublets": ("", 5e-3),
    "law/balmer": ("", 1e-2),
    "law/energy": ("", 1e-3),
    "law/negative flux": ("", 0.0),
    **{
        f"departure {name}/{kind}": ("sigma/px", 0.5)
        for name in DEPARTURES
        if name != "none"
        for kind in ("typical error", "error")
    },
}
_PEERED: Final = tuple(
    f"{name} mechanisms/{kind}"
    for name in ("known", "learned")
    for kind in ("typical error", "error")
)


def run(emit: Emit, measurements: Measurements, seeds: range) -> None:
    """Measure everything about spectra.

    Parameters
    ----------
    emit
        Called with each row.
    measurements
        What is measured already, and where the rest is kept.
    seeds
        Each with its own galaxies and peers.
    """
    network = trained_posterior(measurements)
    ours: dict[str, list[float]] = {}
    peers: dict[str, list[float]] = {}
    for seed in seeds:
        for part, work in _parts(measurements, network, seed).items():
            found = measurements.measure(f"spectra/{part}", "acie", seed, work, depends_on=SOURCES)
            for name, value in found.values.items():
                ours.setdefault(name, []).append(value)
        for peer in SPECTRAL_PEERS:
            found = measurements.measure(
                "spectra/known",
                peer,
                seed,
                partial(measure_peer, peer, seed),
                depends_on=PEER_SOURCES,
            )
            for name, value in found.values.items():
                peers.setdefault(f"{peer}/{name}", []).append(value)
    _emit_errors(emit, ours, peers)
    _emit_goals(emit, ours)
    _emit_calibration(emit, measurements, network, seeds.start)
    speed = measurements.measure(
        "spectra/speed", "acie", seeds.start, partial(measure_speed, network), depends_on=SOURCES
    )
    name = "10k spectra, amortised"
    _emit_goal(emit, name, "s", 5.0, [speed.values[name]])


def _parts(
    measurements: Measurements, network: AmortisedPosterior, seed: int
) -> dict[str, Callable[[], Measured]]:
    """List what is measured of our side with one seed."""
    parts: dict[str, Callable[[], Measured]] = {
        "known": lambda: measure_known(network, learned_mechanisms(measurements, seed), seed),
        "cycles": lambda: measure_cycles(network, seed),
    }
    for name in DEPARTURES:
        if name != "none":
            parts[f"departure {name}"] = partial(measure_departure, network, name, seed)
    return parts


def _emit_calibration(
    emit: Emit, measurements: Measurements, network: AmortisedPosterior, first_seed: int
) -> None:
    """Simulation-based calibration, whose galaxies are none of those above."""
    blocks = [
        measurements.measure(
            "spectra/ranks",
            "acie",
            seed,
            partial(measure_ranks, network, seed),
            depends_on=SOURCES,
        )
        for seed in calibration_seeds(first_seed)
    ]
    names = list(blocks[0].series)
    found = p_values_of_ranks(
        {n: torch.tensor([rank for block in blocks for rank in block.series[n]]) for n in names},
        draws=DRAWS,
    )
    name = "smallest corrected p-value of ranks"
    row = _goal_row(name, "", 0.01, [min(found.values())], less_is_better=False)
    emit(replace(row, n=len(blocks) * GALAXIES))
    for name in ("coverage of pixels", *(f"coverage of {n}" for n in names)):
        off = abs(fmean(block.values[name] for block in blocks) - 0.9)
        row = _goal_row(f"1000 galaxies/{name}, off 0.9", "", 0.02, [off])
        emit(replace(row, n=len(blocks) * GALAXIES))


def calibration_seeds(first_seed: int) -> range:
    """Seeds of the blocks of galaxies whose ranks are found."""
    first = _CALIBRATION_SEED + first_seed * _CALIBRATION_BLOCKS
    return range(first, first + _CALIBRATION_BLOCKS)


def _emit_errors(emit: Emit, ours: dict[str, list[float]], peers: dict[str, list[float]]) -> None:
    version = peer_version("acie")
    for name in _PEERED:
        unit, goal = _GOALS[name]
        mine, spread = mean_and_spread(ours[name])
        side, _, kind = name.partition("/")
        expected = ours.get(f"{side}, expected/{kind}")
        floor = fmean(expected) if expected else None
        for peer in SPECTRAL_PEERS:
            samples = peers[f"{peer}/{kind}"]
            theirs, peer_spread = mean_and_spread(samples)
            emit(
                Row(
                    f"counterfactual/spectra/{name}",
                    mine,
                    theirs,
                    theirs / mine,
                    unit,
                    len(ours[name]),
                    spread,
                    peer,
                    version,
                    floor=floor,
                    fraction_of_floor=None if floor is None else floor / mine,
                    peer_n=len(samples),
                    peer_spread=peer_spread,
                    goal=goal,
                )
            )


def _emit_goals(emit: Emit, ours: dict[str, list[float]]) -> None:
    for name, (unit, goal) in _GOALS.items():
        if name not in _PEERED:
            _emit_goal(emit, name, unit, goal, ours[name])


def _emit_goal(emit: Emit, name: str, unit: str, goal: float, samples: list[float]) -> None:
    emit(_goal_row(name, unit, goal, samples))


def _goal_row(
    name: str, unit: str, goal: float, samples: list[float], *, less_is_better: bool = True
) -> Row:
    """Row of what no peer measures: the goal stands in its place."""
    mine, spread = mean_and_spread(samples)
    over, under = (goal, mine) if less_is_better else (mine, goal)
    ratio = over / under if under else 1.0 if over == under else float("inf")
    return Row(
        f"counterfactual/spectra/{name}",
        mine,
        goal,
        ratio,
        unit,
        len(samples),
        spread,
        "goal",
        "",
        goal=goal,
    )
