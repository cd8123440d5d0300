"""Runs jobs from the shell, in this process, on the instance that the UI shows.

Belongs here: opening the instance, executing a job, reporting its steps. Does not belong here:
command-line parsing, or what the jobs do.
"""

import fcntl
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import dagster as dg
from dagster import DagsterEventType, DagsterInstance, EventLogEntry

from acie_pipelines.causes import Cause, first_cause
from acie_pipelines.errors import ConfigurationError

__all__ = ["CheckReport", "JobOutcome", "StepReport", "execute", "open_instance"]

_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class CheckReport(NamedTuple):
    """One asset check of a run."""

    asset: str
    name: str
    passed: bool


@dataclass(frozen=True)
class JobOutcome:
    """How a run ended.

    Attributes
    ----------
    run_id
        The run in the instance, for the UI.
    cause
        Why it failed; ``None`` if every step and blocking check succeeded.
    checks
        Every check that ran.
    """

    run_id: str
    cause: Cause | None
    checks: tuple[CheckReport, ...]

    @property
    def success(self) -> bool:
        """Whether the run succeeded."""
        return self.cause is None


@dataclass(frozen=True)
class StepReport:
    """A step that has just started (``seconds`` is ``None``) or ended."""

    step: str
    seconds: float | None
    success: bool


def _dagster_home() -> Path:
    configured = os.environ.get("DAGSTER_HOME")
    home = Path(configured) if configured else Path("dagster_home")
    if not home.is_dir():
        raise ConfigurationError(
            "DAGSTER_HOME",
            f"{home} is not a directory",
            "set it, or run in the directory that holds dagster_home/",
        )
    return home.absolute()


@contextmanager
def open_instance() -> Iterator[DagsterInstance]:
    """Open the Dagster instance of ``DAGSTER_HOME``, or of ``./dagster_home``.

    Raises
    ------
    ConfigurationError
        If there is no such directory.
    """
    home = _dagster_home()
    os.environ["DAGSTER_HOME"] = str(home)
    with _alone_in(home):
        instance = DagsterInstance.get()
    with instance:
        yield instance


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Wait until no other process is in this block.

    Processes that create Dagster's SQLite databases at the same time can each enter a row of their
    own into the table of schema versions, after which nothing opens them again.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def execute(
    defs: dg.Definitions,
    job_name: str,
    instance: DagsterInstance,
    *,
    partition_key: str | None = None,
    report: Callable[[StepReport], None] | None = None,
) -> JobOutcome:
    """Run a job here and now.

    Parameters
    ----------
    report
        Called as each step starts and ends.
    """
    started: dict[str, float] = {}

    def listen(entry: EventLogEntry) -> None:
        event = entry.dagster_event
        if report is None or event is None or event.step_key is None:
            return
        if event.event_type is DagsterEventType.STEP_START:
            started[event.step_key] = entry.timestamp
            report(StepReport(event.step_key, None, True))
        elif event.event_type in (DagsterEventType.STEP_SUCCESS, DagsterEventType.STEP_FAILURE):
            seconds = entry.timestamp - started.get(event.step_key, entry.timestamp)
            success = event.event_type is DagsterEventType.STEP_SUCCESS
            report(StepReport(event.step_key, seconds, success))

    run_id = str(uuid.uuid4())
    instance.add_event_listener(run_id, listen)
    result = defs.resolve_job_def(job_name).execute_in_process(
        instance=instance,
        partition_key=partition_key,
        run_id=run_id,
        run_config=_QUIET,
        raise_on_error=False,
    )
    cause = None
    if not result.success:
        ended = next((e for e in result.all_events if e.is_job_failure), None)
        cause = first_cause(result.get_step_failure_events(), ended)
    checks = tuple(
        CheckReport(e.asset_key.to_user_string(), e.check_name, e.passed)
        for e in result.get_asset_check_evaluations()
    )
    return JobOutcome(run_id, cause, checks)
