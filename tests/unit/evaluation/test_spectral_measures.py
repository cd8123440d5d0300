"""Measures of counterfactual spectra: right answers pass; wrong models are told."""

import pytest
import torch

from acie_pipelines.errors import ConfigurationError
from acie_pipelines.evaluation import spectral_measurements
from acie_pipelines.evaluation.spectral_measures import (
    MassRegressor,
    coverage,
    law_residuals,
    p_values_of_ranks,
    pixel_error,
    rank_p_values,
    ranks,
    violations,
)
from acie_pipelines.evaluation.spectral_peers import SPECTRAL_PEERS
from acie_pipelines.evaluation.spectral_problems import DOUBLED, SpectralProblem, doubled_mass
from acie_pipelines.models.parameters import unconstrain
from acie_pipelines.models.posterior import AmortisedPosterior, PosteriorConfig
from acie_pipelines.models.simulated import SimulatedSpectra, simulate_spectra
from acie_pipelines.models.vae import ConditionalVAE, VAEConfig, train_vae
from acie_pipelines.simulation.galaxy import GalaxySCM


class Informed(AmortisedPosterior):
    """Guesses near the truth, so that no training is needed here."""

    def __init__(self, truth: torch.Tensor) -> None:
        super().__init__(PosteriorConfig(1000, 16, 1, 1, 16), seed=0)
        self.truth = truth

    def centre(self, flux: torch.Tensor, ivar: torch.Tensor) -> torch.Tensor:
        return self.truth + 0.003


PARENTS = ("stellar_mass", "redshift", "environment", "star_formation_state")


