"""Paillier key pairs: what they promise, refuse and hide."""

import copy
import math
import pickle
import traceback

import gmpy2
import phe
import pytest

from acie_pipelines.crypto import keys
from acie_pipelines.crypto.keys import PaillierPrivateKey, PaillierPublicKey, generate_keypair
from acie_pipelines.errors import CryptoError


@pytest.fixture(scope="module")
def pair() -> PaillierPrivateKey:
    return generate_keypair(1024, allow_insecure_size=True)


def test_generated_pair_meets_every_assumption() -> None:
    key = generate_keypair(2048)
    assert key.public_key.bits == 2048
    assert gmpy2.is_prime(key.p, 50)
    assert gmpy2.is_prime(key.q, 50)
    assert key.p % 4 == key.q % 4 == 3
    assert math.gcd(key.public_key.n, (key.p - 1) * (key.q - 1)) == 1
    assert math.gcd(key.p - 1, key.q - 1) == 2
    key.check()


@pytest.mark.parametrize("bits", [0, 512, 1024, 2047, 2049, 3000])
def test_length_must_be_secure_and_whole_limbs(bits: int) -> None:
    with pytest.raises(CryptoError, match="not permitted"):
        generate_keypair(bits)


def test_short_key_needs_the_flag_again_when_checked(pair: PaillierPrivateKey) -> None:
    pair.check(allow_insecure_size=True)
    for key in (pair, pair.public_key):
        with pytest.raises(CryptoError, match="at least 2048"):
            key.check()


def test_key_id_is_pinned() -> None:
    # SHA-256(domain | 0 | length of n as 8 bytes | n), first 16 digits.
    assert PaillierPublicKey(0xFFFF_FFFF_FFFF_FFC5).key_id == "a4d05d526a1b837a"


def test_equality_and_hash_follow_the_modulus(pair: PaillierPrivateKey) -> None:
    swapped = PaillierPrivateKey(pair.q, pair.p)
    assert swapped == pair
    assert hash(swapped) == hash(pair)
    assert pair.public_key == PaillierPublicKey(pair.public_key.n)
    assert pair != pair.public_key
    assert PaillierPublicKey(77) != PaillierPublicKey(91)


def test_public_key_pickles(pair: PaillierPrivateKey) -> None:
    assert pickle.loads(pickle.dumps(pair.public_key)) == pair.public_key  # noqa: S301


def test_private_key_shows_nothing(pair: PaillierPrivateKey) -> None:
    shown = f"{pair} {pair!r} {pair.public_key!r}"
    assert pair.key_id in shown
    for secret in (pair.p, pair.q):
        assert str(secret) not in shown
        assert f"{secret:x}" not in shown


@pytest.mark.parametrize("copier", [pickle.dumps, copy.copy, copy.deepcopy])
def test_private_key_is_not_copied(pair: PaillierPrivateKey, copier: object) -> None:
    with pytest.raises(CryptoError, match="cannot be pickled") as caught:
        copier(pair)  # type: ignore[operator]
    assert str(pair.p) not in "".join(traceback.format_exception(caught.value))


def _prime(start: int, residue: int) -> int:
    prime = int(gmpy2.next_prime(start))
    while prime % 4 != residue:
        prime = int(gmpy2.next_prime(prime))
    return prime


HIGH = 3 << 510
P3, P1 = _prime(HIGH, 3), _prime(HIGH, 1)
Q3 = _prime(HIGH + (1 << 500), 3)


def _near(prime: int, gap: int) -> int:
    """A prime that is no worse than close to another one."""
    other = _prime(prime + gap, 3)
    while math.gcd(prime - 1, other - 1) != 2:
        other = _prime(other, 3)
    return other


def _prime_one_modulo(factor: int, start: int) -> int:
    """A prime 2 factor k + 1 for an odd k, hence 3 modulo 4."""
    k = start // (2 * factor) | 1
    while not gmpy2.is_prime(2 * factor * k + 1):
        k += 2
    return 2 * factor * k + 1


_SHARED_FACTOR = (_prime_one_modulo(7, HIGH), _prime_one_modulo(7, HIGH + (1 << 500)))


@pytest.mark.parametrize(
    ("p", "q", "reason"),
    [
        (P3, P1, "not 3 modulo 4"),
        (P3, _prime(3 << 509, 3), "differ in length"),
        (P3, Q3 + 4, "not prime|factor"),
        (_prime(1 << 520, 3), _prime(1 << 521, 3), "differ in length"),
        (P3, _near(P3, 4), "too close together"),
        (P3, _near(P3, 1 << 411), "too close together"),
        (*_SHARED_FACTOR, "share a factor beyond 2"),
    ],
)
def test_check_refuses_unsound_primes(p: int, q: int, reason: str) -> None:
    with pytest.raises(CryptoError, match=reason) as caught:
        PaillierPrivateKey(p, q).check(allow_insecure_size=True)
    text = "".join(traceback.format_exception(caught.value))
    assert str(p) not in text
    assert f"{p:x}" not in text


def test_equal_primes_and_even_moduli_are_no_key() -> None:
    with pytest.raises(CryptoError, match="two distinct primes"):
        PaillierPrivateKey(P3, P3)
    for modulus in (0, 1, 14, 1 << 2048, -15):
        with pytest.raises(CryptoError, match="odd composite"):
            PaillierPublicKey(modulus)


def test_miller_rabin_agrees_with_gmpy2() -> None:
    # Carmichael numbers and strong pseudoprimes to base 2 among them.
    hard = [561, 1105, 2047, 3277, 6601, 8911, 1373653, 25326001, 3215031751, P3 * Q3, P3, P1]
    for candidate in [*range(2, 3000), *hard]:
        assert keys._is_prime(candidate) == bool(gmpy2.is_prime(candidate, 30)), candidate


def test_phe_round_trips(pair: PaillierPrivateKey) -> None:
    public = pair.public_key.to_phe()
    private = pair.to_phe()
    assert private.decrypt(public.encrypt(-12345)) == -12345
    assert PaillierPublicKey.from_phe(public) == pair.public_key
    assert PaillierPrivateKey.from_phe(private) == pair
    theirs_public, theirs = phe.generate_paillier_keypair(n_length=512)
    assert PaillierPrivateKey.from_phe(theirs).public_key.n == theirs_public.n
