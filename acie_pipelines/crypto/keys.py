"""Paillier key pairs: generation, identity, validation and exchange with ``phe``.

Belongs here: the two key types, how they are made and how they are checked.
Does not belong here: where keys are kept (`vault`) and what is encrypted (`cipher_tensor`).

The scheme is Paillier's with g = n + 1 (P. Paillier, *Public-Key Cryptosystems Based on Composite
Degree Residuosity Classes*, EUROCRYPT 1999). Keys also meet the conditions under which Damgård,
Jurik and Nielsen prove their faster encryption (*A generalization of Paillier's public-key system
with applications to electronic voting*, Int. J. Inf. Secur. 9, 2010): p = q = 3 (mod 4) and
gcd(p - 1, q - 1) = 2.
"""

import hashlib
import math
import secrets
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, NoReturn

from acie_pipelines.errors import CryptoError

if TYPE_CHECKING:
    from acie_native import PaillierPrivateContext, PaillierPublicContext

__all__ = [
    "DEFAULT_KEY_BITS",
    "MINIMUM_KEY_BITS",
    "PaillierPrivateKey",
    "PaillierPublicKey",
    "generate_keypair",
]

DEFAULT_KEY_BITS = 3072
MINIMUM_KEY_BITS = 2048

# OpenSSL makes no RSA primes below this, whatever the flag says.
_OPENSSL_MINIMUM_BITS = 1024
_ID_DOMAIN = b"acie.paillier.public-key/1"
# A composite passes one round with a random base with probability below 1/4.
_MILLER_RABIN_ROUNDS = 40
# A modulus has one factorisation: factors that were proved prime once need no second proof, which
# takes a second. Moduli are public.
_PROVED_MODULI: set[int] = set()
# Primes may agree in this many leading bits at most.
_CLOSE_PRIME_BITS = 100
_SMALL_PRIMES = (3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71)


@lru_cache(maxsize=8)
def _public_context(n: int) -> "PaillierPublicContext":
    # The fixed-base table is large; equal keys read from several manifests share it.
    from acie_native import PaillierPublicContext

    return PaillierPublicContext(n)


@dataclass(frozen=True, eq=False, repr=False)
class PaillierPublicKey:
    """The modulus anybody may encrypt under.

    Attributes
    ----------
    n
        Product of two primes of equal length.
    """

    n: int

    def __post_init__(self) -> None:
        if self.n < 15 or self.n % 2 == 0:
            raise CryptoError(
                "Paillier public key", "the modulus is not an odd composite", "use an ACIE key"
            )

    def __repr__(self) -> str:
        return f"PaillierPublicKey(key_id={self.key_id!r}, bits={self.bits})"

    # Two keys are one if their ids' preimages are: comparing n leaves no room for collisions.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, PaillierPublicKey) and self.n == other.n

    def __hash__(self) -> int:
        return hash((PaillierPublicKey, self.n))

    def __reduce__(self) -> tuple[type["PaillierPublicKey"], tuple[int]]:
        return PaillierPublicKey, (self.n,)

    @property
    def bits(self) -> int:
        """Length of the modulus."""
        return self.n.bit_length()

    @cached_property
    def key_id(self) -> str:
        """First 16 hexadecimal digits of SHA-256 over the domain-separated modulus."""
        size = (self.bits + 7) // 8
        encoded = _ID_DOMAIN + b"\0" + size.to_bytes(8, "big") + self.n.to_bytes(size, "big")
        return hashlib.sha256(encoded).hexdigest()[:16]

    @property
    def context(self) -> "PaillierPublicContext":
        """Kernels prepared for this modulus, built once per process."""
        return _public_context(self.n)

    def check(self, *, allow_insecure_size: bool = False) -> None:
        """Refuse a modulus that is too short.

        Raises
        ------
        CryptoError
            If it has fewer than 2048 bits and `allow_insecure_size` is not set.
        """
        if self.bits < MINIMUM_KEY_BITS and not allow_insecure_size:
            raise CryptoError(
                f"Paillier key {self.key_id}",
                f"has {self.bits} bits, at least {MINIMUM_KEY_BITS} are needed",
                "make a new one with `acie keys generate`",
            )

    def to_phe(self) -> Any:
        """Give the same key as a ``phe.PaillierPublicKey``."""
        import phe

        return phe.PaillierPublicKey(self.n)

    @classmethod
    def from_phe(cls, key: Any) -> "PaillierPublicKey":
        """Take over a ``phe.PaillierPublicKey``.

        ``phe`` makes no promise about its primes modulo 4. Decryption and arithmetic do not care;
        the security proof of the encryption used here is stated for keys of `generate_keypair`.
        """
        return cls(int(key.n))


