"""Prototype indexes in PostgreSQL with pgvector give the answers of the embedded ones."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acie_pipelines.errors import ConfigurationError, IntegrityError
from acie_pipelines.secure.retrieval.index import IndexStore
from acie_pipelines.secure.retrieval.prototypes import METRICS, Condition, Metric, Prototype


def prototypes_of(seed: int, count: int, dimensions: int, largest: int) -> list[Prototype]:
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-largest, largest + 1, (count, dimensions)).astype(np.int8)
    return [
        Prototype(
            # Databases with a locale would sort these otherwise than Python does.
            key=f"{'aÄZ-ä'[row % 5]}{rng.integers(100)} {row}",
            vector=vector,
            survey="SDSS",
            band=str(rng.choice(["g", "r"])),
            label=str(rng.choice(["E", "Sb"])),
            redshift=None if row % 4 == 0 else (row / count, row / count + 0.1),
            source_key=f"s{row}",
            source_sha256=f"{row:064x}",
        )
        for row, vector in enumerate(vectors)
    ]


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 60),
    dimensions=st.sampled_from([1, 3, 64, 256]),
    largest=st.sampled_from([1, 127]),
    k=st.integers(1, 70),
    metric=st.sampled_from(METRICS),
    condition=st.builds(
        Condition,
        band=st.sampled_from([None, "g"]),
        label=st.sampled_from([None, "Sb"]),
        redshift=st.sampled_from([None, (0.4, 0.5)]),
    ),
)
def test_both_stores_answer_alike(
    pgvector_url: str,
    tmp_path: Path,
    seed: int,
    count: int,
    dimensions: int,
    largest: int,
    k: int,
    metric: Metric,
    condition: Condition,
) -> None:
    prototypes = prototypes_of(seed, count, dimensions, largest)
    query = prototypes_of(seed + 1, 1, dimensions, largest)[0].vector
    answers = []
    for url in (pgvector_url, f"sqlite:///{tmp_path}/index.db"):
        store = IndexStore(url)
        record = store.write("galaxies", prototypes, b"embedding")
        assert store.list() == [record]
        index = store.open("galaxies", digest=record.digest)
        nearest = index.nearest(query, k, metric=metric, condition=condition)
        answers.append((record, index.select(condition), nearest))
    assert answers[0] == answers[1]


def test_extremes_are_exact(pgvector_url: str) -> None:
    """The largest distance of all and its neighbour differ by one part in 16 million."""
    store = IndexStore(pgvector_url)
    far = np.full(256, -127, np.int8)
    nearer = far.copy()
    nearer[0] += 1
    template = prototypes_of(1, 1, 1, 1)[0]
    made = [
        Prototype(**(vars(template) | {"key": key, "vector": vector}))
        for key, vector in (("a", far), ("b", nearer))
    ]
    store.write("extremes", made, b"x")
    found = store.open("extremes").nearest(np.full(256, 127, np.int8), 2)
    assert [(each.prototype.key, each.score) for each in found] == [
        ("b", -(255 * 254**2 + 253**2)),
        ("a", -(256 * 254**2)),
    ]


def test_readers_see_one_state_while_writers_race(pgvector_url: str) -> None:
    store = IndexStore(pgvector_url)
    states = [prototypes_of(seed, 40, 8, 127) for seed in range(3)]
    query = states[0][0].vector
    expected = {}
    for prototypes in states:
        record = store.write("race", prototypes, b"x")
        expected[record.digest] = store.open("race").nearest(query, 5)

    def write(number: int) -> None:
        for turn in range(6):
            store.write("race", states[(number + turn) % 3], b"x")

    def read(_: int) -> int:
        answered = 0
        for _ in range(30):
            try:
                index = store.open("race")
                assert index.nearest(query, 5) == expected[index.record.digest]
                answered += 1
            except IntegrityError as error:
                assert error.reason == "was replaced since it was opened"
        return answered

    with ThreadPoolExecutor(4) as pool:
        writers = [pool.submit(write, number) for number in range(2)]
        readers = [pool.submit(read, number) for number in range(2)]
        for writer in writers:
            writer.result()
        assert all(reader.result() for reader in readers)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE acie_prototypes SET vector = '[300, 0.5, 1]'",
        "UPDATE acie_prototypes SET vector = '[1, 0.5, 1]'",
        "UPDATE acie_prototypes SET vector = '[1, 1]'",
        "UPDATE acie_prototypes SET label = 'Sc'",
        "DELETE FROM acie_prototypes WHERE redshift_low IS NULL",
    ],
)
def test_a_changed_index_is_refused(pgvector_url: str, statement: str) -> None:
    store = IndexStore(pgvector_url)
    store.write("a", prototypes_of(3, 9, 3, 127), b"x")
    with store.engine.begin() as connection:
        connection.execute(sa.text(statement))
    with pytest.raises(IntegrityError):
        store.open("a")


def test_a_server_without_pgvector_is_refused(postgres_url: str) -> None:
    with pytest.raises(ConfigurationError, match="does not have the extension pgvector") as error:
        IndexStore(postgres_url)
    assert "install pgvector" in error.value.fix
    assert postgres_url.split("@")[0].split(":")[-1] not in str(error.value)


def test_a_user_who_may_not_enable_pgvector_is_told(pgvector_url: str) -> None:
    admin = sa.create_engine(pgvector_url.replace("postgresql:", "postgresql+psycopg2:"))
    database = pgvector_url.rsplit("/", 1)[1]
    with admin.begin() as connection:
        connection.execute(sa.text("CREATE ROLE reader LOGIN PASSWORD 'secret'"))
        connection.execute(sa.text(f"REVOKE CREATE ON DATABASE {database} FROM PUBLIC"))
    admin.dispose()
    host = pgvector_url.rsplit("@", 1)[1]
    with pytest.raises(ConfigurationError, match="may not enable it"):
        IndexStore(f"postgresql://reader:secret@{host}")


def test_the_python_package_is_named_where_it_is_missing(
    pgvector_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pgvector.sqlalchemy", None)
    with pytest.raises(ConfigurationError, match=r"acie\[postgres\]"):
        IndexStore(pgvector_url)
