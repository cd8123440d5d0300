"""Every operation on kept ciphertexts against Python integers."""

import functools
import math
import operator
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acie_native import (
    CipherArray,
    PaillierPublicContext,
    cpu_features,
    ints_to_limbs,
    limbs_to_ints,
)

from .conftest import KeyPair, seeded

SETTINGS = settings(
    max_examples=15,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
INT64 = st.integers(-(2**63), 2**63 - 1)
# Around the groups of eight.
COUNTS = [0, 1, 7, 8, 9, 17]


def edge_values(bound: int) -> list[int]:
    bits = bound.bit_length()
    rng = seeded(bits)
    values = [0, 1, 2, bound - 1, bound - 2, bound // 2, 2**64 - 1, 2**64, 2 ** (bits - 1) - 1]
    values += [2 ** (bits - 1), sum(1 << i for i in range(0, bits - 1, 64))]
    return [value for value in values if value < bound] + [rng.randrange(bound) for _ in range(4)]


def unit_values(pair: KeyPair, count: int) -> list[int]:
    rng = seeded(count)
    edges = [1, 2, pair.square - 1, pair.square - 2, pair.n + 1, pair.square - pair.n + 1]
    return (edges + [rng.randrange(1, pair.square) for _ in range(count)])[:count]


def loaded(pair: KeyPair, values: list[int]) -> CipherArray:
    return pair.public.load(ints_to_limbs(values, pair.public.ciphertext_limbs))


def plaintexts(pair: KeyPair, values: list[int]) -> np.ndarray:
    return ints_to_limbs(values, pair.public.plaintext_limbs)


def integers(array: CipherArray) -> list[int]:
    return limbs_to_ints(array.store())


def product(values: list[int], modulus: int) -> int:
    return functools.reduce(operator.mul, values, 1) % modulus


def test_store_returns_what_was_loaded(pair: KeyPair) -> None:
    values = [*edge_values(pair.square), pair.n, pair.p, pair.q, pair.n * (pair.n - 1)]
    array = loaded(pair, values)
    assert len(array) == len(values)
    assert array.context is pair.public
    assert integers(array) == values


def test_add(pair: KeyPair) -> None:
    values = edge_values(pair.square)
    for shift in range(len(values)):
        other = values[shift:] + values[:shift]
        got = integers(loaded(pair, values).add(loaded(pair, other)))
        assert got == [a * b % pair.square for a, b in zip(values, other, strict=True)]


def test_add_plain(pair: KeyPair) -> None:
    values = edge_values(pair.square)
    terms = (edge_values(pair.n) * 2)[: len(values)]
    got = integers(loaded(pair, values).add_plain(plaintexts(pair, terms)))
    assert got == [c * (1 + m * pair.n) % pair.square for c, m in zip(values, terms, strict=True)]


def test_scalar_mul_edges(pair: KeyPair) -> None:
    weights = [0, 1, -1, 2, 2**63 - 1, -(2**63), 2**32, -31, 32, 0, -1]
    values = unit_values(pair, len(weights))
    got = integers(loaded(pair, values).scalar_mul(np.array(weights)))
    assert got == [pow(c, k, pair.square) for c, k in zip(values, weights, strict=True)]


def test_positive_weights_need_no_inverse(small_pair: KeyPair) -> None:
    values = [0, small_pair.p, 5]
    got = integers(loaded(small_pair, values).scalar_mul(np.array([3, 2, -1])))
    assert got == [0, small_pair.p**2, pow(5, -1, small_pair.square)]


@pytest.mark.parametrize("threads", [0, 1, 3])
@pytest.mark.parametrize("count", COUNTS)
def test_every_operation_at_every_length(small_pair: KeyPair, count: int, threads: int) -> None:
    square, n = small_pair.square, small_pair.n
    rng = seeded(count)
    values = unit_values(small_pair, count)
    others = values[::-1]
    rows = ints_to_limbs(values, small_pair.public.ciphertext_limbs)
    a = small_pair.public.load(rows, threads=threads)
    b = loaded(small_pair, others)
    terms = [rng.randrange(n) for _ in values]
    weights = [rng.getrandbits(1 + 9 * i % 63) * (-1) ** i for i in range(count)]
    inverses = [pow(c, -1, square) for c in values]

    def check(array: CipherArray, want: list[int]) -> None:
        assert len(array) == len(want)
        assert limbs_to_ints(array.store(threads=threads)) == want

    check(a, values)
    check(a.add(b, threads=threads), [x * y % square for x, y in zip(values, others, strict=True)])
    check(a.negate(threads=threads), inverses)
    check(
        b.subtract(a, threads=threads),
        [x * y % square for x, y in zip(others, inverses, strict=True)],
    )
    check(
        a.add_plain(plaintexts(small_pair, terms), threads=threads),
        [c * (1 + m * n) % square for c, m in zip(values, terms, strict=True)],
    )
    check(
        a.scalar_mul(np.array(weights, dtype=np.int64), threads=threads),
        [pow(c, k, square) for c, k in zip(values, weights, strict=True)],
    )
    indices = [rng.randrange(count) for _ in range(2 * count)]
    check(
        a.take(np.array(indices, dtype=np.int64), threads=threads),
        [values[index] for index in indices],
    )
    check(CipherArray.concatenate([a, b, a], threads=threads), values + others + values)


@pytest.mark.parametrize(
    ("groups", "length"),
    [(0, 3), (1, 1), (3, 1), (1, 2), (1, 7), (2, 8), (5, 3), (9, 5), (17, 2), (1, 100), (3, 67)],
)
def test_sum(small_pair: KeyPair, groups: int, length: int) -> None:
    values = unit_values(small_pair, groups * length)
    array = loaded(small_pair, values)
    parts = [values[start : start + length] for start in range(0, len(values), length)]
    expected = [product(part, small_pair.square) for part in parts]
    for threads in (0, 1, 2, 5):
        assert integers(array.sum(length, threads=threads)) == expected


def test_operations_leave_their_operands_alone(small_pair: KeyPair) -> None:
    values = unit_values(small_pair, 9)
    a = loaded(small_pair, values)
    a.add(a)
    a.negate()
    a.scalar_mul(np.full(9, -3))
    a.sum(9)
    a.sum(1).add_plain(plaintexts(small_pair, [1] * 9))
    assert integers(a) == values


def test_long_chains_stay_exact(small_pair: KeyPair) -> None:
    # Kept values are not fully reduced: what operations leave over must never add up.
    n, square = small_pair.n, small_pair.square
    values = [square - 1, square - n + 1, n + 1, 1, 2]
    array, want = loaded(small_pair, values), values
    term = plaintexts(small_pair, [n - 1] * len(values))
    for _ in range(300):
        array = array.add_plain(term)
        want = [c * (1 + (n - 1) * n) % square for c in want]
    array = array.add(array).add(array)
    assert integers(array) == [pow(c, 3, square) for c in want]


@SETTINGS
@given(data=st.data())
def test_the_homomorphism(small_pair: KeyPair, data: st.DataObject) -> None:
    n = small_pair.n
    count = data.draw(st.integers(1, 10))
    numbers = st.lists(st.integers(0, n - 1), min_size=count, max_size=count)
    a, b, c = (data.draw(numbers) for _ in range(3))
    k = data.draw(st.lists(INT64, min_size=count, max_size=count))
    public, private = small_pair.public, small_pair.private
    x, y = (public.load(public.encrypt(plaintexts(small_pair, values))) for values in (a, b))
    result = x.subtract(y).scalar_mul(np.array(k)).add_plain(plaintexts(small_pair, c))
    want = [((p - q) * w + r) % n for p, q, w, r in zip(a, b, k, c, strict=True)]
    assert limbs_to_ints(private.decrypt(result.store())) == want
    assert limbs_to_ints(private.decrypt(result.sum(count).store())) == [sum(want) % n]


@SETTINGS
@given(data=st.data())
def test_rows_go_where_indices_say(small_pair: KeyPair, data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(0, 20), min_size=1, max_size=4))
    values = [[100 * part + row + 1 for row in range(n)] for part, n in enumerate(lengths)]
    joined = CipherArray.concatenate([loaded(small_pair, part) for part in values])
    flat = [value for part in values for value in part]
    assert integers(joined) == flat
    indices = data.draw(st.lists(st.integers(0, max(len(flat) - 1, 0)), max_size=20))
    chosen = indices if flat else []
    got = joined.take(np.array(chosen, dtype=np.int64))
    assert integers(got) == [flat[index] for index in chosen]


@pytest.mark.parametrize("bits", [512, 1000, 1537, 3072])
def test_paths_agree_bit_for_bit(bits: int) -> None:
    # All bits of a modulus set, and hardly any: neither is a product of two primes.
    for n in (2**bits - 1, 2 ** (bits - 1) + 1):
        square, rng = n * n, seeded(bits)
        limbs = -(-bits // 64)
        values = [c for c in edge_values(square) if math.gcd(c, n) == 1]
        while len(values) < 17:
            candidate = rng.randrange(square)
            values += [candidate] if math.gcd(candidate, n) == 1 else []
        weights = np.array([rng.getrandbits(40) * (-1) ** i for i in range(len(values))])
        terms = ints_to_limbs([n - 1 - i for i in range(len(values))], limbs)
        results = []
        for path in cpu_features().available:
            public = PaillierPublicContext(n, base=1, window_bits=1, isa=path)
            a = public.load(ints_to_limbs(values, 2 * limbs))
            b = a.negate()
            scaled = a.scalar_mul(weights)
            chain = b.subtract(scaled).add_plain(terms).add(a)
            results.append([x.store() for x in (a, b, scaled, chain, chain.sum(len(a)))])
        want = [pow(c, int(k), square) for c, k in zip(values, weights, strict=True)]
        assert limbs_to_ints(results[0][2]) == want
        for other in results[1:]:
            assert all((x == y).all() for x, y in zip(results[0], other, strict=True))


def test_arrays_shared_by_many_threads(small_pair: KeyPair) -> None:
    values = unit_values(small_pair, 40)
    a = loaded(small_pair, values)
    b = a.negate()

    def work(turn: int) -> list[list[int]]:
        rolled = np.roll(np.arange(40), turn)
        moved = a.take(rolled, threads=2)
        return [
            integers(moved.add(b.take(rolled), threads=2)),
            integers(a.sum(40, threads=2)),
            integers(moved.scalar_mul(np.full(40, -1), threads=2)),
        ]

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(24)))
    for turn, (ones, total, inverse) in enumerate(results):
        assert ones == [1] * 40
        assert total == [product(values, small_pair.square)]
        assert inverse == [
            pow(c, -1, small_pair.square) for c in np.roll(np.array(values, dtype=object), turn)
        ]


