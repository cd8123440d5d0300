"""Messages and files that hold a JSON header and encrypted tensors.

Belongs here: the one container format of this package.
Does not belong here: what is in it (`encrypted_query`, `streaming`).

Format, little-endian::

    magic, 8 bytes | parts u32 | header length u64 | part lengths, u64 each | header, JSON | parts
    SHA-256 of everything before

The hash finds damage, not malice: authenticate what comes from others.
"""

import hashlib
import json
import struct
from collections.abc import Sequence
from typing import Any, Final

from acie_pipelines.errors import CryptoError
from acie_pipelines.manifest import canonical_json

__all__ = ["malformed", "read_message", "write_message"]

_START: Final = struct.Struct("<8sIQ")
_LENGTH: Final = struct.Struct("<Q")
_DIGEST_BYTES: Final = 32


def write_message(magic: bytes, header: dict[str, Any], parts: Sequence[bytes]) -> bytes:
    """Write a message.

    Parameters
    ----------
    magic
        Eight bytes that say what it is.
    header
        A JSON object.
    parts
        Any number.
    """
    encoded = canonical_json(header)
    lengths = b"".join(_LENGTH.pack(len(part)) for part in parts)
    start = _START.pack(magic, len(parts), len(encoded))
    content = b"".join((start, lengths, encoded, *parts))
    return content + hashlib.sha256(content).digest()


def read_message(magic: bytes, data: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """Read a message; lengths are checked before anything is taken.

    Raises
    ------
    CryptoError
        If it is another message, or damaged.
    """
    view = memoryview(data)
    content = view[:-_DIGEST_BYTES]
    if len(content) < _START.size or _START.unpack_from(content)[0] != magic:
        raise malformed("does not begin like one")
    if hashlib.sha256(content).digest() != view[-_DIGEST_BYTES:]:
        raise malformed("is cut or does not match its hash")
    _, count, header_length = _START.unpack_from(content)
    place = _START.size + count * _LENGTH.size
    if place > len(content):
        raise malformed("is too short")
    lengths = [
        _LENGTH.unpack_from(content, _START.size + number * _LENGTH.size)[0]
        for number in range(count)
    ]
    if place + header_length + sum(lengths) != len(content):
        raise malformed("does not have the lengths that it states")
    try:
        header = json.loads(bytes(content[place : place + header_length]))
    except (ValueError, RecursionError):
        raise malformed("has a header that is no JSON") from None
    if not isinstance(header, dict):
        raise malformed("has a header that is no object")
    place += header_length
    parts = []
    for length in lengths:
        parts.append(bytes(content[place : place + length]))
        place += length
    return header, parts


def malformed(reason: str) -> CryptoError:
    """Refusal of a message."""
    return CryptoError("message", reason, "take another copy of what was written")
