"""A counterfactual model small enough for tests, and the galaxies it learns from."""

from pathlib import Path

from acie_pipelines.causal.fitting import FitConfig
from acie_pipelines.models.posterior_training import PosteriorTraining
from acie_pipelines.simulation.dataset import Simulation, write_dataset
from acie_pipelines.training.counterfactual_training import (
    CounterfactualTraining,
    MechanismTraining,
    NetworkShape,
)

CONFIG = CounterfactualTraining(
    NetworkShape(hidden=48, blocks=1, transforms=1, spline_hidden=16),
    PosteriorTraining(steps=60, epoch_steps=20, batch=64, learning_rate=2e-3),
    MechanismTraining(700, "spline", fit=FitConfig(max_epochs=20, batch_rows=128)),
)


def write_galaxies(path: Path, count: int = 800) -> Path:
    write_dataset(path, Simulation(count, "sdss", seed=11))
    return path
