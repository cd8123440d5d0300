"""Many encrypted values gathered into few ciphertexts, without the private key.

Belongs here: the homomorphic change from an unpacked to a packed layout.
Does not belong here: layouts (`packing`), other arithmetic (`tensor_arithmetic`).

Decryption costs the same for a ciphertext of one value and of a hundred, and so does sending it.
Values are shifted into place by Horner's rule: the slots of a plaintext are the digits of a number
in base 2^slot_bits, and each step multiplies by the base and adds the next value.
"""

import numpy as np

from acie_native import CipherArray
from acie_pipelines.crypto.cipher_tensor import CipherTensor
from acie_pipelines.crypto.kept import KeptCiphertexts
from acie_pipelines.crypto.packing import layout_for
from acie_pipelines.crypto.plaintexts import plaintext_rows
from acie_pipelines.errors import CryptoError

__all__ = ["pack_tensor"]

# A multiplier of the kernels is a signed 64-bit integer.
_LARGEST_SHIFT = 62


def pack_tensor(tensor: CipherTensor, *, additions: int = 1) -> CipherTensor:
    """Gather the values of an unpacked tensor into as few ciphertexts as its bound allows.

    Parameters
    ----------
    tensor
        Unpacked, of any shape.
    additions
        How many values of this tensor's bound must fit into a slot when they are summed.

    Returns
    -------
    CipherTensor
        The same values, shape and scale in a packed layout of weight 1. It is not re-randomised.

    Raises
    ------
    CryptoError
        If the tensor is packed already, or its values could need more than 62 bits, with the
        additions more than 64.
    """
    public_key = tensor.public_key
    if tensor.layout.packed:
        raise CryptoError(
            f"tensor under key {public_key.key_id}", "is packed already", "use it as it is"
        )
    layout = layout_for(
        tensor.bound.bit_length() + 1,
        key_bits=public_key.bits,
        additions=additions,
        fractional_bits=tensor.layout.fractional_bits,
    )
    slots, rows = layout.slots_per_plaintext, layout.rows(tensor.size)
    order = np.arange(tensor.size)
    # Slot s of every row at once; the last row may lack the upper slots, which then stay empty.
    columns = [np.ascontiguousarray(order[slot::slots]) for slot in range(min(slots, tensor.size))]
    kept = tensor.kept.array
    packed: CipherArray | None = None
    for column in reversed(columns):
        values = kept.take(column)
        if packed is None:
            packed = values
            continue
        packed = _shifted(packed, layout.slot_bits)
        whole = len(packed)
        if len(column) > whole:
            packed = CipherArray.concatenate(
                [packed.add(values.take(np.arange(whole))), values.take(np.arange(whole, rows))]
            )
        else:
            packed = packed.add(values)
    if packed is None:
        packed = kept
    # Encoding zeros writes the biases of all used slots, in the layout's own way.
    biases = plaintext_rows(np.zeros(tensor.size, dtype=np.int64), public_key, layout)
    packed = packed.add_plain(biases)
    return CipherTensor(
        public_key, layout, tensor.shape, KeptCiphertexts.of_array(packed, public_key)
    )


def _shifted(array: CipherArray, bits: int) -> CipherArray:
    while bits:
        step = min(bits, _LARGEST_SHIFT)
        array = array.scalar_mul(np.full(len(array), 1 << step, dtype=np.int64))
        bits -= step
    return array
