"""Checks at the boundary, and conversion between Python integers and limb arrays.

Belongs here: what every other module needs to hand a NumPy array to a kernel.
Does not belong here: any arithmetic.
"""

import operator
from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

__all__ = [
    "Immutable",
    "Limbs",
    "check_layout",
    "checked_int",
    "checked_rows",
    "checked_threads",
    "ints_to_limbs",
    "limb_count",
    "limbs_to_ints",
]

Limbs = npt.NDArray[np.uint64]
LIMB_BITS = 64
MOST_THREADS = 1024


def limb_count(value: int) -> int:
    """Return how many 64-bit limbs hold a non-negative integer (at least one)."""
    return max(1, -(-value.bit_length() // LIMB_BITS))


def ints_to_limbs(values: Sequence[int], limbs: int) -> Limbs:
    """Write integers as rows of little-endian 64-bit limbs.

    Parameters
    ----------
    values
        Non-negative integers below 2**(64 * limbs).
    limbs
        Limbs in a row, at least one.

    Returns
    -------
    ndarray
        ``uint64[len(values), limbs]``, C-contiguous.
    """
    if limbs < 1:
        raise ValueError(f"limbs must be at least 1, got {limbs}")
    for index, value in enumerate(values):
        if value < 0 or value.bit_length() > LIMB_BITS * limbs:
            raise ValueError(f"value {index} is negative or wider than {limbs} limbs")
    size = 8 * limbs
    data = b"".join(int(value).to_bytes(size, "little") for value in values)
    rows = np.frombuffer(data, dtype="<u8").reshape(len(values), limbs)
    return rows.astype(np.uint64)


def limbs_to_ints(array: Limbs) -> list[int]:
    """Read rows of little-endian 64-bit limbs as integers.

    Parameters
    ----------
    array
        ``uint64[count, limbs]``.

    Returns
    -------
    list of int
        One integer per row.
    """
    rows = np.asarray(array)
    if rows.dtype != np.uint64 or rows.ndim != 2:
        raise ValueError(f"expected uint64[count, limbs], got {rows.dtype}{list(rows.shape)}")
    data = rows.astype("<u8").tobytes()
    size = 8 * rows.shape[1]
    return [
        int.from_bytes(data[start : start + size], "little")
        for start in range(0, len(data), size or 1)
    ]


def checked_rows(array: Any, name: str, limbs: int, count: int | None = None) -> Limbs:
    """Return the array if it is C-contiguous ``uint64[count, limbs]``, else raise ValueError."""
    if not isinstance(array, np.ndarray) or array.dtype != np.uint64:
        raise ValueError(f"{name} must be a uint64 array, got {describe(array)}")
    if array.ndim != 2 or array.shape[1] != limbs:
        raise ValueError(f"{name} must have shape [count, {limbs}], got {list(array.shape)}")
    if count is not None and array.shape[0] != count:
        raise ValueError(f"{name} must have {count} rows, got {array.shape[0]}")
    check_layout(array, name)
    return array


def check_layout(array: npt.NDArray[Any], name: str) -> None:
    """Raise ValueError unless kernels can read the array in place."""
    if not array.flags.c_contiguous:
        raise ValueError(f"{name} must be C-contiguous; use numpy.ascontiguousarray")
    if not array.flags.aligned:
        raise ValueError(f"{name} must be aligned to its items; copy the array")


def checked_int(value: SupportsIndex, name: str, least: int, most: int) -> int:
    """Return a number as a Python int if it is a whole one in range.

    Integers of NumPy count, too; arithmetic with them would wrap around.

    Raises
    ------
    TypeError
        If it is no integer.
    ValueError
        If it is out of range.
    """
    number = operator.index(value)
    if not least <= number <= most:
        raise ValueError(f"{name} must be {least} to {most}, got {number}")
    return number


def checked_threads(threads: SupportsIndex) -> int:
    """Return the number of worker threads (0: all cores) if it is one, else raise ValueError."""
    return checked_int(threads, "threads", 0, MOST_THREADS)


class Immutable:
    """Attributes are set once: kernels trust the sizes that a context was made with."""

    def __setattr__(self, name: str, value: object) -> None:
        """Set an attribute that has no value yet."""
        if name in self.__dict__:
            raise AttributeError(f"{type(self).__name__}.{name} cannot be changed")
        super().__setattr__(name, value)

    def __delattr__(self, name: str) -> None:
        """Refuse."""
        raise AttributeError(f"{type(self).__name__}.{name} cannot be deleted")


def describe(value: object) -> str:
    """Name the type of a refused argument."""
    return str(value.dtype) if isinstance(value, np.ndarray) else type(value).__name__
