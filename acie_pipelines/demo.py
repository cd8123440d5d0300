"""`acie demo`: the bundled data through the whole graph, and a table of what was made.

Belongs here: the order of the demonstration and its report. Does not belong here: work that any
other command does as well; it calls the same functions.
"""

import os
import time
from collections.abc import Iterable

import dagster as dg
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from acie_pipelines.jobs import RETRAIN
from acie_pipelines.provenance import Manifest, current_manifest
from acie_pipelines.runs import CheckReport, JobOutcome, StepReport, execute, open_instance
from acie_pipelines.samples import sample_observations
from acie_pipelines.settings import Settings
from acie_pipelines.storage import Store
from acie_pipelines.submission import submit

__all__ = ["run_demo"]


def _ensure_keys(settings: Settings, console: Console) -> None:
    from acie_pipelines.crypto.vault import FileVault
    from acie_pipelines.crypto.vault_unlock import unlock_secret

    if "ACIE_KEYS" not in os.environ and not settings.keys_file.exists():
        console.print(f"generating keys in {settings.keys_file}")
        FileVault.create(settings.keys_file, secret=unlock_secret(os.environ))


def _latest_rates(instance: dg.DagsterInstance, keys: Iterable[str]) -> tuple[int, float]:
    """Values and seconds of the latest encryption of each observation that really ran."""
    values, seconds = 0, 0.0
    for key in keys:
        records = instance.fetch_materializations(
            dg.AssetRecordsFilter(asset_key=dg.AssetKey("encrypted_tiles"), asset_partitions=[key]),
            limit=20,
        ).records
        for record in records:
            event = record.asset_materialization
            if event is not None and "values_per_second" in event.metadata:
                values += int(str(event.metadata["values"].value))
                seconds += float(str(event.metadata["seconds"].value))
                break
    return values, seconds


def _observe(console: Console) -> list[CheckReport]:
    paths = sample_observations()
    checks: list[CheckReport] = []
    with console.status("") as status:
        for number, path in enumerate(paths, start=1):
            status.update(f"observation {number} of {len(paths)}: {path.name}")
            started = time.monotonic()
            (result,) = submit([path])
            checks += result.checks
            mark = "[green]sealed[/]" if result.status == "accepted" else f"[red]{result.status}[/]"
            seconds = time.monotonic() - started
            console.print(
                f"  {mark} {path.name} [dim]{seconds:.1f} s[/] {escape(result.reason)}",
                soft_wrap=True,
            )
    return checks


def _retrain(defs: dg.Definitions, console: Console) -> JobOutcome:
    with open_instance() as instance, console.status("") as status:

        def report(step: StepReport) -> None:
            if step.seconds is None:
                status.update(step.step)
            else:
                mark = "[green]done[/]" if step.success else "[red]failed[/]"
                console.print(f"  {mark} {step.step} [dim]{step.seconds:.1f} s[/]")

        return execute(defs, RETRAIN, instance, report=report)


def _total(manifests: Iterable[Manifest], attribute: str) -> int:
    return sum(int(manifest.attributes[attribute]) for manifest in manifests)


def _summary(settings: Settings, checks: list[CheckReport], seconds: float) -> Table:
    from acie_pipelines.promotion import open_registry

    store = Store(settings.storage_url)
    keys = store.names("archive")
    observations = [current_manifest(store, "observation", key) for key in keys]
    tiles = [current_manifest(store, "tiles", key) for key in keys]
    with open_instance() as instance:
        values, encryption_seconds = _latest_rates(instance, keys)
    table = Table(title="What was made", title_justify="left", show_header=False)
    table.add_row("observations", f"{len(keys)} ({_total(observations, 'bytes'):,} bytes)")
    table.add_row(
        "tiles", f"{len(_tiles(tiles)):,} ({_total(tiles, 'pixels'):,} pixels, SHA-256 each)"
    )
    table.add_row(
        "encrypted", f"{values:,} values, {values / max(encryption_seconds, 1e-9):,.0f} per second"
    )
    if store.exists("validation/galaxies/current.json"):
        facts = current_manifest(store, "validation", "galaxies").attributes
        for name, value in facts["nats_per_galaxy"].items():
            what = "negative log-likelihood per held-out galaxy"
            table.add_row(name.replace("_", " "), f"{value:.2f} nats ({what})")
    if store.exists("counterfactual_validation/galaxies/current.json"):
        facts = current_manifest(store, "counterfactual_validation", "galaxies").attributes
        error = "none" if facts["error"] is None else f"{facts['error']:.2f}"
        table.add_row(
            "spectra at twice the mass",
            f"{error} of a pixel's noise from the truth "
            f"({facts['error_of_no_change']:.2f} if nothing is changed)",
        )
    passed = sum(check.passed for check in checks)
    table.add_row("checks run now", f"{passed} of {len(checks)} passed")
    registry = open_registry(settings)
    for version in registry.list():
        table.add_row("registry", f"{registry.model} version {version.version}: {version.state}")
    table.add_row("time", f"{seconds:.0f} s")
    return table


def _tiles(manifests: Iterable[Manifest]) -> list[object]:
    return [tile for manifest in manifests for tile in manifest.attributes["tiles"]]


def run_demo(console: Console) -> bool:
    """Run the demonstration.

    Returns
    -------
    bool
        Whether everything succeeded.
    """
    from acie_pipelines.definitions import build_defs

    started = time.monotonic()
    settings = Settings.from_environment()
    _ensure_keys(settings, console)
    console.print("[bold]ingestion, tiling, encryption[/]")
    checks = _observe(console)
    console.print("[bold]training, validation, promotion[/]")
    outcome = _retrain(build_defs(settings=settings), console)
    checks += outcome.checks
    console.print(_summary(settings, checks, time.monotonic() - started))
    for check in checks:
        if not check.passed:
            console.print(f"[yellow]check failed:[/] {check.asset} {check.name}")
    if outcome.cause is not None:
        console.print(
            f"[red]{escape(outcome.cause.step)}:[/] {escape(outcome.cause.reason)}", soft_wrap=True
        )
    console.print("Open the UI with [bold]make ui[/] (http://localhost:3000)")
    return outcome.success
