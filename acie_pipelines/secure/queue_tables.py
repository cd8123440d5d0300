"""Tables of the work queue, and their rows as values.

Belongs here: what is stored about batches and units. Does not belong here: the changes of state
(see `acie_pipelines.secure.queue`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from acie_pipelines.database import metadata

__all__ = ["Batch", "Counts", "Lease", "UnitState", "batches", "units"]

UnitState = Literal["ready", "leased", "done", "failed"]

# SQLite only numbers rows by itself when the key is spelt INTEGER.
_Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")

batches = sa.Table(
    "acie_work_batches",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("kind", sa.String(64), nullable=False),
    sa.Column("key", sa.String(255), nullable=False),
    sa.Column("request", sa.String(64), nullable=False),
    sa.Column("generation", sa.String(64), nullable=False),
    sa.Column("payload", sa.JSON, nullable=False),
    sa.Column("opened_at", sa.Double, nullable=False),
    sa.UniqueConstraint("kind", "key", "request"),
    # Numbers of batches that are gone are not given to others: a late writer may still hold one.
    sqlite_autoincrement=True,
)

units = sa.Table(
    "acie_work_units",
    metadata,
    sa.Column(
        "batch_id", _Id, sa.ForeignKey("acie_work_batches.id", ondelete="CASCADE"), nullable=False
    ),
    sa.Column("number", sa.Integer, nullable=False),
    sa.Column("state", sa.String(16), nullable=False, index=True),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("token", sa.BigInteger, nullable=False),
    sa.Column("owner", sa.String(255)),
    sa.Column("lease_until", sa.Double),
    sa.Column("error_type", sa.String(255)),
    sa.Column("reason", sa.Text),
    sa.Column("payload", sa.JSON, nullable=False),
    sa.Column("result", sa.JSON),
    sa.PrimaryKeyConstraint("batch_id", "number"),
)


@dataclass(frozen=True)
class Batch:
    """Units of work that make one dataset together.

    Attributes
    ----------
    id
        Its number in the queue.
    kind, key, generation
        The dataset and the generation of it that the units write to.
    payload
        What every unit needs to know: references, never samples or secrets.
    """

    id: int
    kind: str
    key: str
    generation: str
    payload: Mapping[str, Any]

    @property
    def prefix(self) -> str:
        """The generation's directory in the store."""
        return f"{self.kind}/{self.key}/{self.generation}"


@dataclass(frozen=True)
class Lease:
    """The right to do one unit, until it ends or somebody else is given a higher token.

    Attributes
    ----------
    batch
        What the unit belongs to.
    number
        Of the unit within its batch.
    token
        Fencing token: grows with every claim of the unit; the highest one may write its result.
    attempt
        1 for the first claim since the batch was opened.
    owner
        Who holds the lease.
    seconds
        How long it lasts from each renewal on.
    payload
        What is to be done.
    """

    batch: Batch
    number: int
    token: int
    attempt: int
    owner: str
    seconds: float
    payload: Mapping[str, Any]

    @property
    def name(self) -> str:
        """The unit in messages."""
        return f"{self.batch.kind}/{self.batch.key} unit {self.number}"

    @property
    def directory(self) -> str:
        """Where this claim writes, relative to the generation; no other claim writes there."""
        return f"units/{self.number:05d}-{self.token}"


@dataclass(frozen=True)
class Counts:
    """How many units of a batch are in which state."""

    ready: int = 0
    leased: int = 0
    done: int = 0
    failed: int = 0

    @property
    def total(self) -> int:
        """All units."""
        return self.ready + self.leased + self.done + self.failed
