"""Encrypted answers against plaintext ones, and messages that are refused."""

import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acie_pipelines.crypto.cipher_tensor import CipherTensor
from acie_pipelines.crypto.keys import PaillierPrivateKey
from acie_pipelines.crypto.packing import layout_for, unpacked_layout
from acie_pipelines.crypto.public_keys import KeyRecord, KeyState, PublicKeys
from acie_pipelines.errors import CryptoError, IntegrityError, LostKeyError, ModelError
from acie_pipelines.secure.retrieval.encrypted_query import (
    EncryptedQuery,
    EncryptedScores,
    answer,
    ask,
    rank,
)
from acie_pipelines.secure.retrieval.index import IndexStore, PrototypeIndex
from acie_pipelines.secure.retrieval.prototypes import METRICS, Condition, Metric, Prototype
from acie_pipelines.secure.roles import ComputeWorker

Draw = Callable[[int, int, int], list[Prototype]]
relaxed = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def store(tmp_path: Path) -> IndexStore:
    return IndexStore(f"sqlite:///{tmp_path}/index.db")


@pytest.fixture
def index(store: IndexStore, draw: Draw) -> PrototypeIndex:
    store.write("galaxies", draw(5, 30, 6), b"embedding")
    return store.open("galaxies")


def worker_of(key: PaillierPrivateKey) -> ComputeWorker:
    record = KeyRecord(key.public_key, 1, "2026-01-01", KeyState.CURRENT, "2026-01-01")
    return ComputeWorker(PublicKeys("test", (record,)))


@relaxed
@given(
    seed=st.integers(0, 2**32),
    count=st.integers(1, 90),
    dimensions=st.sampled_from([1, 5, 64]),
    k=st.integers(1, 95),
    metric=st.sampled_from(METRICS),
    condition=st.builds(Condition, label=st.sampled_from([None, "Sb", "none"])),
)
def test_the_owner_finds_what_a_plaintext_search_finds(
    store: IndexStore,
    draw: Draw,
    private_key: PaillierPrivateKey,
    seed: int,
    count: int,
    dimensions: int,
    k: int,
    metric: Metric,
    condition: Condition,
) -> None:
    store.write("galaxies", draw(seed, count, dimensions), b"embedding")
    index = store.open("galaxies")
    rng = np.random.default_rng(seed)
    vector = rng.integers(-127, 128, dimensions).astype(np.int8)
    query = ask(index.record, vector, private_key, metric=metric, condition=condition)
    received = EncryptedQuery.from_bytes(query.to_bytes(), worker_of(private_key))
    reply = answer(index, received).to_bytes()
    scores = EncryptedScores.from_bytes(reply, private_key.public_key)
    hits = rank(scores, query, vector, private_key, k)
    expected = index.nearest(vector, k, metric=metric, condition=condition)
    assert [(hit.metadata, hit.score) for hit in hits] == [
        (each.prototype.metadata(), each.score) for each in expected
    ]


@pytest.mark.parametrize("metric", METRICS)
def test_extreme_vectors_do_not_overflow(
    store: IndexStore, draw: Draw, private_key: PaillierPrivateKey, metric: Metric
) -> None:
    template = draw(1, 1, 1)[0]
    full = np.full(256, 127, np.int8)
    made = [
        replace(template, key=name, vector=vector)
        for name, vector in (("high", full), ("low", -full), ("zero", 0 * full))
    ]
    store.write("extremes", made, b"")
    index = store.open("extremes")
    for vector in (full, -full, 0 * full):
        query = ask(index.record, vector, private_key, metric=metric)
        hits = rank(answer(index, query), query, vector, private_key, 3)
        expected = index.nearest(vector, 3, metric=metric)
        assert [(hit.metadata["key"], hit.score) for hit in hits] == [
            (each.prototype.key, each.score) for each in expected
        ]


def test_the_same_query_twice_has_no_number_in_common(
    index: PrototypeIndex, private_key: PaillierPrivateKey
) -> None:
    vector = np.ones(6, np.int8)
    query = ask(index.record, vector, private_key)
    again = ask(index.record, vector, private_key)
    seen = {row.tobytes() for row in query.tensor.ciphertexts}
    assert len(seen) == 6, "equal components have equal ciphertexts"
    assert not seen & {row.tobytes() for row in again.tensor.ciphertexts}
    tensors = [answer(index, query).tensor for _ in range(2)]
    rows = [{row.tobytes() for row in each.ciphertexts} for each in tensors if each is not None]
    assert rows[0] and not rows[0] & rows[1]


