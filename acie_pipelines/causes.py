"""Why a run failed, in one line.

Belongs here: reading Dagster's failure events. Does not belong here: where causes are recorded.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import dagster as dg

if TYPE_CHECKING:
    from dagster_shared.error import SerializableErrorInfo

__all__ = ["Cause", "first_cause"]

_UNKNOWN = "the run ended early"


class Cause(NamedTuple):
    """Step, type and message of the error that a run failed with."""

    step: str
    error_type: str
    reason: str


def first_cause(failed_steps: Sequence[dg.DagsterEvent], ended: dg.DagsterEvent | None) -> Cause:
    """Find the root cause of the first failed step, or of a run that failed outside its steps.

    Parameters
    ----------
    failed_steps
        Step failure events of one run.
    ended
        The event that ended the run.
    """
    for event in failed_steps:
        data = event.step_failure_data
        step = event.step_key or ""
        if data.user_failure_data is not None:
            metadata = data.user_failure_data.metadata
            named = metadata.get("error_type")
            return Cause(
                step,
                str(named.value) if named is not None else "Failure",
                data.user_failure_data.description or _UNKNOWN,
            )
        if data.error is not None:
            return _root(step, data.error)
    # A resource that cannot be made fails no step; a killed process leaves a message only.
    error = getattr(ended.event_specific_data, "error", None) if ended is not None else None
    if error is not None:
        return _root("", error)
    message = (ended.message if ended is not None else None) or _UNKNOWN
    return Cause("", "RunFailure", " ".join(message.split()))


def _root(step: str, error: "SerializableErrorInfo") -> Cause:
    while error.cause is not None:
        error = error.cause
    error_type = error.cls_name or "Error"
    # Messages start with the class, qualified by its module.
    qualified, colon, rest = error.message.strip().partition(": ")
    prefixed = bool(colon) and qualified.rsplit(".", 1)[-1] == error_type
    reason = rest if prefixed else error.message
    return Cause(step, error_type, " ".join(reason.split()))
