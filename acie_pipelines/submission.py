"""Does from the shell what the inbox sensor does: register files, run them, or quarantine them.

Belongs here: `acie ingest`. Does not belong here: validation itself (`observations`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import dagster as dg
from rich.console import Console

from acie_pipelines.errors import AcieError
from acie_pipelines.jobs import PROCESS_OBSERVATION
from acie_pipelines.ledger import Ledger
from acie_pipelines.observations.identity import fingerprint, observation_key
from acie_pipelines.partitions import observation_partitions
from acie_pipelines.runs import CheckReport, StepReport, execute, open_instance
from acie_pipelines.settings import Settings
from acie_pipelines.storage import Store

__all__ = ["Submission", "submit"]

Status = Literal["accepted", "quarantined", "failed"]


@dataclass(frozen=True)
class Submission:
    """What became of one path.

    Attributes
    ----------
    path
        As given, or as found below a directory.
    status
        ``accepted``; ``quarantined`` for unusable content; ``failed`` if it could not be processed
        for another reason and should be submitted again.
    error_type, reason
        Empty when accepted.
    key
        Observation key; empty if the content could not be read.
    checks
        Asset checks that ran.
    """

    path: str
    status: Status
    error_type: str
    reason: str
    key: str
    checks: tuple[CheckReport, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Fields as a JSON object."""
        return {
            name: getattr(self, name) for name in ("path", "status", "error_type", "reason", "key")
        }


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    """Expand directories; a Zarr directory is one observation."""
    for path in paths:
        if path.is_dir() and path.suffix != ".zarr":
            inside = sorted(p for p in path.iterdir() if not p.name.startswith("."))
            yield from _files(inside)
        else:
            yield path


def _is_sealed(store: Store, key: str) -> bool:
    return all(store.exists(f"{kind}/{key}/current.json") for kind in ("ciphertexts", "archive"))


def submit(paths: Sequence[Path], *, progress: Console | None = None) -> Iterator[Submission]:
    """Process files one after another.

    Parameters
    ----------
    paths
        Files, Zarr directories, or directories of them.
    progress
        Where to say which step is running.

    Yields
    ------
    Submission
        One per file, as soon as its fate is known.
    """
    from acie_pipelines.definitions import build_defs

    settings = Settings.from_environment()
    defs = build_defs(settings=settings)
    store = Store(settings.storage_url)
    ledger = Ledger(settings.database_url)
    with open_instance() as instance:
        for path in _files(paths):
            yield _submit_one(path, defs, store, ledger, instance, progress)


def _submit_one(
    path: Path,
    defs: dg.Definitions,
    store: Store,
    ledger: Ledger,
    instance: dg.DagsterInstance,
    progress: Console | None,
) -> Submission:
    source = str(path.absolute())
    try:
        content = fingerprint(path)
        key = observation_key(path.name, content.sha256)
        ledger.register(content.sha256, key, source, content.size)
    except AcieError as error:  # one path's misfortune must not stop the others
        return Submission(str(path), "failed", type(error).__name__, error.reason, "")
    entry = ledger.entry_of_content(content.sha256)
    if entry is None:
        return Submission(
            str(path), "failed", "LedgerError", "the ledger lost the registration", key
        )
    if entry.status == "quarantined":
        reason = f"{entry.reason} (the same content is already in quarantine)"
        return Submission(str(path), "quarantined", entry.error_type or "", reason, entry.key)
    if entry.status == "accepted" and _is_sealed(store, entry.key):
        return Submission(str(path), "accepted", "", "", entry.key)

    if "://" not in entry.source and not Path(entry.source).exists():
        ledger.relocate(entry.key, source)

    def report(step: StepReport) -> None:
        if progress is not None and step.seconds is not None:
            mark = "[green]done[/]" if step.success else "[red]failed[/]"
            progress.print(f"  {mark} {step.step} {step.seconds:.1f} s", highlight=False)

    instance.add_dynamic_partitions(observation_partitions.name or "", [entry.key])
    outcome = execute(defs, PROCESS_OBSERVATION, instance, partition_key=entry.key, report=report)
    if outcome.cause is None:
        return Submission(str(path), "accepted", "", "", entry.key, outcome.checks)
    verdict = ledger.entry(entry.key)
    if verdict is not None and verdict.status == "quarantined":
        return Submission(
            str(path), "quarantined", verdict.error_type or "", verdict.reason or "", entry.key
        )
    return Submission(
        str(path), "failed", outcome.cause.error_type, outcome.cause.reason, entry.key
    )
