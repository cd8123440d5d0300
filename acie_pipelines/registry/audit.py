"""The append-only record of promotions; a row is the move, and states follow from the rows.

Belongs here: the table, its immutability, and appending under optimistic concurrency.
Does not belong here: which moves are legal (`registry.states`), MLflow (`registry.aliases`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from acie_pipelines.database import (
    UtcDateTime,
    create_all,
    engine,
    metadata,
    reading,
    writing,
)
from acie_pipelines.errors import PromotionError
from acie_pipelines.provenance import InputRef
from acie_pipelines.registry.states import State

__all__ = ["AuditLog", "Move", "Record"]

_promotions = sa.Table(
    "acie_promotions",
    metadata,
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
    sa.Column("model", sa.String(255), nullable=False),
    # Two writers that saw the same past both want its next number; the database lets one have it.
    sa.Column("sequence", sa.Integer, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("from_state", sa.String(16)),
    sa.Column("to_state", sa.String(16), nullable=False),
    sa.Column("actor", sa.String(255), nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.Column("metrics", sa.JSON, nullable=False),
    sa.Column("evidence", sa.JSON, nullable=False),
    sa.Column("manifest_kind", sa.String(255), nullable=False),
    sa.Column("manifest_key", sa.String(255), nullable=False),
    sa.Column("manifest_generation", sa.String(255), nullable=False),
    sa.Column("manifest_digest", sa.String(64), nullable=False),
    sa.UniqueConstraint("model", "sequence"),
)

_SQLITE_GUARD = """
CREATE TRIGGER acie_promotions_no_{operation} BEFORE {operation} ON acie_promotions
BEGIN SELECT RAISE(ABORT, 'acie_promotions is append-only'); END
"""
_POSTGRES_FUNCTION = """
CREATE OR REPLACE FUNCTION acie_promotions_guard() RETURNS trigger LANGUAGE plpgsql AS
$guard$ BEGIN RAISE EXCEPTION 'acie_promotions is append-only'; END $guard$
"""
_POSTGRES_GUARD = """
CREATE TRIGGER acie_promotions_append_only BEFORE UPDATE OR DELETE OR TRUNCATE
ON acie_promotions FOR EACH STATEMENT EXECUTE FUNCTION acie_promotions_guard()
"""


def _after_creation(statement: str, dialect: str) -> None:
    ddl = sa.DDL(statement).execute_if(dialect=dialect)  # type: ignore[no-untyped-call]
    sa.event.listen(_promotions, "after_create", ddl)


for _operation in ("UPDATE", "DELETE"):
    _after_creation(_SQLITE_GUARD.format(operation=_operation), "sqlite")
_after_creation(_POSTGRES_FUNCTION, "postgresql")
_after_creation(_POSTGRES_GUARD, "postgresql")


@dataclass(frozen=True)
class Move:
    """One version going from one state to another.

    Attributes
    ----------
    version
        Version of the model.
    from_state, to_state
        ``None`` is where a new version comes from.
    manifest
        Dataset that holds the model.
    metrics
        Measurements of the version at the time.
    evidence
        What the decision rests on.
    """

    version: int
    from_state: State | None
    to_state: State
    manifest: InputRef
    metrics: Mapping[str, float] = field(default_factory=dict)
    evidence: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """A move that happened.

    Attributes
    ----------
    sequence
        Its number within the model's history, from 1.
    move
        What moved.
    actor, reason
        Who decided it and why.
    at
        UTC time.
    """

    sequence: int
    move: Move
    actor: str
    reason: str
    at: datetime


def _record(row: sa.Row[Any]) -> Record:
    manifest = InputRef(
        row.manifest_kind, row.manifest_key, row.manifest_generation, row.manifest_digest
    )
    move = Move(
        version=row.version,
        from_state=None if row.from_state is None else State(row.from_state),
        to_state=State(row.to_state),
        manifest=manifest,
        metrics=row.metrics,
        evidence=row.evidence,
    )
    return Record(row.sequence, move, row.actor, row.reason, row.at)


def _check(subject: str, moves: Sequence[Move], actor: str, reason: str) -> None:
    if not actor.strip() or not reason.strip():
        raise PromotionError(subject, "names no actor or no reason", "say who decides and why")
    for move in moves:
        for name, value in move.metrics.items():
            if not math.isfinite(value):
                raise PromotionError(
                    subject, f"its metric {name} is {value}", "measure it again; it must be finite"
                )


class AuditLog:
    """The history of one model.

    Parameters
    ----------
    url
        SQLAlchemy URL; missing tables are created.
    model
        Registered model's name.
    """

    def __init__(self, url: str, model: str) -> None:
        self.engine = engine(url)
        self.model = model
        create_all(self.engine)

    def records(self) -> list[Record]:
        """Read all moves of the model, the oldest first."""
        table = _promotions
        query = sa.select(table).where(table.c.model == self.model).order_by(table.c.sequence)
        with reading(self.engine) as connection:
            return [_record(row) for row in connection.execute(query)]

    def append(self, moves: Sequence[Move], actor: str, reason: str, *, after: int) -> None:
        """Add moves, all or none, provided nothing happened since the caller looked.

        Parameters
        ----------
        moves
            In order.
        actor, reason
            Who decided them and why.
        after
            Sequence number of the last record the caller saw; 0 for none.

        Raises
        ------
        PromotionError
            If another move came first, or the moves cannot be recorded.
        """
        _check(self.model, moves, actor, reason)
        at = datetime.now(UTC)
        rows = [
            {
                "model": self.model,
                "sequence": after + number,
                "version": move.version,
                "from_state": move.from_state,
                "to_state": move.to_state,
                "actor": actor,
                "reason": reason,
                "at": at,
                "metrics": dict(move.metrics),
                "evidence": dict(move.evidence),
                "manifest_kind": move.manifest.kind,
                "manifest_key": move.manifest.key,
                "manifest_generation": move.manifest.generation,
                "manifest_digest": move.manifest.digest,
            }
            for number, move in enumerate(moves, start=1)
        ]
        try:
            with writing(self.engine) as connection:
                connection.execute(sa.insert(_promotions), rows)
        except sa.exc.IntegrityError as error:
            raise PromotionError(
                self.model,
                f"another move was recorded after number {after}",
                "look at the present states and decide again",
            ) from error
        except sa.exc.StatementError as error:
            if not isinstance(error.orig, TypeError | ValueError):
                raise
            raise PromotionError(
                self.model, f"its evidence cannot be recorded ({error.orig})", "give JSON values"
            ) from error
