"""Operators and indices of encrypted tensors against NumPy, and what they refuse."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acie_pipelines.crypto.cipher_tensor import CipherTensor
from acie_pipelines.crypto.keys import PaillierPrivateKey
from acie_pipelines.crypto.packing import PackingLayout, layout_for, unpacked_layout
from acie_pipelines.errors import CryptoError

relaxed = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
UNPACKED = unpacked_layout(key_bits=1024)


def packed(slots: int, fractional_bits: int = 0, additions: int = 2**20) -> PackingLayout:
    sized = layout_for(20, key_bits=1024, additions=additions, fractional_bits=fractional_bits)
    return PackingLayout(sized.slot_bits, sized.value_bits, slots, fractional_bits)


def encrypted(
    values: Any, key: PaillierPrivateKey, layout: PackingLayout = UNPACKED
) -> CipherTensor:
    return CipherTensor.encrypt(np.asarray(values), key.public_key, layout)


@relaxed
@given(data=st.data())
def test_unpacked_tensors_compute_as_numpy_does(
    private_key: PaillierPrivateKey, data: st.DataObject
) -> None:
    shape = data.draw(st.sampled_from([(), (1,), (5,), (2, 3), (3, 2, 2)]))
    seed = data.draw(st.integers(0, 2**32))
    rng = np.random.default_rng(seed)
    a, b = rng.integers(-(2**31), 2**31, (2, *shape))
    weights = rng.integers(-1000, 1000, shape) | 1
    x, y = encrypted(a, private_key), encrypted(b, private_key)
    results = {
        "add": (x + y, a + b),
        "subtract": (x - y, a - b),
        "plain": (b + x - 7 + a, a + b - 7 + a),
        "from plain": (b - x, b - a),
        "negate": (-x, -a),
        "weights": (x * weights, a * weights),
        "scalar": (-3 * x, -3 * a),
        "sum": (x.sum(), a.sum()),
        "reshape": (x.reshape(-1), a.reshape(-1)),
    }
    for name, (ours, theirs) in results.items():
        assert ours.shape == np.shape(theirs), name
        assert np.array_equal(ours.decrypt(private_key), theirs), name
        assert np.abs(theirs).max(initial=0) <= ours.bound, name
    for axis in range(len(shape)):
        summed = x.sum(axis)
        assert np.array_equal(summed.decrypt(private_key), a.sum(axis))
        assert np.array_equal(
            x.sum((axis, 0) if axis else 0).shape, a.sum((axis, 0) if axis else 0).shape
        )


@relaxed
@given(data=st.data())
def test_matrix_products(private_key: PaillierPrivateKey, data: st.DataObject) -> None:
    k, m, c = (data.draw(st.integers(1, 5)) for _ in range(3))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    vector, matrix = rng.integers(-(2**31), 2**31, k), rng.integers(-(2**31), 2**31, (k, c))
    weights = rng.integers(-128, 128, (m, k))
    x, y = encrypted(vector, private_key), encrypted(matrix, private_key)
    for ours, theirs in (
        (weights @ x, weights @ vector),
        (weights[0] @ x, weights[0] @ vector),
        (x @ weights.T, vector @ weights.T),
        (weights @ y, weights @ matrix),
        (weights[0] @ y, weights[0] @ matrix),
        (y.reshape(c, k) @ weights.T, matrix.reshape(c, k) @ weights.T),
        (y.reshape(c, k) @ weights[0], matrix.reshape(c, k) @ weights[0]),
    ):
        assert ours.shape == np.shape(theirs)
        assert np.array_equal(ours.decrypt(private_key), theirs)
        assert np.abs(theirs).max() <= ours.bound


@pytest.mark.parametrize(
    "key",
    [
        0, -1, slice(None), slice(4, 1, -2), [2, 0, 2], (1, 2), (slice(None), 1), ..., None,
        (slice(1, 3), [0, 2]), np.arange(12).reshape(4, 3) % 5 == 0, slice(0, 0),
    ],
    ids=str,
)  # fmt: skip
def test_every_index_of_unpacked_tensors(private_key: PaillierPrivateKey, key: Any) -> None:
    values = np.arange(12).reshape(4, 3)
    chosen = encrypted(values, private_key)[key]
    assert chosen.shape == values[key].shape
    assert np.array_equal(chosen.decrypt(private_key), values[key])


def test_packed_rows_of_whole_ciphertexts(private_key: PaillierPrivateKey) -> None:
    values = np.random.default_rng(1).integers(-(2**19), 2**19, (6, 4, 5))
    tensor = encrypted(values, private_key, packed(10))
    weights = np.random.default_rng(2).integers(-100, 100, (3, 6))
    weights[1] = 0
    for ours, theirs in (
        (tensor[2], values[2]),
        (tensor[1:4], values[1:4]),
        (tensor[::-2], values[::-2]),
        (tensor[[3, 3, 0]], values[[3, 3, 0]]),
        (tensor.sum(0), values.sum(0)),
        (weights @ tensor.reshape(6, 20), weights @ values.reshape(6, 20)),
        (weights[0] @ tensor.reshape(6, -1), weights[0] @ values.reshape(6, 20)),
        (-tensor + tensor[0:6] * 3 - values, 2 * values - values),
    ):
        assert ours.shape == theirs.shape
        assert np.array_equal(ours.decrypt(private_key), theirs)
    with pytest.raises(IndexError):
        tensor[6]


def test_packed_slices_at_ciphertext_borders(private_key: PaillierPrivateKey) -> None:
    values = np.arange(25)
    tensor = encrypted(values, private_key, packed(10))
    for key in (slice(10, 20), slice(10, None), slice(None, 20), slice(20, 25), slice(None)):
        assert np.array_equal(tensor[key].decrypt(private_key), values[key])
    for key in (slice(5, 20), slice(0, 15), slice(None, None, 2), 3, [1, 2], (0,)):
        with pytest.raises(CryptoError, match="unpacked_layout"):
            tensor[key]


def test_what_packing_makes_impossible_is_refused(private_key: PaillierPrivateKey) -> None:
    tensor = encrypted(np.arange(20).reshape(4, 5), private_key, packed(10))
    weights = np.ones((2, 4), dtype=np.int64)
    attempts: list[Callable[[], object]] = [
        lambda: tensor.sum(),
        lambda: tensor.sum(1),
        lambda: tensor.sum(0),
        lambda: tensor * np.arange(20).reshape(4, 5),
        lambda: weights @ tensor,
        lambda: tensor @ weights.T[:4],
    ]
    for attempt in attempts:
        with pytest.raises(CryptoError, match="unpacked_layout"):
            attempt()
    with pytest.raises(CryptoError, match="shapes"):
        tensor + np.ones((2, 4, 5), dtype=np.int64)
    with pytest.raises(CryptoError, match="layouts"):
        tensor + encrypted(np.arange(20).reshape(4, 5), private_key)


@relaxed
@given(
    st.lists(st.integers(-(2**20), 2**20), min_size=1, max_size=6),
    st.integers(0, 12),
    st.integers(0, 20),
    st.integers(-(2**30), 2**30).filter(bool),
)
def test_scales_multiply_and_align_exactly(
    private_key: PaillierPrivateKey, numbers: list[int], bits: int, weight_bits: int, factor: int
) -> None:
    values = np.array(numbers) / 2.0**bits
    weight = factor / 2.0**weight_bits
    layout = unpacked_layout(key_bits=1024, value_bits=40, fractional_bits=bits)
    tensor = encrypted(values, private_key, layout)
    product = tensor * weight
    assert 0 <= product.layout.fractional_bits - bits <= weight_bits
    assert np.array_equal(product.decrypt(private_key), values * weight)
    mixed = product + tensor
    assert np.array_equal(mixed.decrypt(private_key), values * weight + values)
    assert np.array_equal(
        (tensor - mixed).decrypt(private_key), values - (values * weight + values)
    )


def test_packed_floats(private_key: PaillierPrivateKey) -> None:
    values = np.linspace(-3, 3, 30)
    exact = np.rint(values * 16) / 16
    tensor = encrypted(values, private_key, packed(10, fractional_bits=4))
    assert np.array_equal((tensor * -0.75).decrypt(private_key), exact * -0.75)
    assert np.array_equal((tensor * 0.5 + tensor).decrypt(private_key), exact * 1.5)
    assert np.array_equal((tensor + values + 1).decrypt(private_key), 2 * exact + 1)


def test_values_beyond_64_bits(private_key: PaillierPrivateKey) -> None:
    values = np.array([2**61 - 1, -(2**61)])
    tensor = encrypted(values, private_key, unpacked_layout(key_bits=1024, value_bits=62))
    for _ in range(5):
        tensor = tensor * (2**62 - 1)
    exact = [int(value) * (2**62 - 1) ** 5 for value in values]
    assert tensor.decrypt_integers(private_key).tolist() == exact
    layout = unpacked_layout(key_bits=1024, value_bits=62, fractional_bits=3)
    scaled = encrypted(np.array([1.5, -0.125]), private_key, layout) * (2**62 - 1)
    assert scaled.decrypt(private_key).tolist() == [1.5 * (2**62 - 1), -0.125 * (2**62 - 1)]


def test_overflow_is_refused_before_it_happens(private_key: PaillierPrivateKey) -> None:
    tensor = encrypted(np.full(3, 2**31 - 1), private_key)
    limit = UNPACKED.maximum_weight
    heavy = tensor
    while heavy.weight * 2**60 <= limit:
        heavy = heavy * 2**60
    exact = [(2**31 - 1) * heavy.weight] * 3
    assert heavy.decrypt_integers(private_key).tolist() == exact
    narrow = encrypted(np.full((4, 10), 5), private_key, packed(10, additions=3))
    attempts: list[Callable[[], object]] = [
        lambda: heavy * 2**60,
        lambda: heavy * (limit // heavy.weight) + heavy,
        lambda: np.full((1, 3), 2**62) @ heavy,
        lambda: narrow.sum(0),
        lambda: narrow + narrow + narrow + 1 + narrow,
        lambda: narrow * 4,
        lambda: np.full((1, 4), -1) @ narrow,
    ]
    for attempt in attempts:
        with pytest.raises(CryptoError, match="overflow"):
            attempt()
    assert narrow[:3].sum(0).decrypt(private_key).tolist() == [15] * 10


def test_operands_that_do_not_fit_are_refused(private_key: PaillierPrivateKey) -> None:
    tensor = encrypted(np.arange(6).reshape(2, 3), private_key)
    fine = unpacked_layout(key_bits=1024, fractional_bits=1090)
    tiny = encrypted(np.zeros(2), private_key, fine)
    attempts: list[tuple[str, Callable[[], object]]] = [
        ("not finite", lambda: tensor * np.nan),
        ("do not fit 64 bits", lambda: tensor * np.array([1e-12, 1e9, 1.0])),
        ("int64", lambda: tensor * np.uint64(2**63)),
        ("scale", lambda: tiny * 2.0**-20),
        ("exactly", lambda: tensor.at_scale(-1)),
        ("exactly", lambda: tensor + tiny.reshape(2, 1)),
        ("do not fit 32 bits", lambda: tensor + 2**31),
        ("do not match", lambda: np.ones((2, 3), dtype=np.int64) @ tensor),
        ("no matrix product", lambda: np.ones((2, 2, 2), dtype=np.int64) @ tensor),
        ("shapes", lambda: tensor + encrypted(np.arange(4), private_key)),
        ("not empty", lambda: tensor[:0].sum()),
    ]
    for reason, attempt in attempts:
        with pytest.raises(CryptoError, match=reason):
            attempt()
    with pytest.raises(TypeError):
        iter(tensor)  # type: ignore[call-overload]


def test_rows_are_kept_without_a_copy(private_key: PaillierPrivateKey) -> None:
    tensor = encrypted(np.arange(4), private_key)
    limbs = tensor.ciphertexts
    again = CipherTensor.from_ciphertexts(limbs, private_key.public_key, UNPACKED, (4,))
    assert again.ciphertexts is limbs
    with pytest.raises(ValueError, match="read-only"):
        (tensor + 1).ciphertexts[0, 0] = 0
