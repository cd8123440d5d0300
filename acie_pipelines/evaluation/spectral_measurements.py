"""What the benchmark of counterfactual spectra measures with one seed.

Belongs here: our side and the peers on galaxies whose truth is known. Does not belong here: rows
and goals (`acie_pipelines.evaluation.counterfactual_spectra`), measures
(`acie_pipelines.evaluation.spectral_measures`).
"""

import time
from dataclasses import replace
from statistics import fmean, median
from typing import Final

import torch
from torch import Tensor

from acie_pipelines.evaluation.counterfactual_problems import GALAXY_STATE
from acie_pipelines.evaluation.measurements import Measured
from acie_pipelines.evaluation.spectral_measures import (
    MassRegressor,
    coverage,
    law_residuals,
    pixel_error,
    ranks,
)
from acie_pipelines.evaluation.spectral_peers import SPECTRAL_PEERS
from acie_pipelines.evaluation.spectral_problems import (
    DOUBLED,
    HALVED,
    SpectralProblem,
    doubled_mass,
)
from acie_pipelines.models.counterfactual import SpectralEngine, SpectralPosterior
from acie_pipelines.models.decoder import SpectralDecoder
from acie_pipelines.models.mechanisms import LearnedMechanisms, SimulatorMechanisms
from acie_pipelines.models.parameters import PARAMETERS
from acie_pipelines.models.posterior import AmortisedPosterior
from acie_pipelines.models.simulated import SimulatedSpectra, simulate_spectra
from acie_pipelines.models.unseen import complete

__all__ = [
    "CYCLES",
    "DRAWS",
    "GALAXIES",
    "HISTOGRAM",
    "SHARES",
    "measure_cycles",
    "measure_departure",
    "measure_known",
    "measure_peer",
    "measure_ranks",
    "measure_speed",
]

GALAXIES: Final = 100
"""Galaxies of one seed."""

DRAWS: Final = 100
"""Draws of each answer."""

CYCLES: Final = 10
"""How often a question is asked and taken back."""

