"""Slot packing against Python integers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acie_native import ints_to_limbs, limbs_to_ints, pack_slots, unpack_slots


@st.composite
def layouts(draw: st.DrawFn) -> dict[str, int]:
    slot_bits = draw(st.integers(1, 64))
    slots = draw(st.integers(1, 20))
    limbs = -(-slots * slot_bits // 64) + draw(st.integers(0, 2))
    value_bits = draw(st.integers(1, slot_bits))
    return {
        "slot_bits": slot_bits,
        "value_bits": value_bits,
        "slots_per_plaintext": slots,
        "limbs": limbs,
    }


def without_limbs(layout: dict[str, int]) -> dict[str, int]:
    return {name: value for name, value in layout.items() if name != "limbs"}


@settings(max_examples=200, deadline=None)
@given(layout=layouts(), data=st.data())
def test_layout_and_round_trip(layout: dict[str, int], data: st.DataObject) -> None:
    bias = 1 << (layout["value_bits"] - 1)
    values = data.draw(st.lists(st.integers(-bias, bias - 1), max_size=45))
    array = np.array(values, dtype=np.int64)
    packed = pack_slots(array, **layout)
    slots = layout["slots_per_plaintext"]
    padded = values + [0] * (-len(values) % slots)
    want = [
        sum((padded[start + i] + bias) << layout["slot_bits"] * i for i in range(slots))
        for start in range(0, len(padded), slots)
    ]
    assert limbs_to_ints(packed) == want
    got = unpack_slots(packed, len(values), **without_limbs(layout))
    assert got.tolist() == values


@pytest.mark.parametrize("slot_bits", range(1, 65))
def test_every_width_on_every_path(slot_bits: int, isa: str) -> None:
    # 21 slots: two groups of eight and a part; 50 values: two rows and a part.
    layout = {"slot_bits": slot_bits, "slots_per_plaintext": 21, "isa": isa}
    limbs = -(-21 * slot_bits // 64) + slot_bits % 3
    rng = np.random.default_rng(slot_bits)
    for value_bits in {1, (slot_bits + 1) // 2, slot_bits}:
        bound = 2 ** (value_bits - 1)
        values = rng.integers(-bound, bound - 1, 50, endpoint=True, dtype=np.int64)
        values[[0, 20, 21, 49]] = -bound, bound - 1, bound - 1, -bound
        padded = [*values.tolist(), *[0] * 13]
        want = [
            sum((value + bound) << slot_bits * i for i, value in enumerate(padded[start:][:21]))
            for start in (0, 21, 42)
        ]
        packed = pack_slots(values, value_bits=value_bits, limbs=limbs, **layout)
        assert limbs_to_ints(packed) == want
        got = unpack_slots(packed, 50, value_bits=value_bits, **layout)
        assert got.tolist() == values.tolist()
        if value_bits < 64:
            for index, bad in ((7, bound), (49, -bound - 1)):
                wrong = values.copy()
                wrong[index] = bad
                with pytest.raises(OverflowError, match=f"value {index} does not fit"):
                    pack_slots(wrong, value_bits=value_bits, limbs=limbs, **layout)


def test_sums_with_guard_bits() -> None:
    layout = {"slot_bits": 20, "value_bits": 16, "slots_per_plaintext": 9}
    rng = np.random.default_rng(1)
    terms = rng.integers(-(2**15), 2**15, (16, 25))
    packed = [limbs_to_ints(pack_slots(row, **layout, limbs=3)) for row in terms]
    sums = ints_to_limbs([sum(column) for column in zip(*packed, strict=True)], 3)
    got = unpack_slots(sums, 25, **layout, bias_multiple=16)
    assert got.tolist() == terms.sum(axis=0).tolist()


def test_unused_slots_hold_zero() -> None:
    packed = pack_slots(np.array([3]), slot_bits=8, value_bits=8, slots_per_plaintext=3, limbs=1)
    assert packed.tolist() == [[0x80_80_83]]


@pytest.mark.parametrize(("value", "bits"), [(128, 8), (-129, 8), (2**62, 63), (1, 1)])
def test_overflow_names_the_index(value: int, bits: int) -> None:
    values = np.array([0, -1, 0, value])
    with pytest.raises(OverflowError, match="value 3 does not fit"):
        pack_slots(values, slot_bits=64, value_bits=bits, slots_per_plaintext=2, limbs=2)


def test_unpacking_beyond_int64_is_an_error() -> None:
    rows = np.array([[2**64 - 1]], dtype=np.uint64)
    layout = {"slot_bits": 64, "value_bits": 8, "slots_per_plaintext": 1}
    with pytest.raises(OverflowError, match="value 0 does not fit"):
        unpack_slots(rows, 1, **layout)
    low = np.zeros((1, 1), dtype=np.uint64)
    with pytest.raises(OverflowError, match="value 0 does not fit"):
        unpack_slots(low, 1, **{**layout, "value_bits": 64}, bias_multiple=2)


def test_zero_values() -> None:
    layout = {"slot_bits": 8, "value_bits": 8, "slots_per_plaintext": 4}
    packed = pack_slots(np.empty(0, np.int64), **layout, limbs=2)
    assert packed.shape == (0, 2)
    assert unpack_slots(packed, 0, **layout).shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slot_bits": 65}, "slot_bits must be 1 to 64, got 65"),
        ({"value_bits": 0}, "value_bits must be 1 to 8, got 0"),
        ({"value_bits": 9}, "value_bits must be 1 to 8, got 9"),
        ({"slots_per_plaintext": 0}, "slots_per_plaintext must be 1 to"),
        ({"slots_per_plaintext": 9}, "9 slots of 8 bits do not fit 1 limbs"),
    ],
)
def test_refused_layouts(change: dict[str, int], message: str) -> None:
    layout = {"slot_bits": 8, "value_bits": 8, "slots_per_plaintext": 4, "limbs": 1} | change
    with pytest.raises(ValueError, match=message):
        pack_slots(np.zeros(4, np.int64), **layout)


def test_refused_arrays() -> None:
    layout = {"slot_bits": 8, "value_bits": 8, "slots_per_plaintext": 4}
    with pytest.raises(ValueError, match="one-dimensional int64"):
        pack_slots(np.zeros(4), **layout, limbs=1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="C-contiguous"):
        pack_slots(np.zeros(8, np.int64)[::2], **layout, limbs=1)
    with pytest.raises(ValueError, match="must have 2 rows, got 1"):
        unpack_slots(np.zeros((1, 1), np.uint64), 5, **layout)
    with pytest.raises(ValueError, match="bias_multiple must be 0 to"):
        unpack_slots(np.zeros((1, 1), np.uint64), 1, **layout, bias_multiple=-1)


def test_counts_of_numpy_do_not_wrap_around() -> None:
    layout = {"slot_bits": 8, "value_bits": 8, "slots_per_plaintext": 4}
    packed = pack_slots(np.arange(5), **layout, limbs=1)
    assert unpack_slots(packed, np.uint64(5), **layout).tolist() == [0, 1, 2, 3, 4]  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="count must be 0 to"):
        unpack_slots(packed, np.uint64(2**63 + 5), **layout)  # type: ignore[arg-type]
