"""Exchange of ciphertexts with ``phe``, both ways.

Belongs here: conversion between limb arrays or tensors and ``phe.EncryptedNumber``.
Does not belong here: keys, which convert themselves (`keys`).

``phe`` gives every number its own exponent, a plaintext k standing for k * 16^exponent, and chooses
it by the number's magnitude. The exponent is not encrypted: whoever sees such ciphertexts learns
roughly how large each number is. Tensors have one scale for all, so what they give away is that.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acie_native import ints_to_limbs, limbs_to_ints
from acie_pipelines.crypto.cipher_tensor import CipherTensor
from acie_pipelines.crypto.kept import KeptCiphertexts, check_ciphertexts
from acie_pipelines.crypto.keys import PaillierPublicKey
from acie_pipelines.crypto.packing import MAXIMUM_VALUE_BITS, unpacked_layout
from acie_pipelines.errors import CryptoError

__all__ = ["ciphertexts_from_phe", "ciphertexts_to_phe", "tensor_from_phe", "tensor_to_phe"]

# Digits of base 16, the base of phe's exponents.
_BASE_BITS = 4
# 16^15 is the largest power that weights of 64 bits hold.
_MOST_DIGITS = 15


def ciphertexts_to_phe(
    ciphertexts: NDArray[np.uint64], public_key: PaillierPublicKey, *, exponent: int = 0
) -> list[Any]:
    """Give ciphertexts as ``phe.EncryptedNumber``.

    Parameters
    ----------
    ciphertexts
        ``uint64[count, limbs]``.
    public_key
        Key they are under.
    exponent
        Scale in the sense of ``phe``: a plaintext k stands for k * 16^exponent.

    Raises
    ------
    CryptoError
        If a ciphertext is invalid.
    """
    import phe

    check_ciphertexts(ciphertexts, public_key)
    theirs = public_key.to_phe()
    return [
        phe.EncryptedNumber(theirs, int(value), exponent) for value in limbs_to_ints(ciphertexts)
    ]


def ciphertexts_from_phe(
    numbers: Sequence[Any], public_key: PaillierPublicKey
) -> tuple[NDArray[np.uint64], list[int]]:
    """Take over ``phe.EncryptedNumber`` objects.

    Parameters
    ----------
    numbers
        What ``phe`` encrypted or computed; results that it has not obfuscated yet are obfuscated.
    public_key
        Key they must be under.

    Returns
    -------
    ciphertexts
        ``uint64[count, limbs]``.
    exponents
        Scale of each, see `ciphertexts_to_phe`.

    Raises
    ------
    CryptoError
        If one is under another key or invalid.
    """
    for index, number in enumerate(numbers):
        if int(number.public_key.n) != public_key.n:
            raise CryptoError(
                f"ciphertext {index}",
                f"is not under key {public_key.key_id}",
                "convert the numbers of each key on their own",
            )
    values = [int(number.ciphertext()) for number in numbers]
    limit = public_key.n**2
    for index, value in enumerate(values):
        if not 0 < value < limit:
            raise CryptoError(
                f"ciphertext {index}", "is not between 0 and n^2", "encrypt the number again"
            )
    ciphertexts = ints_to_limbs(values, public_key.context.ciphertext_limbs)
    check_ciphertexts(ciphertexts, public_key)
    return ciphertexts, [int(number.exponent) for number in numbers]


def tensor_to_phe(tensor: CipherTensor) -> list[Any]:
    """Give an unpacked tensor's values as ``phe.EncryptedNumber``, in C order.

    All get the same exponent. The scale is refined to a power of 16 first, which is exact.

    Parameters
    ----------
    tensor
        One value per ciphertext; re-randomise it first if it leaves.

    Raises
    ------
    CryptoError
        If values share ciphertexts.
    """
    bits = -(-tensor.layout.fractional_bits // _BASE_BITS) * _BASE_BITS
    if tensor.layout.packed:
        raise CryptoError(
            f"tensor under key {tensor.public_key.key_id}",
            "has several values in a ciphertext, which phe does not know",
            "encrypt with unpacked_layout, or exchange its ciphertexts",
        )
    aligned = tensor.at_scale(bits)
    return ciphertexts_to_phe(aligned.ciphertexts, tensor.public_key, exponent=-bits // _BASE_BITS)


def tensor_from_phe(
    numbers: Sequence[Any],
    public_key: PaillierPublicKey,
    shape: tuple[int, ...],
    *,
    value_bits: int = MAXIMUM_VALUE_BITS,
) -> CipherTensor:
    """Take over ``phe.EncryptedNumber`` objects as an unpacked tensor.

    Numbers are brought to the finest of their exponents, which is exact.

    Parameters
    ----------
    numbers
        In C order.
    public_key
        Key they must be under.
    shape
        Shape of the tensor.
    value_bits
        Width of the encoded integers in two's complement, which ``phe`` does not tell; decryption
        notices larger ones. Integers and floats that ``phe`` encoded by itself fit the default.

    Raises
    ------
    CryptoError
        If one is under another key or invalid, exponents differ by more than 15, or the shape does
        not fit.
    """
    ciphertexts, exponents = ciphertexts_from_phe(numbers, public_key)
    finest = min(exponents, default=0)
    digits = max(exponents, default=0) - finest
    if digits > _MOST_DIGITS:
        raise CryptoError(
            "phe numbers",
            f"have exponents {digits} apart, at most {_MOST_DIGITS} can be aligned",
            "encrypt them with a common precision",
        )
    shifts = np.array([_BASE_BITS * (exponent - finest) for exponent in exponents], dtype=np.int64)
    array = public_key.context.load(ciphertexts)
    if shifts.any():
        array = array.scalar_mul(np.int64(1) << shifts)
    layout = unpacked_layout(
        key_bits=public_key.bits, value_bits=value_bits, fractional_bits=-_BASE_BITS * finest
    )
    kept = KeptCiphertexts.of_array(array, public_key)
    return CipherTensor(public_key, layout, shape, kept, 1 << int(shifts.max(initial=0)))