def parents_of(values: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack([values[name] for name in PARENTS], dim=1).float()


@pytest.fixture(scope="module")
def problem() -> SpectralProblem:
    return doubled_mass(100, seed=3)


@pytest.fixture(scope="module")
def train() -> SimulatedSpectra:
    return simulate_spectra(3000, seed=1)


@pytest.fixture(scope="module")
def regressor(train: SimulatedSpectra) -> MassRegressor:
    return MassRegressor(train.clean, train.values["stellar_mass"])


def scores(
    problem: SpectralProblem,
    regressor: MassRegressor,
    nothing: torch.Tensor,
    answer: torch.Tensor,
) -> dict[str, float]:
    data = problem.data
    gain = regressor(answer) - regressor(nothing)
    return {
        "error": float(pixel_error(answer, problem.flux, problem.sigma).median()),
        "composition": float(pixel_error(nothing, data.clean, data.sigma).median()),
        "effectiveness_dex": float((gain - DOUBLED.value).abs().median()),
    }


def names(found: list[str]) -> set[str]:
    return {each.split(" is ")[0] for each in found}


def test_the_truth_passes(problem: SpectralProblem, regressor: MassRegressor) -> None:
    assert violations(scores(problem, regressor, problem.data.clean, problem.flux)) == []


def test_a_model_that_ignores_its_parents_is_told(
    problem: SpectralProblem, regressor: MassRegressor
) -> None:
    clean = problem.data.clean
    found = scores(problem, regressor, clean, clean)
    assert names(violations(found)) == {"error", "effectiveness_dex"}
    assert found["effectiveness_dex"] == pytest.approx(DOUBLED.value, abs=1e-6)


def test_a_collapsed_model_is_told(problem: SpectralProblem, regressor: MassRegressor) -> None:
    same = problem.data.clean.mean(dim=0).expand_as(problem.data.clean)
    assert {"error", "composition"} <= names(violations(scores(problem, regressor, same, same)))


def test_a_model_of_shuffled_labels_is_told(
    problem: SpectralProblem, train: SimulatedSpectra, regressor: MassRegressor
) -> None:
    factual, changed = parents_of(problem.data.values), parents_of(problem.values)
    errors = {}
    for label in ("right", "shuffled"):
        rows = torch.arange(3000)
        if label == "shuffled":
            rows = torch.randperm(3000, generator=torch.Generator().manual_seed(0))
        answer = SPECTRAL_PEERS["PCA16 + linear"](
            train.flux, parents_of(train.values)[rows], seed=0
        )
        clean = problem.data.clean
        found = scores(problem, regressor, clean, answer(clean, factual, changed))
        errors[label] = found
    assert {"error", "effectiveness_dex"} <= names(violations(errors["shuffled"]))
    assert errors["shuffled"]["effectiveness_dex"] > 0.2
    assert errors["right"]["error"] < 0.3 * errors["shuffled"]["error"]


def test_overconfidence_is_told() -> None:
    generator = torch.Generator().manual_seed(4)
    truth = torch.randn(4000, generator=generator)
    draws = torch.randn(99, 4000, generator=generator)
    assert violations({"coverage": coverage(draws, truth)}) == []
    assert violations({"coverage": coverage(0.5 * draws, truth)}) != []
    right = rank_p_values({"a": draws, "b": draws}, {"a": truth, "b": truth})
    assert min(right.values()) > 0.01
    wrong = rank_p_values({"a": 0.8 * draws, "b": draws}, {"a": truth, "b": truth})
    assert wrong["a"] < 1e-6 < wrong["b"]


def test_coverage_does_not_depend_on_the_number_of_draws() -> None:
    generator = torch.Generator().manual_seed(5)
    truth = torch.randn(20_000, generator=generator)
    for count in (39, 64, 200):
        draws = torch.randn(count, 20_000, generator=generator)
        assert coverage(draws, truth) == pytest.approx(0.9, abs=0.008)
    with pytest.raises(ConfigurationError, match="too few"):
        coverage(truth[None, :10], truth[:10])


def test_nan_is_outside_every_limit() -> None:
    assert violations({"error": float("nan")}) != []


def test_autoencoder_learns_a_plane() -> None:
    generator = torch.Generator().manual_seed(6)
    parents = torch.randn(2000, 1, generator=generator)
    hidden = torch.randn(2000, 1, generator=generator)
    weights = torch.randn(2, 20, generator=generator)
    observed = torch.cat([parents, hidden], dim=1) @ weights
    model = ConditionalVAE(VAEConfig(20, 1, latent_dim=2, hidden=32), seed=0)
    train_vae(model, observed, parents, epochs=30, seed=0, learning_rate=5e-3)
    changed = parents + 1
    expected = torch.cat([changed, hidden], dim=1) @ weights
    answer = model.counterfactual(observed, parents, changed)
    assert (answer - expected).square().mean() < 0.2 * (observed - expected).square().mean()


def test_doubled_mass_with_the_state_held_and_free() -> None:
    held, free = (doubled_mass(200, seed=9, hold_state=hold) for hold in (True, False))
    factual = held.data.values
    state = "star_formation_state"
    assert torch.equal(held.values[state], factual[state])
    assert 0.02 < (free.values[state] != factual[state]).double().mean() < 0.3
    same = free.values[state] == factual[state]
    for problem in (held, free):
        for name in ("redshift", "environment"):
            assert torch.equal(problem.values[name], factual[name])
        shift = problem.values["stellar_mass"] - factual["stellar_mass"]
        torch.testing.assert_close(shift, torch.full_like(shift, DOUBLED.value))
    torch.testing.assert_close(held.flux[same], free.flux[same], rtol=1e-4, atol=0)


def test_ranks_count_draws_below_the_truth_and_share_out_ties() -> None:
    draws = torch.tensor([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
    assert ranks(draws, torch.tensor([2.5, 6.0])).tolist() == [2, 3]
    tied = ranks(torch.zeros(3, 4000), torch.zeros(4000))
    counts = torch.bincount(tied)
    assert len(counts) == 4
    assert (counts - 1000).abs().max() < 150


def test_as_many_ranks_of_each_kind_are_uniform() -> None:
    even = torch.arange(101).repeat(10)
    found = p_values_of_ranks({"even": even, "low": even.clamp_max(50)}, draws=100)
    assert found["even"] == 1.0
    assert found["low"] < 1e-9


def test_simulated_galaxies_keep_the_laws_and_others_do_not() -> None:
    from acie_pipelines.simulation import light
    from acie_pipelines.simulation.presets import preset
    from acie_pipelines.simulation.spectrum import SpectrumRenderer

    values = GalaxySCM().sample(60, seed=4)
    flux = SpectrumRenderer(preset("sdss"))(values)
    found = law_residuals(values, flux)
    assert found["doublets"] < 1e-9
    assert found["balmer"] < 1e-6
    assert found["energy"] < 1e-3
    assert found["negative flux"] == 0.0
    assert law_residuals(values, flux - 2 * flux.mean())["negative flux"] > 0.5
    with pytest.MonkeyPatch.context() as patch:
        lines = light.line_luminosities

        def brighter(parameters: object, unseen: float) -> dict[str, torch.Tensor]:
            made = lines(parameters, unseen)  # type: ignore[arg-type]
            made["o_iii_4959"], made["h_gamma"] = made["o_iii_4959"] * 1.1, made["h_gamma"] * 1.1
            return made

        patch.setattr(light, "line_luminosities", brighter)
        wrong = law_residuals(values, flux)
    assert wrong["doublets"] == pytest.approx(1 - 1 / 1.1, abs=1e-6)
    assert wrong["balmer"] == pytest.approx(0.1, abs=1e-6)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            light.GalaxyLight, "absorbed_luminosity", lambda self, given: 0 * given["age"]
        )
        assert law_residuals(values, flux)["energy"] == 1.0


def test_cycles_with_kept_noise_bring_everything_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectral_measurements, "_CYCLED", 2)
    monkeypatch.setattr(spectral_measurements, "CYCLES", 2)
    monkeypatch.setattr(spectral_measurements, "DRAWS", 8)
    problem = doubled_mass(2, seed=500)
    network = Informed(unconstrain(problem.data.values))
    found = spectral_measurements.measure_cycles(network, 0).values
    assert len(found) == 12
    for name in ("composition", "reversibility"):
        for cycles in ("1 cycle", "2 cycles"):
            assert found[f"scalars/{name}, {cycles}"] < 1e-9
            assert found[f"{name}, {cycles}"] < 1e-3
            assert 0 <= found[f"abducted anew/{name}, {cycles}"] < 1
