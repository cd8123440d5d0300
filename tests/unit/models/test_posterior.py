"""The amortised posterior: shapes, equivariance, storage, resumed training."""

from io import BytesIO
from typing import Any

import pytest
import torch

from acie_pipelines.errors import ModelError
from acie_pipelines.models.parameters import unconstrain
from acie_pipelines.models.posterior import AmortisedPosterior, PosteriorConfig
from acie_pipelines.models.posterior_training import (
    Acceleration,
    LabelledSpectra,
    PosteriorFitter,
    PosteriorTraining,
    SpectraInMemory,
)
from acie_pipelines.models.simulated import SimulatedSpectra, simulate_spectra

SMALL = PosteriorConfig(pixels=1000, hidden=32, blocks=1, transforms=1, spline_hidden=16)


@pytest.fixture(scope="module")
def sky() -> SimulatedSpectra:
    return simulate_spectra(200, seed=3)


def fitter(sky: SimulatedSpectra, config: PosteriorTraining, **options: Any) -> PosteriorFitter:
    spectra = LabelledSpectra(unconstrain(sky.values), sky.clean, sky.sigma)
    model = AmortisedPosterior(SMALL, seed=0)
    source = SpectraInMemory(spectra.rows(slice(150)))
    return PosteriorFitter(model, source, spectra.rows(slice(150, None)), config, **options)


def run(training: PosteriorFitter) -> AmortisedPosterior:
    while not training.finished:
        training.epoch()
    return training.finish()


def test_training_raises_the_density_of_the_truth(sky: SimulatedSpectra) -> None:
    training = fitter(sky, PosteriorTraining(steps=60, epoch_steps=10, batch=64))
    run(training)
    densities = [epoch.validation["density"] for epoch in training.history]
    assert [epoch.epoch for epoch in training.history] == [1, 2, 3, 4, 5, 6]
    assert densities[-1] < densities[0] - 1
    # The spline adds to the normal of location and scale, which it starts from.
    assert training.history[-1].validation["density"] < training.history[-1].validation["location"]
    assert all(epoch.gradient_norm > 0 for epoch in training.history)


def test_training_stops_when_nothing_improves(sky: SimulatedSpectra) -> None:
    config = PosteriorTraining(steps=400, epoch_steps=10, batch=64, patience=2, learning_rate=0.05)
    training = fitter(sky, config)
    best = run(training)
    losses = [epoch.validation["density"] for epoch in training.history]
    assert len(losses) < 40
    assert losses[-3] < min(losses[-2:])
    # The weights are those of the best epoch, not of the last.
    again = fitter(sky, config)
    while len(again.history) < losses.index(min(losses)) + 1:
        again.epoch()
    for a, b in zip(best.state_dict().values(), again.finish().state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_training_resumes_to_the_same_result(sky: SimulatedSpectra) -> None:
    config = PosteriorTraining(steps=9, epoch_steps=3, batch=16)
    whole = run(fitter(sky, config))
    cut = fitter(sky, config)
    cut.epoch()
    buffer = BytesIO()
    torch.save(cut.state(), buffer)
    buffer.seek(0)
    resumed = fitter(sky, config)
    resumed.restore(torch.load(buffer, weights_only=True))
    for a, b in zip(whole.state_dict().values(), run(resumed).state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_half_precision_of_the_embedding_trains_alike(sky: SimulatedSpectra) -> None:
    config = PosteriorTraining(steps=20, epoch_steps=20, batch=64)
    losses = {
        half: fitter(sky, config, acceleration=Acceleration(half, False, "test")).epoch().train
        for half in (False, True)
    }
    assert losses[True] == pytest.approx(losses[False], abs=0.2)
    assert losses[True] != losses[False]


def test_divergence_and_lack_of_spectra_are_refused(sky: SimulatedSpectra) -> None:
    with pytest.raises(ModelError, match="diverged"):
        run(fitter(sky, PosteriorTraining(steps=60, batch=64, learning_rate=1e6)))
    with pytest.raises(ModelError, match="fill a batch"):
        fitter(sky, PosteriorTraining(batch=1000)).epoch()


def test_saved_and_loaded_models_agree(sky: SimulatedSpectra) -> None:
    import json

    model = AmortisedPosterior(SMALL, seed=4).eval()
    model.set_standardisation(sky.clean, unconstrain(sky.values))
    again = AmortisedPosterior.load(json.dumps(model.spec()).encode(), model.weights())
    context = model.context(sky.flux, sky.ivar)
    parameters = unconstrain(sky.values)
    assert torch.equal(
        model.log_prob(parameters, context),
        again.log_prob(parameters, again.context(sky.flux, sky.ivar)),
    )
    assert torch.equal(
        model.sample(sky.flux, sky.ivar, 3, seed=1), again.sample(sky.flux, sky.ivar, 3, seed=1)
    )


def test_damaged_weights_are_refused() -> None:
    with pytest.raises(ModelError, match="cannot be loaded"):
        AmortisedPosterior.load(b"{}", b"")


def test_wrong_grid_and_darkness_are_refused() -> None:
    model = AmortisedPosterior(SMALL, seed=0)
    with pytest.raises(ModelError, match="1000 pixels"):
        model.context(torch.ones(2, 10), torch.ones(2, 10))
    with pytest.raises(ModelError, match="no light"):
        model.context(torch.zeros(2, 1000), torch.ones(2, 1000))


def test_missing_pixels_do_not_matter(sky: SimulatedSpectra) -> None:
    model = AmortisedPosterior(SMALL, seed=0).eval()
    ivar = sky.ivar.clone()
    ivar[:, :100] = 0
    broken = sky.flux.clone()
    broken[:, :100] = -1e5
    assert torch.equal(model.centre(sky.flux, ivar), model.centre(broken, ivar))


def test_density_integrates_to_one_along_a_line(sky: SimulatedSpectra) -> None:
    """Samples have the density: the mean of p / q over draws of p's own sampler is stable."""
    model = AmortisedPosterior(SMALL, seed=0).eval()
    model.set_standardisation(sky.clean, unconstrain(sky.values))
    flux, ivar = sky.flux[:1], sky.ivar[:1]
    draws = model.sample(flux, ivar, 4000, seed=2)[:, 0]
    context = model.context(flux, ivar).expand(4000, -1)
    log_q = model.log_prob(draws, context)
    centre, spread = draws.mean(0), draws.T.cov()
    normal = torch.distributions.MultivariateNormal(centre, 0.5 * spread)
    assert torch.exp(normal.log_prob(draws) - log_q).mean().item() == pytest.approx(1, abs=0.15)
