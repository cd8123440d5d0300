"""What the holder of the primes can do.

Belongs here: decryption and fast encryption of rows of limbs.
Does not belong here: key generation and storage, packing policies.
"""

import numpy as np

from acie_native._arrays import (
    Immutable,
    Limbs,
    checked_rows,
    checked_threads,
    ints_to_limbs,
    limb_count,
    limbs_to_ints,
)
from acie_native._dispatch import chosen_isa
from acie_native._kernels import PrivateKernel
from acie_native._paillier_parameters import (
    base_limbs,
    checked_exponent_bits,
    checked_modulus,
    checked_window,
)

__all__ = ["PaillierPrivateContext"]


class PaillierPrivateContext(Immutable):
    """Decryption and fast encryption for the holder of the primes.

    The primes and everything derived from them are overwritten when the context is freed; the
    Python integers passed in are the caller's to forget. Contexts are immutable and can be used
    from many threads at once.

    Parameters
    ----------
    p, q
        Distinct primes whose product has at least 512 bits and is coprime to (p - 1)(q - 1).
    base
        Generator of the randomness, as for the public context.
    exponent_bits
        Size of the random exponents, as for the public context.
    window_bits
        Bits of a digit of the fixed-base tables.
    isa
        Instruction set path; by default the fastest, or ``ACIE_NATIVE_ISA``.

    Attributes
    ----------
    n
        The modulus p q.
    plaintext_limbs
        64-bit limbs of a plaintext (of n).
    ciphertext_limbs
        64-bit limbs of a ciphertext, twice as many.
    exponent_bits
        Size of the random exponents.
    base
        Generator of the randomness.
    isa
        The path in use.
    """

    def __init__(
        self,
        p: int,
        q: int,
        *,
        base: int | None = None,
        exponent_bits: int | None = None,
        window_bits: int | None = None,
        isa: str | None = None,
    ) -> None:
        _check_primes(p, q)
        self.n = checked_modulus(p * q)
        self.plaintext_limbs = limb_count(self.n)
        self.ciphertext_limbs = 2 * self.plaintext_limbs
        self.exponent_bits = checked_exponent_bits(exponent_bits, self.n)
        self.isa = chosen_isa(isa)
        self._kernel = PrivateKernel(
            ints_to_limbs([self.n], self.plaintext_limbs).reshape(-1),
            ints_to_limbs([p], limb_count(p)).reshape(-1),
            ints_to_limbs([q], limb_count(q)).reshape(-1),
            base_limbs(base, self.n, self.ciphertext_limbs),
            self.exponent_bits,
            checked_window(window_bits, self.isa),
            self.isa,
        )
        out = np.empty((1, self.ciphertext_limbs), dtype=np.uint64)
        self._kernel.base(out.reshape(-1))
        self.base = limbs_to_ints(out)[0]

    def decrypt(self, ciphertexts: Limbs, *, threads: int = 0) -> Limbs:
        """Decrypt, in a time that does not depend on the key or the plaintexts.

        Parameters
        ----------
        ciphertexts
            ``uint64[k, ciphertext_limbs]``, each below n^2.
        threads
            Worker threads; 0 for all cores.

        Returns
        -------
        ndarray
            ``uint64[k, plaintext_limbs]``. Rows that are no ciphertexts under this key (see
            `PaillierPublicContext.validate`) give meaningless numbers, not errors.
        """
        rows = checked_rows(ciphertexts, "ciphertexts", self.ciphertext_limbs)
        out = np.empty((len(rows), self.plaintext_limbs), dtype=np.uint64)
        threads = checked_threads(threads)
        self._kernel.decrypt(rows.reshape(-1), len(rows), out.reshape(-1), threads)
        return out

    def encrypt(self, plaintexts: Limbs, *, threads: int = 0) -> Limbs:
        """Encrypt as the public context does, by the Chinese remainder theorem.

        Parameters
        ----------
        plaintexts
            ``uint64[k, plaintext_limbs]``, each below n.
        threads
            Worker threads; 0 for all cores.

        Returns
        -------
        ndarray
            ``uint64[k, ciphertext_limbs]``.
        """
        rows = checked_rows(plaintexts, "plaintexts", self.plaintext_limbs)
        out = np.empty((len(rows), self.ciphertext_limbs), dtype=np.uint64)
        threads = checked_threads(threads)
        self._kernel.encrypt(rows.reshape(-1), len(rows), out.reshape(-1), threads)
        return out


def _check_primes(p: int, q: int) -> None:
    """Refuse what would decrypt wrongly; one Fermat test catches slips, not malice."""
    if p == q:
        raise ValueError("p and q must differ")
    for name, prime, other in (("p", p, q), ("q", q, p)):
        if prime < 3 or prime % 2 == 0 or pow(2, prime - 1, prime) != 1:
            raise ValueError(f"{name} is not an odd prime")
        if (other - 1) % prime == 0:
            raise ValueError(f"{name} divides the other prime minus one")
