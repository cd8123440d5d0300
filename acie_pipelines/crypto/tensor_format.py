"""Encrypted tensors as bytes, to send and to keep outside the store.

Belongs here: the format and its parser.
Does not belong here: ciphertexts in Zarr (`tile_encryption`, `cipher_planes`).

Format, version 1, little-endian::

    "ACIETNSR" | version u16 | axes u16 | key id 8 bytes
    slot bits u32 | value bits u32 | slots u32 | fractional bits i32
    weight length u32 | limbs per ciphertext u32 | ciphertexts u64
    shape, u64 per axis | weight | limbs, u64 each | SHA-256 of everything before

The hash finds damage, not malice: anyone can compute it, so authenticate what comes from others.
"""

import hashlib
import math
import struct

import numpy as np

from acie_pipelines.crypto.cipher_tensor import CipherTensor
from acie_pipelines.crypto.keys import PaillierPublicKey
from acie_pipelines.crypto.packing import PackingLayout
from acie_pipelines.errors import CryptoError

__all__ = ["from_bytes", "key_id_of", "to_bytes"]

_MAGIC = b"ACIETNSR"
_VERSION = 1
_HEADER = struct.Struct("<8sHH8sIIIiIIQ")
_DIGEST_BYTES = 32
_MAXIMUM_AXES = 32
_LIMB_DTYPE = np.dtype("<u8")


def to_bytes(tensor: CipherTensor) -> bytes:
    """Write a tensor; re-randomise it first if it leaves.

    Parameters
    ----------
    tensor
        Any tensor of up to 32 axes.
    """
    layout, rows = tensor.layout, tensor.ciphertexts
    weight = tensor.weight.to_bytes(-(-tensor.weight.bit_length() // 8), "little")
    header = _HEADER.pack(
        _MAGIC,
        _VERSION,
        len(tensor.shape),
        bytes.fromhex(tensor.public_key.key_id),
        layout.slot_bits,
        layout.value_bits,
        layout.slots_per_plaintext,
        layout.fractional_bits,
        len(weight),
        rows.shape[1],
        len(rows),
    )
    shape = struct.pack(f"<{len(tensor.shape)}Q", *tensor.shape)
    body = b"".join((header, shape, weight, rows.astype(_LIMB_DTYPE, copy=False).tobytes()))
    return body + hashlib.sha256(body).digest()


def key_id_of(data: bytes | bytearray | memoryview) -> str:
    """Id of the key that a tensor's bytes claim to be under; `from_bytes` checks the rest.

    Raises
    ------
    CryptoError
        If they do not begin like a tensor of this version.
    """
    view = memoryview(data).cast("B")
    if len(view) < _HEADER.size:
        raise _malformed("is too short")
    magic, version, _, key_id, *_ = _HEADER.unpack_from(view)
    if magic != _MAGIC or version != _VERSION:
        raise _malformed(f"is not of version {_VERSION}")
    return str(key_id.hex())


def from_bytes(data: bytes | bytearray | memoryview, public_key: PaillierPublicKey) -> CipherTensor:
    """Read a tensor; its ciphertexts are copied once.

    Parameters
    ----------
    data
        What `to_bytes` wrote; nothing is allocated before its lengths have been checked.
    public_key
        Key it is under.

    Raises
    ------
    CryptoError
        If anything is not as `to_bytes` writes it, it is under another key, or a ciphertext is
        zero, not below n^2 or not coprime to n.
    """
    view = memoryview(data).cast("B")
    if len(view) < _HEADER.size + _DIGEST_BYTES:
        raise _malformed("is too short")
    magic, version, axes, key_id, *fields = _HEADER.unpack_from(view)
    slot_bits, value_bits, slots, fractional_bits, weight_bytes, limbs, rows = fields
    if magic != _MAGIC or version != _VERSION:
        raise _malformed(f"is not of version {_VERSION}")
    if key_id.hex() != public_key.key_id:
        raise CryptoError(
            f"encrypted tensor under key {key_id.hex()}",
            f"cannot be read with key {public_key.key_id}",
            "take the key of that id from the vault",
        )
    if axes > _MAXIMUM_AXES or limbs != public_key.context.ciphertext_limbs:
        raise _malformed("has a header that does not fit its key")
    payload = _HEADER.size + 8 * axes + weight_bytes
    if len(view) != payload + 8 * limbs * rows + _DIGEST_BYTES:
        raise _malformed("does not have the length that its header states")
    if hashlib.sha256(view[:-_DIGEST_BYTES]).digest() != view[-_DIGEST_BYTES:]:
        raise _malformed("does not match its hash")
    shape = struct.unpack_from(f"<{axes}Q", view, _HEADER.size)
    encoded = bytes(view[payload - weight_bytes : payload])
    # One spelling of each number: no leading zeros; and lengths that the layout can have.
    if weight_bytes * 8 > slot_bits + 8 or encoded[-1:] == b"\0":
        raise _malformed("has a weight that its layout cannot have")
    layout = PackingLayout(slot_bits, value_bits, slots, fractional_bits)
    layout.check_key(public_key.bits)
    if rows != layout.rows(math.prod(shape)) or max(shape, default=0) >= 2**63:
        raise _malformed("has a shape that its ciphertexts do not fill")
    start, stop = payload, len(view) - _DIGEST_BYTES
    ciphertexts = np.frombuffer(view[start:stop], dtype=_LIMB_DTYPE).astype(np.uint64)
    return CipherTensor.from_ciphertexts(
        ciphertexts.reshape(rows, limbs),
        public_key,
        layout,
        shape,
        weight=int.from_bytes(encoded, "little"),
    )


def _malformed(reason: str) -> CryptoError:
    return CryptoError("encrypted tensor", reason, "take another copy of what to_bytes wrote")