@dataclass(frozen=True, eq=False, repr=False)
class PaillierPrivateKey:
    """The two primes. Nothing here prints, pickles or copies them.

    Attributes
    ----------
    p, q
        Distinct primes of equal length.
    public_key
        The modulus that belongs to them.
    """

    p: int
    q: int
    public_key: PaillierPublicKey = field(init=False)

    def __post_init__(self) -> None:
        if self.p == self.q or min(self.p, self.q) < 3:
            raise CryptoError(
                "Paillier private key", "has no two distinct primes", "use an ACIE key"
            )
        object.__setattr__(self, "public_key", PaillierPublicKey(self.p * self.q))

    def __repr__(self) -> str:
        return f"PaillierPrivateKey(key_id={self.key_id!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PaillierPrivateKey) and self.public_key == other.public_key

    def __hash__(self) -> int:
        return hash((PaillierPrivateKey, self.public_key))

    def __reduce__(self) -> NoReturn:
        raise CryptoError(
            f"Paillier private key {self.key_id}",
            "cannot be pickled or copied",
            "pass the key id and open the vault where the key is needed",
        )

    @property
    def key_id(self) -> str:
        """Identity of the pair, that of its public key."""
        return self.public_key.key_id

    @cached_property
    def context(self) -> "PaillierPrivateContext":
        """Kernels prepared for these primes; they live as long as this object."""
        from acie_native import PaillierPrivateContext

        return PaillierPrivateContext(self.p, self.q)

    def check(self, *, allow_insecure_size: bool = False) -> None:
        """Verify everything the scheme assumes about the primes.

        Raises
        ------
        CryptoError
            Names the assumption that fails; never the primes.
        """
        self.public_key.check(allow_insecure_size=allow_insecure_size)
        fault = _fault(self.p, self.q)
        if fault is None and self.public_key.n not in _PROVED_MODULI:
            if _is_prime(self.p) and _is_prime(self.q):
                _PROVED_MODULI.add(self.public_key.n)
            else:
                fault = "a factor is not prime"
        if fault is not None:
            raise CryptoError(
                f"Paillier private key {self.key_id}",
                fault,
                "restore the vault from its backup or make a new key",
            )

    def to_phe(self) -> Any:
        """Give the same key as a ``phe.PaillierPrivateKey``."""
        import phe

        return phe.PaillierPrivateKey(self.public_key.to_phe(), self.p, self.q)

    @classmethod
    def from_phe(cls, key: Any) -> "PaillierPrivateKey":
        """Take over a ``phe.PaillierPrivateKey``; see `PaillierPublicKey.from_phe`."""
        return cls(int(key.p), int(key.q))


def generate_keypair(
    bits: int = DEFAULT_KEY_BITS, *, allow_insecure_size: bool = False
) -> PaillierPrivateKey:
    """Make a key pair from OpenSSL's RSA primes.

    Parameters
    ----------
    bits
        Exact length of the modulus, a multiple of 64.
    allow_insecure_size
        Permit 1024 to 2047 bits, for tests only.

    Returns
    -------
    PaillierPrivateKey
        Its `PaillierPrivateKey.public_key` is the other half.

    Raises
    ------
    CryptoError
        If the length is not permitted.
    """
    from cryptography.hazmat.primitives.asymmetric import rsa

    minimum = _OPENSSL_MINIMUM_BITS if allow_insecure_size else MINIMUM_KEY_BITS
    if bits < minimum or bits % 64:
        raise CryptoError(
            f"a Paillier key of {bits} bits",
            "is not permitted",
            f"use a multiple of 64 of at least {minimum} bits, {DEFAULT_KEY_BITS} by default",
        )
    while True:
        numbers = rsa.generate_private_key(public_exponent=65537, key_size=bits).private_numbers()
        p, q = numbers.p, numbers.q
        # Half of all primes are 3 mod 4, and two thirds of such pairs share no other factor:
        # one pair in six passes.
        if (p * q).bit_length() == bits and _fault(p, q) is None:
            return PaillierPrivateKey(p, q)


def _fault(p: int, q: int) -> str | None:
    """Name the first structural assumption that two candidate primes break."""
    if p.bit_length() != q.bit_length():
        return "the primes differ in length"
    if p % 4 != 3 or q % 4 != 3:
        return "a prime is not 3 modulo 4"
    if math.gcd(p * q, (p - 1) * (q - 1)) != 1:
        return "the modulus is not coprime to its totient"
    if math.gcd(p - 1, q - 1) != 2:
        return "the totients share a factor beyond 2"
    # FIPS 186-5, A.1.3: Fermat's method factors the product of closer primes.
    if abs(p - q) >> (p.bit_length() - _CLOSE_PRIME_BITS) == 0:
        return "the primes are too close together"
    return None


def _is_prime(candidate: int) -> bool:
    """Miller-Rabin with bases from the operating system's generator."""
    if candidate < 4 or candidate % 2 == 0:
        return candidate in (2, 3)
    for prime in _SMALL_PRIMES:
        if candidate % prime == 0:
            return candidate == prime
    odd = candidate - 1
    twos = (odd & -odd).bit_length() - 1
    odd >>= twos
    for _ in range(_MILLER_RABIN_ROUNDS):
        witness = pow(2 + secrets.randbelow(candidate - 3), odd, candidate)
        if witness in (1, candidate - 1):
            continue
        for _ in range(twos - 1):
            witness = witness * witness % candidate
            if witness == candidate - 1:
                break
        else:
            return False
    return True
