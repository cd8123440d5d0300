"""Counterfactual spectra of simulated galaxies whose truth is known.

Belongs here: the problems and the rows of the benchmark. Does not belong here: measures
(`acie_pipelines.evaluation.spectral_measures`), peers, models.

The question is doubled stellar mass with the star formation state held: a state that changes is
decided by noise that no spectrum shows. The natural question, where it may change, is scored by
coverage. Every seed has its own galaxies; the amortised posterior, which depends on none of them,
is trained once.

A typical error is the median over galaxies, an error their root mean square. Beside it stands, as
its floor, the error that the posterior expects: what spectra leave open, no method can know.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean, median
from typing import Final

import torch
from torch import Tensor

from acie_pipelines.causal.interventions import Intervention
from acie_pipelines.causal.scm import StructuralCausalModel
from acie_pipelines.evaluation.bench import Emit, Row, peer_version
from acie_pipelines.evaluation.counterfactual_problems import fit_problem, galaxy_problem
from acie_pipelines.evaluation.measurements import Measured, Measurements, mean_and_spread
from acie_pipelines.evaluation.spectral_measures import (
    MassRegressor,
    coverage,
    law_residuals,
    p_values_of_ranks,
    pixel_error,
    ranks,
)
from acie_pipelines.evaluation.spectral_peers import SPECTRAL_PEERS
from acie_pipelines.models.counterfactual import (
    LearnedMechanisms,
    SimulatorMechanisms,
    SpectralEngine,
    SpectralPosterior,
)
from acie_pipelines.models.decoder import SpectralDecoder
from acie_pipelines.models.parameters import PARAMETERS
from acie_pipelines.models.posterior import AmortisedPosterior, PosteriorConfig
from acie_pipelines.models.posterior_training import PosteriorTraining, train_posterior
from acie_pipelines.models.simulated import SimulatedSpectra, render_in_blocks, simulate_spectra
from acie_pipelines.models.unseen import complete
from acie_pipelines.simulation.galaxy import QUENCHED, STAR_FORMING, GalaxySCM, galaxy_graph
from acie_pipelines.simulation.presets import DEPARTURES, departure, preset
from acie_pipelines.simulation.spectrum import SpectrumRenderer

__all__ = [
    "DOUBLED",
    "DRAWS",
    "HISTOGRAM",
    "MECHANISM_SOURCES",
    "SHARES",
    "SOURCES",
    "SpectralProblem",
    "calibration_seeds",
    "doubled_mass",
    "fit_mechanisms",
    "learned_mechanisms",
    "run",
    "train_on_simulation",
]

_SIMULATOR: Final = (
    "simulation/cosmology.py",
    "simulation/dust.py",
    "simulation/galaxy.py",
    "simulation/light.py",
    "simulation/mechanisms.py",
    "simulation/nebula.py",
    "simulation/presets.py",
    "simulation/profiles.py",
    "simulation/spectrum.py",
    "simulation/stars.py",
    "simulation/streams.py",
)

MECHANISM_SOURCES: Final = (
    "causal/build.py",
    "causal/categorical.py",
    "causal/fitting.py",
    "causal/kernel.py",
    "causal/mechanisms.py",
    "causal/newton.py",
    "causal/scm.py",
    "causal/selection.py",
    "causal/splines.py",
    "simulation/galaxy.py",
    "simulation/mechanisms.py",
)
"""What decides which mechanisms are learned."""

_POSTERIOR_SOURCES: Final = (
    "models/parameters.py",
    "models/posterior.py",
    "models/posterior_training.py",
    "models/simulated.py",
    *_SIMULATOR,
)

SOURCES: Final = (
    "models/counterfactual.py",
    "models/decoder.py",
    "models/importance.py",
    "models/latents.py",
    "models/linear_algebra.py",
    "models/mode_search.py",
    "models/outliers.py",
    "models/redshift.py",
    "models/refinement.py",
    "models/unseen.py",
    *MECHANISM_SOURCES,
    *_POSTERIOR_SOURCES,
)
"""What decides what our side finds in spectra."""

_PEER_SOURCES: Final = (*_SIMULATOR, "models/vae.py", "evaluation/spectral_peers.py")

_STATE: Final = "star_formation_state"
_PARENTS: Final = ("stellar_mass", "redshift", "environment", _STATE)
_UNTOUCHED: Final = ("redshift", "environment")
_TRAIN: Final = 10_000
_TEST: Final = 100
DRAWS: Final = 100
_TEST_SEED: Final = 500
_POSTERIOR_SEED: Final = 9_000
_POSTERIOR_SPECTRA: Final = 20_000
_MODES: Final = 8
_MODE_RMS: Final = 0.1
_SPEED_ROWS: Final = 10_000
_SPEED_REPETITIONS: Final = 5
_CYCLES: Final = 10
_CYCLED: Final = 8
# Simulation-based calibration: so many blocks of galaxies, each with as many draws as above.
_CALIBRATION_BLOCKS: Final = 10
_CALIBRATION_SEED: Final = 40_000
SHARES: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
_EXAMPLES: Final = 3
# An answer is sure if the error that the engine itself expects is below this [sigma per pixel].
_SURE: Final = 0.3
HISTOGRAM: Final = (80, -4.0, 4.0)

_GOALS: Final = {
    "known mechanisms/typical error": ("sigma/px", 0.1),
    "known mechanisms/error": ("sigma/px", 0.1),
    "learned mechanisms/typical error": ("sigma/px", 0.3),
    "learned mechanisms/error": ("sigma/px", 0.3),
    "composition, 1 cycle": ("sigma/px", 0.1),
    f"composition, {_CYCLES} cycles": ("sigma/px", 0.1),
    "reversibility, 1 cycle": ("sigma/px", 0.1),
    f"reversibility, {_CYCLES} cycles": ("sigma/px", 0.1),
    "abducted anew/composition, 1 cycle": ("sigma/px", 0.1),
    f"abducted anew/composition, {_CYCLES} cycles": ("sigma/px", 0.1),
    "abducted anew/reversibility, 1 cycle": ("sigma/px", 0.1),
    f"abducted anew/reversibility, {_CYCLES} cycles": ("sigma/px", 0.1),
    "scalars/composition, 1 cycle": ("", 1e-5),
    f"scalars/composition, {_CYCLES} cycles": ("", 1e-5),
    "scalars/reversibility, 1 cycle": ("", 1e-5),
    f"scalars/reversibility, {_CYCLES} cycles": ("", 1e-5),
    "known mechanisms, sure/error": ("sigma/px", 0.1),
    "known mechanisms, light known/error": ("sigma/px", 0.1),
    "do nothing/error": ("sigma/px", 0.1),
    "coverage of pixels, off 0.9": ("", 0.02),
    "coverage of latents, off 0.9": ("", 0.02),
    "natural state/coverage of pixels, off 0.9": ("", 0.02),
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

DOUBLED: Final = Intervention.scale("stellar_mass", 2.0, galaxy_graph())

_HALVED: Final = Intervention("stellar_mass", "shift", -DOUBLED.value)


@dataclass(frozen=True)
class SpectralProblem:
    """Spectra, a question and its true answer.

    Attributes
    ----------
    data
        What happened.
    values, flux
        What would have happened: every node, and the spectrum without noise.
    sigma
        Noise that it would have been observed with.
    """

    data: SimulatedSpectra
    values: dict[str, Tensor]
    flux: Tensor
    sigma: Tensor


def doubled_mass(
    count: int, *, seed: int, departure_name: str = "none", hold_state: bool = True
) -> SpectralProblem:
    """Ask for doubled stellar mass.

    Parameters
    ----------
    count, seed
        Galaxies and their seed.
    departure_name
        How galaxies differ from the model, in `acie_pipelines.simulation.presets.DEPARTURES`.
    hold_state
        Whether the star formation state is set to what it was.
    """
    data = simulate_spectra(count, seed=seed, departure_name=departure_name)
    scm = GalaxySCM()
    if hold_state:
        values = {name: column.clone() for name, column in data.values.items()}
        for state in (STAR_FORMING, QUENCHED):
            rows = data.values[_STATE] == state
            found = scm.values(
                {name: column[rows] for name, column in data.noise.items()},
                do=[DOUBLED, Intervention(_STATE, "set", state)],
                factual={name: column[rows] for name, column in data.values.items()},
            )
            for name, column in found.items():
                values[name][rows] = column
    else:
        values = scm.counterfactual(data.noise, [DOUBLED])
    renderer = SpectrumRenderer(preset("sdss"), departure(departure_name))
    flux = render_in_blocks(renderer, values)
    return SpectralProblem(data, values, flux, renderer.noise_sigma(flux))


def train_on_simulation(*, steps: int = 2000, seed: int = 0) -> AmortisedPosterior:
    """Train the amortised posterior of the ``sdss`` preset."""
    data = simulate_spectra(_POSTERIOR_SPECTRA, seed=_POSTERIOR_SEED + seed)
    model = AmortisedPosterior(PosteriorConfig(pixels=preset("sdss").pixels), seed=seed)
    return train_posterior(model, data, PosteriorTraining(steps=steps, seed=seed))


def learned_mechanisms(measurements: Measurements, seed: int) -> StructuralCausalModel:
    """Model fitted to a table of simulated galaxies, from the folder if it is there."""
    return measurements.model(
        f"mechanisms-{seed}",
        lambda: fit_mechanisms(measurements, seed),
        StructuralCausalModel.load,
        depends_on=MECHANISM_SOURCES,
    )


def fit_mechanisms(measurements: Measurements, seed: int) -> StructuralCausalModel:
    """Fit that model, and keep it."""
    model = fit_problem(galaxy_problem(seed, hold_state=False), seed=seed)
    measurements.keep(f"mechanisms-{seed}", model, depends_on=MECHANISM_SOURCES)
    return model


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
    network = measurements.model(
        "posterior", train_on_simulation, AmortisedPosterior.load, depends_on=_POSTERIOR_SOURCES
    )
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
                partial(_measure_peer, peer, seed),
                depends_on=_PEER_SOURCES,
            )
            for name, value in found.values.items():
                peers.setdefault(f"{peer}/{name}", []).append(value)
    _emit_errors(emit, ours, peers)
    _emit_goals(emit, ours)
    _emit_calibration(emit, measurements, network, seeds.start)
    speed = measurements.measure(
        "spectra/speed", "acie", seeds.start, partial(_measure_speed, network), depends_on=SOURCES
    )
    name = "10k spectra, amortised"
    _emit_goal(emit, name, "s", 5.0, [speed.values[name]])


def _parts(
    measurements: Measurements, network: AmortisedPosterior, seed: int
) -> dict[str, Callable[[], Measured]]:
    """List what is measured of our side with one seed."""
    parts: dict[str, Callable[[], Measured]] = {
        "known": lambda: _measure_known(network, learned_mechanisms(measurements, seed), seed),
        "cycles": lambda: _measure_cycles(network, seed),
    }
    for name in DEPARTURES:
        if name != "none":
            parts[f"departure {name}"] = partial(_measure_departure, network, name, seed)
    return parts


def _errors(name: str, answer: Tensor, problem: SpectralProblem) -> Measured:
    error = pixel_error(answer, problem.flux, problem.sigma)
    away = ((answer - problem.flux) / problem.sigma).flatten()
    return Measured(
        {
            f"{name}/typical error": float(error.median()),
            f"{name}/error": float(error.square().mean().sqrt()),
        },
        {
            "errors": error.tolist(),
            "residuals": (torch.histc(away, *HISTOGRAM) / away.numel()).tolist(),
        },
    )


def _abducted(
    network: AmortisedPosterior, data: SimulatedSpectra, seed: int
) -> tuple[SpectralEngine, SpectralPosterior]:
    engine = SpectralEngine(network, SpectralDecoder(), SimulatorMechanisms())
    return engine, engine.abduct(data.flux, data.ivar, draws=DRAWS, seed=seed)


def _measure_known(
    network: AmortisedPosterior, learned: StructuralCausalModel, seed: int
) -> Measured:
    """Doubled mass with known and with learned mechanisms, and where the state may change."""
    problem = doubled_mass(_TEST, seed=_TEST_SEED + seed)
    data = problem.data
    engine, found = _abducted(network, data, seed)
    nothing = engine.counterfactual(found, [], seed=seed)
    held = engine.counterfactual(found, [DOUBLED], seed=seed, hold_state=True)
    measured = _errors("known mechanisms", held.median, problem)
    values = measured.values
    error = pixel_error(nothing.median, data.clean, data.sigma)
    values["do nothing/error"] = float(error.square().mean().sqrt())
    values["unreliable share"] = float((~found.reliable).double().mean())
    error = pixel_error(held.median, problem.flux, problem.sigma)[found.reliable]
    values["known mechanisms, reliable/error"] = float(error.square().mean().sqrt())
    expected = held.expected_error(problem.sigma)
    errors = torch.tensor(measured.series["errors"])
    values["known mechanisms, expected/error"] = float(expected.square().mean().sqrt())
    values["known mechanisms, expected/typical error"] = float(expected.median())
    sure = expected < _SURE
    values["known mechanisms, sure/error"] = float(errors[sure].square().mean().sqrt())
    values["known mechanisms, sure/share"] = float(sure.double().mean())
    values["known mechanisms, light known/error"] = _error_with_known_light(engine, problem, seed)
    measured.series["expected errors"] = expected.tolist()
    values["coverage of pixels"] = coverage(held.flux, problem.flux)
    values["coverage of pixels, off 0.9"] = abs(values["coverage of pixels"] - 0.9)
    scalars = [name for name in found.values if name != _STATE]
    values["coverage of latents"] = fmean(
        coverage(found.values[name], data.values[name]) for name in scalars
    )
    values["coverage of latents, off 0.9"] = abs(values["coverage of latents"] - 0.9)
    natural = doubled_mass(_TEST, seed=_TEST_SEED + seed, hold_state=False)
    free = engine.counterfactual(found, [DOUBLED], seed=seed)
    values["natural state/coverage of pixels"] = coverage(free.flux, natural.flux)
    values["natural state/coverage of pixels, off 0.9"] = abs(
        values["natural state/coverage of pixels"] - 0.9
    )
    engine = SpectralEngine(network, SpectralDecoder(), LearnedMechanisms(learned))
    by_learned = engine.counterfactual(found, [DOUBLED], seed=seed, hold_state=True)
    by_learned_measured = _errors("learned mechanisms", by_learned.median, problem)
    values |= by_learned_measured.values
    measured.series["residuals, learned"] = by_learned_measured.series["residuals"]
    measured.series["errors, learned"] = by_learned_measured.series["errors"]
    train = simulate_spectra(_TRAIN, seed=seed)
    regressor = MassRegressor(train.clean, train.values["stellar_mass"])
    gain = regressor(held.median) - regressor(nothing.median)
    values["effectiveness"] = float((gain - DOUBLED.value).abs().median())
    moved = (held.values[name] - found.values[name] for name in _UNTOUCHED)
    values["change of non-descendants"] = max(float(each.abs().max()) for each in moved)
    for law, residual in law_residuals(held.values, held.flux).items():
        values[f"law/{law}"] = residual
    series = measured.series
    series["coverage"] = [coverage(held.flux, problem.flux, share) for share in SHARES]
    low, high = held.interval(0.9)
    for k in range(_EXAMPLES):
        for name, flux in (
            ("observed", data.flux),
            ("factual", nothing.median),
            ("answer", held.median),
            ("low", low),
            ("high", high),
            ("truth", problem.flux),
            ("sigma", problem.sigma),
        ):
            series[f"example {k}/{name}"] = [round(x, 5) for x in flux[k].tolist()]
    return measured


def _error_with_known_light(engine: SpectralEngine, problem: SpectralProblem, seed: int) -> float:
    """Error if a spectrum without noise had shown all that light depends on.

    The answer also depends on what no light shows, such as gas and size, which dust follows.
    """
    truth = problem.data.values
    count = len(problem.flux)
    light = {name: truth[name].repeat(DRAWS) for name in PARAMETERS}
    values = {n: v.reshape(DRAWS, count) for n, v in complete(light, seed=seed).items()}
    known = SpectralPosterior(
        values=values,
        amplitudes=torch.zeros(DRAWS, count, engine.decoder.modes, dtype=torch.float64),
        residual=torch.zeros_like(problem.flux),
        effective_draws=torch.full((count,), float(DRAWS), dtype=torch.float64),
        chi_square=torch.ones(count, dtype=torch.float64),
        reliable=torch.ones(count, dtype=torch.bool),
    )
    answer = engine.counterfactual(known, [DOUBLED], seed=seed, hold_state=True)
    error = pixel_error(answer.median, problem.flux, problem.sigma)
    return float(error.square().mean().sqrt())


def _measure_departure(network: AmortisedPosterior, name: str, seed: int) -> Measured:
    decoder = SpectralDecoder(modes=_MODES, mode_rms=_MODE_RMS)
    engine = SpectralEngine(network, decoder, SimulatorMechanisms())
    problem = doubled_mass(_TEST, seed=_TEST_SEED + seed, departure_name=name)
    found = engine.abduct(problem.data.flux, problem.data.ivar, draws=DRAWS, seed=seed)
    held = engine.counterfactual(found, [DOUBLED], seed=seed, hold_state=True)
    return _errors(f"departure {name}", held.median, problem)


def _measure_cycles(network: AmortisedPosterior, seed: int) -> Measured:
    """Do nothing, or double and halve the mass, again and again.

    First with the noise that was abducted once, as counterfactuals of counterfactuals are defined
    (Pearl 2009, Causality, section 7.1; the axioms of Monteiro et al. 2023, arXiv:2303.01274), then
    with noise abducted anew from the spectrum that was predicted in every step.
    """
    problem = doubled_mass(_CYCLED, seed=_TEST_SEED + seed)
    data = problem.data
    engine, found = _abducted(network, data, seed)
    start = engine.counterfactual(found, [], seed=seed)
    values: dict[str, float] = {}

    def note(name: str, cycle: int, flux: Tensor) -> None:
        if cycle in (1, _CYCLES):
            error = pixel_error(flux, start.median, data.sigma)
            count = f"{cycle} cycle{'s' if cycle > 1 else ''}"
            values[f"{name}, {count}"] = float(error.square().mean().sqrt())

    for name, steps in (("composition", ((),)), ("reversibility", ((DOUBLED,), (_HALVED,)))):
        moved, largest = found, 0.0
        for cycle in range(1, _CYCLES + 1):
            for do in steps:
                answer = engine.counterfactual(moved, do, seed=seed, hold_state=True)
                moved = replace(moved, values=answer.values)
            note(name, cycle, answer.median)
            largest = max(
                float((moved.values[each] - column).abs().max())
                for each, column in found.values.items()
            )
            if cycle in (1, _CYCLES):
                count = f"{cycle} cycle{'s' if cycle > 1 else ''}"
                values[f"scalars/{name}, {count}"] = largest
        flux, posterior, sigma = data.flux, found, data.sigma
        for cycle in range(1, _CYCLES + 1):
            for do in steps:
                answer = engine.counterfactual(posterior, do, seed=seed, hold_state=True)
                before = engine.counterfactual(posterior, [], seed=seed).median
                after = engine.decoder.renderer.noise_sigma(answer.median)
                # Pixel noise is exogenous: it is kept, in units of its standard deviation.
                flux = answer.median + (flux - before) / sigma * after
                sigma = after
                posterior = engine.abduct(flux, sigma**-2, draws=DRAWS, seed=seed)
            note(
                f"abducted anew/{name}",
                cycle,
                engine.counterfactual(posterior, [], seed=seed).median,
            )
    return Measured(values)


def _parents(values: dict[str, Tensor]) -> Tensor:
    return torch.stack([values[name] for name in _PARENTS], dim=1).float()


def _measure_peer(peer: str, seed: int) -> Measured:
    problem = doubled_mass(_TEST, seed=_TEST_SEED + seed)
    train = simulate_spectra(_TRAIN, seed=seed)
    start = time.process_time()
    answer = SPECTRAL_PEERS[peer](train.flux, _parents(train.values), seed=seed)
    seconds = time.process_time() - start
    factual, changed = _parents(problem.data.values), _parents(problem.values)
    measured = _errors("", answer(problem.data.flux, factual, changed), problem)
    values = {name.removeprefix("/"): value for name, value in measured.values.items()}
    return Measured({**values, "fit, processor": seconds}, measured.series)


def _measure_ranks(network: AmortisedPosterior, seed: int) -> Measured:
    """Ranks of the truth among the draws, for one block of galaxies."""
    problem = doubled_mass(_TEST, seed=seed)
    engine, found = _abducted(network, problem.data, seed)
    held = engine.counterfactual(found, [DOUBLED], seed=seed, hold_state=True)
    names = [name for name in found.values if name != _STATE]
    series = {
        name: ranks(found.values[name], problem.data.values[name], seed=seed).tolist()
        for name in names
    }
    values = {f"coverage of {n}": coverage(found.values[n], problem.data.values[n]) for n in names}
    values["coverage of pixels"] = coverage(held.flux, problem.flux)
    values["unreliable share"] = float((~found.reliable).double().mean())
    return Measured(values, series)


def _emit_calibration(
    emit: Emit, measurements: Measurements, network: AmortisedPosterior, first_seed: int
) -> None:
    """Simulation-based calibration, whose galaxies are none of those above."""
    blocks = [
        measurements.measure(
            "spectra/ranks",
            "acie",
            seed,
            partial(_measure_ranks, network, seed),
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
    emit(replace(row, n=len(blocks) * _TEST))
    for name in ("coverage of pixels", *(f"coverage of {n}" for n in names)):
        off = abs(fmean(block.values[name] for block in blocks) - 0.9)
        row = _goal_row(f"1000 galaxies/{name}, off 0.9", "", 0.02, [off])
        emit(replace(row, n=len(blocks) * _TEST))


def calibration_seeds(first_seed: int) -> range:
    """Seeds of the blocks of galaxies whose ranks are found."""
    first = _CALIBRATION_SEED + first_seed * _CALIBRATION_BLOCKS
    return range(first, first + _CALIBRATION_BLOCKS)


def _measure_speed(network: AmortisedPosterior) -> Measured:
    """Median time of one draw of each of 10,000 counterfactual spectra without refinement [s]."""
    data = simulate_spectra(_TEST, seed=_TEST_SEED)
    engine = SpectralEngine(network, SpectralDecoder(), SimulatorMechanisms(), refinement_steps=0)
    repeats = -(-_SPEED_ROWS // len(data.flux))
    flux, ivar = (each.repeat(repeats, 1)[:_SPEED_ROWS] for each in (data.flux, data.ivar))
    seconds = []
    for _ in range(_SPEED_REPETITIONS):
        start = time.perf_counter()
        engine.counterfactual(engine.abduct(flux, ivar, draws=1, seed=0), [DOUBLED], seed=0)
        seconds.append(time.perf_counter() - start)
    return Measured({"10k spectra, amortised": median(seconds)}, {"seconds": seconds})


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