def test_scores_come_in_few_ciphertexts(
    index: PrototypeIndex, private_key: PaillierPrivateKey
) -> None:
    tensor = answer(index, ask(index.record, np.ones(6, np.int8), private_key)).tensor
    assert tensor is not None and len(tensor.kept) == 1 and tensor.shape == (30,)


def test_other_keys_are_refused(
    index: PrototypeIndex, private_key: PaillierPrivateKey, other_key: PaillierPrivateKey
) -> None:
    vector = np.ones(6, np.int8)
    query = ask(index.record, vector, private_key)
    with pytest.raises(LostKeyError):
        EncryptedQuery.from_bytes(query.to_bytes(), worker_of(other_key))
    scores = answer(index, query)
    with pytest.raises(CryptoError, match="cannot be read with key"):
        EncryptedScores.from_bytes(scores.to_bytes(), other_key.public_key)
    with pytest.raises(CryptoError, match="cannot be decrypted with key"):
        rank(scores, query, vector, other_key, 1)


def test_queries_that_do_not_fit_are_refused_before_anything_is_computed(
    index: PrototypeIndex, private_key: PaillierPrivateKey
) -> None:
    with pytest.raises(ModelError, match="query"):
        ask(index.record, np.ones(5, np.int8), private_key)
    query = ask(index.record, np.ones(6, np.int8), private_key)
    public = private_key.public_key
    wide = unpacked_layout(key_bits=public.bits, value_bits=40)
    for tensor in (
        CipherTensor.encrypt(np.ones(5, np.int8), public, query.tensor.layout),
        CipherTensor.encrypt(np.ones(6, np.int64), public, wide),
        CipherTensor.encrypt(np.ones(6, np.int8), public, layout_for(8, key_bits=public.bits)),
        query.tensor + query.tensor,
    ):
        with pytest.raises(CryptoError, match="no query of 6 dimensions"):
            answer(index, replace(query, tensor=tensor))
    with pytest.raises(IntegrityError, match="present digest"):
        answer(index, replace(query, digest="0" * 64))
    with pytest.raises(IntegrityError, match="present digest"):
        answer(index, replace(query, index="stars"))


def test_answers_that_do_not_fit_are_refused(
    index: PrototypeIndex, private_key: PaillierPrivateKey
) -> None:
    vector = np.ones(6, np.int8)
    query = ask(index.record, vector, private_key)
    scores = answer(index, query)
    with pytest.raises(IntegrityError, match="ask again"):
        rank(replace(scores, digest="0" * 64), query, vector, private_key, 1)
    for changed in (
        replace(scores, prototypes=scores.prototypes[1:]),
        replace(scores, tensor=None),
    ):
        with pytest.raises(CryptoError, match="one score per prototype"):
            rank(changed, query, vector, private_key, 1)


def test_damaged_messages_are_refused(
    index: PrototypeIndex, private_key: PaillierPrivateKey
) -> None:
    query = ask(index.record, np.ones(6, np.int8), private_key)
    message, worker = query.to_bytes(), worker_of(private_key)
    reply = answer(index, query).to_bytes()
    rng = np.random.default_rng(3)
    for cut in (0, 5, 11, 40, len(message) - 1):
        with pytest.raises(CryptoError):
            EncryptedQuery.from_bytes(message[:cut], worker)
    for data, read in (
        (message, lambda changed: EncryptedQuery.from_bytes(changed, worker)),
        (reply, lambda changed: EncryptedScores.from_bytes(changed, private_key.public_key)),
    ):
        for place in [0, 8, 12, *rng.integers(0, len(data), 30)]:
            changed = bytearray(data)
            changed[place] ^= 1 << int(rng.integers(8))
            with pytest.raises(CryptoError):
                read(bytes(changed))
    for header in (b"[]", b"{", b"{}", json.dumps({"index": 1}).encode()):
        content = struct.pack("<8sIQ", b"ACIEQURY", 0, len(header)) + header
        with pytest.raises(CryptoError, match=r"header|fields"):
            EncryptedQuery.from_bytes(content + hashlib.sha256(content).digest(), worker)
    for count, length in ((2**31, 2), (0, 3), (0, 2**63), (1, 2)):
        content = struct.pack("<8sIQ", b"ACIEQURY", count, length) + b"{}"
        with pytest.raises(CryptoError, match=r"too short|lengths"):
            EncryptedQuery.from_bytes(content + hashlib.sha256(content).digest(), worker)
    with pytest.raises(CryptoError, match="does not begin like one"):
        EncryptedQuery.from_bytes(reply, worker)
