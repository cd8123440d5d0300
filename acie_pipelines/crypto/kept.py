"""Ciphertexts as limbs at the edges and in Montgomery form in between.

Belongs here: the two forms of the same ciphertexts, and the check of those from elsewhere.
Does not belong here: what the plaintexts mean (`cipher_tensor`).
"""

from typing import Self

import numpy as np
from numpy.typing import NDArray

from acie_native import CipherArray
from acie_pipelines.crypto.keys import PaillierPublicKey
from acie_pipelines.errors import CryptoError

__all__ = ["KeptCiphertexts", "check_ciphertexts"]


class KeptCiphertexts:
    """Ciphertexts under a key, converted when the other form is first asked for.

    Make them with `of_rows` or `of_array`; they never change.
    """

    def __init__(
        self,
        public_key: PaillierPublicKey,
        rows: NDArray[np.uint64] | None,
        array: CipherArray | None,
    ) -> None:
        self._public_key, self._rows, self._array = public_key, rows, array

    @classmethod
    def of_rows(cls, rows: NDArray[np.uint64], public_key: PaillierPublicKey) -> Self:
        """Hold limbs, ``uint64[rows, limbs]``, without a copy.

        Raises
        ------
        CryptoError
            If they are of another type or not contiguous.
        """
        if rows.dtype != np.uint64 or rows.ndim != 2 or not rows.flags.c_contiguous:
            raise CryptoError(
                f"ciphertexts under key {public_key.key_id}",
                "are not contiguous uint64 limbs",
                "read them from their manifest",
            )
        return cls(public_key, rows, None)

    @classmethod
    def of_array(cls, array: CipherArray, public_key: PaillierPublicKey) -> Self:
        """Hold what arithmetic made."""
        return cls(public_key, None, array)

    def __len__(self) -> int:
        """Return the number of ciphertexts."""
        held = self._array if self._rows is None else self._rows
        return 0 if held is None else len(held)

    @property
    def rows(self) -> NDArray[np.uint64]:
        """Integers below n^2, ``uint64[rows, limbs]``."""
        if self._rows is None and self._array is not None:
            self._rows = self._array.store()
            self._rows.flags.writeable = False
        assert self._rows is not None  # noqa: S101 - one form is always there
        return self._rows

    @property
    def array(self) -> CipherArray:
        """The form that arithmetic works on."""
        if self._array is None:
            self._array = self._public_key.context.load(self.rows)
        return self._array


def check_ciphertexts(ciphertexts: NDArray[np.uint64], public_key: PaillierPublicKey) -> None:
    """Refuse limbs that are no ciphertexts of a key.

    Parameters
    ----------
    ciphertexts
        ``uint64[rows, limbs]``.
    public_key
        The key they claim to be under.

    Raises
    ------
    CryptoError
        If one is zero, not below n^2, or not coprime to n.
    """
    subject = f"ciphertexts under key {public_key.key_id}"
    context = public_key.context
    if ciphertexts.ndim != 2 or ciphertexts.shape[1] != context.ciphertext_limbs:
        raise CryptoError(
            subject,
            f"do not have {context.ciphertext_limbs} limbs each",
            "check that they belong to this key",
        )
    valid = np.asarray(context.validate(ciphertexts), dtype=bool)
    if not valid.all():
        raise CryptoError(
            subject,
            f"ciphertext {int(np.argmin(valid))} is zero, too large or not coprime to the modulus",
            "it was damaged or made for another key; materialise the asset again",
        )
