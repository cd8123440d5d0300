"""`acie infer` from the shell."""

import json
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from acie_pipelines.cli import app
from acie_pipelines.cli_infer import _show_fine_tuning
from acie_pipelines.errors import ConfigurationError, FormatMismatchError
from acie_pipelines.models.counterfactual import SpectralEngine
from acie_pipelines.models.decoder import SpectralDecoder
from acie_pipelines.models.fine_tuning import FineTuning, Schedule
from acie_pipelines.models.mechanisms import SimulatorMechanisms
from acie_pipelines.models.parameters import unconstrain
from acie_pipelines.models.posterior import AmortisedPosterior, PosteriorConfig
from acie_pipelines.samples import sample_observations
from acie_pipelines.simulation.galaxy import GalaxySCM


def test_mistakes_are_found_before_the_model_is_loaded(galaxies_file: Path) -> None:
    runner = CliRunner()
    asked = ["infer", "--observation", str(galaxies_file), "--model", "none", "--do"]
    assert isinstance(runner.invoke(app, [*asked, "luck*=2"]).exception, ConfigurationError)
    asked[2] = __file__
    assert isinstance(runner.invoke(app, [*asked, "sfr*=2"]).exception, FormatMismatchError)


class Typical(AmortisedPosterior):
    """Guesses a typical galaxy, so that no training is needed here."""

    def __init__(self) -> None:
        super().__init__(PosteriorConfig(1000, 16, 1, 1, 16), seed=0)
        self.guess = unconstrain(GalaxySCM().sample(200, seed=0)).median(dim=0).values

    def centre(self, flux: torch.Tensor, ivar: torch.Tensor) -> torch.Tensor:
        return self.guess.expand(len(flux), -1)

    def sample(
        self, flux: torch.Tensor, ivar: torch.Tensor, draws: int, *, seed: int
    ) -> torch.Tensor:
        return self.guess.expand(draws, len(flux), -1)


