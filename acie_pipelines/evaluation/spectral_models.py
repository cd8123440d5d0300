"""Models that the benchmark of counterfactual spectra learns from simulated galaxies.

Belongs here: how each is trained, and kept. Does not belong here: what is asked of them.
"""

from typing import Final

from acie_pipelines.evaluation.counterfactual_problems import (
    fit_problem,
    galaxy_problem,
)
from acie_pipelines.evaluation.measurements import Measurements
from acie_pipelines.evaluation.spectral_sources import MECHANISM_SOURCES, POSTERIOR_SOURCES
from acie_pipelines.models.mechanisms import LearnedMechanisms
from acie_pipelines.models.posterior import AmortisedPosterior, PosteriorConfig
from acie_pipelines.models.posterior_training import PosteriorTraining, train_posterior
from acie_pipelines.models.simulated import simulate_spectra
from acie_pipelines.simulation.presets import preset

__all__ = ["fit_mechanisms", "learned_mechanisms", "train_on_simulation", "trained_posterior"]

_POSTERIOR_SEED: Final = 9_000
_POSTERIOR_SPECTRA: Final = 20_000


def train_on_simulation(*, steps: int = 2000, seed: int = 0) -> AmortisedPosterior:
    """Train the amortised posterior of the ``sdss`` preset."""
    data = simulate_spectra(_POSTERIOR_SPECTRA, seed=_POSTERIOR_SEED + seed)
    model = AmortisedPosterior(PosteriorConfig(pixels=preset("sdss").pixels), seed=seed)
    return train_posterior(model, data, PosteriorTraining(steps=steps, seed=seed))


def trained_posterior(measurements: Measurements) -> AmortisedPosterior:
    """Posterior of `train_on_simulation`, from the folder if it is there."""
    return measurements.model(
        "posterior", train_on_simulation, AmortisedPosterior.load, depends_on=POSTERIOR_SOURCES
    )


def learned_mechanisms(measurements: Measurements, seed: int) -> LearnedMechanisms:
    """Mechanisms fitted to a table of simulated galaxies, from the folder if they are there."""
    return measurements.model(
        f"mechanisms-{seed}",
        lambda: fit_mechanisms(measurements, seed),
        LearnedMechanisms.load,
        depends_on=MECHANISM_SOURCES,
    )


def fit_mechanisms(measurements: Measurements, seed: int) -> LearnedMechanisms:
    """Fit them, find how far they may be off, and keep both."""
    problem = galaxy_problem(seed, hold_state=False)
    model = fit_problem(problem, seed=seed)
    found = LearnedMechanisms.of(model, problem.train, seed=seed)
    measurements.keep(f"mechanisms-{seed}", found, depends_on=MECHANISM_SOURCES)
    return found
