"""The verdict on a counterfactual model, from simulated galaxies whose truth is known.

Belongs here: thresholds, checks and the ``counterfactual_validation`` dataset.
Does not belong here: how a number is measured (`acie_pipelines.evaluation.spectral_measures`,
`acie_pipelines.evaluation.answered_physics`) or what a step towards users needs
(`acie_pipelines.promotion`).
"""

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from acie_pipelines.errors import ConfigurationError
from acie_pipelines.evaluation.answered_physics import answered_residuals
from acie_pipelines.evaluation.counterfactual_problems import GALAXY_STATE
from acie_pipelines.evaluation.spectral_measures import MassRegressor, coverage, pixel_error
from acie_pipelines.evaluation.spectral_problems import DOUBLED, SpectralProblem, doubled_mass
from acie_pipelines.evaluation.validation import Check, at_least, at_most
from acie_pipelines.models.counterfactual import SpectralEngine
from acie_pipelines.models.parameters import unconstrain
from acie_pipelines.models.saved_engine import (
    directory_manifest,
    load_engine,
    load_engine_from_directory,
)
from acie_pipelines.models.simulated import simulate_spectra
from acie_pipelines.provenance import (
    Manifest,
    Output,
    new_generation,
    reusable_manifest,
    verify_outputs,
)
from acie_pipelines.simulation.galaxy import GalaxySCM
from acie_pipelines.storage import Store

__all__ = [
    "KIND",
    "CounterfactualThresholds",
    "HeldOut",
    "checks",
    "measure_engine",
    "paired_errors",
    "read_counterfactual_report",
    "validate_counterfactual",
    "validate_directory",
]

KIND: Final = "counterfactual_validation"
REPORT_FILE: Final = "report.json"

_REGRESSOR_SPECTRA: Final = 3000
_REGRESSOR_SEED: Final = 2_000_003
_PRIOR_GALAXIES: Final = 2000
_DRAWS_LOOKED_AT: Final = 4
_EXAMPLES: Final = 3


@dataclass(frozen=True)
class CounterfactualThresholds:
    """Limits of what may be used, each set from a measurement with a margin.

    Measured on 60 galaxies with the model of the demonstration: error 0.17 (nothing done 9.8),
    composition 0.075, effectiveness 0.007 dex, coverage of pixels 0.90, of properties 0.90, of
    counterfactual pixels 0.84, gain 6.9 nats, all reliable, laws 1e-5 per cent.

    Attributes
    ----------
    max_error
        Typical error of spectra at doubled mass, median over galaxies [noise of a pixel]. Doing
        nothing scores 9.8.
    max_composition
        The same if nothing is done.
    max_effectiveness_dex
        Median distance from log 2 of the mass that an independent regressor finds to be gained.
    max_coverage_error_pixels, max_coverage_error_latents
        Distance from 0.9 of the share of the truth inside 90 % intervals, of noise-free pixels and
        of properties. Of few galaxies the share scatters by some per cent.
    min_counterfactual_coverage
        Share of true counterfactual pixels inside 90 % intervals, which hold the spectrum's noise
        and the error of kernel mechanisms; without the latter it is some 0.6.
    min_posterior_gain_nats
        Held-out log density of the truth under the network alone over that under a normal of
        galaxies at large: a network that ignores its input gains nothing.
    min_reliable
        Share of galaxies whose answers the engine itself trusts.
    max_doublet_percent, max_balmer_percent, max_energy_percent, max_negative_flux
        Broken laws, measured on answered pixels.
    """

    max_error: float = 0.5
    max_composition: float = 0.12
    max_effectiveness_dex: float = 0.02
    max_coverage_error_pixels: float = 0.08
    max_coverage_error_latents: float = 0.08
    min_counterfactual_coverage: float = 0.7
    min_posterior_gain_nats: float = 5.0
    min_reliable: float = 0.8
    max_doublet_percent: float = 0.5
    max_balmer_percent: float = 1.0
    max_energy_percent: float = 0.1
    max_negative_flux: float = 0.0


@dataclass(frozen=True)
class HeldOut:
    """The galaxies that judge.

    Attributes
    ----------
    galaxies
        How many.
    seed
        Of the galaxies; not that of training.
    draws
        Of each answer.
    """

    galaxies: int = 60
    seed: int = 1_000_003
    draws: int = 40


