"""Randomness computed ahead: used once, never shared with a child, gone afterwards."""

import gc
import multiprocessing
import os
import subprocess
import sys
import threading
import time
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from acie_native import PaillierPublicContext, ints_to_limbs, limbs_to_ints
from acie_pipelines.crypto.keys import PaillierPrivateKey
from acie_pipelines.crypto.randomness_pool import RandomnessPool
from acie_pipelines.errors import CryptoError


def plaintexts(key: PaillierPrivateKey, values: list[int]) -> NDArray[np.uint64]:
    return ints_to_limbs(values, key.public_key.context.plaintext_limbs)


def wait_until_full(pool: RandomnessPool, capacity: int) -> None:
    deadline = time.monotonic() + 300
    while len(pool) < capacity:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("count", [0, 1, 7, 100])
def test_pool_encrypts(private_key: PaillierPrivateKey, count: int) -> None:
    values = list(range(count))
    with RandomnessPool(private_key.public_key, capacity=30) as pool:
        ciphertexts = pool.encrypt(plaintexts(private_key, values))
    assert limbs_to_ints(private_key.context.decrypt(ciphertexts)) == values


def test_every_factor_is_used_once(private_key: PaillierPrivateKey) -> None:
    zeros = plaintexts(private_key, [0] * 25)
    with RandomnessPool(private_key.public_key, capacity=40) as pool, ThreadPoolExecutor(8) as many:
        # An encryption of zero is its factor.
        parts = list(many.map(lambda _: pool.encrypt(zeros), range(16)))
    factors = [value for part in parts for value in limbs_to_ints(part)]
    assert len(set(factors)) == len(factors) == 16 * 25
    assert 1 not in factors


def test_factors_are_overwritten(private_key: PaillierPrivateKey) -> None:
    pool = RandomnessPool(private_key.public_key, capacity=10)
    wait_until_full(pool, 10)
    held = pool._state.factors
    assert held.any(axis=1).all()
    taken = pool._state.take(4)
    assert len(taken) == 4
    pool.close()
    pool.close()
    assert not held.any()
    with pytest.raises(CryptoError, match="closed"):
        pool.encrypt(plaintexts(private_key, [1]))


def test_factors_given_to_a_call_are_overwritten(
    private_key: PaillierPrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[NDArray[np.uint64]] = []
    with RandomnessPool(private_key.public_key, capacity=10) as pool:
        take = pool._state.take
        monkeypatch.setattr(
            pool._state, "take", lambda wanted: seen.append(take(wanted)) or seen[-1]
        )
        pool.encrypt(plaintexts(private_key, [1, 2, 3]))
    assert seen
    assert not any(factors.any() for factors in seen)


def test_a_forked_child_shares_nothing(private_key: PaillierPrivateKey) -> None:
    zeros = plaintexts(private_key, [0] * 8)
    receiver, sender = multiprocessing.Pipe(duplex=False)
    with RandomnessPool(private_key.public_key, capacity=8) as pool:
        wait_until_full(pool, 8)
        expected = set(limbs_to_ints(pool._state.factors))
        with warnings.catch_warnings():
            # Forking while the pool's thread runs is what this is about.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            try:
                empty = len(pool) == 0 and not pool._state.factors.any()
                sender.send((empty, limbs_to_ints(pool.encrypt(zeros))))
            finally:
                os._exit(0)
        assert receiver.poll(30)
        empty, childs = receiver.recv()
        os.waitpid(child, 0)
        own = limbs_to_ints(pool.encrypt(zeros))
    assert empty
    assert not expected & set(childs)
    assert len(set(childs)) == 8
    assert not set(own) & set(childs)


def test_failures_of_the_thread_reach_the_caller(
    private_key: PaillierPrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OSError("no random bytes")

    monkeypatch.setattr(PaillierPublicContext, "random_factors", fail)
    with (
        RandomnessPool(private_key.public_key) as pool,
        pytest.raises(CryptoError, match="thread failed"),
    ):
        pool.encrypt(plaintexts(private_key, [1]))


def test_closing_ends_the_thread_and_waiting_callers(private_key: PaillierPrivateKey) -> None:
    before = threading.active_count()
    pool = RandomnessPool(private_key.public_key, capacity=1)
    pool.close()
    assert threading.active_count() == before
    with pytest.raises(CryptoError, match="hold 1 or more"):
        RandomnessPool(private_key.public_key, capacity=0)


def test_a_pool_that_nothing_refers_to_ends(private_key: PaillierPrivateKey) -> None:
    pool = RandomnessPool(private_key.public_key, capacity=10)
    wait_until_full(pool, 10)
    factors, thread = pool._state.factors, pool._state._thread
    assert thread is not None
    alive = weakref.ref(pool)
    del pool
    gc.collect()
    assert alive() is None
    assert not thread.is_alive()
    assert not factors.any()


def test_a_program_ends_with_a_pool_left_open() -> None:
    program = """
from acie_pipelines.crypto.keys import generate_keypair
from acie_pipelines.crypto.randomness_pool import RandomnessPool

pool = RandomnessPool(generate_keypair(1024, allow_insecure_size=True).public_key)
"""
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
