"""`acie train` and `acie validate`, and what the benchmark does without a GPU."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from acie_pipelines import cli
from acie_pipelines.errors import (
    ConfigurationError,
    IntegrityError,
    ModelError,
    PromotionError,
)
from acie_pipelines.evaluation import counterfactual_validation
from acie_pipelines.evaluation.counterfactual_validation import (
    CounterfactualThresholds,
    HeldOut,
    validate_counterfactual,
)
from acie_pipelines.models.saved_engine import load_engine
from acie_pipelines.provenance import Manifest, current_manifest
from acie_pipelines.settings import Settings
from acie_pipelines.storage import Store
from acie_pipelines.training.counterfactual_config import read_training
from acie_pipelines.training.counterfactual_training import train_counterfactual_model

YAML = """
data: {data}
network: {{hidden: 32, blocks: 1, transforms: 1, spline_hidden: 16}}
posterior: {{steps: 20, epoch_steps: 10, batch: 64, learning_rate: 2.0e-3}}
mechanisms:
  rows: 400
  families: spline
  shape: {{hidden: 8, bins: 4}}
  fit: {{max_epochs: 1}}
checkpoint_minutes: 1
"""


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(cli.app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_a_model_is_trained_from_a_file_and_tracked(
    settings: Settings, galaxies_file: Path, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    torch.set_num_threads(1)
    config = tmp_path / "train.yaml"
    config.write_text(YAML.format(data=galaxies_file))
    output = invoke("train", "--config", str(config), "--experiment-name", "first-look")
    store = Store(settings.storage_url)
    model = current_manifest(store, "counterfactual_model", "first-look")
    assert f"nats after 2 epochs, in {store.local_path(model.prefix)}" in output
    assert load_engine(store, model).posterior.config.hidden == 32
    client = MlflowClient(tracking_uri=settings.mlflow_tracking_uri)
    run = client.get_run(model.attributes["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.params["training.posterior.steps"] == "20"
    assert run.data.params["training.mechanisms.families"] == "spline"
    assert run.data.tags["acie.counterfactual_model.digest"] == model.digest
    for name in (
        "train.density",
        "validation.density",
        "validation.location",
        "gradient_norm",
        "entropy.latent.lost",
        "physics.outside_support",
    ):
        history = client.get_metric_history(run.info.run_id, name)
        assert [point.step for point in history] == [1, 2], name
    assert {item.path for item in client.list_artifacts(run.info.run_id)} == {
        "loss_curves.png",
        "monitors.png",
        "causal_graph.png",
        "causal_graph.yaml",
        "environment.json",
        "model",
    }


def one_thread() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


def train_command(config: Path) -> list[str]:
    asked = ["train", "--config", str(config), "--experiment-name", "stopped"]
    return [sys.executable, "-c", "from acie_pipelines.cli import main; main()", *asked]


def stopped_by(number: signal.Signals, galaxies_file: Path, config: Path) -> int:
    """Train until a signal after the first epoch; number of epochs that were kept."""
    # So long that only the signal can have written what is found.
    text = YAML.replace("steps: 20", "steps: 100").replace("minutes: 1", "minutes: 600")
    config.write_text(text.format(data=galaxies_file))
    with subprocess.Popen(
        train_command(config), env=one_thread(), stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stderr is not None
        lines = []
        for line in running.stderr:
            lines.append(line)
            if line.startswith("epoch 1:"):
                running.send_signal(number)
    assert running.returncode == 128 + number, "".join(lines)
    assert lines[-1] == "stopped; the same command goes on from here\n"
    trained = sum(line.startswith("epoch ") for line in lines)
    assert trained < 10
    return trained


@pytest.mark.slow
def test_a_container_that_is_stopped_keeps_the_epoch(
    settings: Settings, galaxies_file: Path, tmp_path: Path
) -> None:
    stopped_by(signal.SIGTERM, galaxies_file, tmp_path / "train.yaml")
    (directory,) = Store(settings.storage_url).names("checkpoints")
    assert "state.pt" in Store(settings.storage_url).names(f"checkpoints/{directory}")


@pytest.mark.slow
def test_the_same_command_goes_on_after_ctrl_c(
    settings: Settings, galaxies_file: Path, tmp_path: Path
) -> None:
    torch.set_num_threads(1)
    config = tmp_path / "train.yaml"
    trained = stopped_by(signal.SIGINT, galaxies_file, config)
    store = Store(settings.storage_url)
    assert not store.exists("counterfactual_model/stopped/current.json")
    (directory,) = store.names("checkpoints")
    assert store.names(f"checkpoints/{directory}") == ["mechanisms.pt", "state.pt"]

    resumed = subprocess.run(
        train_command(config), env=one_thread(), capture_output=True, text=True, check=True
    )
    epochs = [line for line in resumed.stderr.splitlines() if line.startswith("epoch ")]
    assert epochs[0].startswith(f"epoch {trained + 1}:")
    assert len(epochs) == 10 - trained
    data, training = read_training(config)
    whole = train_counterfactual_model(
        Store(str(tmp_path / "whole")), "stopped", data, training, code_version="another"
    )
    assert current_manifest(store, "counterfactual_model", "stopped").outputs == whole.outputs


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("steps: 3", "names no data"),
        ("data: x.h5\nsteps: 3", "unknown steps"),
        ("data: x.h5\nposterior: {steps: many}", "posterior.steps is 'many'"),
        ("data: x.h5\nmechanisms: {families: best}", "mechanisms.families is 'best'"),
        ("data: x.h5\nposterior: 3", "is no mapping"),
        ("data: x.h5", "x.h5"),
        ("[", "cannot be read"),
    ],
)
def test_configurations_that_say_nothing_are_refused(
    home: Path, tmp_path: Path, text: str, what: str
) -> None:
    config = tmp_path / "train.yaml"
    config.write_text(text)
    with pytest.raises(ConfigurationError, match=what):
        invoke("train", "--config", str(config), "--experiment-name", "name")


def test_names_and_versions_that_do_not_exist_are_refused(home: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="plain name"):
        invoke("train", "--config", "x.yaml", "--experiment-name", "../up")
    (home / "acie").mkdir()
    with pytest.raises(PromotionError, match="no such model version"):
        invoke("validate", "--model", "candidate")


@pytest.mark.slow
def test_a_directory_of_a_model_is_validated(
    small_model: tuple[Store, Manifest], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, model = small_model
    copy = tmp_path / "elsewhere"
    shutil.copytree(store.local_path(model.prefix), copy)
    few = HeldOut(galaxies=3, seed=5, draws=20)
    monkeypatch.setattr(counterfactual_validation, "HeldOut", lambda: few)
    stored = validate_counterfactual(
        store, model, CounterfactualThresholds(), few, code_version="1"
    )
    # Without registry, database or any other part of a workspace.
    done = CliRunner().invoke(cli.app, ["validate", "--model", str(copy), "--json"])
    assert done.exit_code == 1
    assert [json.loads(line) for line in done.stdout.splitlines()] == stored.attributes["checks"]

    own = replace(few, seed=model.attributes["simulation_seed"])
    monkeypatch.setattr(counterfactual_validation, "HeldOut", lambda: own)
    with pytest.raises(ConfigurationError, match="seed of training"):
        invoke("validate", "--model", str(copy))
    (copy / "engine.json").write_bytes(b"{}")
    with pytest.raises(IntegrityError, match=r"engine\.json"):
        invoke("validate", "--model", str(copy))
    with pytest.raises(ModelError, match="give the directory of a counterfactual_model"):
        invoke("validate", "--model", str(tmp_path))


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_missing_gpu_is_named() -> None:
    with pytest.raises(ConfigurationError, match="cuda: is not present"):
        invoke("bench", "counterfactual", "--device", "cuda")
    with pytest.raises(ConfigurationError, match="abacus: is unknown"):
        invoke("bench", "counterfactual", "--device", "abacus")


def test_throughput_is_measured_against_a_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    from acie_pipelines.evaluation import training_throughput
    from acie_pipelines.evaluation.bench import Row

    monkeypatch.setattr(training_throughput, "_GALAXIES", 400)
    monkeypatch.setattr(training_throughput, "_STEPS", {"cpu": 1})
    monkeypatch.setattr(training_throughput, "_BATCH", {"cpu": 32})
    monkeypatch.setattr(training_throughput, "_MATRIX", {"cpu": 64})
    rows: list[Row] = []
    training_throughput.run(rows.append, device="cpu")
    (row,) = rows
    assert row.name == "counterfactual/training/cpu"
    assert row.ours > 0 and row.peer > 0 and row.floor is not None and row.floor > row.ours
    assert json.dumps(vars(row))
