"""What became of every observation, training run and failed run, in our own tables.

Dagster deduplicates by run key only while the run is kept; the ledger outlives pruning. An entry
is one content hash and moves ``registered -> accepted | quarantined``; `Ledger.forget` makes a
quarantined or stuck one ``forgotten``, which the next `Ledger.register` may claim again.

Belongs here: the record of contents, training marks and failures.
Does not belong here: looking for new files (see `acie_pipelines.arrivals`).
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from acie_pipelines import ledger_tables as tables
from acie_pipelines.database import UtcDateTime, create_all, engine, insert, reading, writing
from acie_pipelines.errors import AcieError
from acie_pipelines.ledger_tables import (
    ENTRY_COLUMNS,
    FAILURE_COLUMNS,
    STATUSES,
    Entry,
    Failure,
    Status,
    register_content,
)

__all__ = ["Entry", "Failure", "Ledger", "LedgerError", "Status"]


class LedgerError(AcieError):
    """The ledger knows no such observation, or its status forbids the change."""


class Ledger:
    """The record of contents, training marks and failures in one database.

    Parameters
    ----------
    url
        SQLAlchemy URL; missing tables are created.
    """

    def __init__(self, url: str) -> None:
        self.engine = engine(url)
        create_all(self.engine)

    def __repr__(self) -> str:
        return f"Ledger({self.engine.url.render_as_string(hide_password=True)!r})"

    def _one(self, condition: sa.ColumnElement[bool]) -> Entry | None:
        with reading(self.engine) as connection:
            row = connection.execute(sa.select(*ENTRY_COLUMNS).where(condition)).one_or_none()
        return None if row is None else Entry(*row)

    def _count(self, condition: sa.ColumnElement[bool]) -> int:
        query = sa.select(sa.func.count()).select_from(tables.observations).where(condition)
        with reading(self.engine) as connection:
            return int(connection.execute(query).scalar_one())

    def register(self, sha256: str, key: str, source: str, size: int) -> bool:
        """Claim a content.

        Parameters
        ----------
        sha256, key
            Hash of the content, and the observation key made from it.
        source
            Path or URL of the content.
        size
            Bytes.

        Returns
        -------
        bool
            ``True`` for exactly one caller, among all processes and for all time (again for one
            caller after `forget`).
        """
        with writing(self.engine) as connection:
            claim = register_content(connection, sha256=sha256, key=key, source=source, size=size)
        return claim is not None

    def accept(self, key: str) -> None:
        """Record that an observation passed validation; doing it twice changes nothing.

        Raises
        ------
        LedgerError
            If the key is unknown or in quarantine.
        """
        table = tables.observations
        update = (
            sa.update(table)
            .where(table.c.key == key, table.c.status != "quarantined")
            .values(
                status="accepted",
                accepted_at=sa.func.coalesce(
                    table.c.accepted_at, sa.literal(datetime.now(UTC), UtcDateTime)
                ),
            )
        )
        with writing(self.engine) as connection:
            changed = connection.execute(update).rowcount
        if not changed:
            entry = self._known(key)
            raise LedgerError(
                key, f"is in quarantine ({entry.reason})", "forget it first to try it again"
            )

    def quarantine(self, key: str, error_type: str, reason: str) -> None:
        """Record that an observation was refused; the first verdict stands until `forget`.

        Parameters
        ----------
        key
            Observation key.
        error_type
            Name of the error class.
        reason
            One-line message for people; no pixel values, no secrets.

        Raises
        ------
        LedgerError
            If the key is unknown.
        """
        table = tables.observations
        update = (
            sa.update(table)
            .where(table.c.key == key, table.c.status != "quarantined")
            .values(
                status="quarantined",
                quarantined_at=datetime.now(UTC),
                error_type=error_type,
                reason=reason,
            )
        )
        with writing(self.engine) as connection:
            changed = connection.execute(update).rowcount
        if not changed:
            self._known(key)

    def relocate(self, key: str, source: str) -> None:
        """Record that an observation's content now lies elsewhere.

        Raises
        ------
        LedgerError
            If the key is unknown.
        """
        table = tables.observations
        update = sa.update(table).where(table.c.key == key).values(source=source)
        with writing(self.engine) as connection:
            changed = connection.execute(update).rowcount
        if not changed:
            self._known(key)

    def forget(self, key: str) -> None:
        """Let a quarantined or stuck observation be registered again.

        Raises
        ------
        LedgerError
            If the key is unknown or already accepted.
        """
        table = tables.observations
        update = (
            sa.update(table)
            .where(table.c.key == key, table.c.status != "accepted")
            .values(status="forgotten")
        )
        with writing(self.engine) as connection:
            changed = connection.execute(update).rowcount
        if not changed:
            self._known(key)
            raise LedgerError(key, "is accepted", "materialise it again; nothing is in the way")

    def _known(self, key: str) -> Entry:
        entry = self.entry(key)
        if entry is None:
            raise LedgerError(key, "is not in the ledger", "register its content first")
        return entry

    def entry(self, key: str) -> Entry | None:
        """Entry of an observation key."""
        return self._one(tables.observations.c.key == key)

    def entry_of_content(self, sha256: str) -> Entry | None:
        """Entry of a content, whatever name it came under."""
        return self._one(tables.observations.c.sha256 == sha256)

    def source_of(self, key: str) -> str:
        """Path or URL of an observation's content.

        Raises
        ------
        LedgerError
            If the key is unknown.
        """
        return self._known(key).source

    def entries(
        self, status: Status | None = None, *, limit: int = 100, offset: int = 0
    ) -> list[Entry]:
        """Entries, the latest first.

        Parameters
        ----------
        status
            Only those of this status.
        limit, offset
            Page.
        """
        query = sa.select(*ENTRY_COLUMNS).order_by(tables.observations.c.id.desc())
        if status is not None:
            query = query.where(tables.observations.c.status == status)
        with reading(self.engine) as connection:
            rows = connection.execute(query.limit(limit).offset(offset)).all()
        return [Entry(*row) for row in rows]

    def pending(
        self, older_than_s: float, *, limit: int = 100, now: datetime | None = None
    ) -> list[Entry]:
        """List registered observations without a verdict, drawn at random.

        A scanner killed between registering a content and requesting its run leaves one behind;
        requesting it again is safe because `Entry.run_key` is the same. The draw keeps entries that
        are stuck for good from hiding the others behind the limit.

        Parameters
        ----------
        older_than_s
            Only those registered at least this many seconds ago.
        limit
            At most this many.
        now
            Present time; the clock by default.
        """
        before = (now or datetime.now(UTC)) - timedelta(seconds=older_than_s)
        table = tables.observations
        query = (
            sa.select(*ENTRY_COLUMNS)
            .where(table.c.status == "registered", table.c.registered_at <= before)
            .order_by(sa.func.random())
            .limit(limit)
        )
        with reading(self.engine) as connection:
            return [Entry(*row) for row in connection.execute(query)]

    def counts(self) -> dict[Status, int]:
        """Count the entries of every status."""
        table = tables.observations
        query = sa.select(table.c.status, sa.func.count()).group_by(table.c.status)
        with reading(self.engine) as connection:
            found: dict[Any, int] = {row[0]: int(row[1]) for row in connection.execute(query)}
        return {status: found.get(status, 0) for status in STATUSES}

    def accepted_count(self) -> int:
        """Count the observations ever accepted; it never falls."""
        return self._count(tables.observations.c.accepted_at.is_not(None))

    def mark_trained(self, accepted: int) -> None:
        """Record that a training run used the first `accepted` observations.

        Parameters
        ----------
        accepted
            `accepted_count` as the training read it, before it started: observations accepted
            while it ran count as new.
        """
        with writing(self.engine) as connection:
            connection.execute(
                sa.insert(tables.training_marks).values(accepted=accepted, at=datetime.now(UTC))
            )

    def new_since_training(self) -> int:
        """Count the observations accepted since the latest mark."""
        with reading(self.engine) as connection:
            marked = connection.execute(
                sa.select(sa.func.max(tables.training_marks.c.accepted))
            ).scalar_one()
        return max(0, self.accepted_count() - int(marked or 0))

    def record_failure(
        self,
        run_id: str,
        job: str,
        step: str | None,
        error_type: str,
        cause: str,
        at: datetime | None = None,
    ) -> bool:
        """Record a failed run once.

        Parameters
        ----------
        run_id, job, step
            What failed.
        error_type, cause
            Class of the first error and its one-line message.
        at
            When; now by default.

        Returns
        -------
        bool
            ``False`` if the run is on record already; the first record stands.
        """
        with writing(self.engine) as connection:
            statement = (
                insert(connection, tables.failures)
                .values(
                    run_id=run_id,
                    job=job,
                    step=step,
                    error_type=error_type,
                    cause=cause,
                    at=at or datetime.now(UTC),
                )
                .on_conflict_do_nothing(index_elements=["run_id"])
                .returning(tables.failures.c.id)
            )
            return connection.execute(statement).scalar_one_or_none() is not None

    def failures(self, limit: int = 100) -> Sequence[Failure]:
        """Failed runs, the latest first."""
        query = sa.select(*FAILURE_COLUMNS).order_by(
            tables.failures.c.at.desc(), tables.failures.c.id.desc()
        )
        with reading(self.engine) as connection:
            return [Failure(*row) for row in connection.execute(query.limit(limit))]
