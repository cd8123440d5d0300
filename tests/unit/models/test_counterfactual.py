"""The engine: factual answers, untouched variables, fast and exact paths, honest flags."""

import pytest
import torch

from acie_pipelines.causal.interventions import Intervention
from acie_pipelines.errors import ModelError
from acie_pipelines.models.counterfactual import SpectralEngine
from acie_pipelines.models.decoder import SpectralDecoder
from acie_pipelines.models.mechanisms import SimulatorMechanisms
from acie_pipelines.models.parameters import PARAMETERS, unconstrain
from acie_pipelines.models.posterior import AmortisedPosterior, PosteriorConfig
from acie_pipelines.models.simulated import SimulatedSpectra, simulate_spectra
from tests.informed import Informed

DOUBLED = Intervention("stellar_mass", "shift", 0.30103)


class Old(Informed):
    """Its first draw is older than the universe."""

    def sample(
        self, flux: torch.Tensor, ivar: torch.Tensor, draws: int, *, seed: int
    ) -> torch.Tensor:
        starts = super().sample(flux, ivar, draws, seed=seed)
        starts[0, :, PARAMETERS.index("age")] = 1.2
        return starts


@pytest.fixture(scope="module")
def sky() -> SimulatedSpectra:
    return simulate_spectra(6, seed=21)


@pytest.fixture(scope="module")
def engine(sky: SimulatedSpectra) -> SpectralEngine:
    return SpectralEngine(Old(unconstrain(sky.values)), SpectralDecoder(), SimulatorMechanisms())


def test_nothing_done_gives_back_the_factual_spectrum(
    sky: SimulatedSpectra, engine: SpectralEngine
) -> None:
    posterior = engine.abduct(sky.flux, sky.ivar, draws=32, seed=0)
    assert posterior.reliable.all()
    answer = engine.counterfactual(posterior, [], seed=0)
    for name, values in posterior.values.items():
        assert torch.equal(answer.values[name], values)
    error = ((answer.median - sky.clean) / sky.sigma).square().mean().sqrt()
    assert error < 0.15
    low, high = answer.interval(0.9)
    assert (low <= answer.median).all()
    assert (answer.median <= high).all()


def test_only_effects_change(sky: SimulatedSpectra, engine: SpectralEngine) -> None:
    posterior = engine.abduct(sky.flux, sky.ivar, draws=16, seed=0)
    answer = engine.counterfactual(posterior, [DOUBLED], seed=0, hold_state=True)
    for name in ("redshift", "environment", "star_formation_state"):
        assert torch.equal(answer.values[name], posterior.values[name])
    shift = answer.values["stellar_mass"] - posterior.values["stellar_mass"]
    torch.testing.assert_close(shift, torch.full_like(shift, DOUBLED.value))
    assert (answer.flux.mean(-1) > 1.2 * posterior_flux(engine, posterior)).all()


def posterior_flux(engine: SpectralEngine, posterior: object) -> torch.Tensor:
    return engine.counterfactual(posterior, [], seed=0).flux.mean(-1)  # type: ignore[arg-type]


def test_same_seed_same_answer(sky: SimulatedSpectra, engine: SpectralEngine) -> None:
    first, second = (engine.abduct(sky.flux, sky.ivar, draws=8, seed=3) for _ in range(2))
    answers = [engine.counterfactual(p, [DOUBLED], seed=1).flux for p in (first, second)]
    assert torch.equal(*answers)


def test_an_unknown_line_is_kept(sky: SimulatedSpectra, engine: SpectralEngine) -> None:
    flux = sky.flux.clone()
    flux[0, 700:703] += 12 * sky.sigma[0, 700:703]
    posterior = engine.abduct(flux, sky.ivar, draws=8, seed=0)
    assert posterior.residual[0, 701] > 0.3
    plain = engine.abduct(sky.flux, sky.ivar, draws=8, seed=0)
    with_line = engine.counterfactual(posterior, [DOUBLED], seed=0).median[0, 701]
    assert with_line > 1.2 * engine.counterfactual(plain, [DOUBLED], seed=0).median[0, 701]


def test_what_no_model_fits_is_flagged(sky: SimulatedSpectra) -> None:
    engine = SpectralEngine(
        Old(unconstrain(sky.values)),
        SpectralDecoder(),
        SimulatorMechanisms(),
        refinement_steps=2,
    )
    posterior = engine.abduct(sky.flux.flip(1), sky.ivar, draws=4, seed=0)
    assert not posterior.reliable.any()


def test_the_network_alone_makes_no_claim(sky: SimulatedSpectra) -> None:
    fast = SpectralEngine(
        Old(unconstrain(sky.values)),
        SpectralDecoder(),
        SimulatorMechanisms(),
        refinement_steps=0,
    )
    posterior = fast.abduct(sky.flux, sky.ivar, draws=4, seed=0)
    assert not posterior.reliable.any()
    flux = fast.counterfactual(posterior, [DOUBLED], seed=0).flux
    assert flux.shape == (4, 6, 1000)
    assert flux.isfinite().all()


def test_grids_must_agree() -> None:
    network = AmortisedPosterior(PosteriorConfig(50, 16, 1, 1, 16), seed=0)
    with pytest.raises(ModelError, match="grids"):
        SpectralEngine(network, SpectralDecoder(), SimulatorMechanisms())
