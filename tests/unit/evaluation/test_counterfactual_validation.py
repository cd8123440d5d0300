"""Validation passes an honest small model and refuses each kind of bad one, each made for real."""

import json
from copy import deepcopy
from dataclasses import replace

import pytest
import torch

from acie_pipelines.causal.fitting import FitConfig, fit_scm
from acie_pipelines.causal.mechanisms import MechanismConfig
from acie_pipelines.causal.scm import StructuralCausalModel
from acie_pipelines.errors import ConfigurationError
from acie_pipelines.evaluation.answered_physics import answered_residuals
from acie_pipelines.evaluation.counterfactual_validation import (
    CounterfactualThresholds,
    HeldOut,
    checks,
    measure_engine,
    paired_errors,
    read_counterfactual_report,
    validate_counterfactual,
)
from acie_pipelines.evaluation.figures import (
    coverage_figure,
    error_figure,
    examples_figure,
    physics_figure,
)
from acie_pipelines.models.counterfactual import SpectralEngine
from acie_pipelines.models.decoder import SpectralDecoder
from acie_pipelines.models.mechanisms import LearnedMechanisms
from acie_pipelines.models.parameters import unconstrain
from acie_pipelines.models.posterior import AmortisedPosterior, PosteriorConfig
from acie_pipelines.models.posterior_training import (
    LabelledSpectra,
    PosteriorFitter,
    PosteriorTraining,
    SpectraInMemory,
)
from acie_pipelines.models.simulated import SimulatedSpectra, simulate_spectra
from acie_pipelines.provenance import Manifest, verify_chain
from acie_pipelines.simulation.galaxy import GalaxySCM
from acie_pipelines.storage import Store
from acie_pipelines.training.counterfactual_training import learnable_graph
from acie_pipelines.training.figures import figure_png
from assets.validation.checks import COUNTERFACTUAL_CHECKS

torch.set_num_threads(1)

# Of so few galaxies a share scatters by more than the limits of many.
FEW = HeldOut(galaxies=8, seed=1_000_003, draws=20)
# Network and mechanisms are trained for seconds; bad ones gain nothing at all. Intervals of
# counterfactual pixels leave out the error of mechanisms, which is large here.
LIMITS = CounterfactualThresholds(
    max_coverage_error_latents=0.15,
    max_coverage_error_pixels=0.2,
    min_counterfactual_coverage=0.2,
    min_posterior_gain_nats=1.0,
)


def train_network(spectra: LabelledSpectra, steps: int = 250) -> AmortisedPosterior:
    shape = PosteriorConfig(1000, hidden=64, blocks=1, transforms=1, spline_hidden=16)
    training = PosteriorTraining(steps=steps, epoch_steps=50, batch=64, learning_rate=2e-3)
    source = SpectraInMemory(spectra.rows(slice(1400)))
    fitter = PosteriorFitter(
        AmortisedPosterior(shape, seed=0), source, spectra.rows(slice(1400, None)), training
    )
    while not fitter.finished:
        fitter.epoch()
    return fitter.finish()


def learn_mechanisms(rows: torch.Tensor, epochs: int = 15) -> StructuralCausalModel:
    model = StructuralCausalModel(learnable_graph(), MechanismConfig(), seed=0)
    fit_scm(model, rows[500:], rows[:500], FitConfig(max_epochs=epochs))
    return model.eval()


@pytest.fixture(scope="module")
def sky() -> SimulatedSpectra:
    return simulate_spectra(1500, seed=12)


@pytest.fixture(scope="module")
def rows() -> torch.Tensor:
    values = GalaxySCM().sample(4500, seed=13)
    return torch.stack([values[name] for name in learnable_graph().nodes], dim=1).float()


@pytest.fixture(scope="module")
def honest(sky: SimulatedSpectra, rows: torch.Tensor) -> SpectralEngine:
    network = train_network(LabelledSpectra(unconstrain(sky.values), sky.clean, sky.sigma))
    return SpectralEngine(network, SpectralDecoder(), LearnedMechanisms(learn_mechanisms(rows)))


def failures(engine: SpectralEngine) -> set[str]:
    report = measure_engine(engine, FEW)
    assert json.dumps(report, allow_nan=False)
    found = checks(report, LIMITS)
    assert [check.name for check in found] == [spec.name for spec in COUNTERFACTUAL_CHECKS]
    return {check.name for check in found if not check.passed}


def test_an_honest_small_model_passes(honest: SpectralEngine) -> None:
    assert failures(honest) == set()