@pytest.mark.slow
def test_real_spectra_teach_a_residual_that_answers_a_question(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = SpectralEngine(
        Typical(), SpectralDecoder(), SimulatorMechanisms(), refinement_steps=10
    )
    monkeypatch.setattr("acie_pipelines.cli_infer._engine", lambda _: (engine, "7"))
    monkeypatch.setattr("acie_pipelines.models.adaptation._DRAWS", 30)
    spectra = [str(p) for p in sample_observations() if p.name.startswith("spec-")]
    taught = tmp_path / "sdss.adaptation"
    runner = CliRunner()
    monkeypatch.setattr("acie_pipelines.models.evidence._DRAWS", 2)
    brief = partial(Schedule, steps=20, share=4, simulated=100)
    monkeypatch.setattr("acie_pipelines.models.fine_tuning.Schedule", brief)
    done = runner.invoke(app, ["adapt", *spectra, "--out", str(taught), "--fine-tune", "--json"])
    assert done.exit_code == 0, done.output
    tuned = json.loads(done.stdout)["fine_tuning"]
    assert tuned["kept"] == (tuned["after"] - tuned["before"] > tuned["gain_error"] > 0)
    assert tuned["held_out"] + tuned["unreliable"] == len(spectra)
    held_out = json.loads(done.stdout)["held_out"]
    assert [fit["name"] for fit in held_out] == [Path(p).name for p in spectra]
    assert np.median([fit["after"] for fit in held_out]) < 2
    assert np.mean([fit["coverage"] for fit in held_out]) > 0.8
    assert json.loads(done.stdout)["spectral_norm"] <= 0.1001
    answer = tmp_path / "answer.h5"
    asked = ["infer", "--observation", spectra[0], "--do", "stellar_mass*=2", "--draws", "20"]
    done = runner.invoke(app, [*asked, "--adaptation", str(taught), "--out", str(answer), "--json"])
    assert done.exit_code == 0, done.output
    body = json.loads(done.stdout)
    assert (body["model"], body["survey"]) == ("7", "SDSS")
    with h5py.File(answer) as file:
        assert file["counterfactual/median"].shape == (1000,)
        assert (file["counterfactual/low"][:] <= file["counterfactual/high"][:]).all()
    broken = tmp_path / "missing.adaptation"
    done = runner.invoke(app, [*asked, "--adaptation", str(broken)])
    assert "acie adapt" in str(done.exception)


@pytest.fixture
def typical(monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that needs no registry, and answers at once."""
    engine = SpectralEngine(Typical(), SpectralDecoder(), SimulatorMechanisms(), refinement_steps=0)
    monkeypatch.setattr("acie_pipelines.cli_infer._engine", lambda _: (engine, "7"))


@pytest.mark.parametrize(
    ("after", "verdict"), [(3.0, "is kept"), (1.4, "did not help"), (-3.0, "did not help")]
)
def test_the_verdict_on_fine_tuning_is_told(
    after: float, verdict: str, capsys: pytest.CaptureFixture[str]
) -> None:
    _show_fine_tuning(FineTuning(Typical(), 12, 3, 2, 1.0, after, 0.5, -50.0, -70.0))
    verdict_line, bound_line = capsys.readouterr().out.splitlines()
    assert verdict in verdict_line
    assert "3 held-out galaxies" in verdict_line
    assert f"1.00 nats before and {after:.2f} after 12 others taught" in verdict_line
    assert "-50 before, -70 after" in bound_line


ASKED = ("--do", "stellar_mass*=2", "--draws", "20", "--json")


@pytest.mark.usefixtures("typical")
def test_one_bad_file_does_not_stop_the_others(galaxies_file: Path, tmp_path: Path) -> None:
    first, second, *_ = (str(p) for p in sample_observations() if p.name.startswith("spec-"))
    torn = tmp_path / "torn.fits"
    torn.write_bytes(Path(first).read_bytes()[:5000])
    place = tmp_path / "answers"
    place.mkdir()
    runner = CliRunner()
    done = runner.invoke(
        app,
        [
            *("infer", "--observation", first, "--observation", str(torn), *ASKED),
            *("--out", str(place), "--plot", str(place), __file__, second, str(galaxies_file)),
        ],
    )
    assert done.exit_code == 1
    answered = [Path(first).stem, Path(second).stem, galaxies_file.stem]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(body["observation"].split()[0]).stem for body in found] == answered
    errors = done.stderr.splitlines()
    assert len(errors) == 2
    for line, path in zip(errors, (torn, __file__), strict=True):
        assert line.startswith(f"error: {path}: ")
    assert {path.name for path in place.iterdir()} == {
        f"{name}-answer.{suffix}" for name in answered for suffix in ("h5", "png")
    }
    # As if asked alone.
    alone = tmp_path / "alone.h5"
    done = runner.invoke(app, ["infer", "--observation", second, *ASKED, "--out", str(alone)])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == found[1]
    assert alone.read_bytes() == (place / f"{answered[1]}-answer.h5").read_bytes()
    # Nothing to answer: no model is needed.
    done = runner.invoke(app, ["infer", "--observation", str(torn), __file__, *ASKED])
    assert (done.exit_code, done.stdout) == (1, "")


def test_several_answers_do_not_overwrite_each_other(tmp_path: Path) -> None:
    same = [str(tmp_path / name / "spec.fits") for name in ("a", "b")]
    asked = ["infer", "--observation", *same, "--do", "sfr*=2"]
    for option in ("--out", "--plot"):
        refused = CliRunner().invoke(app, [*asked, option, str(tmp_path / "answer")]).exception
        assert isinstance(refused, ConfigurationError)
        assert "the answers to 2 observations would overwrite each other" in str(refused)
        refused = CliRunner().invoke(app, [*asked, option, str(tmp_path)]).exception
        assert isinstance(refused, ConfigurationError)
        assert "would hold 2 answers named spec" in str(refused)