def measure_engine(engine: SpectralEngine, held_out: HeldOut) -> dict[str, Any]:
    """Measure everything a verdict needs.

    The question is doubled stellar mass with the star formation state held.
    """
    problem = doubled_mass(held_out.galaxies, seed=held_out.seed)
    data, seed = problem.data, held_out.seed
    found = engine.abduct(data.flux, data.ivar, draws=held_out.draws, seed=seed)
    nothing = engine.counterfactual(found, [], seed=seed)
    doubled = engine.counterfactual(found, [DOUBLED], seed=seed, hold_state=True)
    others = simulate_spectra(_REGRESSOR_SPECTRA, seed=_REGRESSOR_SEED)
    regressor = MassRegressor(others.clean, others.values["stellar_mass"])
    gain = regressor(doubled.median) - regressor(nothing.median)
    still = pixel_error(nothing.median, data.clean, data.sigma)
    errors = pixel_error(doubled.median, problem.flux, problem.sigma)
    no_change = pixel_error(data.clean, problem.flux, problem.sigma)
    scalars = [name for name in found.values if name != GALAXY_STATE]
    inside = {name: coverage(found.values[name], data.values[name]) for name in scalars}
    looked = slice(_DRAWS_LOOKED_AT)
    physics = answered_residuals(
        engine.decoder.renderer,
        {name: column[looked].flatten() for name, column in doubled.values.items()},
        doubled.flux[looked].flatten(0, 1),
    )
    return {
        "galaxies": held_out.galaxies,
        "truth_sha256": hashlib.sha256(problem.flux.numpy().tobytes()).hexdigest(),
        "error": _finite(float(errors.median())),
        "error_rms": _finite(float(errors.square().mean().sqrt())),
        "error_of_no_change": float(no_change.median()),
        "errors": [_finite(value) for value in errors.tolist()],
        "errors_of_no_change": no_change.tolist(),
        "composition": _finite(float(still.median())),
        "effectiveness_dex": _finite(float((gain - DOUBLED.value).abs().median())),
        "coverage_pixels": coverage(nothing.flux, data.clean),
        "coverage_by_latent": inside,
        "coverage_latents": fmean(inside.values()),
        "coverage_counterfactual": coverage(doubled.flux, problem.flux),
        "posterior_gain_nats": _finite(_posterior_gain(engine, problem)),
        "reliable": float(found.reliable.double().mean()),
        "physics": {law: _finite(value) for law, value in physics.items()},
        "examples": _examples(problem, doubled.median, doubled.interval(0.9)),
        "wavelength_angstrom": engine.decoder.preset.wavelength_angstrom.round(3).tolist(),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


@torch.no_grad()
def _posterior_gain(engine: SpectralEngine, problem: SpectralProblem) -> float:
    """Mean log density of the truth under the network over that under a normal of galaxies."""
    data = problem.data
    truth = unconstrain(data.values)
    prior = unconstrain(GalaxySCM().sample(_PRIOR_GALAXIES, seed=_REGRESSOR_SEED))
    normal = torch.distributions.MultivariateNormal(prior.mean(dim=0), prior.T.cov())
    context = engine.posterior.context(data.flux, data.ivar)
    density: Tensor = normal.log_prob(truth)  # type: ignore[no-untyped-call]
    return float((engine.posterior.log_prob(truth, context) - density).mean())


def _examples(
    problem: SpectralProblem, answer: Tensor, interval: tuple[Tensor, Tensor]
) -> list[dict[str, list[float | None]]]:
    columns = {
        "factual": problem.data.clean,
        "truth": problem.flux,
        "answer": answer,
        "low": interval[0],
        "high": interval[1],
    }
    return [
        {
            name: [_finite(float(f"{value:.5g}")) for value in column[k].tolist()]
            for name, column in columns.items()
        }
        for k in range(min(_EXAMPLES, len(answer)))
    ]


def checks(report: dict[str, Any], limits: CounterfactualThresholds) -> tuple[Check, ...]:
    """Compare measurements with limits; each check blocks promotion."""
    physics = {
        law: None if value is None else 100 * value for law, value in report["physics"].items()
    }
    return (
        at_most(
            "counterfactual_error",
            report["error"],
            limits.max_error,
            "answers would differ from what the galaxies would have been; doing nothing scores "
            f"{report['error_of_no_change']:.2f}",
        ),
        at_most(
            "spectral_composition",
            report["composition"],
            limits.max_composition,
            "an intervention that changes nothing would change the spectrum",
        ),
        at_most(
            "effectiveness_dex",
            report["effectiveness_dex"],
            limits.max_effectiveness_dex,
            "the mass that was asked for would not be in the light",
        ),
        at_most(
            "coverage_error_pixels",
            abs(report["coverage_pixels"] - 0.9),
            limits.max_coverage_error_pixels,
            "stated intervals of spectra would be too narrow or too wide",
        ),
        at_most(
            "coverage_error_latents",
            abs(report["coverage_latents"] - 0.9),
            limits.max_coverage_error_latents,
            "stated intervals of properties would be too narrow or too wide",
        ),
        at_least(
            "counterfactual_coverage",
            report["coverage_counterfactual"],
            limits.min_counterfactual_coverage,
            "intervals of counterfactual spectra would miss the truth",
        ),
        at_least(
            "posterior_gain",
            report["posterior_gain_nats"],
            limits.min_posterior_gain_nats,
            "the network would know little more than the distribution of galaxies",
        ),
        at_least(
            "reliable_share",
            report["reliable"],
            limits.min_reliable,
            "the engine would not trust its own answers",
        ),
        at_most(
            "answered_doublet_percent",
            physics["doublet"],
            limits.max_doublet_percent,
            "answers would break the ratio [O III] 5007/4959",
        ),
        at_most(
            "answered_balmer_percent",
            physics["balmer"],
            limits.max_balmer_percent,
            "answers would break Case B recombination behind their own dust",
        ),
        at_most(
            "answered_energy_percent",
            physics["energy"],
            limits.max_energy_percent,
            "dust would not absorb the light that is missing",
        ),
        at_most(
            "answered_negative_flux",
            report["physics"]["negative_flux"],
            limits.max_negative_flux,
            "answers would hold negative light",
        ),
    )


def validate_counterfactual(
    store: Store,
    model: Manifest,
    thresholds: CounterfactualThresholds,
    held_out: HeldOut,
    *,
    code_version: str,
) -> Manifest:
    """Validate a counterfactual model and store the report.

    Parameters
    ----------
    store
        Where datasets live.
    model
        Manifest of kind ``counterfactual_model``.
    thresholds
        Limits.
    held_out
        The galaxies that judge.
    code_version
        Version of the code, for provenance.

    Returns
    -------
    Manifest
        Kind ``counterfactual_validation``, key of the model; attributes hold ``passed`` and
        ``checks``. A failed validation is a result, not an error.

    Raises
    ------
    ConfigurationError
        If the model has trained on the galaxies that would judge it.
    IntegrityError
        If the model does not match its manifest.
    """
    _refuse_seen_galaxies(model, held_out)
    inputs = (model.as_input(),)
    parameters = {"thresholds": asdict(thresholds), "held_out": asdict(held_out)}
    ready = reusable_manifest(
        store, KIND, model.key, inputs=inputs, code_version=code_version, parameters=parameters
    )
    if ready is not None:
        return ready
    report = measure_engine(load_engine(store, model), held_out)
    verdict = checks(report, thresholds)
    attributes = {
        "passed": all(check.passed for check in verdict),
        "checks": [asdict(check) for check in verdict],
        "error": report["error"],
        "error_of_no_change": report["error_of_no_change"],
        "galaxies": report["galaxies"],
    }
    data = json.dumps(attributes | report, allow_nan=False).encode() + b"\n"
    with new_generation(
        store, KIND, model.key, inputs=inputs, code_version=code_version, parameters=parameters
    ) as generation:
        store.write_bytes(f"{generation.prefix}/{REPORT_FILE}", data)
        digest = hashlib.sha256(data).hexdigest()
        return generation.commit((Output(REPORT_FILE, digest),), attributes)


def validate_directory(
    directory: Path, thresholds: CounterfactualThresholds, held_out: HeldOut
) -> tuple[Check, ...]:
    """Validate a copy of a counterfactual model, wherever it lies; nothing is stored.

    Raises
    ------
    ConfigurationError, IntegrityError
        As of `validate_counterfactual`.
    ModelError
        If the directory holds no counterfactual model.
    """
    engine = load_engine_from_directory(directory)
    _refuse_seen_galaxies(directory_manifest(directory), held_out)
    return checks(measure_engine(engine, held_out), thresholds)


def _refuse_seen_galaxies(model: Manifest, held_out: HeldOut) -> None:
    if model.attributes["simulation_seed"] == held_out.seed:
        raise ConfigurationError(
            "held-out galaxies", f"have the seed of training ({held_out.seed})", "choose another"
        )


def read_counterfactual_report(store: Store, validation: Manifest) -> dict[str, Any]:
    """Read the full report after checking its hash.

    Raises
    ------
    IntegrityError
        If it does not match the manifest.
    """
    verify_outputs(store, validation)
    report: dict[str, Any] = json.loads(store.read_bytes(f"{validation.prefix}/{REPORT_FILE}"))
    return report


def paired_errors(ours: dict[str, Any], theirs: dict[str, Any]) -> tuple[float, float]:
    """Mean error that one model saves over another on the same galaxies, and its standard error.

    A galaxy without an answer counts as one where nothing was done.
    """
    mine, other = (
        np.array(
            [
                least if error is None else error
                for error, least in zip(side["errors"], side["errors_of_no_change"], strict=True)
            ]
        )
        for side in (ours, theirs)
    )
    saved = other - mine
    return float(saved.mean()), float(saved.std(ddof=1) / math.sqrt(len(saved)))
