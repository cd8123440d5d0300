"""The platform's own database: one engine per process, transactions, idempotent schema.

SQLite is the embedded default, PostgreSQL the shared one; both are chosen by URL.

Belongs here: connecting, transactions, column types and the dialect differences.
Does not belong here: any table (each lives beside the code that owns it).
"""

import functools
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.pool import NullPool

from acie_pipelines.errors import ConfigurationError, StorageError

__all__ = [
    "UtcDateTime",
    "create_all",
    "database_time",
    "display_url",
    "engine",
    "insert",
    "metadata",
    "reading",
    "writing",
]

metadata = sa.MetaData()

_LOCK_TIMEOUT_S = 30.0
_SCHEMA_LOCK = 0x41434945  # "ACIE": the advisory lock that PostgreSQL schema creation takes
_WRITE = "acie_write"


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """A moment with a time zone, stored and returned in UTC by every database."""

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Convert to UTC; a naive time is a programming error."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise TypeError("a stored time needs a time zone")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Return UTC; SQLite drops the zone on the way in."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _parsed(url: str) -> sa.URL:
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        # The parser's own message repeats the URL, password included.
        raise ConfigurationError(
            "database URL",
            "is not an SQLAlchemy URL",
            "use sqlite:////path/acie.db or postgresql://user:password@host/database",
        ) from None
    if parsed.drivername == "postgresql":
        # SQLAlchemy 2.0 and 2.1 differ in the driver that the bare name means.
        parsed = parsed.set(drivername="postgresql+psycopg2")
    if parsed.get_backend_name() not in ("sqlite", "postgresql"):
        raise ConfigurationError(
            display_url(url), "names a database that is not supported", "use sqlite or postgresql"
        )
    return parsed


def display_url(url: str) -> str:
    """Form of a database or tracking URL that is safe in messages: no password, no query.

    Parameters
    ----------
    url
        Any URL or path.
    """
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):
        return url.rsplit("@", 1)[-1].split("?", 1)[0]
    return parsed.set(query={}).render_as_string(hide_password=True)


def _enter_wal(connection: sqlite3.Connection) -> None:
    # Switching the journal mode does not wait for other processes doing the same, whatever the
    # busy timeout says; without the loop one in forty first openings fails under eight processes.
    deadline = time.monotonic() + _LOCK_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun by _begin_sqlite, not the driver
    connection.execute(f"PRAGMA busy_timeout={int(_LOCK_TIMEOUT_S * 1000)}")
    _enter_wal(connection)
    connection.execute("PRAGMA synchronous=FULL")  # a committed promotion survives a power cut
    connection.execute("PRAGMA foreign_keys=ON")


def _begin_sqlite(connection: sa.Connection) -> None:
    # A write transaction that starts as a read one fails at once when another writer got in
    # between; taking the write lock first makes it wait instead.
    write = connection.get_execution_options().get(_WRITE, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


@functools.cache
def _engine(url: str, _process: int) -> sa.Engine:
    parsed = _parsed(url)
    encode = functools.partial(json.dumps, allow_nan=False, sort_keys=True)
    try:
        if parsed.get_backend_name() == "postgresql":
            return sa.create_engine(
                parsed, json_serializer=encode, pool_pre_ping=True, pool_size=4, max_overflow=12
            )
        if parsed.database in (None, "", ":memory:"):
            raise ConfigurationError(
                display_url(url), "is private to one connection", "name a file: sqlite:////path"
            )
        Path(str(parsed.database)).absolute().parent.mkdir(parents=True, exist_ok=True)
        # Opening a file costs 0.3 ms; in return no descriptor or lock outlives its transaction,
        # nor crosses a fork.
        made = sa.create_engine(
            parsed,
            json_serializer=encode,
            poolclass=NullPool,
            connect_args={"timeout": _LOCK_TIMEOUT_S},
        )
    except (ImportError, sa.exc.NoSuchModuleError) as error:
        raise ConfigurationError(
            display_url(url), f"needs a driver ({error})", "pip install acie[postgres]"
        ) from None
    except OSError as error:
        raise StorageError(
            display_url(url), f"cannot be created ({error.strerror})", "check the directory"
        ) from error
    sa.event.listen(made, "connect", _prepare_sqlite)
    sa.event.listen(made, "begin", _begin_sqlite)
    return made


def engine(url: str) -> sa.Engine:
    """Engine of a database, one per process and URL.

    Parameters
    ----------
    url
        ``sqlite:////path`` (the directory is made) or ``postgresql://user:password@host/name``.

    Raises
    ------
    ConfigurationError
        If the URL is malformed, the database unsupported or its driver missing.
    """
    # A forked child must not use its parent's sockets. The parent's engine stays in the cache
    # so that the child never closes them either.
    return _engine(url, os.getpid())


@contextmanager
def _transaction(bind: sa.Engine) -> Iterator[sa.Connection]:
    try:
        with bind.begin() as connection:
            yield connection
    except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError) as error:
        text = str(getattr(error, "orig", None) or error).strip().split("\n", 1)[0]
        password = bind.url.password
        if password:
            text = text.replace(str(password), "***")
        # Without the chain: the statement's parameters and the driver's own text stay out of logs.
        raise StorageError(
            display_url(bind.url.render_as_string(hide_password=True)),
            f"the database does not answer as it should ({text})",
            "check that it runs and is reachable, then run again",
        ) from None


def reading(bind: sa.Engine) -> AbstractContextManager[sa.Connection]:
    """Open a transaction that only reads."""
    return _transaction(bind)


def writing(bind: sa.Engine) -> AbstractContextManager[sa.Connection]:
    """Open a transaction that writes; on SQLite it holds the write lock from the start."""
    return _transaction(bind.execution_options(**{_WRITE: True}))


def insert(connection: sa.Connection, table: sa.Table) -> "sqlite.Insert | postgresql.Insert":
    """INSERT that understands ``ON CONFLICT``, in the dialect of the connection.

    Parameters
    ----------
    connection
        Where it will be executed.
    table
        What it inserts into.
    """
    if connection.dialect.name == "postgresql":
        return postgresql.insert(table)
    return sqlite.insert(table)


def database_time(connection: sa.Connection) -> sa.ColumnElement[float]:
    """Seconds since 1970 by the database's clock, the only one that all its users share.

    Parameters
    ----------
    connection
        Where the expression will be executed. The value advances within a PostgreSQL transaction,
        so that time spent waiting for a lock counts.
    """
    if connection.dialect.name == "postgresql":
        moment = sa.func.extract("epoch", sa.func.clock_timestamp())
        return sa.cast(moment, sa.Double)
    days = sa.func.julianday("now", type_=sa.Double)
    return (days - sa.literal(2440587.5, sa.Double)) * sa.literal(86400.0, sa.Double)


def create_all(bind: sa.Engine, tables: sa.MetaData = metadata) -> None:
    """Create the tables that are missing; any number of processes may do so at once.

    Parameters
    ----------
    bind
        An engine from `engine`.
    tables
        Which ones; by default those of every database of the platform.

    Raises
    ------
    StorageError
        If the database cannot be reached.
    """
    wanted: set[Any] = set(tables.tables)
    with reading(bind) as connection:
        if wanted <= set(sa.inspect(connection).get_table_names()):
            return
    with writing(bind) as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_SCHEMA_LOCK)))
        tables.create_all(connection, checkfirst=True)
