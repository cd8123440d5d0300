"""Packing of fixed-point values into plaintext slots.

Belongs here: the bit layout. Does not belong here: scales and the choice of guard bits.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from acie_native import _kernels
from acie_native._arrays import Limbs, check_layout, checked_int, checked_rows, describe
from acie_native._dispatch import chosen_isa

__all__ = ["pack_slots", "unpack_slots"]


_MOST_LIMBS = 1 << 16


def _checked_layout(
    slot_bits: int, value_bits: int, slots: int, limbs: int
) -> tuple[int, int, int, int]:
    slot_bits = checked_int(slot_bits, "slot_bits", 1, 64)
    value_bits = checked_int(value_bits, "value_bits", 1, slot_bits)
    limbs = checked_int(limbs, "limbs", 1, _MOST_LIMBS)
    slots = checked_int(slots, "slots_per_plaintext", 1, 64 * _MOST_LIMBS)
    if slots * slot_bits > 64 * limbs:
        raise ValueError(f"{slots} slots of {slot_bits} bits do not fit {limbs} limbs")
    return slot_bits, value_bits, slots, limbs


def pack_slots(
    values: npt.NDArray[np.int64],
    *,
    slot_bits: int,
    value_bits: int,
    slots_per_plaintext: int,
    limbs: int,
    isa: str | None = None,
) -> Limbs:
    """Pack integers into plaintexts, each plus the bias 2**(value_bits - 1) in its slot.

    Parameters
    ----------
    values
        ``int64[k]``, each in -2**(value_bits - 1) to 2**(value_bits - 1) - 1.
    slot_bits
        Bits from one slot to the next, guard bits included; at most 64.
    value_bits
        Bits of a biased value.
    slots_per_plaintext
        Slots in a plaintext, from the least significant bit.
    limbs
        Limbs of a plaintext. That the packed number is below n is for the caller to ensure.
    isa
        Instruction set path, see `CpuFeatures`; the chosen one by default.

    Returns
    -------
    ndarray
        ``uint64[ceil(k / slots_per_plaintext), limbs]``; unused slots hold the value 0.

    Raises
    ------
    OverflowError
        Naming the first value that does not fit `value_bits`.
    """
    slot_bits, value_bits, slots_per_plaintext, limbs = _checked_layout(
        slot_bits, value_bits, slots_per_plaintext, limbs
    )
    array: Any = values
    if not isinstance(array, np.ndarray) or array.dtype != np.int64 or array.ndim != 1:
        raise ValueError(f"values must be a one-dimensional int64 array, got {describe(array)}")
    check_layout(values, "values")
    out = np.empty((-(-len(values) // slots_per_plaintext), limbs), dtype=np.uint64)
    flat = out.reshape(-1)
    _kernels.pack_slots(
        values, slot_bits, value_bits, slots_per_plaintext, limbs, chosen_isa(isa), flat
    )
    return out


def unpack_slots(
    plaintexts: Limbs,
    count: int,
    *,
    slot_bits: int,
    value_bits: int,
    slots_per_plaintext: int,
    bias_multiple: int = 1,
    isa: str | None = None,
) -> npt.NDArray[np.int64]:
    """Unpack integers from plaintexts, or sums of them.

    Parameters
    ----------
    plaintexts
        ``uint64[ceil(count / slots_per_plaintext), limbs]``.
    count
        How many values to read.
    slot_bits, value_bits, slots_per_plaintext
        The layout they were packed with.
    bias_multiple
        How many biases a slot holds: the number of summed plaintexts, or the sum of the
        (non-negative) weights of a weighted sum.
    isa
        Instruction set path, see `CpuFeatures`; the chosen one by default.

    Returns
    -------
    ndarray
        ``int64[count]``.

    Raises
    ------
    OverflowError
        Naming the first value that does not fit int64.
    """
    array: Any = plaintexts
    if not isinstance(array, np.ndarray) or array.ndim != 2:
        raise ValueError(f"plaintexts must be an array with two axes, got {describe(array)}")
    slot_bits, value_bits, slots_per_plaintext, limbs = _checked_layout(
        slot_bits, value_bits, slots_per_plaintext, array.shape[1]
    )
    count = checked_int(count, "count", 0, 2**63 - 1)
    bias_multiple = checked_int(bias_multiple, "bias_multiple", 0, 2**63 - 1)
    rows = checked_rows(plaintexts, "plaintexts", limbs, -(-count // slots_per_plaintext))
    out = np.empty(count, dtype=np.int64)
    _kernels.unpack_slots(
        rows.reshape(-1),
        bias_multiple,
        slot_bits,
        value_bits,
        slots_per_plaintext,
        limbs,
        chosen_isa(isa),
        out,
    )
    return out
