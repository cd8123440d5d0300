"""Tables of the ledger, their rows as values, and the atomic claim of a content.

Belongs here: what `acie_pipelines.ledger` and `acie_pipelines.arrivals` share.
Does not belong here: the changes of status (see `acie_pipelines.ledger`).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import sqlalchemy as sa

from acie_pipelines.database import UtcDateTime, insert, metadata
from acie_pipelines.errors import IntegrityError

__all__ = [
    "ENTRY_COLUMNS",
    "FAILURE_COLUMNS",
    "STATUSES",
    "Claim",
    "Entry",
    "Failure",
    "Status",
    "failures",
    "forgotten",
    "observations",
    "register_content",
    "run_key",
    "training_marks",
]

Status = Literal["registered", "accepted", "quarantined", "forgotten"]
STATUSES: tuple[Status, ...] = ("registered", "accepted", "quarantined", "forgotten")

# SQLite only numbers rows by itself when the key is spelt INTEGER.
_Id = sa.BigInteger().with_variant(sa.Integer, "sqlite")

observations = sa.Table(
    "acie_observations",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("sha256", sa.String(64), nullable=False, unique=True),
    sa.Column("key", sa.String(255), nullable=False, unique=True),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("status", sa.String(16), nullable=False, index=True),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("registered_at", UtcDateTime, nullable=False),
    sa.Column("accepted_at", UtcDateTime),
    sa.Column("quarantined_at", UtcDateTime),
    sa.Column("error_type", sa.String(255)),
    sa.Column("reason", sa.Text),
)

training_marks = sa.Table(
    "acie_training_marks",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("accepted", sa.BigInteger, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
)

failures = sa.Table(
    "acie_failures",
    metadata,
    sa.Column("id", _Id, primary_key=True),
    sa.Column("run_id", sa.String(255), nullable=False, unique=True),
    sa.Column("job", sa.String(255), nullable=False),
    sa.Column("step", sa.String(255)),
    sa.Column("error_type", sa.String(255), nullable=False),
    sa.Column("cause", sa.Text, nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
)


@dataclass(frozen=True)
class Entry:
    """One content and what became of it.

    Attributes
    ----------
    sha256, key
        Hash of the content, and the observation key made from it.
    source
        Path or URL it was first seen at.
    size
        Bytes.
    status
        ``registered``, ``accepted``, ``quarantined`` or ``forgotten``.
    attempt
        1, or more after `Ledger.forget`.
    registered_at, accepted_at, quarantined_at
        UTC times of the latest change of each kind.
    error_type, reason
        Why it is in quarantine.
    """

    sha256: str
    key: str
    source: str
    size: int
    status: Status
    attempt: int
    registered_at: datetime
    accepted_at: datetime | None
    quarantined_at: datetime | None
    error_type: str | None
    reason: str | None

    @property
    def run_key(self) -> str:
        """Dagster run key: the content hash, set apart for every attempt after the first."""
        return run_key(self.sha256, self.attempt)


@dataclass(frozen=True)
class Failure:
    """One failed run.

    Attributes
    ----------
    run_id, job, step
        What failed; `step` is ``None`` if the run failed outside its steps.
    error_type, cause
        Class of the first error and its one-line message.
    at
        UTC time.
    """

    run_id: str
    job: str
    step: str | None
    error_type: str
    cause: str
    at: datetime


@dataclass(frozen=True)
class Claim:
    """A content that this process, and no other, has to see to.

    Attributes
    ----------
    key
        Observation key; after `Ledger.forget` the one of the first attempt.
    attempt
        1, or more after `Ledger.forget`.
    """

    key: str
    attempt: int


def run_key(sha256: str, attempt: int) -> str:
    """Dagster run key of one attempt at one content."""
    return sha256 if attempt == 1 else f"{sha256}-{attempt}"


def register_content(
    connection: sa.Connection, *, sha256: str, key: str, source: str, size: int
) -> Claim | None:
    """Claim a content inside the caller's transaction.

    Returns
    -------
    Claim or None
        ``None`` if the content is already known.

    Raises
    ------
    IntegrityError
        If the key belongs to another content.
    """
    statement = insert(connection, observations).values(
        sha256=sha256,
        key=key,
        source=source,
        size=size,
        status="registered",
        attempt=1,
        registered_at=datetime.now(UTC),
    )
    claim = statement.on_conflict_do_update(
        index_elements=["sha256"],
        # The key stays: partitions and manifests of earlier attempts carry it.
        set_={
            "source": source,
            "status": "registered",
            "attempt": observations.c.attempt + 1,
            "registered_at": datetime.now(UTC),
            "error_type": None,
            "reason": None,
        },
        where=observations.c.status == "forgotten",
    ).returning(observations.c.key, observations.c.attempt)
    try:
        with connection.begin_nested():
            row = connection.execute(claim).one_or_none()
    except sa.exc.IntegrityError as error:
        raise IntegrityError(
            key, "the key already belongs to another content", "rename the file"
        ) from error
    return None if row is None else Claim(*row)


def forgotten(connection: sa.Connection, hashes: Iterable[str]) -> set[str]:
    """Those of some content hashes that may be claimed again."""
    wanted = observations.c.sha256.in_(list(hashes))
    query = sa.select(observations.c.sha256).where(wanted, observations.c.status == "forgotten")
    return set(connection.execute(query).scalars())


ENTRY_COLUMNS = tuple(observations.c[name] for name in Entry.__dataclass_fields__)
FAILURE_COLUMNS = tuple(failures.c[name] for name in Failure.__dataclass_fields__)
