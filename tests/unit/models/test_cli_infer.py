"""`acie infer` from the shell."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from acie_pipelines.cli import app
from acie_pipelines.errors import ConfigurationError, FormatMismatchError
from acie_pipelines.models.counterfactual import SimulatorMechanisms, SpectralEngine
from acie_pipelines.models.decoder import SpectralDecoder
from acie_pipelines.models.parameters import unconstrain
from acie_pipelines.models.posterior import AmortisedPosterior, PosteriorConfig
from acie_pipelines.models.residual import LearnedResidual
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
    taught = tmp_path / "sdss.npz"
    runner = CliRunner()
    done = runner.invoke(app, ["adapt", *spectra, "--out", str(taught), "--json"])
    assert done.exit_code == 0, done.output
    held_out = json.loads(done.stdout)["held_out"]
    assert [fit["name"] for fit in held_out] == [Path(p).name for p in spectra]
    assert np.median([fit["after"] for fit in held_out]) < 2
    assert np.mean([fit["coverage"] for fit in held_out]) > 0.8
    assert LearnedResidual.from_bytes(taught.read_bytes()).spectral_norm <= 0.1001
    answer = tmp_path / "answer.h5"
    asked = ["infer", "--observation", spectra[0], "--do", "stellar_mass*=2", "--draws", "20"]
    done = runner.invoke(app, [*asked, "--adaptation", str(taught), "--out", str(answer), "--json"])
    assert done.exit_code == 0, done.output
    body = json.loads(done.stdout)
    assert (body["model"], body["survey"]) == ("7", "SDSS")
    with h5py.File(answer) as file:
        assert file["counterfactual/median"].shape == (1000,)
        assert (file["counterfactual/low"][:] <= file["counterfactual/high"][:]).all()
    broken = tmp_path / "missing.npz"
    done = runner.invoke(app, [*asked, "--adaptation", str(broken)])
    assert "acie adapt" in str(done.exception)
