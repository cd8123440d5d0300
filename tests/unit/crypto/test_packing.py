"""Layouts, scales and bit packing: exact or refused."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from acie_pipelines.crypto.packing import (
    PackingLayout,
    choose_fractional_bits,
    decode_fixed_point,
    encode_fixed_point,
    layout_for,
    pack_bits,
    rows_for_bits,
    unpack_bits,
    value_bits_for,
)
from acie_pipelines.errors import CryptoError


@pytest.mark.parametrize(
    ("dtype", "value_bits"),
    [
        ("?", 2),
        ("u1", 9),
        ("i1", 8),
        ("u2", 17),
        ("<i2", 16),
        (">i4", 32),
        ("u4", 33),
        (np.uint16, 17),
    ],
)
def test_integer_dtypes_are_covered_whole(dtype: Any, value_bits: int) -> None:
    layout = layout_for(dtype, key_bits=3072)
    low, high = (0, 1) if dtype == "?" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    assert layout.value_bits == value_bits
    assert layout.minimum <= low <= high <= layout.maximum
    assert layout.maximum_weight >= 4095
    assert layout.slots_per_plaintext * layout.slot_bits <= 3071


@given(
    bits=st.integers(2, 62),
    additions=st.integers(1, 2**20),
    key_bits=st.sampled_from([1024, 2048, 3072]),
)
def test_fullest_sums_stay_below_the_modulus(bits: int, additions: int, key_bits: int) -> None:
    if bits + additions.bit_length() > 64:
        with pytest.raises(CryptoError, match="need more than"):
            layout_for(bits, key_bits=key_bits, additions=additions)
        return
    layout = layout_for(bits, key_bits=key_bits, additions=additions)
    layout.check_key(key_bits)
    assert layout.maximum_weight >= additions
    # A slot may hold weight * 2^value_bits, the value that a negated minimum gives.
    fullest = layout.maximum_weight << layout.value_bits
    assert fullest < 1 << layout.slot_bits
    plaintext = sum(fullest << (i * layout.slot_bits) for i in range(layout.slots_per_plaintext))
    assert plaintext < 1 << (key_bits - 1)


@pytest.mark.parametrize("dtype", ["i8", "u8", "f4", "f8", "c8"])
def test_dtypes_without_a_sure_width_are_refused(dtype: str) -> None:
    with pytest.raises(CryptoError):
        layout_for(dtype, key_bits=3072)


@pytest.mark.parametrize(("bits", "additions"), [(63, 1), (62, 4), (48, 2**16), (8, 0), (1, 1)])
def test_oversized_layouts_are_refused(bits: int, additions: int) -> None:
    with pytest.raises(CryptoError):
        layout_for(bits, key_bits=3072, additions=additions)


def test_layout_must_fit_the_key() -> None:
    layout = layout_for(16, key_bits=3072)
    with pytest.raises(CryptoError, match="do not fit a key of 2048"):
        layout.check_key(2048)


def test_layout_json_round_trip_and_refusals() -> None:
    layout = layout_for(20, key_bits=2048, fractional_bits=-3)
    fields: dict[str, Any] = layout.to_json()
    assert PackingLayout.from_json(fields) == layout
    for wrong in (
        {},
        fields | {"more": 1},
        fields | {"slot_bits": 20},
        fields | {"slot_bits": 65},
        fields | {"value_bits": 1.5},
        fields | {"slots_per_plaintext": 0},
        fields | {"fractional_bits": 5000},
        fields | {"value_bits": True},
    ):
        with pytest.raises(CryptoError):
            PackingLayout.from_json(wrong)


@given(noise=st.floats(1e-30, 1e30), decades=st.floats(0, 14))
def test_quantum_is_the_largest_power_of_two_below_a_64th_of_the_noise(
    noise: float, decades: float
) -> None:
    max_abs = noise * 10**decades
    bits = choose_fractional_bits(noise, max_abs)
    quantum = Fraction(2) ** -bits
    assert quantum <= Fraction(noise) / 64 < 2 * quantum
    assert value_bits_for(max_abs, bits) <= 62


def test_rounding_adds_less_than_a_hundredth_of_a_percent_to_the_noise() -> None:
    noise = np.random.default_rng(1).normal(0, 3.999, 200_000)
    bits = choose_fractional_bits(float(noise.std()), float(np.abs(noise).max()))
    layout = layout_for(
        value_bits_for(float(np.abs(noise).max()), bits), key_bits=2048, fractional_bits=bits
    )
    decoded = decode_fixed_point(encode_fixed_point(noise, layout), layout)
    added = decoded - noise
    assert math.sqrt(1 + added.var() / noise.var()) - 1 < 1e-4


def test_noiseless_planes_resolve_the_largest_value_to_32_bits() -> None:
    assert choose_fractional_bits(0.0, 0.0) == 0
    bits = choose_fractional_bits(0.0, 1000.0)
    assert 2.0**-bits == 1024 / 2**32


@pytest.mark.parametrize(
    ("noise", "max_abs"),
    [(1.0, 2.0**55), (1.0, 1e30), (1e-300, 1e300), (math.nan, 1), (1, math.inf), (-1, 1)],
)
def test_impossible_ranges_are_refused(noise: float, max_abs: float) -> None:
    with pytest.raises(CryptoError, match="fixed-point scale"):
        choose_fractional_bits(noise, max_abs)


finite = st.floats(-1e6, 1e6, allow_nan=False)


@given(values=st.lists(finite, max_size=40), bits=st.integers(-4, 30))
def test_encoding_rounds_half_to_even_and_decodes_exactly(values: list[float], bits: int) -> None:
    layout = layout_for(52, key_bits=2048, additions=1, fractional_bits=bits)
    array = np.array(values, dtype=np.float64)
    encoded = encode_fixed_point(array, layout)
    assert encoded.tolist() == [round(Fraction(value) * Fraction(2) ** bits) for value in values]
    decoded = decode_fixed_point(encoded, layout)
    assert [Fraction(v) for v in decoded.tolist()] == [
        Fraction(int(k)) / Fraction(2) ** bits for k in encoded
    ]


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
@settings(max_examples=50)
def test_float32_decodes_into_float32_exactly(values: list[float]) -> None:
    array = np.array(values, dtype=np.float32)
    max_abs = float(np.abs(array).max())
    bits = choose_fractional_bits(0.0, max_abs)
    layout = layout_for(
        value_bits_for(max_abs, bits), key_bits=2048, additions=1, fractional_bits=bits
    )
    decoded = decode_fixed_point(encode_fixed_point(array, layout), layout)
    with np.errstate(under="ignore"):
        narrow = decoded.astype(np.float32)
    # Values far below the quantum of the largest round to zero; nothing else changes twice.
    assert np.array_equal(narrow.astype(np.float64), decoded)


@pytest.mark.parametrize(
    "values",
    [
        np.array([np.nan]),
        np.array([np.inf]),
        np.array([-np.inf]),
        np.array([128.0]),
        np.array([127.5]),
        np.array([-128.51]),
        np.array([1e300]),
        np.array([128], dtype=np.int16),
        np.array([-129], dtype=np.int64),
        np.array([2**64 - 1], dtype=np.uint64),
        np.array([1j]),
        np.array([1], dtype=np.longdouble),
        np.array(["1"]),
    ],
)
def test_values_that_do_not_fit_are_refused(values: NDArray[Any]) -> None:
    layout = layout_for(8, key_bits=1024)
    with pytest.raises(CryptoError):
        encode_fixed_point(values, layout)


def test_extremes_fit_and_integers_need_the_integer_scale() -> None:
    layout = layout_for(8, key_bits=1024)
    assert encode_fixed_point(np.array([-128, 127]), layout).tolist() == [-128, 127]
    assert encode_fixed_point(np.array([-128.5, 127.49, -0.0]), layout).tolist() == [-128, 127, 0]
    assert encode_fixed_point(np.array([255], dtype=np.uint64) // 2, layout).tolist() == [127]
    with pytest.raises(CryptoError, match="fractional bits"):
        encode_fixed_point(np.array([1]), layout_for(8, key_bits=1024, fractional_bits=2))


def test_wide_layout_accepts_62_bits() -> None:
    layout = layout_for(62, key_bits=1024, additions=1)
    extremes = np.array([-(2**61), 2**61 - 1])
    assert encode_fixed_point(extremes, layout).tolist() == extremes.tolist()
    assert encode_fixed_point(np.array([-(2.0**61)]), layout).tolist() == [-(2**61)]
    for outside in (2**61, -(2**61) - 1):
        with pytest.raises(CryptoError):
            encode_fixed_point(np.array([outside]), layout)
    with pytest.raises(CryptoError):
        encode_fixed_point(np.array([2.0**61]), layout)


@given(count=st.integers(0, 3000), key_bits=st.sampled_from([1024, 1025, 1088, 2048]))
@settings(max_examples=40)
def test_bits_round_trip(count: int, key_bits: int) -> None:
    bits = np.random.default_rng(count).random(count) < 0.7
    limbs = -(-key_bits // 64)
    packed = pack_bits(bits, key_bits=key_bits, limbs=limbs)
    assert packed.shape == (rows_for_bits(count, key_bits), limbs)
    for row in packed:
        assert sum(int(limb) << (64 * i) for i, limb in enumerate(row)) < 1 << (key_bits - 1)
    assert np.array_equal(unpack_bits(packed, count, key_bits=key_bits), bits)


def test_bits_of_another_origin_are_refused() -> None:
    packed = pack_bits(np.ones(100, dtype=bool), key_bits=1024, limbs=16)
    for row, limb in ((0, 15), (0, 14), (0, 2)):
        changed = packed.copy()
        changed[row, limb] |= np.uint64(1 << 60)
        with pytest.raises(CryptoError, match="validity"):
            unpack_bits(changed, 100, key_bits=1024)
    with pytest.raises(CryptoError, match="validity"):
        unpack_bits(packed, 1000, key_bits=1024)
