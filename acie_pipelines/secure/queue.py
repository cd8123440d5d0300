"""A queue of idempotent units of work with leases and fencing tokens, in the platform's database.

A unit is ``ready``, then ``leased`` to one worker until a moment of the database's clock, then
``done`` or, when its attempts are used up, ``failed``. Every claim raises the unit's fencing token.
A worker that was stopped, cut off or slow for so long that its unit was given to another one still
holds the old token, and everything it tries is refused in the transaction that would have taken
effect. (Leases: Gray and Cheriton, SOSP 1989; fencing tokens: Kleppmann, "How to do distributed
locking", 2016.)

Belongs here: the states of batches and units. Does not belong here: what any unit does (see
`acie_pipelines.secure.tasks`), or processes (`acie_pipelines.secure.worker`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from acie_pipelines.database import (
    create_all,
    database_time,
    engine,
    insert,
    reading,
    writing,
)
from acie_pipelines.errors import AcieError
from acie_pipelines.secure.queue_tables import Batch, Counts, Lease, batches, units

__all__ = ["LeaseLostError", "UnitFailedError", "WorkQueue"]

MAXIMUM_ATTEMPTS = 3


class LeaseLostError(AcieError):
    """The unit is somebody else's by now, or its batch is over; what was made is not taken."""


class UnitFailedError(AcieError):
    """A unit of work failed as often as is allowed."""


