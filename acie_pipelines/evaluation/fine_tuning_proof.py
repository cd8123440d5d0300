"""What fine-tuning without labels brings to the amortised posterior, measured against the truth.

Belongs here: simulated surveys that depart from the model, the bundled real galaxies, and their
rows. Does not belong here: fine-tuning (`acie_pipelines.models.fine_tuning`), measures.

The network answers alone, without refinement, before and after fine-tuning on the spectra of a
survey; the truth of other galaxies of that survey judges both, and that of galaxies that do not
depart says what was forgotten. Nobody knows the truth of real galaxies: there, the exact draws of
galaxies that did not teach are judged.
"""

import math
from functools import partial
from statistics import fmean
from typing import Final

import torch

from acie_pipelines.evaluation.bench import Emit, Row
from acie_pipelines.evaluation.measurements import Measured, Measurements, mean_and_spread
from acie_pipelines.evaluation.spectral_measures import coverage, pixel_error
from acie_pipelines.evaluation.spectral_models import trained_posterior
from acie_pipelines.evaluation.spectral_problems import DOUBLED, SpectralProblem, doubled_mass
from acie_pipelines.evaluation.spectral_sources import SOURCES
from acie_pipelines.models.adaptation import adapted, learn_residual
from acie_pipelines.models.counterfactual import SpectralEngine
from acie_pipelines.models.decoder import SpectralDecoder
from acie_pipelines.models.fine_tuning import FineTuning, exact_labels, fine_tune
from acie_pipelines.models.mechanisms import SimulatorMechanisms
from acie_pipelines.models.parameters import PARAMETERS, unconstrain
from acie_pipelines.models.posterior import AmortisedPosterior
from acie_pipelines.models.query import on_grid
from acie_pipelines.models.simulated import simulate_spectra
from acie_pipelines.observations.spectra import read_spectrum
from acie_pipelines.samples import sample_observations

__all__ = ["measure_fine_tuning", "measure_real_galaxies", "run"]

_SOURCES: Final = (
    "evaluation/fine_tuning_proof.py",
    "models/adaptation.py",
    "models/evidence.py",
    "models/fine_tuning.py",
    "models/mechanisms.py",
    "models/residual.py",
    *SOURCES,
)
_PART: Final = "fine-tuning"
_DEPARTURE: Final = "all"
_SURVEY: Final = 200
_SURVEY_SEED: Final = 70_000
_GALAXIES: Final = 100
_TEST_SEED: Final = 500
_DRAWS: Final = 100
_SHARE: Final = 0.9
_DENSITY: Final = "log density of the truth"
_UNITS: Final = {
    _DENSITY: "nats",
    "typical error": "sigma/px",
    "error": "sigma/px",
    "coverage of latents, off 0.9": "",
}


def run(emit: Emit, measurements: Measurements, seeds: range) -> None:
    """Measure before and after fine-tuning.

    Parameters
    ----------
    emit
        Called with each row.
    measurements
        What is measured already, and where the rest is kept.
    seeds
        Each with its own survey and galaxies held out.
    """
    network = trained_posterior(measurements)
    found = [
        measurements.measure(
            f"{_PART}/{_DEPARTURE}",
            "acie",
            seed,
            partial(measure_fine_tuning, network, _DEPARTURE, seed),
            depends_on=_SOURCES,
        )
        for seed in seeds
    ]
    for side, title in (("departure", f"departure {_DEPARTURE}"), ("no departure", "no departure")):
        for name, unit in _UNITS.items():
            before, after = (
                [each.values[f"{side}/{when}/{name}"] for each in found]
                for when in ("before", "after")
            )
            emit(_row(title, name, unit, before, after))
    real = measurements.measure(
        f"{_PART}/real",
        "acie",
        seeds.start,
        partial(measure_real_galaxies, network, seeds.start),
        depends_on=_SOURCES,
    )
    name = "log density of exact draws"
    emit(_row("SDSS", name, "nats", [real.values["before"]], [real.values["after"]]))


