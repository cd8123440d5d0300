"""Counterfactual stamps against the renderer's truth, and what they must conserve."""

import math

import pytest
import torch

from acie_pipelines.causal.interventions import Intervention
from acie_pipelines.causal.queries import parse_interventions
from acie_pipelines.errors import ConfigurationError, ModelError
from acie_pipelines.models.image_counterfactual import (
    ELLIPTICAL,
    SPIRAL,
    ImageEngine,
    StampPosterior,
    stamp_graph,
)
from acie_pipelines.models.image_decoder import LATENTS, StampDecoder, border_noise

torch.set_num_threads(1)

ENGINE = ImageEngine(draws=19)
DECODER = StampDecoder()
FLUX = 1e4
COUNT = 6


def latent_state() -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    latent = torch.zeros(COUNT, len(LATENTS))
    latent[:, 0] = torch.linspace(1.5, 2.6, COUNT)
    latent[:, 1] = torch.linspace(-1.0, 2.0, COUNT)
    latent[:, 2:4] = torch.rand(COUNT, 2, generator=generator)
    latent[:, 5] = torch.linspace(-1.5, 1.5, COUNT)
    return latent


LATENT = latent_state()
MORPHOLOGY = torch.tensor([SPIRAL, ELLIPTICAL] * (COUNT // 2))
CLEAN = FLUX * DECODER.unit_stamps(LATENT, MORPHOLOGY)[:, None]
SIGMA = 3.0
NOISE = SIGMA * torch.randn(CLEAN.shape, generator=torch.Generator().manual_seed(8))
SKY = 20.0
STAMPS = CLEAN + NOISE + SKY


def do(text: str) -> tuple[Intervention, ...]:
    return parse_interventions(text, stamp_graph())


@pytest.fixture(scope="module")
def posterior() -> StampPosterior:
    return ENGINE.abduct(STAMPS, MORPHOLOGY, torch.full((COUNT, 1), SIGMA), seed=1)


def error_sigmas(found: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    return ((found - truth) / SIGMA).square().mean(dim=(1, 2, 3)).sqrt()


def test_nothing_done_changes_nothing(posterior: StampPosterior) -> None:
    answer = ENGINE.predict(posterior, ())
    for tensor in vars(answer).values():
        assert torch.equal(tensor, STAMPS)
    again = ENGINE.predict(posterior, do("flux*=1, size*=1")).counterfactual
    torch.testing.assert_close(again, STAMPS, rtol=1e-5, atol=1e-3)


def test_setting_the_factual_morphology_changes_nothing(posterior: StampPosterior) -> None:
    answer = ENGINE.predict(posterior, do("morphology=1"))
    same = posterior.morphology == ELLIPTICAL
    assert torch.equal(answer.counterfactual[same], STAMPS[same])
    assert (answer.counterfactual[~same] - STAMPS[~same]).abs().max() > 10 * SIGMA


@pytest.mark.parametrize("factor", [0.5, 3.0])
def test_flux_scales_the_galaxy_and_not_the_sky(posterior: StampPosterior, factor: float) -> None:
    answer = ENGINE.predict(posterior, do(f"flux*={factor}"))
    truth = STAMPS + (factor - 1) * CLEAN
    assert (error_sigmas(answer.counterfactual, truth) < 0.1).all()
    gained = (answer.counterfactual - STAMPS).sum(dim=(1, 2, 3))
    # The sky under a large galaxy is uncertain, and with it some of its flux.
    torch.testing.assert_close(gained, torch.full((COUNT,), (factor - 1) * FLUX), rtol=0.05, atol=0)


def test_size_and_morphology_keep_the_flux(posterior: StampPosterior) -> None:
    for question in ("size*=1.4", "morphology=0", "morphology=1, size*=0.8"):
        changed = ENGINE.predict(posterior, do(question)).counterfactual - STAMPS
        assert changed.abs().max() > SIGMA
        assert float(changed.sum(dim=(1, 2, 3)).abs().max()) < 1e-4 * FLUX


def test_size_is_rendered_through_the_same_psf(posterior: StampPosterior) -> None:
    answer = ENGINE.predict(posterior, do("size*=1.5"))
    grown = LATENT.clone()
    grown[:, 0] += math.log(1.5)
    truth = STAMPS - CLEAN + FLUX * DECODER.unit_stamps(grown, MORPHOLOGY)[:, None]
    errors = error_sigmas(answer.counterfactual, truth)
    assert (errors < 0.1).all()
    assert (errors < 0.2 * error_sigmas(STAMPS, truth)).all()


def test_setting_a_size_is_moving_to_it(posterior: StampPosterior) -> None:
    answer = ENGINE.predict(posterior, do("size=8 pix")).counterfactual
    at_eight = LATENT.clone()
    at_eight[:, 0] = math.log(8)
    truth = STAMPS - CLEAN + FLUX * DECODER.unit_stamps(at_eight, MORPHOLOGY)[:, None]
    assert (error_sigmas(answer, truth) < 0.15).all()


def test_morphology_takes_arms_and_adds_bulge(posterior: StampPosterior) -> None:
    answer = ENGINE.predict(posterior, do("morphology=1"))
    truth = STAMPS - CLEAN + FLUX * DECODER.unit_stamps(LATENT, torch.ones(COUNT))[:, None]
    spiral = MORPHOLOGY == SPIRAL
    errors = error_sigmas(answer.counterfactual, truth)[spiral]
    assert (errors < 0.25 * error_sigmas(STAMPS, truth)[spiral]).all()


def test_intervals_cover_unknown_arms(posterior: StampPosterior) -> None:
    answer = ENGINE.predict(posterior, do("morphology=0"))
    truth = STAMPS - CLEAN + FLUX * DECODER.unit_stamps(LATENT, torch.zeros(COUNT))[:, None]
    switched = MORPHOLOGY == ELLIPTICAL
    inside = (truth >= answer.lower - 1e-3) & (truth <= answer.upper + 1e-3)
    bright = (CLEAN > SIGMA)[switched]
    assert 0.75 < float(inside[switched][bright].float().mean()) <= 1.0
    width = (answer.upper - answer.lower)[switched][bright].mean()
    known = ENGINE.predict(posterior, do("flux*=1.1"))
    assert width > 3 * (known.upper - known.lower)[switched][bright].mean()


def test_structure_moves_with_the_galaxy_and_stars_stay() -> None:
    # Knots in the disc, and a star in a corner, on a bright spiral of two bands.
    clean = CLEAN[:1] * torch.tensor([2.0, 3.0]).reshape(1, 2, 1, 1)
    pattern = torch.randn(1, 1, 22, 22, generator=torch.Generator().manual_seed(0))
    knots = 0.3 * torch.nn.functional.interpolate(pattern, size=(88, 88), mode="bilinear")
    star = torch.zeros(1, 1, 88, 88)
    star[..., 8:11, 8:11] = 2000.0
    stamps = clean * (1 + knots) + star + NOISE[:1] + SKY
    posterior = ENGINE.abduct(stamps, MORPHOLOGY[:1], torch.full((1, 2), SIGMA), seed=0)
    assert 0.1 < float(posterior.structure) < 0.5
    doubled = ENGINE.predict(posterior, do("flux*=2")).counterfactual
    truth = stamps + clean * (1 + knots)
    core = (..., slice(36, 52), slice(36, 52))
    relative = (doubled - truth)[core].abs().mean() / (truth - stamps)[core].mean()
    assert relative < 0.1
    corner = (..., slice(8, 11), slice(8, 11))
    assert (doubled - stamps)[corner].abs().max() < 0.02 * 2000


def test_noise_of_the_frame_is_found() -> None:
    measured = border_noise(STAMPS[:2])
    torch.testing.assert_close(measured, torch.full((2, 1), SIGMA), rtol=0.1, atol=0)
    assert torch.equal(border_noise(torch.zeros(1, 3, 88, 88)), torch.ones(1, 3))


@pytest.mark.parametrize("question", ["morphology=0.5", "morphology+=1", "size=200", "mass*=2"])
def test_impossible_questions_are_refused(posterior: StampPosterior, question: str) -> None:
    with pytest.raises(ConfigurationError, match="intervention"):
        ENGINE.predict(posterior, do(question))


def test_unusable_input_is_refused(posterior: StampPosterior) -> None:
    noise = torch.full((COUNT, 1), SIGMA)
    with pytest.raises(ModelError, match="twice"):
        ENGINE.predict(posterior, do("flux*=2, flux*=3"))
    with pytest.raises(ModelError, match="neither spiral"):
        ENGINE.abduct(STAMPS, MORPHOLOGY + 0.5, noise, seed=0)
    with pytest.raises(ModelError, match="do not match"):
        ENGINE.abduct(STAMPS, MORPHOLOGY[:2], noise, seed=0)
    with pytest.raises(ModelError, match="not finite"):
        ENGINE.abduct(STAMPS * math.nan, MORPHOLOGY, noise, seed=0)
    with pytest.raises(ModelError, match="holds no light"):
        ENGINE.abduct(-STAMPS, MORPHOLOGY, noise, seed=0)
    with pytest.raises(ConfigurationError, match="too few"):
        ImageEngine(draws=5)
