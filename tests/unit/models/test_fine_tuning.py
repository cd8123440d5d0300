"""Fine-tuning without labels: it teaches what the truth confirms, is kept only if it helps."""

import copy
from dataclasses import replace

import pytest
import torch

from acie_pipelines.errors import IntegrityError, ModelError
from acie_pipelines.models.adaptation import adapted
from acie_pipelines.models.adaptation_file import from_bytes, to_bytes
from acie_pipelines.models.counterfactual import SpectralEngine
from acie_pipelines.models.decoder import SpectralDecoder
from acie_pipelines.models.fine_tuning import ExactLabels, Schedule, exact_labels, fine_tune
from acie_pipelines.models.mechanisms import SimulatorMechanisms
from acie_pipelines.models.parameters import unconstrain
from acie_pipelines.models.posterior import AmortisedPosterior, PosteriorConfig
from acie_pipelines.models.posterior_training import PosteriorTraining, train_posterior
from acie_pipelines.models.residual import LearnedResidual
from acie_pipelines.models.simulated import SimulatedSpectra, simulate_spectra

SMALL = PosteriorConfig(pixels=1000, hidden=48, blocks=1, transforms=1, spline_hidden=16)
BRIEF = Schedule(steps=60, share=16, learning_rate=3e-4, simulated=300)


@pytest.fixture(scope="module")
def engine() -> SpectralEngine:
    """Trained for a moment on galaxies that do not depart."""
    training = PosteriorTraining(steps=300, epoch_steps=100, batch=64, learning_rate=2e-3)
    network = train_posterior(
        AmortisedPosterior(SMALL, seed=0), simulate_spectra(1500, seed=1), training
    )
    return SpectralEngine(network, SpectralDecoder(), SimulatorMechanisms(), refinement_steps=20)


def labelled(sky: SimulatedSpectra, modes: int = 8) -> ExactLabels:
    """Posteriors as narrow as they can be, at the truth."""
    truth, count = unconstrain(sky.values), len(sky.flux)
    return ExactLabels(
        flux=sky.flux,
        ivar=sky.ivar,
        parameters=truth[None].repeat(4, 1, 1),
        amplitudes=torch.zeros(4, count, modes, dtype=torch.float64),
        noise_scale=torch.ones(count, dtype=torch.float64),
        reliable=torch.ones(count, dtype=torch.bool),
    )


def density(network: AmortisedPosterior, sky: SimulatedSpectra) -> float:
    """Mean log density of the truth."""
    with torch.no_grad():
        context = network.context(sky.flux, sky.ivar)
        return float(network.log_prob(unconstrain(sky.values), context).mean())


def weights(network: AmortisedPosterior) -> torch.Tensor:
    return torch.cat([each.flatten() for each in network.parameters()]).detach()


@pytest.mark.slow
def test_spectra_alone_teach_where_a_survey_departs(engine: SpectralEngine) -> None:
    survey = simulate_spectra(80, seed=61, departure_name="all")
    softer = adapted(engine, None)
    labels = exact_labels(softer, survey.flux, survey.ivar, survey.values["redshift"], seed=0)
    assert labels.reliable.double().mean() > 0.8
    found = fine_tune(softer, labels, schedule=replace(BRIEF, steps=200, simulated=1000), seed=1)
    assert found.kept
    assert found.taught + found.held_out + found.unreliable == 80
    fresh = {name: simulate_spectra(200, seed=62, departure_name=name) for name in ("all", "none")}
    gain = {
        name: density(found.posterior, sky) - density(engine.posterior, sky)
        for name, sky in fresh.items()
    }
    assert gain["all"] > 0.25
    # More training alone would help galaxies that do not depart as much.
    assert gain["all"] > gain["none"] + 0.1


def test_what_does_not_help_is_not_kept(engine: SpectralEngine) -> None:
    labels = labelled(simulate_spectra(25, seed=63))
    wrong = torch.arange(25) % 5 != 0
    shuffled = labels.parameters.clone()
    shuffled[:, wrong] = shuffled[:, wrong].flip(1) + 1.0
    softer = adapted(engine, None)
    found = fine_tune(softer, replace(labels, parameters=shuffled), schedule=BRIEF, seed=0)
    assert not found.kept
    assert found.after < found.before
    assert found.posterior is engine.posterior
    diverging = replace(BRIEF, learning_rate=1e6, steps=5)
    assert fine_tune(softer, labels, schedule=diverging, seed=0).posterior is engine.posterior