def _row(side: str, name: str, unit: str, before: list[float], after: list[float]) -> Row:
    """Row whose peer is the network as it was; densities compare by their ratio."""
    mine, spread = mean_and_spread(after)
    peer, peer_spread = mean_and_spread(before)
    if unit == "nats":
        ratio = float(torch.tensor(mine - peer, dtype=torch.float64).exp())
    else:
        ratio = peer / mine if mine else math.inf
    return Row(
        f"counterfactual/{_PART}/{side}/{name}",
        mine,
        peer,
        ratio,
        unit,
        len(after),
        spread,
        "before",
        "",
        peer_n=len(before),
        peer_spread=peer_spread,
    )


def measure_fine_tuning(network: AmortisedPosterior, departure_name: str, seed: int) -> Measured:
    """Fine-tune on a simulated survey; ask about doubled mass before and after.

    Parameters
    ----------
    network
        Trained on galaxies that do not depart.
    departure_name
        How the survey departs, in `acie_pipelines.simulation.presets.DEPARTURES`.
    seed
        Of the survey, the galaxies held out and the training.
    """
    survey = simulate_spectra(_SURVEY, seed=_SURVEY_SEED + seed, departure_name=departure_name)
    tuned = _fine_tuned(network, survey.flux, survey.ivar, survey.values["redshift"], seed)
    values = _judgement(tuned)
    for side, name in (("departure", departure_name), ("no departure", "none")):
        problem = doubled_mass(_GALAXIES, seed=_TEST_SEED + seed, departure_name=name)
        for when, asked in (("before", network), ("after", tuned.posterior)):
            for measure, value in _scores(asked, problem, seed).items():
                values[f"{side}/{when}/{measure}"] = value
    return Measured(values)


def measure_real_galaxies(network: AmortisedPosterior, seed: int) -> Measured:
    """Fine-tune on the bundled SDSS galaxies, judged by those that did not teach.

    Parameters
    ----------
    network
        Trained on simulated galaxies.
    seed
        Of the training.
    """
    preset = SpectralDecoder().preset
    paths = [path for path in sample_observations() if path.name.startswith("spec-")]
    spectra = [on_grid(read_spectrum(path), preset) for path in paths]
    flux, ivar = (torch.cat([getattr(each, n) for each in spectra]) for n in ("flux", "ivar"))
    redshift = torch.tensor([each.redshift for each in spectra], dtype=torch.float64)
    return Measured(_judgement(_fine_tuned(network, flux, ivar, redshift, seed)))


def _fine_tuned(
    network: AmortisedPosterior,
    flux: torch.Tensor,
    ivar: torch.Tensor,
    redshift: torch.Tensor,
    seed: int,
) -> FineTuning:
    """Adapt to a survey as `acie adapt --fine-tune` does."""
    engine = SpectralEngine(network, SpectralDecoder(), SimulatorMechanisms())
    physics = adapted(engine, None)
    start = physics.fit(flux, ivar, seed=seed, redshift=redshift)
    residual = learn_residual(physics.decoder, flux, ivar, redshift, start, seed=seed)
    softer = adapted(engine, residual)
    labels = exact_labels(softer, flux, ivar, redshift, seed=seed)
    return fine_tune(softer, labels, seed=seed)


def _judgement(tuned: FineTuning) -> dict[str, float]:
    return {name: float(value) for name, value in tuned.summary().items()}


@torch.no_grad()
def _scores(network: AmortisedPosterior, problem: SpectralProblem, seed: int) -> dict[str, float]:
    """Measure the network alone against the truth."""
    data = problem.data
    density = network.log_prob(unconstrain(data.values), network.context(data.flux, data.ivar))
    engine = SpectralEngine(network, SpectralDecoder(), SimulatorMechanisms(), refinement_steps=0)
    found = engine.abduct(data.flux, data.ivar, draws=_DRAWS, seed=seed)
    held = engine.counterfactual(found, [DOUBLED], seed=seed, hold_state=True)
    error = pixel_error(held.median, problem.flux, problem.sigma)
    inside = fmean(coverage(found.values[n], data.values[n], _SHARE) for n in PARAMETERS)
    return {
        _DENSITY: float(density.mean()),
        "typical error": float(error.median()),
        "error": float(error.square().mean().sqrt()),
        "coverage of latents": inside,
        "coverage of latents, off 0.9": abs(inside - _SHARE),
    }
