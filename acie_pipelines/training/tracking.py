"""Training runs in MLflow.

Belongs here: parameters, losses, figures and versions of a run.
Does not belong here: model versions and aliases (`acie_pipelines.registry`).
"""

import platform
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from acie_pipelines.causal.graph import CausalGraph
from acie_pipelines.errors import ConfigurationError
from acie_pipelines.provenance import Manifest

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from acie_pipelines.causal.fitting import EpochLosses
    from acie_pipelines.evaluation.galaxy_images import ClassifierScore
    from acie_pipelines.models.posterior_training import PosteriorEpoch
    from acie_pipelines.training.efigi import Task
    from acie_pipelines.training.image_training import ClassifierEpoch, ClassifierFitConfig

__all__ = ["MODEL_ARTIFACTS", "ClassifierTracker", "CounterfactualTracker", "MlflowTracker"]

MODEL_ARTIFACTS: Final = "model"

_VERSIONED: Final = ("acie", "torch", "zuko", "numpy", "h5py", "mlflow")


class _MlflowRun:
    """One run of an experiment.

    Parameters
    ----------
    tracking_uri
        Of the MLflow server or database.
    experiment
        Name; made if it does not exist.
    artifact_root
        Where a new experiment keeps artifacts; MLflow's own default if ``None``.
    """

    def __init__(
        self, tracking_uri: str, *, experiment: str, artifact_root: str | None = None
    ) -> None:
        self._uri, self._experiment, self._artifact_root = tracking_uri, experiment, artifact_root
        self._client: MlflowClient | None = None
        self._run_id = ""

    def _open(self) -> "MlflowClient":
        if self._client is None:
            raise ConfigurationError("MLflow run", "has not been started", "call start first")
        return self._client

    def _start(
        self,
        name: str,
        parameters: Mapping[str, Mapping[str, Any]],
        tags: Mapping[str, str],
    ) -> str:
        """Open a run and return its id."""
        from mlflow import MlflowClient

        self._client = client = MlflowClient(tracking_uri=self._uri)
        experiment = client.get_experiment_by_name(self._experiment)
        experiment_id = (
            experiment.experiment_id
            if experiment is not None
            else client.create_experiment(self._experiment, artifact_location=self._artifact_root)
        )
        run = client.create_run(experiment_id, run_name=name)
        self._run_id = str(run.info.run_id)
        for group, values in parameters.items():
            for key, value in values.items():
                client.log_param(self._run_id, f"{group}.{key}", value)
        for key, value in tags.items():
            client.set_tag(self._run_id, key, value)
        return self._run_id

    def _metrics(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        self._open().log_batch(self._run_id, metrics=metrics)

    def _finish(self, files: Mapping[str, bytes], tags: Mapping[str, str]) -> None:
        """Log the model's files and the environment; close the run."""
        client = self._open()
        with tempfile.TemporaryDirectory(prefix="acie-model-") as directory:
            for name, data in files.items():
                (Path(directory) / name).write_bytes(data)
            client.log_artifacts(self._run_id, directory, MODEL_ARTIFACTS)
        versions = {name: version(name) for name in _VERSIONED}
        environment = {"python": platform.python_version(), "machine": platform.machine()}
        client.log_dict(self._run_id, environment | versions, "environment.json")
        for key, value in tags.items():
            client.set_tag(self._run_id, key, value)
        client.set_terminated(self._run_id, "FINISHED")

    def fail(self) -> None:
        """Close the run as failed."""
        self._open().set_terminated(self._run_id, "FAILED")


class MlflowTracker(_MlflowRun):
    """Report the fit of a causal model; implements `acie_pipelines.training.resumable.Tracker`."""

    def start(self, parameters: dict[str, Any], table: Manifest, code_version: str) -> str:
        """Open a run and return its id."""
        tags = {
            "acie.table.generation": table.generation,
            "acie.table.digest": table.digest,
            "acie.code_version": code_version,
        }
        return self._start(f"scm-{table.digest[:8]}", parameters, tags)

    def epoch(self, losses: "EpochLosses") -> None:
        """Log one epoch's loss of every mechanism."""
        values = {f"train.{n}": v for n, v in losses.train.items()}
        values |= {f"validation.{n}": v for n, v in losses.validation.items()}
        self._metrics(losses.epoch, values)

    def finish(
        self,
        graph: CausalGraph,
        history: "list[EpochLosses]",
        model: Manifest,
        files: Mapping[str, bytes],
    ) -> None:
        """Log results, figures, the graph, the model's files and the environment; close the run."""
        from acie_pipelines.training.figures import graph_figure, loss_figure

        client = self._open()
        best: dict[str, float] = model.attributes["validation_loss_nats"]
        for name, value in best.items():
            client.log_metric(self._run_id, f"best_validation.{name}", value)
        client.log_metric(self._run_id, "best_validation.total", sum(best.values()))
        client.log_metric(self._run_id, "epochs", model.attributes["epochs"])
        losses = loss_figure([h.train for h in history], [h.validation for h in history])
        client.log_figure(self._run_id, losses, "loss_curves.png")
        client.log_figure(self._run_id, graph_figure(graph), "causal_graph.png")
        client.log_text(self._run_id, graph.to_yaml(), "causal_graph.yaml")
        tags = {"key": model.key, "generation": model.generation, "digest": model.digest}
        self._finish(files, {f"acie.scm.{key}": value for key, value in tags.items()})


class ClassifierTracker(_MlflowRun):
    """Report the training of a stamp classifier."""

    def start(
        self, task: "Task", config: "ClassifierFitConfig", *, seed: int, fold: int, digest: str
    ) -> str:
        """Open a run and return its id.

        Parameters
        ----------
        task, config, seed, fold
            What was asked for.
        digest
            Of the pictures.
        """
        from acie_pipelines import __version__

        groups = {"task": {"name": task.name, "fold": fold}, "fit": asdict(config) | {"seed": seed}}
        tags = {"acie.images.digest": digest, "acie.code_version": __version__}
        return self._start(f"stamps-{task.name}-fold{fold}", groups, tags)

    def epoch(self, losses: "ClassifierEpoch") -> None:
        """Log the losses of one epoch."""
        self._metrics(losses.epoch, {"train": losses.train, "validation": losses.validation})

    def finish(
        self,
        task: "Task",
        history: "list[ClassifierEpoch]",
        score: "ClassifierScore",
        model: bytes,
    ) -> None:
        """Log test scores, the confusion matrix, curves and the model; close the run.

        Parameters
        ----------
        task
            Classes.
        history
            Losses by epoch.
        score
            On the test split.
        model
            As from `acie_pipelines.models.images.StampClassifier.save`.
        """
        from acie_pipelines.evaluation.classification import confusion_figure
        from acie_pipelines.training.figures import loss_figure

        client = self._open()
        client.log_metric(self._run_id, "test.balanced_accuracy", score.balanced_accuracy)
        client.log_metric(self._run_id, "test.type_error", score.type_error)
        figure = confusion_figure(score.confusion, task.class_names)
        client.log_figure(self._run_id, figure, "confusion_matrix.png")
        table = {"classes": list(task.class_names), "counts": score.confusion.tolist()}
        client.log_dict(self._run_id, table, "confusion_matrix.json")
        losses = loss_figure(
            [{task.name: epoch.train} for epoch in history],
            [{task.name: epoch.validation} for epoch in history],
        )
        client.log_figure(self._run_id, losses, "loss_curves.png")
        self._finish({"classifier.pt": model}, {})


class CounterfactualTracker(_MlflowRun):
    """Report the training of a counterfactual model.

    Implements `acie_pipelines.training.resumable.Tracker`.
    """

    def start(self, parameters: Mapping[str, Any], data_sha256: str, code_version: str) -> str:
        """Open a run and return its id."""
        groups = {"training": dict(_flattened(parameters))}
        tags = {"acie.data.sha256": data_sha256, "acie.code_version": code_version}
        return self._start(f"counterfactual-{data_sha256[:8]}", groups, tags)

    def epoch(self, epoch: "PosteriorEpoch") -> None:
        """Log losses by term, the largest gradient, entropies and broken laws of one epoch."""
        values = {"train.density": epoch.train, "gradient_norm": epoch.gradient_norm}
        values |= {f"validation.{name}": loss for name, loss in epoch.validation.items()}
        self._metrics(epoch.epoch, values | epoch.monitors)

    def finish(
        self,
        graph: CausalGraph,
        history: "list[PosteriorEpoch]",
        model: Manifest,
        files: Mapping[str, bytes],
    ) -> None:
        """Log results, curves, the graph, the model's files and the environment; close the run."""
        from acie_pipelines.training.figures import graph_figure, loss_figure, monitor_figure

        client = self._open()
        best: dict[str, float] = model.attributes["validation_loss_nats"]
        for name, value in best.items():
            client.log_metric(self._run_id, f"best_validation.{name}", value)
        losses = loss_figure(
            [{"density": epoch.train} for epoch in history],
            [epoch.validation for epoch in history],
        )
        client.log_figure(self._run_id, losses, "loss_curves.png")
        client.log_figure(self._run_id, monitor_figure(history), "monitors.png")
        client.log_figure(self._run_id, graph_figure(graph), "causal_graph.png")
        client.log_text(self._run_id, graph.to_yaml(), "causal_graph.yaml")
        tags = {"key": model.key, "generation": model.generation, "digest": model.digest}
        tags = {f"acie.counterfactual_model.{key}": value for key, value in tags.items()}
        self._finish(files, tags)


def _flattened(body: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Give the leaves of nested mappings, their names joined by dots."""
    for name, value in body.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
