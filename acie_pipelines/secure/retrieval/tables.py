"""Tables of prototype indexes, the same in SQLite and in PostgreSQL with pgvector.

Belongs here: columns, the type of vectors, and what a database needs before it can hold them.
Does not belong here: what is asked of an index (`index`).
"""

from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from acie_pipelines.database import create_all, display_url, reading, writing
from acie_pipelines.errors import ConfigurationError

__all__ = ["indexes", "prepare", "prototypes"]


class _Vector(sa.types.TypeDecorator[NDArray[np.int8]]):
    """Signed bytes; ``vector`` of pgvector in PostgreSQL, bytes in SQLite."""

    impl = sa.LargeBinary
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        if dialect.name != "postgresql":
            return dialect.type_descriptor(sa.LargeBinary())
        from pgvector.sqlalchemy import Vector

        return dialect.type_descriptor(Vector())

    def process_bind_param(self, value: NDArray[np.int8] | None, dialect: sa.Dialect) -> Any:
        if value is None:
            return None
        return value.astype(np.float32) if dialect.name == "postgresql" else value.tobytes()

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> NDArray[np.int8] | None:
        if value is None:
            return None
        if dialect.name != "postgresql":
            return np.frombuffer(value, dtype=np.int8)
        floats = np.asarray(value, dtype=np.float32)
        # A changed component can be anything; what is no signed byte must not look like one.
        whole = np.where(np.abs(floats) <= 127, np.rint(floats), -128)
        return np.where(whole == floats, whole, -128).astype(np.int8)


# Set apart from the ledger's tables: a database without pgvector can hold those.
_metadata = sa.MetaData()
# Names compare by code points, as Python's do, whatever the database's locale.
_Name = sa.String(255).with_variant(sa.String(255, collation="C"), "postgresql")

indexes = sa.Table(
    "acie_prototype_indexes",
    _metadata,
    sa.Column("name", _Name, primary_key=True),
    sa.Column("dimensions", sa.Integer, nullable=False),
    sa.Column("prototypes", sa.Integer, nullable=False),
    sa.Column("embedding", sa.LargeBinary, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
)

prototypes = sa.Table(
    "acie_prototypes",
    _metadata,
    sa.Column("index", sa.ForeignKey(indexes.c.name), primary_key=True),
    sa.Column("key", _Name, primary_key=True),
    sa.Column("vector", _Vector, nullable=False),
    sa.Column("survey", _Name, nullable=False),
    sa.Column("band", _Name, nullable=False),
    sa.Column("label", _Name, nullable=False),
    sa.Column("redshift_low", sa.Double),
    sa.Column("redshift_high", sa.Double),
    sa.Column("source_key", sa.String(255), nullable=False),
    sa.Column("source_sha256", sa.String(64), nullable=False),
    sa.Column("sha256", sa.String(64), nullable=False),
)


def prepare(bind: sa.Engine) -> None:
    """Create what is missing: pgvector in a PostgreSQL database, then the tables.

    Parameters
    ----------
    bind
        From `acie_pipelines.database.engine`.

    Raises
    ------
    ConfigurationError
        If the server has no pgvector, the user may not create the extension, or the Python package
        is missing.
    StorageError
        If the database cannot be reached.
    """
    if bind.dialect.name == "postgresql":
        _require_pgvector(bind)
    create_all(bind, _metadata)


def _require_pgvector(bind: sa.Engine) -> None:
    url = display_url(bind.url.render_as_string(hide_password=True))
    try:
        import pgvector.sqlalchemy  # noqa: F401 - asked for before anything is written
    except ImportError:
        raise ConfigurationError(
            url, "needs the Python package pgvector", "pip install acie[postgres]"
        ) from None
    by_name = sa.text("SELECT 1 FROM pg_extension WHERE extname = 'vector'")
    available = sa.text("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'")
    with reading(bind) as connection:
        if connection.scalar(by_name):
            return
        if not connection.scalar(available):
            raise ConfigurationError(
                url,
                "its server does not have the extension pgvector",
                "install pgvector on the server (https://github.com/pgvector/pgvector), or keep "
                "the index in SQLite",
            )
    try:
        with writing(bind) as connection:
            connection.execute(sa.text("CREATE EXTENSION IF NOT EXISTS vector"))
    except sa.exc.ProgrammingError:
        raise ConfigurationError(
            url,
            "the extension pgvector is not enabled and this user may not enable it",
            "run CREATE EXTENSION vector in it as an administrator",
        ) from None
