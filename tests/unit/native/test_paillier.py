"""Every batch operation against Python integers."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from acie_native import (
    PaillierPrivateContext,
    PaillierPublicContext,
    cpu_features,
    ints_to_limbs,
    limbs_to_ints,
)

from .conftest import KeyPair, prime_of, seeded

SETTINGS = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
INT64 = st.integers(-(2**63), 2**63 - 1)


def edge_values(bound: int) -> list[int]:
    """Values below bound with long carries, full limbs and empty limbs."""
    bits = bound.bit_length()
    rng = seeded(bits)
    candidates = [0, 1, 2, bound - 1, bound - 2, bound // 2, 2**64 - 1, 2**64, 2 ** (bits - 1) - 1]
    candidates += [
        2 ** (bits - 1),
        2 ** (bits - 64) - 1,
        sum(1 << i for i in range(0, bits - 1, 64)),
    ]
    candidates += [rng.randrange(bound) for _ in range(4)]
    return [value for value in candidates if value < bound]


def units(pair: KeyPair) -> list[int]:
    return [c for c in edge_values(pair.square) if math.gcd(c, pair.n) == 1]


def plaintexts(pair: KeyPair, values: list[int]) -> np.ndarray:
    return ints_to_limbs(values, pair.public.plaintext_limbs)


def ciphertexts(pair: KeyPair, values: list[int]) -> np.ndarray:
    return ints_to_limbs(values, pair.public.ciphertext_limbs)


def sum_of(public: PaillierPublicContext, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return public.load(a).add(public.load(b)).store()


def test_attributes(pair: KeyPair) -> None:
    public = pair.public
    assert public.n == pair.private.n == pair.n
    assert public.plaintext_limbs == -(-pair.n.bit_length() // 64)
    assert public.ciphertext_limbs == 2 * public.plaintext_limbs
    assert public.exponent_bits == -(-pair.n.bit_length() // 2)
    assert public.base == pair.private.base


def test_base_is_an_nth_residue_of_minus_a_square(pair: KeyPair) -> None:
    # x^(n lambda) = 1 for every unit, so an n-th residue has order dividing lambda.
    lam = math.lcm(pair.p - 1, pair.q - 1)
    assert pow(pair.public.base, lam, pair.square) == 1
    # The n-th power keeps the Legendre symbols: -(x^2) has those of -1.
    for prime in (pair.p, pair.q):
        half = (prime - 1) // 2
        assert pow(pair.public.base, half, prime) == pow(-1, half, prime)


def test_random_bases_differ(small_pair: KeyPair) -> None:
    again = PaillierPublicContext(small_pair.n, window_bits=1)
    assert again.base != small_pair.public.base


def test_encrypt_with_exponents(pair: KeyPair) -> None:
    public = pair.public
    values = edge_values(pair.n)
    exponents = (edge_values(1 << public.exponent_bits) * 2)[: len(values)]
    limbs = -(-public.exponent_bits // 64)
    got = public.encrypt_with_exponents(plaintexts(pair, values), ints_to_limbs(exponents, limbs))
    want = [
        (1 + m * pair.n) * pow(public.base, a, pair.square) % pair.square
        for m, a in zip(values, exponents, strict=True)
    ]
    assert limbs_to_ints(got) == want


@pytest.mark.parametrize("window_bits", [1, 3, 6, 7, 10])
def test_every_window_gives_the_same_power(small_pair: KeyPair, window_bits: int) -> None:
    public = PaillierPublicContext(
        small_pair.n,
        base=small_pair.public.base,
        window_bits=window_bits,
        isa=small_pair.public.isa,
    )
    exponents = edge_values(1 << public.exponent_bits)
    rows = plaintexts(small_pair, [5] * len(exponents))
    limbs = ints_to_limbs(exponents, -(-public.exponent_bits // 64))
    want = small_pair.public.encrypt_with_exponents(rows, limbs)
    assert (public.encrypt_with_exponents(rows, limbs) == want).all()


def test_encrypt_with_r(pair: KeyPair) -> None:
    values = edge_values(pair.n)
    r = [value or 7 for value in reversed(values)]
    got = pair.public.encrypt_with_r(plaintexts(pair, values), plaintexts(pair, r))
    want = [
        (1 + m * pair.n) * pow(x, pair.n, pair.square) % pair.square
        for m, x in zip(values, r, strict=True)
    ]
    assert limbs_to_ints(got) == want


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_round_trips(pair: KeyPair, threads: int) -> None:
    values = edge_values(pair.n)
    rows = plaintexts(pair, values)
    for context in (pair.public, pair.private):
        encrypted = context.encrypt(rows, threads=threads)
        assert limbs_to_ints(pair.private.decrypt(encrypted, threads=threads)) == values
        assert len(set(limbs_to_ints(encrypted))) == len(values)
        assert pair.public.validate(encrypted).all()


def test_more_rows_than_a_block(small_pair: KeyPair) -> None:
    values = list(range(150))
    rows = plaintexts(small_pair, values)
    for context in (small_pair.public, small_pair.private):
        encrypted = context.encrypt(rows, threads=1)
        assert len(set(limbs_to_ints(encrypted))) == len(values)
        assert limbs_to_ints(small_pair.private.decrypt(encrypted)) == values


def test_private_encryption_draws_from_the_public_generator(small_pair: KeyPair) -> None:
    # With base 1 all randomness disappears, on both sides.
    private = PaillierPrivateContext(small_pair.p, small_pair.q, base=1, window_bits=2)
    public = PaillierPublicContext(small_pair.n, base=1, window_bits=2)
    rows = plaintexts(small_pair, [0, 1, small_pair.n - 1])
    want = [1, 1 + small_pair.n, 1 + (small_pair.n - 1) * small_pair.n]
    assert limbs_to_ints(private.encrypt(rows)) == want
    assert limbs_to_ints(public.encrypt(rows)) == want


def test_private_encryption_covers_the_generated_subgroup(small_pair: KeyPair) -> None:
    # A base of order 2 gives c = +-1: both must appear, and nothing else.
    base = small_pair.square - 1
    private = PaillierPrivateContext(small_pair.p, small_pair.q, base=base, window_bits=2)
    got = set(limbs_to_ints(private.encrypt(plaintexts(small_pair, [0] * 64))))
    assert got == {1, base}


def test_decryption_of_any_unit(pair: KeyPair) -> None:
    values = units(pair)
    lam = math.lcm(pair.p - 1, pair.q - 1)
    want = [
        (pow(c, lam, pair.square) - 1) // pair.n * pow(lam, -1, pair.n) % pair.n for c in values
    ]
    assert limbs_to_ints(pair.private.decrypt(ciphertexts(pair, values))) == want


def test_prime_order_does_not_matter(pair: KeyPair) -> None:
    other = PaillierPrivateContext(pair.q, pair.p, base=pair.public.base, window_bits=2)
    encrypted = pair.public.encrypt(plaintexts(pair, edge_values(pair.n)))
    assert (other.decrypt(encrypted) == pair.private.decrypt(encrypted)).all()


def test_rerandomise_keeps_plaintexts_only(pair: KeyPair) -> None:
    values = edge_values(pair.n)
    encrypted = pair.public.encrypt(plaintexts(pair, values))
    fresh = pair.public.rerandomise(encrypted)
    assert limbs_to_ints(pair.private.decrypt(fresh)) == values
    assert not set(limbs_to_ints(fresh)) & set(limbs_to_ints(encrypted))


@pytest.mark.parametrize("threads", [1, 4])
def test_validate(pair: KeyPair, threads: int) -> None:
    top = 2 ** (128 * pair.public.plaintext_limbs) - 1
    bad = [0, pair.n, pair.p, pair.q * 3, pair.p * pair.n, pair.square, top]
    values = [1, pair.square - 1, *bad, 2, pair.n + 1]
    got = pair.public.validate(ciphertexts(pair, values), threads=threads)
    assert got.dtype == np.bool_
    want = [0 < c < pair.square and math.gcd(c, pair.n) == 1 for c in values]
    assert got.tolist() == want
    assert sum(want) == 4


@pytest.mark.parametrize("count", [1, 7, 8, 9, 40])
def test_validate_finds_every_bad_row(small_pair: KeyPair, count: int) -> None:
    bad = [0, small_pair.p, small_pair.square, small_pair.q**2]
    for places in ({0}, {count - 1}, {0, count // 2, count - 1}, set(range(count)), set()):
        values = [bad[i % 4] if i in places else i + 1 for i in range(count)]
        got = small_pair.public.validate(ciphertexts(small_pair, values))
        assert got.tolist() == [i not in places for i in range(count)]


def test_one_context_in_many_threads(small_pair: KeyPair) -> None:
    public, private = small_pair.public, small_pair.private
    rng = seeded(3)
    batches = [[rng.randrange(small_pair.n) for _ in range(5)] for _ in range(24)]

    def work(values: list[int]) -> list[int]:
        rows = plaintexts(small_pair, values)
        doubled = sum_of(public, public.encrypt(rows), private.encrypt(rows))
        return limbs_to_ints(private.decrypt(doubled, threads=2))

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, batches))
    assert results == [[2 * m % small_pair.n for m in values] for values in batches]


def test_paths_agree_bit_for_bit() -> None:
    rng = seeded(11)
    n = rng.getrandbits(1024) | 1 << 1023 | 1
    values = [rng.randrange(n) for _ in range(6)]
    exponents = ints_to_limbs([rng.getrandbits(512) for _ in values], 8)
    rows = ints_to_limbs(values, 16)
    base = pow(2, 2 * n, n * n)
    results = [
        PaillierPublicContext(n, base=base, window_bits=5, isa=path).encrypt_with_exponents(
            rows, exponents
        )
        for path in cpu_features().available
    ]
    assert all((result == results[-1]).all() for result in results)


# Around the vectors of eight ciphertexts, and around the 64 that share a scan of the table.
@pytest.mark.parametrize("count", [1, 7, 8, 9, 17, 64, 73])
def test_every_operation_at_every_batch_size(small_pair: KeyPair, count: int) -> None:
    public, private = small_pair.public, small_pair.private
    n, square = small_pair.n, small_pair.square
    rng = seeded(count)
    terms = [(n - 1 - i) if i % 3 else i for i in range(count)]
    exponents = [rng.getrandbits(public.exponent_bits) for _ in range(count)]
    m = plaintexts(small_pair, terms)

    def check(got: np.ndarray, want: list[int]) -> None:
        assert limbs_to_ints(got) == want

    check(
        public.encrypt_with_exponents(m, ints_to_limbs(exponents, 4), threads=1),
        [
            (1 + b * n) * pow(public.base, a, square) % square
            for a, b in zip(exponents, terms, strict=True)
        ],
    )
    r = [term or 7 for term in terms]
    check(
        public.encrypt_with_r(m, plaintexts(small_pair, r), threads=1),
        [(1 + b * n) * pow(x, n, square) % square for b, x in zip(terms, r, strict=True)],
    )
    for encrypted in (
        public.encrypt(m, threads=1),
        private.encrypt(m, threads=1),
        public.rerandomise(public.encrypt(m), threads=1),
    ):
        check(private.decrypt(encrypted, threads=1), terms)


@pytest.mark.parametrize("bits", [1012, 1013, 1026, 1027, 8200])
def test_sizes_at_which_vectors_grow(isa: str, bits: int) -> None:
    # Digits of 52 bits in tiles of ten; the largest is beyond what vectors hold.
    n = 2**bits - 1
    square = n * n
    public = PaillierPublicContext(n, base=square - 1, window_bits=1, isa=isa)
    values = edge_values(square)
    kept = public.load(ints_to_limbs(values, public.ciphertext_limbs))
    assert limbs_to_ints(kept.add(kept).store()) == [c * c % square for c in values]
    cubes = kept.scalar_mul(np.full(len(values), 3))
    assert limbs_to_ints(cubes.store()) == [c**3 % square for c in values]
    ones = 2 ** (bits // 2) - 1
    exponents = ints_to_limbs([0, 1, ones], -(-public.exponent_bits // 64))
    terms = ints_to_limbs([n - 1, 1, n - 1], public.plaintext_limbs)
    want = [(1 + (n - 1) * n), (1 + n) * (square - 1), (1 + (n - 1) * n) * (square - 1)]
    got = public.encrypt_with_exponents(terms, exponents)
    assert limbs_to_ints(got) == [c % square for c in want]


@pytest.mark.parametrize("bits", [2048, 3072])
def test_real_key_sizes(isa: str, bits: int) -> None:
    rng = seeded(bits)
    p, q = prime_of(bits // 2, rng), prime_of(bits // 2, rng)
    n = p * q
    public = PaillierPublicContext(n, window_bits=4, isa=isa)
    private = PaillierPrivateContext(p, q, base=public.base, window_bits=4, isa=isa)
    values = [0, 1, n - 1, rng.randrange(n)]
    rows = ints_to_limbs(values, bits // 64)
    exponents = [rng.getrandbits(bits // 2) for _ in values]
    got = public.encrypt_with_exponents(rows, ints_to_limbs(exponents, bits // 128))
    assert limbs_to_ints(got) == [
        (1 + m * n) * pow(public.base, a, n * n) % (n * n)
        for m, a in zip(values, exponents, strict=True)
    ]
    assert limbs_to_ints(private.decrypt(sum_of(public, got, private.encrypt(rows)))) == [
        2 * m % n for m in values
    ]


class TestBoundary:
    @pytest.mark.parametrize("n", [2**600, 2**511 - 1, 15, 2**512 + 2])
    def test_modulus_refused(self, n: int) -> None:
        with pytest.raises(ValueError, match="n must be odd and have at least 512 bits"):
            PaillierPublicContext(n)

    def test_primes_refused(self, small_pair: KeyPair) -> None:
        p = small_pair.p
        with pytest.raises(ValueError, match="p and q must differ"):
            PaillierPrivateContext(p, p)
        with pytest.raises(ValueError, match="q is not an odd prime"):
            PaillierPrivateContext(p, p + 2 if pow(2, p + 1, p + 2) != 1 else p + 4)
        with pytest.raises(ValueError, match="p is not an odd prime"):
            PaillierPrivateContext(-p, p)

    @pytest.mark.parametrize("base", [0, -1])
    def test_base_refused(self, small_pair: KeyPair, base: int) -> None:
        with pytest.raises(ValueError, match="base must lie between"):
            PaillierPublicContext(small_pair.n, base=base)
        with pytest.raises(ValueError, match="base must lie between"):
            PaillierPublicContext(small_pair.n, base=small_pair.square)
        with pytest.raises(ValueError, match="shares a factor"):
            PaillierPublicContext(small_pair.n, base=small_pair.p)

    def test_settings_refused(self, small_pair: KeyPair) -> None:
        n = small_pair.n
        with pytest.raises(ValueError, match="window_bits must be 1 to 10"):
            PaillierPublicContext(n, window_bits=11)
        with pytest.raises(ValueError, match="exponent_bits must be 256 to 512"):
            PaillierPublicContext(n, exponent_bits=255)
        with pytest.raises(ValueError, match="threads must be 0"):
            small_pair.public.encrypt(plaintexts(small_pair, [1]), threads=-1)

    def test_range_names_the_row(self, small_pair: KeyPair) -> None:
        public, n = small_pair.public, small_pair.n
        high = plaintexts(small_pair, [0, n - 1, n])
        with pytest.raises(ValueError, match="plaintext 2 is not below n"):
            public.encrypt(high)
        with pytest.raises(ValueError, match="plaintext 2 is not below n"):
            small_pair.private.encrypt(high)
        fine = plaintexts(small_pair, [1, 1, 1])
        with pytest.raises(ValueError, match="given randomness 2 is out of range"):
            public.encrypt_with_r(fine, high)
        with pytest.raises(ValueError, match="given randomness 1 is out of range"):
            public.encrypt_with_r(fine, plaintexts(small_pair, [1, 0, 1]))
        with pytest.raises(ValueError, match="given randomness 0 is out of range"):
            rows = ints_to_limbs([2**256 + 1], 5)
            PaillierPublicContext(n, exponent_bits=257, base=1).encrypt_with_exponents(
                plaintexts(small_pair, [1]), rows << np.uint64(1)
            )

    @pytest.mark.parametrize("name", ["load", "rerandomise", "decrypt"])
    def test_ciphertext_range(self, small_pair: KeyPair, name: str) -> None:
        rows = ciphertexts(small_pair, [1, small_pair.square])
        owner = small_pair.private if name == "decrypt" else small_pair.public
        with pytest.raises(ValueError, match="ciphertext 1 is not below n squared"):
            getattr(owner, name)(rows)

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            ([[1]], "must be a uint64 array, got list"),
            (np.zeros((1, 8), dtype=np.int64), "must be a uint64 array, got int64"),
            (np.zeros((1, 7), dtype=np.uint64), r"must have shape \[count, 8\], got \[1, 7\]"),
            (np.zeros(8, dtype=np.uint64), r"must have shape \[count, 8\]"),
            (np.zeros((4, 8), dtype=np.uint64)[::2], "must be C-contiguous"),
            (np.zeros((8, 4), dtype=np.uint64).T, "must be C-contiguous"),
        ],
    )
    def test_array_refused(self, small_pair: KeyPair, array: object, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            small_pair.public.encrypt(array)  # type: ignore[arg-type]

    def test_row_counts_must_match(self, small_pair: KeyPair) -> None:
        rows = plaintexts(small_pair, [1, 2])
        with pytest.raises(ValueError, match="must have 2 rows, got 1"):
            small_pair.public.encrypt_with_r(rows, rows[:1])

    def test_zero_rows(self, small_pair: KeyPair) -> None:
        public, private = small_pair.public, small_pair.private
        m, c = plaintexts(small_pair, []), ciphertexts(small_pair, [])
        exponents = np.empty((0, 4), dtype=np.uint64)
        for result in (
            public.encrypt(m),
            public.encrypt_with_exponents(m, exponents),
            public.encrypt_with_r(m, m),
            private.encrypt(m),
            public.rerandomise(c),
        ):
            assert result.shape == c.shape
        assert private.decrypt(c).shape == m.shape
        assert public.validate(c).shape == (0,)

    def test_read_only_input_is_fine(self, small_pair: KeyPair) -> None:
        rows = plaintexts(small_pair, [3])
        rows.flags.writeable = False
        assert limbs_to_ints(small_pair.private.decrypt(small_pair.public.encrypt(rows))) == [3]
