"""Encrypted dot and matrix products against Python integers."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acie_native import CipherArray, ints_to_limbs, limbs_to_ints

from .conftest import KeyPair, seeded

SETTINGS = settings(
    max_examples=20,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def units(pair: KeyPair, count: int) -> list[int]:
    rng = seeded(count)
    edges = [1, 2, pair.square - 1, pair.n + 1, pair.square - pair.n + 1]
    return (edges + [rng.randrange(1, pair.square) for _ in range(count)])[:count]


def loaded(pair: KeyPair, values: list[int]) -> CipherArray:
    return pair.public.load(ints_to_limbs(values, pair.public.ciphertext_limbs))


def powers(pair: KeyPair, weights: np.ndarray, values: list[int], columns: int) -> list[int]:
    products = []
    for row in weights.tolist():
        for column in range(columns):
            product = 1
            for weight, value in zip(row, values[column::columns], strict=True):
                product = product * pow(value, weight, pair.square) % pair.square
            products.append(product)
    return products


def check(
    pair: KeyPair, weights: np.ndarray, columns: int, threads: tuple[int, ...] = (1,)
) -> None:
    values = units(pair, weights.shape[1] * columns)
    array, expected = loaded(pair, values), powers(pair, weights, values, columns)
    for count in threads:
        got = array.matmul(weights, threads=count)
        assert len(got) == len(weights) * columns
        assert limbs_to_ints(got.store()) == expected


@pytest.mark.parametrize(
    ("shape", "columns"),
    [
        *[(shape, columns) for shape in [(1, 1), (1, 40), (40, 1)] for columns in (1, 11)],
        *[(shape, columns) for shape in [(9, 20), (20, 9)] for columns in (1, 3, 8)],
    ],
)
def test_signed_bytes(small_pair: KeyPair, shape: tuple[int, int], columns: int) -> None:
    weights = np.random.default_rng(shape[0]).integers(-128, 128, shape)
    check(small_pair, weights, columns, threads=(0, 1, 3))


def test_columns_beyond_one_block(small_pair: KeyPair) -> None:
    # Columns repeat, so that few powers need to be known.
    weights = np.random.default_rng(4).integers(0, 256, (7, 8))
    few = units(small_pair, 8 * 11)
    column = np.arange(500) % 11

    def repeated(values: list[int], rows: int) -> list[int]:
        return np.array(values, dtype=object).reshape(rows, 11)[:, column].reshape(-1).tolist()

    array, expected = loaded(small_pair, repeated(few, 8)), powers(small_pair, weights, few, 11)
    for threads in (0, 1, 3):
        got = array.matmul(weights, threads=threads)
        assert limbs_to_ints(got.store()) == repeated(expected, 7)


def test_every_size_of_modulus(pair: KeyPair) -> None:
    check(pair, np.random.default_rng(1).integers(-100, 100, (6, 5)), 2)


@SETTINGS
@given(data=st.data())
def test_any_weights(small_pair: KeyPair, data: st.DataObject) -> None:
    outputs, bases = data.draw(st.integers(1, 12)), data.draw(st.integers(1, 12))
    kind = data.draw(
        st.sampled_from(
            [
                st.integers(-(2**63), 2**63 - 1),
                st.integers(0, 2**63 - 1),
                st.integers(-1, 1),
                st.just(0),
                st.sampled_from([0] * 20 + [-3, 1, 2**40]),
                st.sampled_from([-(2**63), -1, 0, 1, 2**63 - 1]),
            ]
        )
    )
    flat = data.draw(st.lists(kind, min_size=outputs * bases, max_size=outputs * bases))
    weights = np.array(flat, dtype=np.int64).reshape(outputs, bases)
    check(small_pair, weights, data.draw(st.integers(1, 3)))


@pytest.mark.parametrize("shape", [(512, 4), (4, 512)])
def test_programs_for_many_outputs_and_for_many_bases(
    small_pair: KeyPair, shape: tuple[int, int]
) -> None:
    check(small_pair, np.random.default_rng(2).integers(-128, 128, shape), 1, threads=(0, 1))


def test_sparse_and_transposed_weights(small_pair: KeyPair) -> None:
    difference = np.eye(30, 31, 1, dtype=np.int64) - np.eye(30, 31, dtype=np.int64)
    check(small_pair, difference, 1)
    check(small_pair, difference.T, 2)


def test_plaintexts_are_multiplied(small_pair: KeyPair) -> None:
    rng = np.random.default_rng(3)
    weights, values = rng.integers(-128, 128, (7, 10)), rng.integers(-1000, 1000, (10, 2))
    numbers = [int(value) % small_pair.n for value in values.ravel()]
    public = small_pair.public
    array = public.load(public.encrypt(ints_to_limbs(numbers, public.plaintext_limbs)))
    plain = limbs_to_ints(small_pair.private.decrypt(array.matmul(weights).store()))
    assert plain == [int(value) % small_pair.n for value in (weights @ values).ravel()]


@pytest.mark.parametrize("negatives", [1, 40])
@pytest.mark.parametrize("at", [0, 5, 19])
def test_ciphertexts_without_inverse_are_named(
    small_pair: KeyPair, at: int, negatives: int
) -> None:
    values = units(small_pair, 20)
    values[at] = small_pair.p * 3
    weights = np.ones((4, 10), dtype=np.int64)
    weights.ravel()[:negatives] = -77
    weights[:, at // 2] = -1
    with pytest.raises(ValueError, match=f"ciphertext {at} shares a factor"):
        loaded(small_pair, values).matmul(weights, threads=1)
    # Without negative weights there is nothing to invert.
    check_powers = powers(small_pair, np.abs(weights), values, 2)
    assert limbs_to_ints(loaded(small_pair, values).matmul(np.abs(weights)).store()) == check_powers


@pytest.mark.parametrize(
    "weights",
    [
        np.ones((2, 4), dtype=np.int64),
        np.ones((0, 6), dtype=np.int64),
        np.ones((6, 0), dtype=np.int64),
        np.ones(6, dtype=np.int64),
        np.ones((2, 3)),
        [[1, 2, 3]],
    ],
)
def test_weights_that_do_not_match_are_refused(small_pair: KeyPair, weights: np.ndarray) -> None:
    with pytest.raises(ValueError, match="weights"):
        loaded(small_pair, units(small_pair, 6)).matmul(weights)
    with pytest.raises(ValueError, match="do not match 0"):
        loaded(small_pair, []).matmul(np.ones((2, 3), dtype=np.int64))
