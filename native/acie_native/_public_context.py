"""What anyone holding a Paillier modulus can do.

Belongs here: encryption and checks of rows of limbs under a public key.
Does not belong here: arithmetic on ciphertexts (`_cipher_array`), key storage, packing policies.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from acie_native._arrays import (
    Immutable,
    Limbs,
    checked_rows,
    checked_threads,
    ints_to_limbs,
    limb_count,
    limbs_to_ints,
)
from acie_native._cipher_array import CipherArray
from acie_native._dispatch import chosen_isa
from acie_native._kernels import PublicKernel
from acie_native._paillier_parameters import (
    base_limbs,
    checked_exponent_bits,
    checked_modulus,
    checked_window,
)

__all__ = ["PaillierPublicContext"]


class PaillierPublicContext(Immutable):
    """Encryption for holders of a Paillier modulus, and the way to arithmetic: `load`.

    Encryption is (1 + m n) base^a mod n^2 with a fresh exponent a below 2^exponent_bits (Damgard,
    Jurik and Nielsen); the result is an ordinary Paillier ciphertext. Contexts are immutable and
    can be used from many threads at once.

    Parameters
    ----------
    n
        The modulus: odd, at least 512 bits.
    base
        Generator of the randomness, an n-th residue modulo n^2; by default (-x^2)^n for a random
        x. Pass the published one to share a table between processes.
    exponent_bits
        Size of the random exponents; half the size of n by default, which is also the least.
    window_bits
        Bits of a digit of the fixed-base table: memory and set-up time almost double with each;
        by default what suits the path.
    isa
        Instruction set path; by default the fastest, or ``ACIE_NATIVE_ISA``.

    Attributes
    ----------
    n
        The modulus.
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
        n: int,
        *,
        base: int | None = None,
        exponent_bits: int | None = None,
        window_bits: int | None = None,
        isa: str | None = None,
    ) -> None:
        self.n = checked_modulus(n)
        self.plaintext_limbs = limb_count(n)
        self.ciphertext_limbs = 2 * self.plaintext_limbs
        self.exponent_bits = checked_exponent_bits(exponent_bits, n)
        self.isa = chosen_isa(isa)
        self._kernel = PublicKernel(
            ints_to_limbs([n], self.plaintext_limbs).reshape(-1),
            base_limbs(base, n, self.ciphertext_limbs),
            self.exponent_bits,
            checked_window(window_bits, self.isa),
            self.isa,
        )
        out = np.empty((1, self.ciphertext_limbs), dtype=np.uint64)
        self._kernel.base(out.reshape(-1))
        self.base = limbs_to_ints(out)[0]

    def _plaintexts(self, array: Any, count: int | None = None) -> Limbs:
        return checked_rows(array, "plaintexts", self.plaintext_limbs, count)

    def _ciphertexts(self, array: Any, count: int | None = None) -> Limbs:
        return checked_rows(array, "ciphertexts", self.ciphertext_limbs, count)

    def _result(self, rows: int) -> Limbs:
        return np.empty((rows, self.ciphertext_limbs), dtype=np.uint64)

    def encrypt(self, plaintexts: Limbs, *, threads: int = 0) -> Limbs:
        """Encrypt with fresh randomness from the operating system.

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
        return self._encrypt(plaintexts, None, threads)

    def encrypt_with_exponents(
        self, plaintexts: Limbs, exponents: Limbs, *, threads: int = 0
    ) -> Limbs:
        """Encrypt with given exponents; for known-answer tests, never for real data.

        Parameters
        ----------
        plaintexts
            ``uint64[k, plaintext_limbs]``, each below n.
        exponents
            ``uint64[k, ceil(exponent_bits / 64)]``, each below 2**exponent_bits.
        threads
            Worker threads; 0 for all cores.

        Returns
        -------
        ndarray
            ``uint64[k, ciphertext_limbs]``.
        """
        limbs = -(-self.exponent_bits // 64)
        count = self._plaintexts(plaintexts).shape[0]
        rows = checked_rows(exponents, "exponents", limbs, count)
        return self._encrypt(plaintexts, rows.reshape(-1), threads)

    def _encrypt(self, plaintexts: Limbs, exponents: Limbs | None, threads: int) -> Limbs:
        rows = self._plaintexts(plaintexts)
        out = self._result(len(rows))
        threads = checked_threads(threads)
        self._kernel.encrypt(rows.reshape(-1), exponents, len(rows), out.reshape(-1), threads)
        return out

    def random_factors(self, count: int, *, threads: int = 0) -> Limbs:
        """Compute randomness for encryptions to come: base^a for fresh exponents a.

        Factors are secrets: with one, a ciphertext made from it can be read. Use each for one
        encryption only, and overwrite them afterwards.

        Parameters
        ----------
        count
            How many.
        threads
            Worker threads; 0 for all cores.

        Returns
        -------
        ndarray
            ``uint64[count, ciphertext_limbs]``, for `encrypt_with_factors`.
        """
        zeros = np.zeros((count, self.plaintext_limbs), dtype=np.uint64)
        return self._encrypt(zeros, None, threads)

    def encrypt_with_factors(self, plaintexts: Limbs, factors: Limbs, *, threads: int = 0) -> Limbs:
        """Encrypt with randomness computed before.

        Parameters
        ----------
        plaintexts
            ``uint64[k, plaintext_limbs]``, each below n.
        factors
            ``uint64[k, ciphertext_limbs]`` from `random_factors`, never used before.
        threads
            Worker threads; 0 for all cores.

        Returns
        -------
        ndarray
            ``uint64[k, ciphertext_limbs]``.
        """
        rows = self._plaintexts(plaintexts)
        checked = self._ciphertexts(factors, len(rows))
        out = self._result(len(rows))
        self._kernel.encrypt_with_factors(
            rows.reshape(-1),
            checked.reshape(-1),
            len(rows),
            out.reshape(-1),
            checked_threads(threads),
        )
        return out

    def encrypt_with_r(self, plaintexts: Limbs, r: Limbs, *, threads: int = 0) -> Limbs:
        """Encrypt as (1 + m n) r^n mod n^2, the original scheme with a given r.

        Parameters
        ----------
        plaintexts
            ``uint64[k, plaintext_limbs]``, each below n.
        r
            ``uint64[k, plaintext_limbs]``, each in 1 to n - 1 and coprime to n.
        threads
            Worker threads; 0 for all cores.

        Returns
        -------
        ndarray
            ``uint64[k, ciphertext_limbs]``.
        """
        rows = self._plaintexts(plaintexts)
        randomness = checked_rows(r, "r", self.plaintext_limbs, len(rows))
        out = self._result(len(rows))
        self._kernel.encrypt_with_r(
            rows.reshape(-1),
            randomness.reshape(-1),
            len(rows),
            out.reshape(-1),
            checked_threads(threads),
        )
        return out

    def load(self, ciphertexts: Limbs, *, threads: int = 0) -> CipherArray:
        """Take ciphertexts into the form that arithmetic works on.

        Parameters
        ----------
        ciphertexts
            ``uint64[k, ciphertext_limbs]``, each below n^2; `validate` tells the rest.
        threads
            Worker threads; 0 for all cores.

        Raises
        ------
        ValueError
            If a row is not below n^2.
        """
        rows = self._ciphertexts(ciphertexts)
        kernel = self._kernel.load(rows.reshape(-1), len(rows), checked_threads(threads))
        return CipherArray(self, kernel)

    def rerandomise(self, ciphertexts: Limbs, *, threads: int = 0) -> Limbs:
        """Replace ciphertexts by fresh ones of the same plaintexts.

        Parameters
        ----------
        ciphertexts
            ``uint64[k, ciphertext_limbs]``, each below n^2.
        threads
            Worker threads; 0 for all cores.

        Returns
        -------
        ndarray
            ``uint64[k, ciphertext_limbs]``.
        """
        rows = self._ciphertexts(ciphertexts)
        out = self._result(len(rows))
        threads = checked_threads(threads)
        self._kernel.rerandomise(rows.reshape(-1), len(rows), out.reshape(-1), threads)
        return out

    def validate(self, ciphertexts: Limbs, *, threads: int = 0) -> npt.NDArray[np.bool_]:
        """Tell which rows are ciphertexts under this modulus.

        Parameters
        ----------
        ciphertexts
            ``uint64[k, ciphertext_limbs]`` of any content.
        threads
            Worker threads; 0 for all cores.

        Returns
        -------
        ndarray
            ``bool[k]``: whether 0 < c < n^2 and gcd(c, n) = 1.
        """
        rows = self._ciphertexts(ciphertexts)
        out = np.empty(len(rows), dtype=np.uint64)
        self._kernel.validate(rows.reshape(-1), len(rows), out, checked_threads(threads))
        return out.astype(np.bool_)