def test_galaxies_that_are_poorly_sampled_teach_nothing(engine: SpectralEngine) -> None:
    labels = labelled(simulate_spectra(40, seed=64))
    reliable = torch.arange(40) < 30
    wild = labels.parameters.clone()
    wild[:, ~reliable] = 1e3
    softer = adapted(engine, None)
    found = fine_tune(
        softer, replace(labels, parameters=wild, reliable=reliable), schedule=BRIEF, seed=0
    )
    assert (found.taught, found.held_out, found.unreliable) == (24, 6, 10)
    clean = fine_tune(softer, replace(labels, reliable=reliable), schedule=BRIEF, seed=0)
    assert torch.equal(weights(found.posterior), weights(clean.posterior))
    with pytest.raises(ModelError, match="well sampled"):
        fine_tune(softer, replace(labels, reliable=torch.arange(40) < 3), schedule=BRIEF)


def test_the_seed_decides(engine: SpectralEngine) -> None:
    labels = labelled(simulate_spectra(25, seed=65))
    # Whether a trained network gains is a matter of luck; one that never saw a galaxy does.
    untrained = AmortisedPosterior(SMALL, seed=0)
    softer = adapted(SpectralEngine(untrained, engine.decoder, engine.mechanisms), None)
    first, again, other = (fine_tune(softer, labels, schedule=BRIEF, seed=s) for s in (1, 1, 2))
    assert first.kept and other.kept
    assert torch.equal(weights(first.posterior), weights(again.posterior))
    assert first.bound_after == again.bound_after
    assert not torch.equal(weights(first.posterior), weights(other.posterior))
    assert not torch.equal(weights(first.posterior), weights(untrained))


def test_of_few_galaxies_every_one_judges(engine: SpectralEngine) -> None:
    labels = labelled(simulate_spectra(6, seed=67))
    found = fine_tune(adapted(engine, None), labels, schedule=replace(BRIEF, steps=5), seed=0)
    assert found.held_out == 6
    assert found.taught == (6 if found.kept else 5)


def test_a_saved_adaptation_gives_the_same_answer_or_is_refused(engine: SpectralEngine) -> None:
    sky = simulate_spectra(20, seed=66)
    tuned = copy.deepcopy(engine.posterior)
    with torch.no_grad():
        tuned.head.weight.mul_(1.01)
    residual = LearnedResidual(1e-3, 0.01 * torch.ones(1200), torch.zeros(3, 1200))
    data = to_bytes(engine, residual, tuned)
    quick = replace_steps(from_bytes(engine, data, "sdss.adaptation"))
    here = replace_steps(adapted(engine, residual, tuned))
    answers = [each.abduct(sky.flux, sky.ivar, draws=5, seed=0) for each in (quick, here)]
    for name, column in answers[0].values.items():
        assert torch.equal(column, answers[1].values[name])
    assert torch.equal(quick.decoder.render(*light(sky)), here.decoder.render(*light(sky)))
    plain = from_bytes(engine, to_bytes(engine, residual), "sdss.adaptation")
    assert plain.posterior is engine.posterior
    with pytest.raises(ModelError, match="cut off"):
        from_bytes(engine, data[:-1], "sdss.adaptation")
    for damaged in (b"", b"{}\n", b"[1]\n", residual.to_bytes(), data.replace(b"/1", b"/9", 1)):
        with pytest.raises(ModelError, match="is no adaptation"):
            from_bytes(engine, damaged, "sdss.adaptation")
    for place in (len(data) - 1, data.index(b"\n") + 100):
        changed = bytearray(data)
        changed[place] ^= 1
        with pytest.raises(IntegrityError, match="does not match its hash"):
            from_bytes(engine, bytes(changed), "sdss.adaptation")
    foreign = SpectralEngine(tuned, engine.decoder, engine.mechanisms)
    with pytest.raises(ModelError, match="another engine"):
        from_bytes(foreign, data, "sdss.adaptation")


def replace_steps(engine: SpectralEngine) -> SpectralEngine:
    """Answer with the network alone."""
    return SpectralEngine(engine.posterior, engine.decoder, engine.mechanisms, refinement_steps=0)


def light(sky: SimulatedSpectra) -> tuple[torch.Tensor, torch.Tensor]:
    return unconstrain(sky.values), torch.zeros(len(sky.flux), 11, dtype=torch.float64)
