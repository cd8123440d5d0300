"""`acie train` and `acie validate`.

Belongs here: parsing and printing of those commands. Does not belong here: work.
"""

import json
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from acie_pipelines.errors import ConfigurationError
from acie_pipelines.settings import Settings

__all__ = ["train", "validate"]

_PLAIN_NAME = r"[a-z0-9][a-z0-9_-]*"


def train(
    config: Annotated[Path, typer.Option(help="YAML: data and whatever else is to be set.")],
    experiment_name: Annotated[str, typer.Option(help="In MLflow; also the model's name.")],
) -> None:
    """Train a counterfactual model from a file of `acie simulate`.

    An interrupted run continues where it stopped when it is started again. Ctrl-C and SIGTERM wait
    for the end of the epoch and keep it (exit code 130 and 143); a second one does not wait.
    """
    import re

    from acie_pipelines import __version__
    from acie_pipelines.models.posterior_training import PosteriorEpoch
    from acie_pipelines.storage import Store
    from acie_pipelines.training.counterfactual_config import read_training
    from acie_pipelines.training.counterfactual_training import train_counterfactual_model
    from acie_pipelines.training.interruption import Interruption, TrainingInterrupted
    from acie_pipelines.training.tracking import CounterfactualTracker

    if not re.fullmatch(_PLAIN_NAME, experiment_name):
        raise ConfigurationError(
            "experiment name",
            f"{experiment_name!r} is no plain name",
            "use lower-case letters, digits, - and _",
        )
    data, training = read_training(config)
    settings = Settings.from_environment()
    settings.home.mkdir(parents=True, exist_ok=True)
    served = settings.mlflow_tracking_uri.startswith(("http://", "https://"))
    tracker = CounterfactualTracker(
        settings.mlflow_tracking_uri,
        experiment=experiment_name,
        artifact_root=None if served else settings.mlflow_artifact_root,
    )
    console = Console(stderr=True)

    def progress(epoch: PosteriorEpoch) -> None:
        console.print(
            f"epoch {epoch.epoch}: train {epoch.train:.3f}, "
            f"validation {epoch.validation['density']:.3f} nats, "
            f"gradient {epoch.gradient_norm:.3g}"
        )

    store = Store(settings.storage_url)
    status = console.status("learning mechanisms, then the posterior")
    heard = partial(status.update, "stopping after this epoch; once more stops at once")
    try:
        with status, Interruption(heard) as interruption:
            model = train_counterfactual_model(
                store,
                experiment_name,
                data,
                training,
                code_version=f"acie {__version__}, acie train",
                tracker=tracker,
                progress=progress,
                interruption=interruption,
            )
    except TrainingInterrupted as stop:
        kept = (
            "here"
            if stop.saved
            else "the last checkpoint, which is at most "
            f"{training.checkpoint_minutes:g} minutes and an epoch old"
        )
        console.print(f"stopped; the same command goes on from {kept}", soft_wrap=True)
        raise typer.Exit(128 + stop.number) from None
    loss = model.attributes["validation_loss_nats"]["density"]
    place = store.local_path(model.prefix) if store.is_local else model.prefix
    typer.echo(f"{loss:.3f} nats after {model.attributes['epochs']} epochs, in {place}")
    if store.is_local:
        console.print(f"ask it with `acie infer --model {place}`", soft_wrap=True, highlight=False)


def validate(
    model: Annotated[
        str, typer.Option(help="Alias or number of a registered model, or a directory of one.")
    ],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON lines instead of a table.")
    ] = False,
) -> None:
    """Validate a model anew with the default limits; compare a registered one with production.

    Exit code 0 only if every check passes.
    """
    console = Console(stderr=True)
    if Path(model).is_dir():
        from acie_pipelines.evaluation.counterfactual_validation import (
            CounterfactualThresholds,
            HeldOut,
            validate_directory,
        )

        title = Path(model).resolve().name
        with console.status(f"validating {title}"):
            found = validate_directory(Path(model), CounterfactualThresholds(), HeldOut())
    else:
        from acie_pipelines.promotion import open_registry, resolve_version, validate_version
        from acie_pipelines.storage import Store

        settings = Settings.from_environment()
        registry = open_registry(settings)
        version = resolve_version(registry, model)
        title = f"Version {version.version}"
        with console.status(f"validating version {version.version}"):
            found = tuple(validate_version(Store(settings.storage_url), registry, version))
    failed = [check for check in found if not check.passed]
    if as_json:
        for check in found:
            typer.echo(json.dumps(vars(check)))
    else:
        table = Table("Check", "Value", "Limit", "", title=title)
        for check in found:
            value = "none" if check.value is None else f"{check.value:.4g}"
            mark = "[green]passed[/]" if check.passed else "[red]failed[/]"
            table.add_row(check.name, value, f"{check.threshold:.4g}", mark)
        Console().print(table)
    for check in failed:
        console.print(f"[red]refused:[/] {escape(f'{check.name}: {check.why}')}", soft_wrap=True)
    raise typer.Exit(1 if failed else 0)
