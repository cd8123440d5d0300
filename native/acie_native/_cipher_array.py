"""Ciphertexts between operations, in the form that the arithmetic works on.

Belongs here: shapes, types and errors of the operations on kept ciphertexts.
Does not belong here: keys and encryption (`_public_context`), what the plaintexts mean.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from acie_native._arrays import (
    Immutable,
    Limbs,
    check_layout,
    checked_int,
    checked_rows,
    checked_threads,
    describe,
)
from acie_native._kernels import ArrayKernel, concatenate

if TYPE_CHECKING:
    from acie_native._public_context import PaillierPublicContext

__all__ = ["CipherArray"]


class CipherArray(Immutable):
    """Ciphertexts under one modulus; made by `PaillierPublicContext.load`.

    They stay in Montgomery form, on the path with vectors of eight also side by side in registers,
    so that an addition costs one product and no conversion. Arrays never change: every operation
    makes a new one. They can be used from many threads at once, and no result is re-randomised.

    Operations on two arrays raise ValueError if their contexts differ in modulus or path.

    Attributes
    ----------
    context
        The context that loaded the ciphertexts.
    """

    def __init__(self, context: "PaillierPublicContext", kernel: ArrayKernel) -> None:
        self.context = context
        self._kernel = kernel

    def __len__(self) -> int:
        """Return the number of ciphertexts."""
        return len(self._kernel)

    def store(self, *, threads: int = 0) -> Limbs:
        """Write the ciphertexts as integers below n^2, the same on every path.

        Parameters
        ----------
        threads
            Worker threads; 0 for all cores.

        Returns
        -------
        ndarray
            ``uint64[k, ciphertext_limbs]``.
        """
        out = np.empty((len(self), self.context.ciphertext_limbs), dtype=np.uint64)
        self._kernel.store(out.reshape(-1), checked_threads(threads))
        return out

    def add(self, other: "CipherArray", *, threads: int = 0) -> "CipherArray":
        """Add plaintexts under encryption, row by row.

        Parameters
        ----------
        other
            As many ciphertexts.
        threads
            Worker threads; 0 for all cores.
        """
        self._check_length(other)
        return self._made(self._kernel.add(other._kernel, checked_threads(threads)))

    def subtract(self, other: "CipherArray", *, threads: int = 0) -> "CipherArray":
        """Subtract plaintexts under encryption, row by row.

        Parameters
        ----------
        other
            As many ciphertexts.
        threads
            Worker threads; 0 for all cores.

        Raises
        ------
        ValueError
            If a ciphertext of `other` shares a factor with n.
        """
        self._check_length(other)
        return self._made(self._kernel.subtract(other._kernel, checked_threads(threads)))

    def negate(self, *, threads: int = 0) -> "CipherArray":
        """Negate plaintexts under encryption: inverses modulo n^2.

        Parameters
        ----------
        threads
            Worker threads; 0 for all cores.

        Raises
        ------
        ValueError
            If a ciphertext shares a factor with n.
        """
        return self._made(self._kernel.negate(checked_threads(threads)))

    def add_plain(self, plaintexts: Limbs, *, threads: int = 0) -> "CipherArray":
        """Add public plaintexts to encrypted ones, row by row.

        Parameters
        ----------
        plaintexts
            ``uint64[k, plaintext_limbs]``, each below n.
        threads
            Worker threads; 0 for all cores.
        """
        rows = checked_rows(plaintexts, "plaintexts", self.context.plaintext_limbs, len(self))
        return self._made(self._kernel.add_plain(rows.reshape(-1), checked_threads(threads)))

    def scalar_mul(self, weights: npt.NDArray[np.int64], *, threads: int = 0) -> "CipherArray":
        """Multiply encrypted plaintexts by public weights; the time depends on the weights.

        Parameters
        ----------
        weights
            ``int64[k]`` of any sign.
        threads
            Worker threads; 0 for all cores.

        Raises
        ------
        ValueError
            If a ciphertext with a negative weight shares a factor with n.
        """
        checked = _checked_int64(weights, "weights")
        if len(checked) != len(self):
            raise ValueError(f"weights must have shape [{len(self)}], got {list(checked.shape)}")
        return self._made(self._kernel.scalar_mul(checked, checked_threads(threads)))

    def sum(self, group: int, *, threads: int = 0) -> "CipherArray":
        """Add the plaintexts of consecutive groups under encryption.

        Parameters
        ----------
        group
            Ciphertexts in a group; divides the length.
        threads
            Worker threads; 0 for all cores.

        Returns
        -------
        CipherArray
            One ciphertext per group.
        """
        group = checked_int(group, "group", 1, 2**63 - 1)
        if len(self) % group:
            raise ValueError(f"group must divide the length {len(self)}, got {group}")
        return self._made(self._kernel.sum(group, checked_threads(threads)))

    def matmul(self, weights: npt.NDArray[np.int64], *, threads: int = 0) -> "CipherArray":
        """Multiply a public matrix by the encrypted one that the rows are, row by row.

        The rows are a matrix of k rows and c columns in C order; c is the length divided by k. All
        dot products are computed together (simultaneous multi-exponentiation), in a time that
        depends on the weights. A row of zeros gives the ciphertext 1.

        Parameters
        ----------
        weights
            ``int64[m, k]`` of any sign; k divides the length.
        threads
            Worker threads; 0 for all cores.

        Returns
        -------
        CipherArray
            m c ciphertexts: entry i c + j encrypts the sum over k of weights[i, k] times entry
            k c + j.

        Raises
        ------
        ValueError
            If there are negative weights and a ciphertext shares a factor with n.
        """
        if not isinstance(weights, np.ndarray) or weights.dtype != np.int64 or weights.ndim != 2:
            raise ValueError(f"weights must be an int64 matrix, got {describe(weights)}")
        outputs, bases = weights.shape
        if outputs == 0 or bases == 0 or len(self) == 0 or len(self) % bases:
            raise ValueError(
                f"weights of shape {list(weights.shape)} do not match {len(self)} ciphertexts"
            )
        flat = np.ascontiguousarray(weights).reshape(-1)
        return self._made(self._kernel.matmul(flat, outputs, bases, checked_threads(threads)))

    def take(self, indices: npt.NDArray[np.int64], *, threads: int = 0) -> "CipherArray":
        """Pick ciphertexts in any order, also more than once.

        Parameters
        ----------
        indices
            ``int64[k]``, each from 0 to the length minus 1.
        threads
            Worker threads; 0 for all cores.

        Raises
        ------
        IndexError
            If an index is out of range.
        """
        checked = _checked_int64(indices, "indices")
        return self._made(self._kernel.take(checked, checked_threads(threads)))

    @staticmethod
    def concatenate(arrays: Sequence["CipherArray"], *, threads: int = 0) -> "CipherArray":
        """Join arrays, one after another.

        Parameters
        ----------
        arrays
            At least one.
        threads
            Worker threads; 0 for all cores.
        """
        if not arrays:
            raise ValueError("concatenate needs at least one array")
        kernels = [array._kernel for array in arrays]
        return arrays[0]._made(concatenate(kernels, checked_threads(threads)))

    def _made(self, kernel: ArrayKernel) -> "CipherArray":
        return CipherArray(self.context, kernel)

    def _check_length(self, other: "CipherArray") -> None:
        if len(other) != len(self):
            raise ValueError(f"the other array must have {len(self)} rows, got {len(other)}")


def _checked_int64(array: Any, name: str) -> npt.NDArray[np.int64]:
    if not isinstance(array, np.ndarray) or array.dtype != np.int64:
        raise ValueError(f"{name} must be an int64 array, got {describe(array)}")
    if array.ndim != 1:
        raise ValueError(f"{name} must have one axis, got shape {list(array.shape)}")
    check_layout(array, name)
    return array
