"""Rows of the ``secure`` benchmark about encrypted queries.

Belongs here: seconds per query of an index, by part. Does not belong here: the query itself
(`acie_pipelines.secure.retrieval`).

The peer does not pack, so it decrypts a ciphertext per prototype. What the same query would take it
is extrapolated from its cost per operation on a slice.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from acie_pipelines.crypto.keys import PaillierPrivateKey
from acie_pipelines.evaluation.bench import Row
from acie_pipelines.evaluation.phe_costs import Operations, PheCosts
from acie_pipelines.evaluation.secure_sides import EXTRAPOLATED, Parts, core_seconds
from acie_pipelines.secure.retrieval.encrypted_query import EncryptedScores, Hit, answer, ask, rank
from acie_pipelines.secure.retrieval.index import IndexStore, PrototypeIndex
from acie_pipelines.secure.retrieval.prototypes import Prototype

__all__ = ["query_rows"]

_PROTOTYPES: Final = (1_000, 10_000)
_DIMENSIONS: Final = 64
_NEAREST: Final = 10


def query_rows(key: PaillierPrivateKey, repetitions: int) -> Iterator[Row]:
    """Measure the nearest of 1,000 and of 10,000 prototypes of 64 dimensions, by distance.

    Parameters
    ----------
    key
        Key pair of both sides.
    repetitions
        Measurements of each side.

    Raises
    ------
    RuntimeError
        If an encrypted query finds other prototypes than a plaintext one.
    """
    costs = PheCosts(key)
    with tempfile.TemporaryDirectory(prefix="acie-bench-") as folder:
        store = IndexStore(f"sqlite:///{Path(folder) / 'index.db'}")
        for count in _PROTOTYPES:
            store.write("bench", _prototypes(count), b"")
            yield from _rows(store.open("bench"), key, costs, repetitions)


def _rows(
    index: PrototypeIndex, key: PaillierPrivateKey, costs: PheCosts, repetitions: int
) -> Iterator[Row]:
    count = index.record.prototypes
    theirs = {
        "encrypt": Operations(encryptions=_DIMENSIONS),
        "score": Operations(products=_DIMENSIONS * count),
        "decrypt and rank": Operations(decryptions=count),
    }
    parts = Parts()
    for _ in range(repetitions + 1):
        asked = {part: costs.seconds(operations) for part, operations in theirs.items()}
        parts.add(_query(index, key), peer=asked)
    yield from parts.rows(
        f"secure/query, {count} prototypes of {_DIMENSIONS} dimensions/",
        f"/{key.public_key.bits} bit/1 core",
        {"peer": EXTRAPOLATED},
    )


def _query(index: PrototypeIndex, key: PaillierPrivateKey) -> dict[str, float]:
    vector = np.random.default_rng(2).integers(-127, 128, _DIMENSIONS).astype(np.int8)
    scores: list[EncryptedScores] = []
    hits: list[list[Hit]] = []
    query = ask(index.record, vector, key)
    spent = {
        "encrypt": core_seconds(lambda: ask(index.record, vector, key)),
        "score": core_seconds(lambda: scores.append(answer(index, query))),
        "decrypt and rank": core_seconds(
            lambda: hits.append(rank(scores[0], query, vector, key, _NEAREST))
        ),
    }
    expected = [(each.prototype.key, each.score) for each in index.nearest(vector, _NEAREST)]
    if [(hit.metadata["key"], hit.score) for hit in hits[0]] != expected:
        raise RuntimeError("an encrypted query found other prototypes than a plaintext one")
    return spent


def _prototypes(count: int) -> list[Prototype]:
    vectors = np.random.default_rng(1).integers(-127, 128, (count, _DIMENSIONS)).astype(np.int8)
    return [
        Prototype(f"p{row:06d}", vector, "SDSS", "gri", "E", None, f"s{row}", f"{row:064x}")
        for row, vector in enumerate(vectors)
    ]
