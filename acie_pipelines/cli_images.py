"""`acie train-images`.

Belongs here: parsing and printing of that command. Does not belong here: work.
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from acie_pipelines.errors import ConfigurationError
from acie_pipelines.settings import Settings
from acie_pipelines.training.efigi import TASKS, read_efigi

__all__ = ["train_images"]


def train_images(
    out: Annotated[Path, typer.Option(help="File of the trained classifier.")],
    task: Annotated[str, typer.Option(help=f"Classes: {', '.join(TASKS)}.")] = "morphology",
    fold: Annotated[int, typer.Option(help="Fold held out for the test, and seed.")] = 0,
    experiment_name: Annotated[str, typer.Option(help="In MLflow.")] = "galaxy-images",
) -> None:
    """Train a classifier of galaxy stamps on EFIGI (ACIE_EFIGI_DIR) and test it.

    An interrupted run continues where it stopped when it is started again.
    """
    from acie_pipelines.training.image_runs import train_classifier
    from acie_pipelines.training.image_training import ClassifierEpoch, ClassifierFitConfig
    from acie_pipelines.training.tracking import ClassifierTracker

    if task not in TASKS:
        raise ConfigurationError("task", f"{task!r} is unknown", f"use one of {', '.join(TASKS)}")
    settings = Settings.from_environment()
    if settings.efigi is None:
        raise ConfigurationError(
            "ACIE_EFIGI_DIR", "is not set", "set it to the directory of the EFIGI stamps and labels"
        )
    served = settings.mlflow_tracking_uri.startswith(("http://", "https://"))
    settings.home.mkdir(parents=True, exist_ok=True)
    tracker = ClassifierTracker(
        settings.mlflow_tracking_uri,
        experiment=experiment_name,
        artifact_root=None if served else settings.mlflow_artifact_root,
    )
    console = Console(stderr=True)

    def progress(losses: ClassifierEpoch) -> None:
        console.print(
            f"epoch {losses.epoch}: train {losses.train:.3f}, validation {losses.validation:.3f}"
        )

    score = train_classifier(
        read_efigi(settings.efigi),
        TASKS[task],
        ClassifierFitConfig(),
        fold=fold,
        out=out,
        tracker=tracker,
        progress=progress,
    )
    typer.echo(
        f"balanced accuracy {score.balanced_accuracy:.3f}, "
        f"mean error of T {score.type_error:.2f}, in {out}"
    )
