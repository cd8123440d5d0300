"""Indexes of prototypes in a database: embedded SQLite, or PostgreSQL with pgvector by URL.

Belongs here: writing an index whole, proving it, selecting by metadata, exact nearest neighbours.
Does not belong here: encrypted queries (`encrypted_query`), how vectors are made, what leaves the
index's owner (`public_part`).

An index is written in one transaction and never changed, only replaced. Its digest covers every
prototype and the embedding; whoever knows the digest can tell that nothing was added, removed or
changed, whoever keeps the database.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from acie_pipelines.database import engine, reading, writing
from acie_pipelines.errors import IntegrityError, ModelError
from acie_pipelines.secure.retrieval import tables
from acie_pipelines.secure.retrieval.prototypes import (
    Condition,
    Metric,
    Neighbour,
    Prototype,
    checked_vector,
    index_digest,
    nearest_rows,
    prototypes_digest,
    scores,
)
from acie_pipelines.secure.retrieval.public_part import IndexRecord, PublicIndex

__all__ = ["IndexStore", "PrototypeIndex"]

_FIX = "build the index again"


class IndexStore:
    """The indexes of one database.

    Parameters
    ----------
    url
        ``sqlite:////path`` or ``postgresql://...``; missing tables are created, in PostgreSQL also
        the extension pgvector.

    Raises
    ------
    ConfigurationError
        If the database cannot hold indexes; see `acie_pipelines.secure.retrieval.tables.prepare`.
    """

    def __init__(self, url: str) -> None:
        self.engine = engine(url)
        tables.prepare(self.engine)

    def write(self, name: str, prototypes: Sequence[Prototype], embedding: bytes) -> IndexRecord:
        """Write an index, in place of one of the same name.

        Parameters
        ----------
        name
            Of the index.
        prototypes
            At least one, of one number of dimensions and with distinct keys.
        embedding
            What turns a query into a vector; see `StampEmbedding.to_bytes`.

        Raises
        ------
        ModelError
            If the prototypes do not make an index.
        StorageError
            If the database fails; the earlier index is intact.
        """
        ordered = sorted(prototypes, key=lambda prototype: prototype.key)
        if not ordered or len({p.key for p in ordered}) < len(ordered):
            raise ModelError(
                f"index {name}", "has no prototypes, or two of one key", "give each its own key"
            )
        dimensions = len(ordered[0].vector)
        for prototype in ordered:
            checked_vector(prototype.vector, dimensions, f"prototype {prototype.key}")
        count = len(ordered)
        hashes = prototypes_digest(prototype.sha256 for prototype in ordered)
        digest = index_digest(name, dimensions, count, embedding, hashes)
        record = IndexRecord(name, dimensions, count, digest)
        with writing(self.engine) as connection:
            if _is_postgresql(self.engine):
                # Of two writers the second must see, and delete, what the first wrote.
                connection.execute(sa.text("LOCK acie_prototype_indexes IN EXCLUSIVE MODE"))
            table, rows = tables.indexes, tables.prototypes
            connection.execute(sa.delete(rows).where(rows.c.index == name))
            connection.execute(sa.delete(table).where(table.c.name == name))
            connection.execute(sa.insert(table), vars(record) | {"embedding": embedding})
            connection.execute(sa.insert(rows), [_row(name, each) for each in ordered])
        return record

    def list(self) -> "list[IndexRecord]":
        """Indexes by name, not verified."""
        table = tables.indexes
        query = sa.select(table.c.name, table.c.dimensions, table.c.prototypes, table.c.digest)
        with reading(self.engine) as connection:
            return [IndexRecord(*row) for row in connection.execute(query.order_by(table.c.name))]

    def open(self, name: str, *, digest: str | None = None) -> "PrototypeIndex":
        """Verify an index and open it.

        Parameters
        ----------
        name
            Of the index.
        digest
            The one it must have, if the caller knows it.

        Raises
        ------
        IntegrityError
            If there is no such index, something in it was changed, or its digest is another.
        """
        records = {record.name: record for record in self.list()}
        if name not in records:
            raise IntegrityError(
                f"index {name}",
                "does not exist",
                f"choose one of {', '.join(records)}" if records else "build it first",
            )
        record = records[name]
        record.expect(digest)
        index = PrototypeIndex(self.engine, record)
        index.verify()
        return index


class PrototypeIndex:
    """One verified index; made by `IndexStore.open`.

    Attributes
    ----------
    record
        What identifies it.
    """

    def __init__(self, bind: sa.Engine, record: IndexRecord) -> None:
        # One snapshot per question: an index must not be replaced between its digest and its rows.
        # SQLite has no other way of reading.
        snapshot = {"isolation_level": "REPEATABLE READ"}
        self._engine = bind.execution_options(**snapshot) if _is_postgresql(bind) else bind
        self.record = record

    def verify(self) -> None:
        """Recompute every hash.

        Raises
        ------
        IntegrityError
            Names the prototype that was changed, or says that some were added or removed.
        """
        found = self.select()
        digest = index_digest(
            self.record.name,
            self.record.dimensions,
            len(found),
            self.embedding(),
            prototypes_digest(prototype.sha256 for prototype in found),
        )
        lengths = {len(prototype.vector) for prototype in found}
        stated = (self.record.digest, self.record.prototypes, {self.record.dimensions})
        if (digest, len(found), lengths) != stated:
            raise IntegrityError(
                f"index {self.record.name}",
                "does not match its digest: prototypes were added, removed or replaced",
                _FIX,
            )

    def embedding(self) -> bytes:
        """Return what turns a query into a vector."""
        table = tables.indexes
        with reading(self._engine) as connection:
            self._check_current(connection)
            query = sa.select(table.c.embedding).where(table.c.name == self.record.name)
            return bytes(connection.execute(query).scalar_one())

    def public(self) -> PublicIndex:
        """Give what others need to ask this index."""
        hashes = prototypes_digest(prototype.sha256 for prototype in self.select())
        return PublicIndex(self.record, self.embedding(), hashes)

    def select(self, condition: Condition | None = None) -> list[Prototype]:
        """Prototypes that meet a condition, by key.

        Raises
        ------
        IntegrityError
            If one of them was changed, or the index was replaced since it was opened.
        """
        rows = tables.prototypes
        query = self._query(condition or Condition()).order_by(rows.c.key)
        with reading(self._engine) as connection:
            self._check_current(connection)
            return [_prototype(row) for row in connection.execute(query)]

    def nearest(
        self,
        query: NDArray[np.int8],
        k: int,
        *,
        metric: Metric = "distance",
        condition: Condition | None = None,
    ) -> list[Neighbour]:
        """Find the k nearest prototypes, exactly; equal scores by key.

        Parameters
        ----------
        query
            ``int8[dimensions]``.
        k
            How many, at least 1; fewer are returned if fewer meet the condition.
        metric
            What is greatest at the nearest; see `Neighbour.score`.
        condition
            On the metadata.

        Raises
        ------
        ModelError
            If the query is no vector of this index, or k is below 1.
        IntegrityError
            See `select`.
        """
        checked_vector(query, self.record.dimensions, "query")
        if k < 1:
            raise ModelError(f"{k} neighbours", "cannot be found", "ask for one or more")
        if _is_postgresql(self._engine):
            found = self._nearest_by_pgvector(query, k, metric, condition or Condition())
        else:
            found = self.select(condition)
        if not found:
            return []
        # Of PostgreSQL's answer these are the same scores and order once more.
        values = scores(np.stack([prototype.vector for prototype in found]), query, metric)
        keys = [prototype.key for prototype in found]
        return [Neighbour(found[row], int(values[row])) for row in nearest_rows(keys, values, k)]

    def _nearest_by_pgvector(
        self, query: NDArray[np.int8], k: int, metric: Metric, condition: Condition
    ) -> list[Prototype]:
        rows = tables.prototypes
        # Euclidean distance, and minus the inner product; without an index pgvector is exact.
        operator = "<->" if metric == "distance" else "<#>"
        order: sa.ColumnElement[float] = rows.c.vector.op(operator, return_type=sa.Double())(query)
        statement = self._query(condition).order_by(order, rows.c.key).limit(k)
        with reading(self._engine) as connection:
            self._check_current(connection)
            return [_prototype(row) for row in connection.execute(statement)]

    def _query(self, condition: Condition) -> sa.Select[Any]:
        rows = tables.prototypes
        query = sa.select(rows).where(rows.c.index == self.record.name)
        for name in ("survey", "band", "label"):
            wanted = getattr(condition, name)
            if wanted is not None:
                query = query.where(rows.c[name] == wanted)
        if condition.redshift is not None:
            low, high = condition.redshift
            query = query.where(rows.c.redshift_low <= high, rows.c.redshift_high >= low)
        return query

    def _check_current(self, connection: sa.Connection) -> None:
        table = tables.indexes
        query = sa.select(table.c.digest).where(table.c.name == self.record.name)
        if connection.execute(query).scalar_one_or_none() != self.record.digest:
            raise IntegrityError(
                f"index {self.record.name}", "was replaced since it was opened", "open it again"
            )


def _is_postgresql(bind: sa.Engine) -> bool:
    return bind.dialect.name == "postgresql"


def _row(name: str, prototype: Prototype) -> dict[str, Any]:
    low, high = prototype.redshift or (None, None)
    return {
        "index": name,
        "key": prototype.key,
        "vector": prototype.vector,
        "survey": prototype.survey,
        "band": prototype.band,
        "label": prototype.label,
        "redshift_low": low,
        "redshift_high": high,
        "source_key": prototype.source_key,
        "source_sha256": prototype.source_sha256,
        "sha256": prototype.sha256,
    }


def _prototype(row: sa.Row[Any]) -> Prototype:
    interval = (row.redshift_low, row.redshift_high)
    try:
        prototype = Prototype(
            key=row.key,
            vector=row.vector,
            survey=row.survey,
            band=row.band,
            label=row.label,
            redshift=None if None in interval else interval,
            source_key=row.source_key,
            source_sha256=row.source_sha256,
        )
    except ModelError as error:
        raise IntegrityError(
            f"prototype {row.key}", f"was changed ({error.reason})", _FIX
        ) from error
    if prototype.sha256 != row.sha256:
        raise IntegrityError(f"prototype {row.key}", "does not match its hash", _FIX)
    return prototype
