"""Whatever array a caller passes, the answer is right or an exception, never a crash."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acie_native import (
    PaillierPublicContext,
    Streebog256,
    cpu_features,
    ints_to_limbs,
    limbs_to_ints,
    pack_slots,
    tile_statistics,
    unpack_slots,
)

from .conftest import KeyPair, make_pair, seeded

REFUSALS = (ValueError, TypeError, OverflowError, IndexError, BufferError)
LIMBS = 8
PAIRS = {isa: make_pair(256, 256, isa) for isa in cpu_features().available}
SETTINGS = settings(max_examples=300, deadline=None)

Call = Callable[[KeyPair, Any, Any, Any], Any]


def exponents(pair: KeyPair, rows: int) -> np.ndarray:
    return ints_to_limbs([i * 0x9E37_79B9 for i in range(rows)], pair.public.exponent_bits // 64)


def encrypt(pair: KeyPair, a: Any, b: Any, threads: Any) -> Any:
    return pair.public.encrypt_with_exponents(
        a, exponents(pair, len(a)) if b is None else b, threads=threads
    )


# Every operation with a fixed answer, of one or two arrays.
CALLS: dict[str, Call] = {
    "encrypt": encrypt,
    "encrypt_with_r": lambda pair, a, b, t: pair.public.encrypt_with_r(a, b, threads=t),
    "validate": lambda pair, a, b, t: pair.public.validate(a, threads=t),
    "decrypt": lambda pair, a, b, t: pair.private.decrypt(a, threads=t),
    "load": lambda pair, a, b, t: pair.public.load(a, threads=t).store(threads=t),
    "add": lambda pair, a, b, t: (
        pair.public.load(a, threads=t).add(pair.public.load(b, threads=t), threads=t).store()
    ),
    "add_plain": lambda pair, a, b, t: pair.public.load(a).add_plain(b, threads=t).store(),
    "scalar_mul": lambda pair, a, b, t: pair.public.load(a).scalar_mul(b, threads=t).store(),
    "sum": lambda pair, a, b, t: pair.public.load(a).sum(b, threads=t).store(),
    "statistics": lambda pair, a, b, t: tile_statistics(a, valid=b),
    "pack": lambda pair, a, b, t: pack_slots(
        a, slot_bits=20, value_bits=16, slots_per_plaintext=3, limbs=1
    ),
    "unpack": lambda pair, a, b, t: unpack_slots(
        a, b, slot_bits=33, value_bits=20, slots_per_plaintext=7
    ),
    "limbs_to_ints": lambda pair, a, b, t: limbs_to_ints(a),
    "streebog": lambda pair, a, b, t: Streebog256(a).digest(),
}

DTYPES = ["u8", ">u8", "i8", "u4", "f8", "f4", "u1", "i2", "?", "O", "c16", "M8[s]"]
SHAPES = st.lists(st.integers(0, 9), max_size=3).map(tuple)
ROWS = st.sampled_from([0, 1, 2, 7, 8, 9]).flatmap(
    lambda rows: st.sampled_from([(rows, LIMBS), (rows, 2 * LIMBS), (rows,), (rows, 4)])
)
LAYOUTS = ["plain", "plain", "plain", "fortran", "strided", "reversed", "misaligned", "read-only"]


@st.composite
def arrays(draw: st.DrawFn) -> np.ndarray:
    dtype = np.dtype(draw(st.sampled_from(["u8"] * 12 + DTYPES)))
    shape = draw(ROWS | SHAPES)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = int(np.prod(shape))
    # Small, so that numbers are in range, or any bits at all.
    if draw(st.booleans()) or dtype.hasobject:
        values = rng.integers(0, 2, size).astype(dtype)
    else:
        values = np.frombuffer(rng.bytes(size * dtype.itemsize), dtype=dtype)
    array = values.reshape(shape)
    layout = draw(st.sampled_from(LAYOUTS))
    if layout == "fortran":
        array = np.asfortranarray(array)
    elif layout == "strided" and array.ndim:
        array = np.repeat(array, 2, axis=0)[::2]
    elif layout == "reversed" and array.ndim:
        array = array[::-1]
    elif layout == "misaligned" and not dtype.hasobject:
        memory = np.zeros(array.nbytes + 1, dtype=np.uint8)[1:]
        moved = memory.view(dtype).reshape(shape)
        moved[...] = array
        array = moved
    elif layout == "read-only":
        array = array.copy()
        array.flags.writeable = False
    return array


OTHERS = st.sampled_from([None, -1, 0, 1, 3, 2**31, 2**63, 2**70, 1.5, "text", [1, 2]])
THREADS = st.sampled_from([0, 1, 1, 2, 7, 1024, -1, 1025, 2**31, 2**64, 1.5, None, "2"])


def clean(value: Any) -> Any:
    """The same numbers in fresh memory of the usual layout."""
    return np.array(value, order="C") if isinstance(value, np.ndarray) else value


def outcome(call: Call, pair: KeyPair, a: Any, b: Any, threads: Any) -> Any:
    try:
        return call(pair, a, b, threads)
    except REFUSALS as error:
        return error


def same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    # NaN, too, must agree.
    return repr(one) == repr(other)


@SETTINGS
@given(
    name=st.sampled_from(sorted(CALLS)),
    isa=st.sampled_from(sorted(PAIRS)),
    a=arrays(),
    b=arrays() | OTHERS,
    threads=THREADS,
)
def test_right_answer_or_exception(name: str, isa: str, a: Any, b: Any, threads: Any) -> None:
    before = repr(a), repr(b)
    got = outcome(CALLS[name], PAIRS[isa], a, b, threads)
    assert (repr(a), repr(b)) == before
    if not isinstance(got, Exception):
        want = CALLS[name](PAIRS["portable"], clean(a), clean(b), 1)
        assert same(got, want)


@SETTINGS
@given(value=OTHERS | st.binary() | st.lists(st.integers()), name=st.sampled_from(sorted(CALLS)))
def test_no_array_at_all(value: Any, name: str) -> None:
    if name == "streebog" and isinstance(value, bytes):
        return
    assert isinstance(outcome(CALLS[name], PAIRS["portable"], value, value, 1), REFUSALS)


def test_from_many_threads_at_once() -> None:
    rng = seeded(9)
    pair = PAIRS[cpu_features().isa]
    good = [[rng.randrange(pair.n) for _ in range(rng.randrange(12))] for _ in range(40)]
    shared = ints_to_limbs([1] * 12, LIMBS)

    def work(values: list[int]) -> bool:
        rows = ints_to_limbs(values, LIMBS)
        for bad in (rows[:, ::2], rows.astype(np.int64), ints_to_limbs([pair.n], LIMBS)):
            with pytest.raises(ValueError, match=r"plaintext"):
                pair.public.encrypt(bad, threads=3)
        # The input is shared with every other thread.
        encrypted = pair.public.load(pair.public.encrypt(shared, threads=2))
        total = encrypted.add_plain(shared, threads=2).sum(12, threads=2)
        assert limbs_to_ints(pair.private.decrypt(total.store())) == [24]
        return limbs_to_ints(pair.private.decrypt(pair.public.encrypt(rows))) == values

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, good))


@pytest.mark.parametrize("name", ["n", "plaintext_limbs", "ciphertext_limbs", "base", "_kernel"])
def test_sizes_that_kernels_trust_cannot_be_changed(name: str) -> None:
    public = PaillierPublicContext(2**512 + 1, base=1, window_bits=1)
    for context in (public, PAIRS["portable"].private):
        with pytest.raises(AttributeError, match=f"{name} cannot be changed"):
            setattr(context, name, 1)
        with pytest.raises(AttributeError, match=f"{name} cannot be deleted"):
            delattr(context, name)
    array = public.load(ints_to_limbs([1], public.ciphertext_limbs))
    with pytest.raises(AttributeError, match="context cannot be changed"):
        array.context = PAIRS["portable"].public


def test_misaligned_arrays_are_refused() -> None:
    memory = np.zeros(8 * 16 + 1, dtype=np.uint8)[1:]
    rows = memory.view(np.uint64).reshape(1, 16)
    with pytest.raises(ValueError, match="ciphertexts must be aligned"):
        PAIRS["portable"].private.decrypt(rows)
    with pytest.raises(ValueError, match="pixels must be aligned"):
        tile_statistics(memory.view(np.float32).reshape(4, 8))
    with pytest.raises(ValueError, match="values must be aligned"):
        pack_slots(
            memory.view(np.int64), slot_bits=20, value_bits=16, slots_per_plaintext=3, limbs=1
        )
