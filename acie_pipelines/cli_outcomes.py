"""How commands say what became of files.

Belongs here: one line or one JSON object per file, names fit for a terminal, progress.
Does not belong here: commands.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

if TYPE_CHECKING:
    from acie_pipelines.crypto.archive_files import Outcome

__all__ = ["Json", "print_outcome", "progress", "report", "shown"]

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object per file.")]
_COLOURS = {"failed": "red", "omitted": "yellow"}
_out = Console()


def shown(name: str) -> str:
    """Make a file name fit for a terminal: bytes that are no UTF-8 and controls are escaped."""
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def print_outcome(outcome: "Outcome", *, as_json: bool) -> None:
    """Print what became of one file, on standard output."""
    if as_json:
        typer.echo(json.dumps(outcome.to_dict()))
        return
    line = f"[{_COLOURS.get(outcome.status, 'green')}]{outcome.status:<9}[/] "
    line += escape(shown(outcome.path))
    if outcome.error_type:
        line += f"  {outcome.error_type}:"
    note = ", ".join(f"{name} {value}" for name, value in (outcome.note or {}).items())
    for text in (outcome.result, note, outcome.reason):
        if text:
            line += f"  {escape(shown(text))}"
    _out.print(line, soft_wrap=True, highlight=False)


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[[], None]]:
    """Show on standard error how many files are done.

    Yields
    ------
    Callable
        To be called after each file.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda: bar.advance(task)


def report(what: str, outcomes: "Iterable[Outcome]", total: int, *, as_json: bool) -> bool:
    """Print what became of each file as soon as it is known.

    Returns
    -------
    bool
        Whether all went well.
    """
    fine = True
    with progress(what, total) as advance:
        for outcome in outcomes:
            fine &= not outcome.failed
            print_outcome(outcome, as_json=as_json)
            advance()
    return fine