class TestBoundary:
    def test_range_names_the_row(self, small_pair: KeyPair) -> None:
        with pytest.raises(ValueError, match="ciphertext 9 is not below n squared"):
            loaded(small_pair, [1] * 9 + [small_pair.square])
        with pytest.raises(ValueError, match="plaintext 1 is not below n"):
            loaded(small_pair, [1, 1]).add_plain(plaintexts(small_pair, [0, small_pair.n]))

    @pytest.mark.parametrize("count", [1, 9, 40])
    def test_inversion_names_the_first_row(self, small_pair: KeyPair, count: int) -> None:
        for bad in {0, count // 2, count - 1}:
            values = unit_values(small_pair, count)
            values[bad] = small_pair.p
            values[-1] = 0 if bad < count - 1 else values[-1]
            array = loaded(small_pair, values)
            message = f"ciphertext {bad} shares a factor with n"
            with pytest.raises(ValueError, match=message):
                array.negate(threads=1)
            with pytest.raises(ValueError, match=message):
                array.subtract(array, threads=3)
            weights = np.ones(count, dtype=np.int64)
            weights[bad] = -2
            with pytest.raises(ValueError, match=message):
                array.scalar_mul(weights)

    def test_other_modulus_or_path_refused(self, small_pair: KeyPair) -> None:
        public = small_pair.public
        mine = loaded(small_pair, [1])
        contexts = [PaillierPublicContext(small_pair.n + 2, base=1, window_bits=1)]
        if public.isa == "avx512ifma":
            contexts.append(
                PaillierPublicContext(small_pair.n, base=1, window_bits=1, isa="portable")
            )
        for context in contexts:
            other = context.load(ints_to_limbs([1], public.ciphertext_limbs))
            works: list[Callable[[], object]] = [
                lambda other=other: mine.add(other),
                lambda other=other: mine.subtract(other),
                lambda other=other: CipherArray.concatenate([mine, other]),
            ]
            for work in works:
                with pytest.raises(ValueError, match="different moduli or kept by different"):
                    work()

    def test_equal_contexts_mix(self, small_pair: KeyPair) -> None:
        public = small_pair.public
        twin = PaillierPublicContext(small_pair.n, base=1, window_bits=1, isa=public.isa)
        other = twin.load(ints_to_limbs([3], public.ciphertext_limbs))
        assert integers(loaded(small_pair, [2]).add(other)) == [6]

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            ([[1]], "must be a uint64 array, got list"),
            (np.zeros((1, 16), dtype=np.int64), "must be a uint64 array, got int64"),
            (np.zeros((1, 15), dtype=np.uint64), r"must have shape \[count, 16\], got \[1, 15\]"),
            (np.zeros((4, 16), dtype=np.uint64)[::2], "must be C-contiguous"),
        ],
    )
    def test_rows_refused(self, small_pair: KeyPair, array: object, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            small_pair.public.load(array)  # type: ignore[arg-type]

    def test_lengths_must_match(self, small_pair: KeyPair) -> None:
        array = loaded(small_pair, [1, 2, 3])
        with pytest.raises(ValueError, match="must have 3 rows, got 2"):
            array.add(loaded(small_pair, [1, 2]))
        with pytest.raises(ValueError, match="must have 3 rows, got 4"):
            array.subtract(loaded(small_pair, [1, 2, 3, 4]))
        with pytest.raises(ValueError, match="must have 3 rows, got 1"):
            array.add_plain(plaintexts(small_pair, [1]))
        with pytest.raises(ValueError, match=r"weights must have shape \[3\], got \[2\]"):
            array.scalar_mul(np.array([1, 2]))
        with pytest.raises(ValueError, match="at least one array"):
            CipherArray.concatenate([])
        for group in (2, 4):
            with pytest.raises(ValueError, match="divide the length 3"):
                array.sum(group)
        for group in (-1, 0):
            with pytest.raises(ValueError, match=f"group must be 1 to .*, got {group}"):
                array.sum(group)

    @pytest.mark.parametrize(
        ("weights", "message"),
        [
            ([1, 2], "must be an int64 array, got list"),
            (np.array([1.0, 2.0]), "must be an int64 array, got float64"),
            (np.array([1, 2], dtype=np.uint64), "must be an int64 array, got uint64"),
            (np.array([[1], [2]]), "must have one axis"),
            (np.arange(4)[::2], "must be C-contiguous"),
        ],
    )
    def test_weights_and_indices_refused(
        self, small_pair: KeyPair, weights: object, message: str
    ) -> None:
        array = loaded(small_pair, [1, 2])
        with pytest.raises(ValueError, match=message):
            array.scalar_mul(weights)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=message):
            array.take(weights)  # type: ignore[arg-type]

    def test_indices_out_of_range(self, small_pair: KeyPair) -> None:
        array = loaded(small_pair, [1, 2])
        for index in (-1, 2, 2**62):
            with pytest.raises(IndexError, match="index 1 is out of range"):
                array.take(np.array([0, index]))
        assert len(array.take(np.empty(0, dtype=np.int64))) == 0

    def test_threads_refused(self, small_pair: KeyPair) -> None:
        with pytest.raises(ValueError, match="threads must be 0"):
            loaded(small_pair, [1]).negate(threads=-1)