SHARES: Final = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Probabilities of the intervals whose coverage is measured."""

HISTOGRAM: Final = (80, -4.0, 4.0)
"""Bins of errors of pixels, and their ends [sigma]."""

_PARENTS: Final = ("stellar_mass", "redshift", "environment", GALAXY_STATE)
_UNTOUCHED: Final = ("redshift", "environment")
_TRAIN: Final = 10_000
_TEST_SEED: Final = 500
_MODES: Final = 8
_MODE_RMS: Final = 0.1
_SPEED_ROWS: Final = 10_000
_SPEED_REPETITIONS: Final = 5
_CYCLED: Final = 8
_EXAMPLES: Final = 3
# An answer is sure if the error that the engine itself expects is below this [sigma per pixel].
_SURE: Final = 0.3


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


def measure_known(network: AmortisedPosterior, learned: LearnedMechanisms, seed: int) -> Measured:
    """Doubled mass with known and with learned mechanisms, and where the state may change."""
    problem = doubled_mass(GALAXIES, seed=_TEST_SEED + seed)
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
    scalars = [name for name in found.values if name != GALAXY_STATE]
    values["coverage of latents"] = fmean(
        coverage(found.values[name], data.values[name]) for name in scalars
    )
    values["coverage of latents, off 0.9"] = abs(values["coverage of latents"] - 0.9)
    natural = doubled_mass(GALAXIES, seed=_TEST_SEED + seed, hold_state=False)
    free = engine.counterfactual(found, [DOUBLED], seed=seed)
    values["natural state/coverage of pixels"] = coverage(free.flux, natural.flux)
    values["natural state/coverage of pixels, off 0.9"] = abs(
        values["natural state/coverage of pixels"] - 0.9
    )
    engine = SpectralEngine(network, SpectralDecoder(), learned)
    by_learned = engine.counterfactual(found, [DOUBLED], seed=seed, hold_state=True)
    by_learned_measured = _errors("learned mechanisms", by_learned.median, problem)
    values |= by_learned_measured.values
    inside = coverage(by_learned.flux, problem.flux)
    values["learned mechanisms/coverage of pixels"] = inside
    values["learned mechanisms/coverage of pixels, off 0.9"] = abs(inside - 0.9)
    best = SpectralEngine(network, SpectralDecoder(), LearnedMechanisms(learned.model))
    answer = best.counterfactual(found, [DOUBLED], seed=seed, hold_state=True)
    inside = coverage(answer.flux, problem.flux)
    values["learned mechanisms, best fit alone/coverage of pixels, off 0.9"] = abs(inside - 0.9)
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


def measure_departure(network: AmortisedPosterior, name: str, seed: int) -> Measured:
    """Doubled mass of galaxies that differ from the model."""
    decoder = SpectralDecoder(modes=_MODES, mode_rms=_MODE_RMS)
    engine = SpectralEngine(network, decoder, SimulatorMechanisms())
    problem = doubled_mass(GALAXIES, seed=_TEST_SEED + seed, departure_name=name)
    found = engine.abduct(problem.data.flux, problem.data.ivar, draws=DRAWS, seed=seed)
    held = engine.counterfactual(found, [DOUBLED], seed=seed, hold_state=True)
    return _errors(f"departure {name}", held.median, problem)


def measure_cycles(network: AmortisedPosterior, seed: int) -> Measured:
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
        if cycle in (1, CYCLES):
            error = pixel_error(flux, start.median, data.sigma)
            count = f"{cycle} cycle{'s' if cycle > 1 else ''}"
            values[f"{name}, {count}"] = float(error.square().mean().sqrt())

    for name, steps in (("composition", ((),)), ("reversibility", ((DOUBLED,), (HALVED,)))):
        moved, largest = found, 0.0
        for cycle in range(1, CYCLES + 1):
            for do in steps:
                answer = engine.counterfactual(moved, do, seed=seed, hold_state=True)
                moved = replace(moved, values=answer.values)
            note(name, cycle, answer.median)
            largest = max(
                float((moved.values[each] - column).abs().max())
                for each, column in found.values.items()
            )
            if cycle in (1, CYCLES):
                count = f"{cycle} cycle{'s' if cycle > 1 else ''}"
                values[f"scalars/{name}, {count}"] = largest
        flux, posterior, sigma = data.flux, found, data.sigma
        for cycle in range(1, CYCLES + 1):
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


def measure_peer(peer: str, seed: int) -> Measured:
    """Doubled mass as a peer answers it, given the true parents."""
    problem = doubled_mass(GALAXIES, seed=_TEST_SEED + seed)
    train = simulate_spectra(_TRAIN, seed=seed)
    start = time.process_time()
    answer = SPECTRAL_PEERS[peer](train.flux, _parents(train.values), seed=seed)
    seconds = time.process_time() - start
    factual, changed = _parents(problem.data.values), _parents(problem.values)
    measured = _errors("", answer(problem.data.flux, factual, changed), problem)
    values = {name.removeprefix("/"): value for name, value in measured.values.items()}
    return Measured({**values, "fit, processor": seconds}, measured.series)


def measure_ranks(network: AmortisedPosterior, seed: int) -> Measured:
    """Ranks of the truth among the draws, for one block of galaxies."""
    problem = doubled_mass(GALAXIES, seed=seed)
    engine, found = _abducted(network, problem.data, seed)
    held = engine.counterfactual(found, [DOUBLED], seed=seed, hold_state=True)
    names = [name for name in found.values if name != GALAXY_STATE]
    series = {
        name: ranks(found.values[name], problem.data.values[name], seed=seed).tolist()
        for name in names
    }
    values = {f"coverage of {n}": coverage(found.values[n], problem.data.values[n]) for n in names}
    values["coverage of pixels"] = coverage(held.flux, problem.flux)
    values["unreliable share"] = float((~found.reliable).double().mean())
    return Measured(values, series)


def measure_speed(network: AmortisedPosterior) -> Measured:
    """Median time of one draw of each of 10,000 counterfactual spectra without refinement [s]."""
    data = simulate_spectra(GALAXIES, seed=_TEST_SEED)
    engine = SpectralEngine(network, SpectralDecoder(), SimulatorMechanisms(), refinement_steps=0)
    repeats = -(-_SPEED_ROWS // len(data.flux))
    flux, ivar = (each.repeat(repeats, 1)[:_SPEED_ROWS] for each in (data.flux, data.ivar))
    seconds = []
    for _ in range(_SPEED_REPETITIONS):
        start = time.perf_counter()
        engine.counterfactual(engine.abduct(flux, ivar, draws=1, seed=0), [DOUBLED], seed=0)
        seconds.append(time.perf_counter() - start)
    return Measured({"10k spectra, amortised": median(seconds)}, {"seconds": seconds})
