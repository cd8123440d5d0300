"""Signed integers as rows of plaintext limbs, and weights as exact fixed-point numbers.

Belongs here: what tensors need to turn public numbers into operands.
Does not belong here: scales and what fits a layout (`packing`), encryption.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from acie_native import ints_to_limbs, limbs_to_ints, pack_slots
from acie_pipelines.crypto.keys import PaillierPublicKey
from acie_pipelines.crypto.packing import PackingLayout
from acie_pipelines.errors import CryptoError

__all__ = [
    "absolute_sums",
    "exact_weights",
    "plaintext_rows",
    "signed_from_limbs",
    "signed_to_limbs",
]

_MANTISSA_BITS = 53
_INT64_LIMIT = 2**63


def signed_to_limbs(values: NDArray[np.int64], n: int, limbs: int) -> NDArray[np.uint64]:
    """Write integers modulo n.

    Parameters
    ----------
    values
        Any shape, taken in C order.
    n
        The modulus, above 2^63.
    limbs
        Limbs of a plaintext.

    Returns
    -------
    NDArray
        ``uint64[values.size, limbs]``.
    """
    flat = values.reshape(-1)
    rows = np.zeros((flat.size, limbs), dtype=np.uint64)
    rows[:, 0] = flat.astype(np.uint64)
    negative = np.flatnonzero(flat < 0)
    # n - |v|, borrowing from limb to limb; the absolute value of the least int64 fits unsigned.
    borrow = np.abs(flat[negative]).astype(np.uint64)
    for column, limb in enumerate(ints_to_limbs([n], limbs)[0]):
        rows[negative, column] = limb - borrow
        borrow = (borrow > limb).astype(np.uint64)
    return rows


def absolute_sums(matrix: NDArray[np.int64]) -> list[int]:
    """Sum the absolute values of every row, exactly.

    Parameters
    ----------
    matrix
        Shape ``(m, k)``.
    """
    return [int(total) for total in np.abs(matrix.astype(object)).sum(axis=1)]


def plaintext_rows(
    integers: NDArray[np.int64], public_key: PaillierPublicKey, layout: PackingLayout
) -> NDArray[np.uint64]:
    """Write integers as a layout has them: packed into slots, or one by one modulo n.

    Parameters
    ----------
    integers
        Any shape, taken in C order; they fit the layout.
    public_key
        Key of the future ciphertexts.
    layout
        Slots.

    Returns
    -------
    NDArray
        ``uint64[layout.rows(integers.size), limbs]``.
    """
    limbs = public_key.context.plaintext_limbs
    if not layout.packed:
        return signed_to_limbs(integers, public_key.n, limbs)
    return pack_slots(
        np.ascontiguousarray(integers).reshape(-1),
        slot_bits=layout.slot_bits,
        value_bits=layout.value_bits,
        slots_per_plaintext=layout.slots_per_plaintext,
        limbs=limbs,
    )


def signed_from_limbs(plaintexts: NDArray[np.uint64], n: int) -> list[int]:
    """Read integers between -n/2 and n/2.

    Parameters
    ----------
    plaintexts
        ``uint64[rows, limbs]``, below n.
    n
        The modulus.
    """
    return [value - n if 2 * value > n else value for value in limbs_to_ints(plaintexts)]


def exact_weights(weights: Any) -> tuple[NDArray[np.int64], int]:
    """Write weights as integers times a power of two, without rounding.

    Parameters
    ----------
    weights
        Integers, or finite floats.

    Returns
    -------
    integers
        ``int64`` of the same shape.
    fractional_bits
        The least f >= 0 for which the weights are ``integers * 2^-f``.

    Raises
    ------
    CryptoError
        If the integers do not fit 64 bits, or a weight is not finite.
    """
    array = np.asarray(weights)
    fractional_bits = 0
    if array.dtype.kind == "f" and array.dtype.itemsize <= 8:
        values = array.astype(np.float64)
        if not np.isfinite(values).all():
            raise CryptoError("weights", "are not finite", "replace NaN and infinity first")
        mantissa, exponent = np.frexp(values)
        integers = np.ldexp(mantissa, _MANTISSA_BITS).astype(np.int64)
        lowest = integers & -integers
        zeros = np.frexp(lowest.astype(np.float64))[1] - 1
        needed = np.where(integers == 0, 0, _MANTISSA_BITS - exponent - zeros)
        fractional_bits = max(0, int(needed.max(initial=0)))
        with np.errstate(over="ignore"):
            scaled = np.ldexp(values, fractional_bits)
        if np.abs(scaled).max(initial=0.0) >= _INT64_LIMIT:
            raise CryptoError(
                "weights",
                f"need {fractional_bits} fractional bits to be exact and do not fit 64 bits",
                "round them first, for example numpy.rint(weights * 2**16) / 2**16",
            )
        return scaled.astype(np.int64), fractional_bits
    if array.dtype.kind not in "iu" or (array.size and int(array.max()) >= _INT64_LIMIT):
        raise CryptoError(
            "weights", "are not floats and do not fit int64", "give integers or float64"
        )
    return array.astype(np.int64), 0
