"""`acie secure worker` and `acie secure queue`.

Belongs here: parsing, printing and signals of these commands. Does not belong here: work.
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from acie_pipelines.errors import ConfigurationError
from acie_pipelines.settings import Settings

if TYPE_CHECKING:
    from acie_pipelines.secure.queue import WorkQueue
    from acie_pipelines.secure.worker import Event

__all__ = ["show_queue", "worker"]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")]


def worker(
    public_keys: Annotated[
        Path,
        typer.Option(envvar="ACIE_PUBLIC_KEYS_FILE", help="What `acie keys export-public` wrote."),
    ],
    encrypt: Annotated[
        bool, typer.Option("--encrypt", help="Encrypt plaintext tiles for their owner instead.")
    ] = False,
    drain: Annotated[
        bool, typer.Option("--drain", help="End when there is nothing left to claim.")
    ] = False,
) -> None:
    """Do units of work on ciphertexts with public keys alone.

    The store and the queue are those of ACIE_STORAGE_URL and ACIE_DATABASE_URL. A worker that could
    read a private key refuses to start. On SIGTERM it hands its unit back and ends.
    """
    from acie_pipelines.secure.queue import WorkQueue
    from acie_pipelines.secure.worker import (
        COMPUTE_KINDS,
        ENCRYPTION_KINDS,
        run_worker,
        start_worker,
    )
    from acie_pipelines.storage import Store

    settings = Settings.from_environment()
    store = Store(settings.storage_url)
    role = start_worker(public_keys, store, dict(os.environ), sys.argv)
    stop = threading.Event()

    def ask(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, ask)
    with Progress(console=Console(stderr=True), transient=True) as bar:
        bar.console.print("waiting for units of work")
        done = run_worker(
            role,
            WorkQueue(settings.database_url),
            store,
            kinds=ENCRYPTION_KINDS if encrypt else COMPUTE_KINDS,
            stop=stop,
            drain=drain,
            report=_Reporter(bar),
        )
    typer.echo(f"{done} units done")


class _Reporter:
    """Shows the unit at work as a bar, and what became of each as a line."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task: TaskID | None = None

    def __call__(self, event: "Event") -> None:
        """Show one event."""
        if event.what == "claimed":
            self._task = self._bar.add_task(event.unit, total=None)
        elif event.what == "progress" and self._task is not None:
            self._bar.update(self._task, completed=event.done, total=event.total)
        else:
            if self._task is not None:
                self._bar.remove_task(self._task)
                self._task = None
            self._bar.console.print(
                f"{event.what} {event.unit} {event.reason}".rstrip(),
                soft_wrap=True,
                highlight=False,
                markup=False,
            )


def show_queue(
    discard: Annotated[
        int | None,
        typer.Option(help="Give this batch up first, and delete what its units wrote."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show batches of work that are not published yet, and how far they are."""
    from acie_pipelines.secure.queue import WorkQueue

    settings = Settings.from_environment()
    queue = WorkQueue(settings.database_url)
    if discard is not None:
        _discard(queue, settings.storage_url, discard)
    found = queue.batches()
    if as_json:
        for batch, counts in found:
            body = {"batch": batch.id, "kind": batch.kind, "key": batch.key}
            typer.echo(json.dumps(body | vars(counts)))
        return
    table = Table("Batch", "Makes", "Ready", "Leased", "Done", "Failed")
    for batch, counts in found:
        row = (batch.id, f"{batch.kind}/{batch.key}", *vars(counts).values())
        table.add_row(*map(str, row))
    Console().print(table)


def _discard(queue: "WorkQueue", storage_url: str, number: int) -> None:
    from acie_pipelines.secure.batches import discard_batch
    from acie_pipelines.storage import Store

    batch = next((batch for batch, _ in queue.batches() if batch.id == number), None)
    if batch is None:
        raise ConfigurationError(
            f"batch {number}", "is not in the queue", "see the list without it"
        )
    discard_batch(queue, Store(storage_url), batch)
    typer.echo(f"discarded {batch.kind}/{batch.key}", err=True)