def test_a_model_that_ignores_its_parents_is_refused(honest: SpectralEngine) -> None:
    assert isinstance(honest.mechanisms, LearnedMechanisms)
    blind = deepcopy(honest.mechanisms.model)
    for name in blind.names:
        network = getattr(blind.mechanism(name), "network", None)
        if network is not None:
            for parameter in network.parameters():
                torch.nn.init.zeros_(parameter)
    engine = SpectralEngine(honest.posterior, honest.decoder, LearnedMechanisms(blind))
    assert "counterfactual_error" in failures(engine)


def test_a_collapsed_model_is_refused(honest: SpectralEngine) -> None:
    """Its network answers every spectrum with one galaxy and no doubt."""
    network = deepcopy(honest.posterior)
    with torch.no_grad():
        network.entrance.weight.zero_()
        network.head.weight.zero_()
        network.head.bias.zero_()
        network.head.bias[network.head.bias.numel() // 2 :] = -3.0
    engine = SpectralEngine(network, honest.decoder, honest.mechanisms)
    assert "posterior_gain" in failures(engine)
    # Without refinement the answers themselves are that galaxy's.
    fast = SpectralEngine(network, honest.decoder, honest.mechanisms, refinement_steps=0)
    assert {"counterfactual_error", "spectral_composition", "coverage_error_latents"} <= failures(
        fast
    )


def test_a_model_trained_on_shuffled_labels_is_refused(
    honest: SpectralEngine, sky: SimulatedSpectra, rows: torch.Tensor
) -> None:
    generator = torch.Generator().manual_seed(1)
    order = torch.randperm(1500, generator=generator)
    labels = unconstrain(sky.values)[order]
    network = train_network(LabelledSpectra(labels, sky.clean, sky.sigma), steps=100)
    shuffled = torch.stack(
        [column[torch.randperm(len(rows), generator=generator)] for column in rows.T], dim=1
    )
    mechanisms = LearnedMechanisms(learn_mechanisms(shuffled, epochs=3))
    engine = SpectralEngine(network, honest.decoder, mechanisms)
    assert {"counterfactual_error", "posterior_gain"} <= failures(engine)


def test_laws_are_measured_on_the_pixels_of_answers(sky: SimulatedSpectra) -> None:
    renderer = SpectralDecoder().renderer
    values = {name: column[:200] for name, column in sky.values.items()}
    flux = sky.clean[:200]
    right = answered_residuals(renderer, values, flux)
    assert max(right.values()) < 1e-5
    # A fake line where [O III] 5007 lies, light out of nowhere, and an absurd pixel.
    centre = 5008.24 * (1 + values["redshift"])
    near = (renderer.wavelength / centre[:, None] - 1).abs() < 1e-3
    assert answered_residuals(renderer, values, flux * (1 + 0.05 * near))["doublet"] > 0.01
    brighter = answered_residuals(renderer, values, 1.02 * flux)
    assert min(brighter["doublet"], brighter["balmer"], brighter["energy"]) > 0.01
    flux = flux.clone()
    flux[3, 10] = -1e-3
    assert answered_residuals(renderer, values, flux)["negative_flux"] > 0


def test_errors_are_compared_galaxy_by_galaxy() -> None:
    ours = {"errors": [0.1, 0.2, None], "errors_of_no_change": [9.0, 9.0, 9.0]}
    theirs = {"errors": [0.3, 0.4, 9.0], "errors_of_no_change": [9.0, 9.0, 9.0]}
    saved, error = paired_errors(ours, theirs)
    assert saved == pytest.approx(0.4 / 3)
    assert error == pytest.approx(0.0667, abs=1e-3)


def test_the_dataset_holds_report_and_verdict(small_model: tuple[Store, Manifest]) -> None:
    store, model = small_model
    held_out = HeldOut(galaxies=3, seed=5, draws=20)
    found = validate_counterfactual(
        store, model, CounterfactualThresholds(), held_out, code_version="1"
    )
    assert found.attributes["passed"] is False
    assert found.attributes["error_of_no_change"] > 5
    assert verify_chain(store, found) == 2
    report = read_counterfactual_report(store, found)
    assert len(report["errors"]) == 3
    for figure in (error_figure(report), coverage_figure(report), examples_figure(report)):
        assert figure_png(figure).startswith(b"\x89PNG")
    assert figure_png(physics_figure(report["checks"])).startswith(b"\x89PNG")
    again = validate_counterfactual(
        store, model, CounterfactualThresholds(), held_out, code_version="1"
    )
    assert again.generation == found.generation
    with pytest.raises(ConfigurationError, match="seed of training"):
        validate_counterfactual(
            store,
            model,
            CounterfactualThresholds(),
            replace(held_out, seed=model.attributes["simulation_seed"]),
            code_version="1",
        )
