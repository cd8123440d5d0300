"""The `acie` command.

Belongs here: parsing and printing. Does not belong here: work; every command calls the library.
"""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from acie_pipelines import __version__
from acie_pipelines.cli_images import train_images
from acie_pipelines.cli_infer import adapt, infer
from acie_pipelines.cli_keys import keys
from acie_pipelines.cli_scm import scm
from acie_pipelines.cli_secure import secure
from acie_pipelines.cli_secure_attest import newest_by_attestation
from acie_pipelines.cli_simulate import simulate
from acie_pipelines.cli_train import train, validate
from acie_pipelines.errors import AcieError, ConfigurationError
from acie_pipelines.evaluation.areas import Area
from acie_pipelines.registry.states import State
from acie_pipelines.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from acie_pipelines.provenance import Manifest
    from acie_pipelines.storage import Store

__all__ = ["app", "main"]

app = typer.Typer(
    name="acie",
    help="Astronomical Counterfactual Inference Engine: encrypted, verifiable causal inference "
    "on survey data.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
models = typer.Typer(help="The model registry: list, promote, roll back.", no_args_is_help=True)
app.add_typer(models, name="models")
app.add_typer(keys, name="keys")
app.add_typer(scm, name="scm")
app.add_typer(secure, name="secure")
app.command()(simulate)
app.command()(train_images)
app.command()(infer)
app.command()(adapt)
app.command()(train)
app.command()(validate)

out = Console()
err = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON lines instead of text.")]
Actor = Annotated[str, typer.Option("--actor", envvar="USER", help="Who moves it.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept in the audit log.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"acie {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Version.")
    ] = False,
) -> None:
    """Hold the options of `acie` itself."""


@app.command()
def demo() -> None:
    """Take the bundled observations and catalogue through the whole graph."""
    from acie_pipelines.demo import run_demo

    raise typer.Exit(0 if run_demo(out) else 1)


@app.command()
def ingest(
    paths: Annotated[list[Path], typer.Argument(help="Files, Zarr directories, or directories.")],
    as_json: Json = False,
) -> None:
    """Validate, register, tile and seal files; bad ones are moved to quarantine.

    Exit code 0 only if every file was accepted.
    """
    from acie_pipelines.submission import submit

    accepted = True
    for result in submit(paths, progress=None if as_json else err):
        accepted &= result.status == "accepted"
        if as_json:
            typer.echo(json.dumps(result.to_dict()))
        else:
            colour = "green" if result.status == "accepted" else "red"
            text = (
                result.key
                if result.status == "accepted"
                else f"{result.error_type}: {result.reason}"
            )
            out.print(
                f"[{colour}]{result.status:<11}[/] {escape(f'{result.path}  {text}')}",
                soft_wrap=True,
            )
    raise typer.Exit(0 if accepted else 1)


@app.command()
def verify(
    key: Annotated[
        str | None, typer.Argument(help="Observation key; all of them if omitted.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Alias or number of a registered model to verify instead.")
    ] = None,
    sealed: Annotated[
        bool,
        typer.Option("--sealed", help="As an auditor: read neither plaintext nor keys."),
    ] = False,
) -> None:
    """Walk provenance offline, from the observation's bytes on, and name what does not match."""
    from acie_pipelines.provenance import Manifest
    from acie_pipelines.storage import Store
    from acie_pipelines.verification import verify_everything, verify_model, verify_observation

    def report(manifest: Manifest) -> None:
        out.print(
            f"[green]ok[/] {manifest.kind}/{manifest.key} [dim]{manifest.digest[:16]}[/]",
            soft_wrap=True,
            highlight=False,
        )

    settings = Settings.from_environment()
    store = Store(settings.storage_url)
    if sealed and model is not None:
        raise ConfigurationError("--sealed", "says nothing about models", "leave out one of them")
    if sealed:
        count = _audit(store, settings, key, report)
    elif model is not None:
        count = verify_model(settings, model, report)
    elif key is not None:
        count = verify_observation(store, key, report, newest=newest_by_attestation(out))
    else:
        count = verify_everything(store, report, newest=newest_by_attestation(out))
    out.print(f"{count} datasets verified")


def _audit(
    store: "Store", settings: Settings, key: str | None, report: "Callable[[Manifest], None]"
) -> int:
    """Verify what is sealed, back to the ledger."""
    from acie_pipelines.ledger import Ledger
    from acie_pipelines.secure.attestation import Attestations
    from acie_pipelines.secure.auditor import Auditor

    url = settings.database_url
    auditor = Auditor(store, Ledger(url), Attestations(url))
    return auditor.verify_all(report) if key is None else auditor.verify(key, report)


@app.command()
def status(as_json: Json = False) -> None:
    """Show what was taken in, what is in quarantine, and which runs failed."""
    from acie_pipelines.ledger import Ledger

    ledger = Ledger(Settings.from_environment().database_url)
    counts = {str(name): count for name, count in ledger.counts().items()}
    quarantined = ledger.entries(status="quarantined")
    failures = ledger.failures(limit=20)
    if as_json:
        body = {
            "observations": counts,
            "new_since_training": ledger.new_since_training(),
            "quarantined": [
                {"key": e.key, "error_type": e.error_type, "reason": e.reason} for e in quarantined
            ],
            "failures": [
                {"run_id": f.run_id, "job": f.job, "step": f.step, "at": f.at.isoformat()}
                | {"error_type": f.error_type, "cause": f.cause}
                for f in failures
            ],
        }
        typer.echo(json.dumps(body))
        return
    out.print(", ".join(f"{count} {name}" for name, count in counts.items()))
    out.print(f"{ledger.new_since_training()} accepted since the last training")
    for title, rows in (
        ("Quarantine", [(e.key, e.error_type or "", e.reason or "") for e in quarantined]),
        (
            "Failed runs",
            [(f.run_id[:8], f.error_type, f"{f.job} {f.step}: {f.cause}") for f in failures],
        ),
    ):
        if rows:
            table = Table("What", "Error", "Reason", title=title, title_justify="left")
            for row in rows:
                table.add_row(*row)
            out.print(table)


@models.command("list")
def list_models(as_json: Json = False) -> None:
    """List versions with their states and what moved them there."""
    from acie_pipelines.promotion import open_registry

    registry = open_registry(Settings.from_environment())
    versions = registry.list()
    last = {record.move.version: record for record in registry.history()}
    if as_json:
        for version in versions:
            record = last[version.version]
            body = {
                "model": registry.model,
                "version": version.version,
                "state": version.state.value,
                "since": version.since.isoformat(),
                "actor": record.actor,
                "reason": record.reason,
                "metrics": dict(version.metrics),
                "release": version.manifest.digest,
            }
            typer.echo(json.dumps(body))
        return
    table = Table("Version", "State", "Since (UTC)", "By", "Why", title=registry.model)
    for version in versions:
        record = last[version.version]
        table.add_row(
            str(version.version),
            version.state.value,
            f"{version.since:%Y-%m-%d %H:%M}",
            record.actor,
            record.reason,
        )
    out.print(table)


@models.command()
def promote(
    version: Annotated[str, typer.Argument(help="Number or alias of the version to move.")],
    to: Annotated[State, typer.Argument(help="Where it goes.")],
    reason: Reason,
    actor: Actor = "unknown",
) -> None:
    """Move a version one step; moves that skip a step or lack evidence are refused."""
    from acie_pipelines.promotion import advance, open_registry, resolve_version
    from acie_pipelines.storage import Store

    settings = Settings.from_environment()
    registry = open_registry(settings)
    found = resolve_version(registry, version)
    advance(Store(settings.storage_url), registry, found, to, actor=actor, reason=reason)
    out.print(f"version {found.version} is now {to.value}")


@models.command()
def rollback(reason: Reason, actor: Actor = "unknown") -> None:
    """Put the previous production version back, in one step."""
    from acie_pipelines.promotion import open_registry

    version = open_registry(Settings.from_environment()).rollback(actor, reason)
    out.print(f"version {version} is production again")


@app.command()
def bench(
    area: Annotated[Area, typer.Argument(help="What to measure.")],
    as_json: Json = False,
    seeds: Annotated[
        int, typer.Option(min=1, help="Repetitions of what is random: counterfactual only.")
    ] = 5,
    first_seed: Annotated[
        int, typer.Option(min=0, help="Seed of the first repetition: counterfactual only.")
    ] = 0,
    large: Annotated[
        bool, typer.Option("--large", help="Encrypt 5 GB instead, half an hour: secure only.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Folder for measurements, rows and figures; an interrupted run goes on from it: "
            "counterfactual only."
        ),
    ] = None,
    device: Annotated[
        str, typer.Option(help="cpu, or cuda for training there alone: counterfactual only.")
    ] = "cpu",
) -> None:
    """Measure against the best peer, both sides in the same run."""
    from acie_pipelines.evaluation.areas import run_area

    run_area(
        area,
        as_json=as_json,
        seeds=seeds,
        first_seed=first_seed,
        large=large,
        out=out,
        device=device,
    )


def main() -> None:
    """Run `acie`; a known error is one line on standard error and exit code 1."""
    # MLflow reports every migration of its own tables.
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    try:
        app()
    except AcieError as error:
        err.print(f"[red]error:[/] {escape(str(error))}", soft_wrap=True, highlight=False)
        sys.exit(1)
