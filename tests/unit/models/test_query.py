"""Questions to one galaxy: answers, support, confidence, laws, errors, the file."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from acie_pipelines.errors import ConfigurationError, ObservationError, StorageError
from acie_pipelines.models.counterfactual import SpectralEngine
from acie_pipelines.models.decoder import SpectralDecoder
from acie_pipelines.models.mechanisms import SimulatorMechanisms
from acie_pipelines.models.parameters import unconstrain
from acie_pipelines.models.query import (
    CounterfactualResult,
    GridSpectrum,
    answer,
    on_grid,
    questions,
)
from acie_pipelines.models.query_figure import write_figure
from acie_pipelines.models.query_file import SCHEMA, summary, write_result
from acie_pipelines.models.simulated import SimulatedSpectra, render_in_blocks, simulate_spectra
from acie_pipelines.models.spectral_laws import law_residuals
from acie_pipelines.models.support import LEAST_SUPPORT, intervene
from acie_pipelines.observations.spectra import Arm, ObservedSpectrum
from acie_pipelines.simulation.galaxy import GalaxySCM, galaxy_graph
from tests.informed import Informed

DRAWS = 40


@pytest.fixture(scope="module")
def sky() -> SimulatedSpectra:
    return simulate_spectra(4, seed=21)


def asked(
    sky: SimulatedSpectra, row: int, question: str, *, noise: float = 1.0, model: str = "test"
) -> CounterfactualResult:
    """Ask about a simulated galaxy, seen with more or less noise."""
    generator = torch.Generator().manual_seed(row)
    sigma = noise * sky.sigma[row]
    flux = sky.clean[row] + sigma * torch.randn(1000, generator=generator)
    redshift = float(sky.values["redshift"][row])
    spectrum = GridSpectrum("sky", "simulation", redshift, flux[None], sigma[None] ** -2)
    return answer(engine_for(sky, row), spectrum, question, model=model, draws=DRAWS, seed=1)


@pytest.fixture(scope="module")
def star_forming(sky: SimulatedSpectra) -> int:
    return int(torch.nonzero(sky.values["star_formation_state"] == 0)[0])


@pytest.fixture(scope="module")
def doubled(sky: SimulatedSpectra, star_forming: int) -> CounterfactualResult:
    question = "stellar_mass*=2, star_formation_state=0"
    return asked(sky, star_forming, question, model="7")


def engine_for(sky: SimulatedSpectra, row: int) -> SpectralEngine:
    truth = {name: column[row : row + 1] for name, column in sky.values.items()}
    return SpectralEngine(Informed(unconstrain(truth)), SpectralDecoder(), SimulatorMechanisms())


def truth_of(sky: SimulatedSpectra, row: int, question: str) -> torch.Tensor:
    values = GalaxySCM().counterfactual(sky.noise, questions(question))
    chosen = {name: column[row : row + 1] for name, column in values.items()}
    return render_in_blocks(SpectralDecoder().renderer, chosen)[0]


def test_the_answer_is_the_simulators(
    sky: SimulatedSpectra, star_forming: int, doubled: CounterfactualResult
) -> None:
    truth = truth_of(sky, star_forming, doubled.question).numpy()
    error = (doubled.counterfactual.median - truth) / sky.sigma[star_forming].numpy()
    assert np.sqrt((error**2).mean()) < 1.0
    width = doubled.counterfactual.high - doubled.counterfactual.low
    off = np.abs(doubled.counterfactual.median - truth)
    assert 0.02 * width.mean() < off.mean() < 0.75 * width.mean()
    moved = doubled.after["stellar_mass"] - doubled.before["stellar_mass"]
    np.testing.assert_allclose(moved, np.log10(2), atol=1e-5)
    np.testing.assert_array_equal(doubled.after["redshift"], doubled.before["redshift"])
    assert doubled.reliable
    assert not doubled.warnings


def test_the_answer_says_what_it_rests_on(doubled: CounterfactualResult) -> None:
    by_node = {each.treatment: each for each in doubled.identification}
    assert by_node["stellar_mass"].adjustment == ("environment",)
    assert by_node["stellar_mass"].identified
    assert any("correct graph" in text for text in by_node["stellar_mass"].assumptions)
    assert 0.01 < doubled.support["stellar_mass"] <= 1


def test_support_falls_and_intervals_grow_with_distance(
    sky: SimulatedSpectra, star_forming: int
) -> None:
    engine = engine_for(sky, star_forming)
    seen = slice(star_forming, star_forming + 1)
    posterior = engine.abduct(sky.flux[seen], sky.ivar[seen], draws=DRAWS, seed=0)
    support, gains = [], []
    for log_size in (0.8, 1.5, 1.9):
        do = questions(f"size={log_size} dex")
        plain = engine.intervene(posterior, do, seed=0)
        found = intervene(engine, galaxy_graph(), posterior, do, seed=0)
        support.append(found.support["size"])
        assert ("size" in found.outside) == (support[-1] < LEAST_SUPPORT)
        # An intervention stays exact, and what it does not reach stays as it was.
        assert torch.equal(found.values["size"], plain["size"])
        assert torch.equal(found.values["sfr"], posterior.values["sfr"])
        assert torch.equal(found.values["redshift"], posterior.values["redshift"])
        wide, narrow = (engine.render(posterior, v) for v in (found.values, plain))
        spread = [float((f.quantile(0.95, 0) - f.quantile(0.05, 0)).mean()) for f in (wide, narrow)]
        gains.append(spread[0] / spread[1])
    assert support[0] > LEAST_SUPPORT > support[1] > support[2]
    assert gains[0] == 1.0
    assert 1.1 < gains[1] < gains[2]


def test_a_category_nobody_takes_is_outside(sky: SimulatedSpectra, star_forming: int) -> None:
    engine = engine_for(sky, star_forming)
    seen = slice(star_forming, star_forming + 1)
    posterior = engine.abduct(sky.flux[seen], sky.ivar[seen], draws=DRAWS, seed=0)
    do = questions("stellar_mass=12.2 dex, star_formation_state=0")
    found = intervene(engine, galaxy_graph(), posterior, do, seed=0)
    assert "star_formation_state" in found.outside
    plain = engine.intervene(posterior, do, seed=0)
    assert found.values["sfr"].std() > 1.2 * plain["sfr"].std()


def test_confidence_is_lower_in_noise_and_calibrated(sky: SimulatedSpectra) -> None:
    question = "stellar_mass*=1.5, star_formation_state=0"
    rows = torch.nonzero(sky.values["star_formation_state"] == 0)[:, 0].tolist()[:3]
    claimed, reached = {}, {}
    for noise in (1.0, 40.0):
        results = [asked(sky, row, question, noise=noise) for row in rows]
        claimed[noise] = np.mean([each.confidence for each in results])
        within = [
            abs(each.counterfactual.median / truth_of(sky, row, question).numpy() - 1) <= 0.05
            for row, each in zip(rows, results, strict=True)
        ]
        reached[noise] = np.mean(within)
    assert claimed[40.0] < claimed[1.0] - 0.1
    for noise in claimed:
        assert claimed[noise] == pytest.approx(reached[noise], abs=0.3)


def test_a_bad_fit_is_said_and_widens(sky: SimulatedSpectra, star_forming: int) -> None:
    engine = engine_for(sky, star_forming)
    seen = slice(star_forming, star_forming + 1)
    wave = 1 + 0.2 * torch.cos(torch.linspace(0, 40, 1000))
    redshift = float(sky.values["redshift"][star_forming])
    spectra = [
        GridSpectrum("sky", "simulation", redshift, sky.flux[seen] * factor, sky.ivar[seen])
        for factor in (torch.ones(1000), wave)
    ]
    good, bad = (
        answer(engine, each, "sfr*=1.1", model="test", draws=DRAWS, seed=0) for each in spectra
    )
    assert bad.chi_square > 3 > good.chi_square
    assert not bad.reliable
    assert any("noise is taken to be" in text for text in bad.warnings)
    assert bad.confidence < good.confidence


def test_laws_hold_and_can_fail(sky: SimulatedSpectra, doubled: CounterfactualResult) -> None:
    assert set(doubled.laws) >= {"[O III] doublet", "Balmer decrement", "non-negative flux"}
    assert all(after < 5e-3 for _, after in doubled.laws.values())
    decoder = SpectralDecoder()
    flux = sky.clean.clone()
    stretch = 1 + sky.values["redshift"]
    pixel = torch.log(5008.24 * stretch / decoder.preset.lowest_angstrom) / decoder.preset.log_step
    flux[torch.arange(4), pixel.long()] *= 1.2
    broken = law_residuals(decoder, sky.values, flux)
    assert broken["[O III] doublet"].abs().min() > 0.19
    assert broken["[N II] doublet"].abs().max() < 1e-3
    assert (law_residuals(decoder, sky.values, -flux)["non-negative flux"] > 0).any()


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("gas_metallicity=8.9 dex", "unknown.*did you mean metallicity"),
        ("stellar_mass=3 km", "does not convert"),
        ("stellar_mass=-1e10", "not positive"),
        ("black_hole_mass*=2", "no cause of the spectrum"),
        ("sfr*=2, sfr*=3", "asked for twice"),
    ],
)
def test_questions_without_sense_are_refused(question: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        questions(question)


def test_galaxies_beyond_the_model_are_refused() -> None:
    wave = np.linspace(3700, 9300, 3000)
    arm = Arm(wave, np.ones(3000), np.ones(3000))
    preset = SpectralDecoder().preset
    with pytest.raises(ObservationError, match=r"redshift 0\.3690, the model knows 0\.02 to 0\.22"):
        on_grid(ObservedSpectrum("far", "DESI", (arm,), 0.369), preset)
    short = Arm(wave[:800], np.ones(800), np.ones(800))
    with pytest.raises(ObservationError, match="covers"):
        on_grid(ObservedSpectrum("short", "DESI", (short,), 0.1), preset)


def test_the_file_holds_everything(doubled: CounterfactualResult, tmp_path: Path) -> None:
    path = tmp_path / "answer.h5"
    write_result(path, doubled)
    with h5py.File(path) as file:
        assert file.attrs["schema"] == SCHEMA
        assert file.attrs["model"] == "7"
        assert file.attrs["confidence"] == doubled.confidence
        (first, *_) = json.loads(file.attrs["identification"])
        assert first["status"] == "back-door"
        found = []
        file.visititems(lambda name, item: found.append(item) if hasattr(item, "dtype") else None)
        assert all(each.dtype == np.float32 and "unit" in each.attrs for each in found)
        np.testing.assert_array_equal(
            file["counterfactual/median"][:], doubled.counterfactual.median
        )
        assert file["latent/after/stellar_mass"].attrs["unit"] == "dex(Msun)"
        assert len(file["latent/after/stellar_mass"]) == DRAWS
    assert json.loads(json.dumps(summary(doubled)))["seed"] == 1
    picture = tmp_path / "answer.png"
    write_figure(picture, doubled)
    assert picture.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(StorageError):
        write_result(path / "below" / "a.h5", doubled)
