"""Tracked training runs of the stamp classifier."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from acie_pipelines.cli import app
from acie_pipelines.errors import ConfigurationError, ModelError
from acie_pipelines.models.images import StampClassifier
from acie_pipelines.training.efigi import SPIRAL_OR_ELLIPTICAL, ImageSet
from acie_pipelines.training.image_runs import train_classifier
from acie_pipelines.training.image_training import ClassifierFitConfig
from acie_pipelines.training.tracking import ClassifierTracker
from tests.unit.training.simulated_stamps import simulated_set

torch.set_num_threads(1)

CONFIG = ClassifierFitConfig(epochs=4, steps=10, batch_stamps=16)


@pytest.fixture
def tracker(tmp_path: Path) -> ClassifierTracker:
    root = (tmp_path / "artifacts").absolute().as_uri()
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    return ClassifierTracker(uri, experiment="stamps", artifact_root=root)


@pytest.mark.slow
def test_a_run_is_tracked_and_shuffled_labels_are_refused(
    tracker: ClassifierTracker, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    images = simulated_set(120, seed=5)
    out = tmp_path / "classifier.pt"
    epochs: list[int] = []
    score = train_classifier(
        images,
        SPIRAL_OR_ELLIPTICAL,
        CONFIG,
        fold=1,
        out=out,
        tracker=tracker,
        progress=lambda losses: epochs.append(losses.epoch),
    )
    assert epochs == [1, 2, 3, 4]
    assert score.balanced_accuracy > 0.9
    assert StampClassifier.load(out.read_bytes()).classes == ("elliptical", "spiral")

    shuffled = ImageSet(
        images.names,
        images.digests,
        np.random.default_rng(0).permutation(images.types),
        images.stamps,
    )
    refused = tmp_path / "refused.pt"
    with pytest.raises(ModelError, match="balanced accuracy"):
        train_classifier(
            shuffled,
            SPIRAL_OR_ELLIPTICAL,
            CONFIG,
            fold=1,
            out=refused,
            tracker=tracker,
            progress=lambda losses: None,
        )
    assert not refused.exists()

    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}")
    (experiment,) = [e for e in client.search_experiments() if e.name == "stamps"]
    runs = {run.info.status: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"FINISHED", "FAILED"}
    finished = runs["FINISHED"]
    assert finished.data.metrics["test.balanced_accuracy"] == score.balanced_accuracy
    assert finished.data.params["task.fold"] == "1"
    names = {item.path for item in client.list_artifacts(finished.info.run_id)}
    assert names >= {"confusion_matrix.png", "confusion_matrix.json", "loss_curves.png", "model"}
    path = client.download_artifacts(finished.info.run_id, "confusion_matrix.json")
    assert json.loads(Path(path).read_text())["counts"] == score.confusion.tolist()


def test_the_command_says_what_it_needs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ACIE_EFIGI_DIR", raising=False)
    result = CliRunner().invoke(app, ["train-images", "--out", str(tmp_path / "x.pt")])
    assert isinstance(result.exception, ConfigurationError)
    assert "ACIE_EFIGI_DIR: is not set" in str(result.exception)
    monkeypatch.setenv("ACIE_EFIGI_DIR", str(tmp_path))
    result = CliRunner().invoke(
        app, ["train-images", "--task", "colour", "--out", str(tmp_path / "x.pt")]
    )
    assert "'colour' is unknown" in str(result.exception)
