"""The index against a plain search, and what it refuses."""

import base64
import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acie_pipelines.errors import IntegrityError, ModelError
from acie_pipelines.secure.retrieval.index import IndexStore
from acie_pipelines.secure.retrieval.prototypes import METRICS, Condition, Metric, Prototype
from acie_pipelines.secure.retrieval.public_part import PublicIndex

Draw = Callable[[int, int, int], list[Prototype]]
relaxed = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

conditions = st.builds(
    Condition,
    survey=st.sampled_from([None, "SDSS", "unWISE", "none"]),
    band=st.sampled_from([None, "g"]),
    label=st.sampled_from([None, "Sb"]),
    redshift=st.sampled_from([None, (0.2, 0.2), (0.0, 0.5)]),
)


@pytest.fixture
def store(tmp_path: Path) -> IndexStore:
    return IndexStore(f"sqlite:///{tmp_path}/index.db")


def expected(
    prototypes: list[Prototype],
    query: np.ndarray,
    k: int,
    metric: Metric,
    condition: Condition,
) -> list[tuple[str, int]]:
    """The same, one number after the other."""
    found = []
    for prototype in prototypes:
        if not condition.allows(prototype):
            continue
        pairs = [(int(a), int(b)) for a, b in zip(prototype.vector, query, strict=True)]
        score = (
            -sum((a - b) ** 2 for a, b in pairs)
            if metric == "distance"
            else sum(a * b for a, b in pairs)
        )
        found.append((prototype.key, score))
    return sorted(found, key=lambda pair: (-Fraction(pair[1]), pair[0]))[:k]


@relaxed
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 40),
    dimensions=st.integers(1, 8),
    k=st.integers(1, 45),
    metric=st.sampled_from(METRICS),
    condition=conditions,
)
def test_neighbours_are_exact_and_ties_go_by_key(
    store: IndexStore,
    draw: Draw,
    seed: int,
    count: int,
    dimensions: int,
    k: int,
    metric: Metric,
    condition: Condition,
) -> None:
    prototypes = draw(seed, count, dimensions)
    store.write("galaxies", prototypes, b"embedding")
    index = store.open("galaxies")
    query = np.random.default_rng(seed).integers(-2, 3, dimensions).astype(np.int8)
    found = index.nearest(query, k, metric=metric, condition=condition)
    assert [(each.prototype.key, each.score) for each in found] == expected(
        prototypes, query, k, metric, condition
    )
    assert index.select(condition) == sorted(
        filter(condition.allows, prototypes), key=lambda prototype: prototype.key
    )


def test_an_index_is_replaced_as_a_whole(store: IndexStore, draw: Draw) -> None:
    first = store.write("a", draw(1, 9, 4), b"x")
    other = store.write("b", draw(1, 9, 4), b"x")
    assert other.digest != first.digest
    opened = store.open("a", digest=first.digest)
    second = store.write("a", draw(2, 5, 3), b"y")
    assert store.list() == [second, other]
    with pytest.raises(IntegrityError, match="replaced since it was opened"):
        opened.select()
    with pytest.raises(IntegrityError, match="not " + first.digest):
        store.open("a", digest=first.digest)
    with pytest.raises(ModelError, match="two of one key"):
        store.write("a", draw(1, 2, 4)[:1] * 2, b"x")
    assert store.write("a", draw(2, 5, 3)[::-1], b"y") == second
    assert len(store.open("a").select()) == 5


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE acie_prototypes SET label = 'Sb' WHERE label = 'E'", "match its hash"),
        ("UPDATE acie_prototypes SET redshift_low = NULL", "match its hash"),
        ("UPDATE acie_prototypes SET redshift_low = 9 WHERE redshift_low > 0", "was changed"),
        ("UPDATE acie_prototypes SET vector = x'80808080'", "was changed"),
        ("DELETE FROM acie_prototypes WHERE label = 'E'", "added, removed or replaced"),
        ("UPDATE acie_prototype_indexes SET embedding = x'00'", "added, removed or replaced"),
        ("UPDATE acie_prototype_indexes SET prototypes = 3", "added, removed or replaced"),
        ("UPDATE acie_prototype_indexes SET dimensions = 3", "added, removed or replaced"),
    ],
)
def test_a_changed_index_is_refused(
    store: IndexStore, draw: Draw, statement: str, message: str
) -> None:
    store.write("a", draw(1, 12, 4), b"x")
    with store.engine.begin() as connection:
        assert connection.execute(sa.text(statement)).rowcount
    with pytest.raises(IntegrityError, match=message):
        store.open("a")


def test_queries_that_do_not_fit_are_refused(store: IndexStore, draw: Draw) -> None:
    store.write("a", draw(1, 5, 4), b"x")
    index = store.open("a")
    for query in (np.zeros(3, np.int8), np.zeros(4, np.int16), np.full(4, -128, np.int8)):
        with pytest.raises(ModelError, match="query"):
            index.nearest(query, 1)
    with pytest.raises(ModelError, match="ask for one or more"):
        index.nearest(np.zeros(4, np.int8), 0)
    with pytest.raises(ModelError, match="is empty"):
        Condition(redshift=(0.3, 0.2))
    with pytest.raises(IntegrityError, match="choose one of a"):
        store.open("b")


def test_conditions_survive_json() -> None:
    condition = Condition(survey="SDSS", redshift=(0.0, 0.1))
    assert Condition.from_json(condition.to_json()) == condition
    for damaged in ({}, None, {"survey": 1, "band": None, "label": None, "redshift": None}):
        with pytest.raises(ModelError, match="not valid"):
            Condition.from_json(damaged)


def test_the_public_part_proves_itself_and_holds_no_prototype(
    tmp_path: Path, draw: Callable[[int, int, int], list[Prototype]]
) -> None:
    store = IndexStore(f"sqlite:///{tmp_path / 'index.db'}")
    prototypes = draw(3, 20, 6)
    record = store.write("a", prototypes, b"how pictures become vectors")
    public = store.open("a").public()
    data = public.to_bytes()
    read = PublicIndex.from_bytes(data, "file")
    assert read == public
    assert (read.record, read.embedding) == (record, b"how pictures become vectors")
    for prototype in prototypes:
        assert prototype.key.encode() not in data
        assert prototype.sha256.encode() not in data
    fields = json.loads(data)
    for name, value in (
        ("name", "b"),
        ("dimensions", 7),
        ("prototypes", 21),
        ("digest", "0" * 64),
        ("prototypes_sha256", "0" * 64),
        ("embedding", base64.b64encode(b"another way").decode()),
        ("embedding", "%"),
        ("schema", "acie.index-public/9"),
        ("digest", None),
    ):
        with pytest.raises(IntegrityError, match=r"^file: .*was changed"):
            PublicIndex.from_bytes(json.dumps(fields | {name: value}).encode(), "file")
    for other in (b"", b"[]", b"{}", data[:-20]):
        with pytest.raises(IntegrityError):
            PublicIndex.from_bytes(other, "file")