class WorkQueue:
    """Batches of units in one database, for any number of processes.

    Parameters
    ----------
    url
        SQLAlchemy URL; missing tables are created.
    """

    def __init__(self, url: str) -> None:
        self.engine = engine(url)
        create_all(self.engine)

    def __repr__(self) -> str:
        return f"WorkQueue({self.engine.url.render_as_string(hide_password=True)!r})"

    def open(
        self,
        kind: str,
        key: str,
        *,
        request: str,
        generation: str,
        payload: Mapping[str, Any],
        unit_payloads: Sequence[Mapping[str, Any]],
    ) -> Batch:
        """Open a batch, or find the one that was opened for the same request before.

        Units of a found batch that are done stay done; those that failed may be tried again.

        Parameters
        ----------
        kind, key
            Dataset that the batch makes.
        request
            Digest of everything that decides the result: equal requests share a batch.
        generation
            Name of the generation to write to, if the batch is new.
        payload, unit_payloads
            What all units, and each of them, must know. JSON values.
        """
        with writing(self.engine) as connection:
            made = connection.execute(
                insert(connection, batches)
                .values(
                    kind=kind,
                    key=key,
                    request=request,
                    generation=generation,
                    payload=dict(payload),
                    opened_at=database_time(connection),
                )
                .on_conflict_do_nothing(index_elements=["kind", "key", "request"])
                .returning(batches.c.id)
            ).scalar_one_or_none()
            if made is not None and unit_payloads:
                connection.execute(
                    sa.insert(units),
                    [
                        {
                            "batch_id": made,
                            "number": number,
                            "state": "ready",
                            "attempts": 0,
                            "token": 0,
                            "payload": dict(each),
                        }
                        for number, each in enumerate(unit_payloads)
                    ],
                )
            wanted = (
                batches.c.kind == kind,
                batches.c.key == key,
                batches.c.request == request,
            )
            batch = self._batch(connection, *wanted)
            if made is None:
                _revive(connection, units.c.batch_id == batch.id)
        return batch

    def revive(self, batch_id: int, number: int) -> None:
        """Let a unit that failed be tried again; other states stay as they are."""
        with writing(self.engine) as connection:
            _revive(connection, units.c.batch_id == batch_id, units.c.number == number)

    def lookup(self, kind: str, key: str, request: str) -> Batch | None:
        """Find the batch of a request, unless there is none or it was published or discarded."""
        wanted = (batches.c.kind == kind, batches.c.key == key, batches.c.request == request)
        with reading(self.engine) as connection:
            row = connection.execute(sa.select(batches).where(*wanted)).one_or_none()
        return None if row is None else _as_batch(row)

    def batches(self) -> list[tuple[Batch, Counts]]:
        """Batches that are not published yet, oldest first, with the states of their units."""
        with reading(self.engine) as connection:
            rows = connection.execute(sa.select(batches).order_by(batches.c.id)).all()
            return [(_as_batch(row), _counts(connection, row.id)) for row in rows]

    def _batch(self, connection: sa.Connection, *wanted: sa.ColumnElement[bool]) -> Batch:
        row = connection.execute(sa.select(batches).where(*wanted)).one_or_none()
        if row is None:
            raise LeaseLostError(
                "batch of work", "was published or discarded", "nothing is left to do for it"
            )
        return _as_batch(row)

    def claim(
        self,
        owner: str,
        *,
        seconds: float,
        batch_id: int | None = None,
        number: int | None = None,
        kinds: Sequence[str] | None = None,
    ) -> Lease | None:
        """Take a unit that is ready, or whose worker let its lease run out.

        Parameters
        ----------
        owner
            Who asks, for people to read.
        seconds
            How long the lease lasts without renewal, by the database's clock.
        batch_id, number, kinds
            Only units of this batch, this unit of it, or batches of these kinds.

        Returns
        -------
        Lease or None
            ``None`` if there is nothing to take now.
        """
        with writing(self.engine) as connection:
            self._bury(connection)
            now = database_time(connection)
            free = sa.or_(
                units.c.state == "ready",
                sa.and_(units.c.state == "leased", units.c.lease_until <= now),
            )
            query = (
                sa.select(units.c.batch_id, units.c.number)
                .join(batches, batches.c.id == units.c.batch_id)
                .where(free, units.c.attempts < MAXIMUM_ATTEMPTS)
                .order_by(units.c.batch_id, units.c.number)
                .limit(1)
                # Claims at the same time each get another unit; SQLite has one writer anyway.
                .with_for_update(skip_locked=True, of=units)
            )
            if batch_id is not None:
                query = query.where(units.c.batch_id == batch_id)
            if number is not None:
                query = query.where(units.c.number == number)
            if kinds is not None:
                query = query.where(batches.c.kind.in_(kinds))
            found = connection.execute(query).one_or_none()
            if found is None:
                return None
            claimed = connection.execute(
                sa.update(units)
                .where(units.c.batch_id == found.batch_id, units.c.number == found.number)
                .values(
                    state="leased",
                    owner=owner,
                    attempts=units.c.attempts + 1,
                    token=units.c.token + 1,
                    lease_until=database_time(connection) + seconds,
                )
                .returning(units.c.token, units.c.attempts, units.c.payload)
            ).one()
            batch = self._batch(connection, batches.c.id == found.batch_id)
        return Lease(
            batch, found.number, claimed.token, claimed.attempts, owner, seconds, claimed.payload
        )

    def _bury(self, connection: sa.Connection) -> None:
        """Give units up whose last worker vanished in the last attempt."""
        connection.execute(
            sa.update(units)
            .where(
                units.c.state == "leased",
                units.c.attempts >= MAXIMUM_ATTEMPTS,
                units.c.lease_until <= database_time(connection),
            )
            .values(
                state="failed",
                token=units.c.token + 1,
                error_type=sa.func.coalesce(units.c.error_type, "LeaseLostError"),
                reason=sa.func.coalesce(units.c.reason, "its workers vanished one after another"),
            )
        )

    def renew(self, lease: Lease) -> None:
        """Extend a lease (the heartbeat).

        Raises
        ------
        LeaseLostError
            If the unit was given to somebody else.
        """
        with writing(self.engine) as connection:
            self._change(
                connection, lease, {"lease_until": database_time(connection) + lease.seconds}
            )

    def complete(self, lease: Lease, result: Mapping[str, Any]) -> None:
        """Publish a unit's result; of all that were ever given the unit, one can.

        Parameters
        ----------
        result
            JSON values: places and hashes of what was written below `Lease.directory`.

        Raises
        ------
        LeaseLostError
            If the unit was given to somebody else.
        """
        with writing(self.engine) as connection:
            self._change(connection, lease, {"state": "done", "result": dict(result)})

    def fail(self, lease: Lease, error_type: str, reason: str, *, final: bool = False) -> None:
        """Record an error; the unit is ready again while attempts are left.

        Parameters
        ----------
        error_type, reason
            Class and one-line message of the error.
        final
            Whether trying again cannot help.

        Raises
        ------
        LeaseLostError
            If the unit was given to somebody else.
        """
        ended = final or lease.attempt >= MAXIMUM_ATTEMPTS
        with writing(self.engine) as connection:
            self._change(
                connection,
                lease,
                {
                    "state": "failed" if ended else "ready",
                    "error_type": error_type,
                    "reason": reason,
                },
            )

    def release(self, lease: Lease) -> None:
        """Hand a unit back undone; this does not count as an attempt.

        Raises
        ------
        LeaseLostError
            If the unit was given to somebody else.
        """
        with writing(self.engine) as connection:
            self._change(connection, lease, {"state": "ready", "attempts": units.c.attempts - 1})

    def _change(self, connection: sa.Connection, lease: Lease, values: dict[str, Any]) -> None:
        changed = connection.execute(
            sa.update(units)
            .where(
                units.c.batch_id == lease.batch.id,
                units.c.number == lease.number,
                units.c.token == lease.token,
                units.c.state == "leased",
            )
            .values(values)
        ).rowcount
        if not changed:
            raise LeaseLostError(
                lease.name,
                f"is no longer {lease.owner}'s: token {lease.token} is not the highest any more",
                "nothing is lost, another worker does it",
            )

    def counts(self, batch_id: int) -> Counts:
        """States of a batch's units."""
        with reading(self.engine) as connection:
            return _counts(connection, batch_id)

    def result(self, batch_id: int, number: int) -> Mapping[str, Any] | None:
        """Look up the result of a unit; ``None`` while there is none.

        Raises
        ------
        UnitFailedError
            If its attempts are used up.
        LeaseLostError
            If its batch was published or discarded.
        """
        with writing(self.engine) as connection:
            self._bury(connection)
            batch = self._batch(connection, batches.c.id == batch_id)
            row = connection.execute(
                sa.select(units).where(units.c.batch_id == batch_id, units.c.number == number)
            ).one()
        return _finished(batch, row)

    def results(self, batch_id: int) -> list[tuple[str, Mapping[str, Any]]]:
        """Directory and result of every unit, in order.

        Raises
        ------
        UnitFailedError
            If one failed, or is not done.
        LeaseLostError
            If the batch was published or discarded.
        """
        query = sa.select(units).where(units.c.batch_id == batch_id).order_by(units.c.number)
        with reading(self.engine) as connection:
            batch = self._batch(connection, batches.c.id == batch_id)
            rows = connection.execute(query).all()
        found = []
        for row in rows:
            result = _finished(batch, row)
            if result is None:
                raise UnitFailedError(
                    f"{batch.kind}/{batch.key} unit {row.number}", "is not done", "wait for it"
                )
            found.append((f"units/{row.number:05d}-{row.token}", result))
        return found

    def close(self, batch_id: int) -> None:
        """Forget a batch that was published or given up; its late writers are refused."""
        with writing(self.engine) as connection:
            connection.execute(sa.delete(units).where(units.c.batch_id == batch_id))
            connection.execute(sa.delete(batches).where(batches.c.id == batch_id))


def _revive(connection: sa.Connection, *which: sa.ColumnElement[bool]) -> None:
    connection.execute(
        sa.update(units).where(*which, units.c.state == "failed").values(state="ready", attempts=0)
    )


def _as_batch(row: "sa.Row[Any]") -> Batch:
    return Batch(row.id, row.kind, row.key, row.generation, row.payload)


def _counts(connection: sa.Connection, batch_id: int) -> Counts:
    query = (
        sa.select(units.c.state, sa.func.count())
        .where(units.c.batch_id == batch_id)
        .group_by(units.c.state)
    )
    return Counts(**{str(state): int(count) for state, count in connection.execute(query)})


def _finished(batch: Batch, row: "sa.Row[Any]") -> Mapping[str, Any] | None:
    if row.state == "failed":
        raise UnitFailedError(
            f"{batch.kind}/{batch.key} unit {row.number}",
            f"failed: {row.error_type}: {row.reason}",
            "mend the cause and run again",
        )
    return row.result if row.state == "done" else None
