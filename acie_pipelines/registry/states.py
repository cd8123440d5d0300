"""The states of a model version and the moves between them, as data.

Belongs here: what is allowed. Does not belong here: who moved what (see `registry.audit`).
"""

from enum import StrEnum

from acie_pipelines.errors import PromotionError

__all__ = ["FORWARD", "LEGAL_MOVES", "State", "check_move"]


class State(StrEnum):
    """Where a version stands; the value is also its MLflow alias."""

    CANDIDATE = "candidate"
    STAGING = "staging"
    CANARY = "canary"
    PRODUCTION = "production"
    ARCHIVED = "archived"


# Moves that bring a version closer to users need evidence.
FORWARD: dict[State, State] = {
    State.CANDIDATE: State.STAGING,
    State.STAGING: State.CANARY,
    State.CANARY: State.PRODUCTION,
}

# Production is left only by being replaced or rolled back, so that there is always a version in
# production once there was one; the archive is left only by a rollback.
LEGAL_MOVES: dict[State, tuple[State, ...]] = {
    State.CANDIDATE: (State.STAGING, State.ARCHIVED),
    State.STAGING: (State.CANARY, State.ARCHIVED),
    State.CANARY: (State.PRODUCTION, State.ARCHIVED),
    State.PRODUCTION: (),
    State.ARCHIVED: (),
}

_WITHOUT_MOVES = {
    State.PRODUCTION: "promote another version to production, or roll back",
    State.ARCHIVED: "roll back if it was in production, else register it again",
}


def check_move(subject: str, source: State, target: State) -> None:
    """Refuse a move that is not allowed.

    Parameters
    ----------
    subject
        Model and version, for the message.
    source, target
        Present and wanted state.

    Raises
    ------
    PromotionError
        Names the moves that are allowed.
    """
    legal = LEGAL_MOVES[source]
    if target in legal:
        return
    fix = f"from {source} it can go to {' or '.join(legal)}" if legal else _WITHOUT_MOVES[source]
    raise PromotionError(subject, f"cannot move from {source} to {target}", fix)
