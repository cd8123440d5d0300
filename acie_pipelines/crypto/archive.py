"""Authenticated archives of original files: one sealed stream per file.

Belongs here: the archive format, sealing and unsealing of streams.
Does not belong here: which files are archived (`archive_observation`), key storage (`vault`).

Format, version 1::

    "ACIEARC" 0x01 | header length, 4 bytes big-endian | header, canonical JSON | chunks

Chunks follow the STREAM construction (V. T. Hoang, R. Reyhanitabar, P. Rogaway, D. Vizár, *Online
Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance*, CRYPTO 2015) over AES-256-GCM (NIST
SP 800-38D): each holds 1 MiB of plaintext, the last one possibly less, and a 16-byte tag; its nonce
is a random 7-byte prefix, a 4-byte counter and a byte that is 1 for the last chunk only. So chunks
cannot be cut, reordered, repeated or appended. Everything before the chunks is associated data of
every chunk, which binds the file's name, size and fingerprints to its content. The fingerprints are
readable without the key: whoever holds a candidate file can tell whether it is the one sealed here.

The file's key comes from the archive key and a random salt by HKDF-SHA256 (RFC 5869). AES-GCM alone
does not commit to its key, so the header also carries a second HKDF output that is compared before
anything is decrypted.

What was found out about the content, such as its class, would tell of the content. The header holds
it as a *note* under a third key of the file, padded, with the rest of the header as associated
data; without the key only whether there is one can be seen. Archives without a note have no such
field.
"""

import hmac
import json
import re
import secrets
import struct
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import IO, Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from acie_pipelines.crypto.archive_key import ArchiveKey
from acie_pipelines.errors import CryptoError, IntegrityError, TamperedDataError
from acie_pipelines.observations.identity import ContentHasher, Fingerprint

__all__ = ["CHUNK_BYTES", "ArchiveHeader", "read_header", "read_note", "seal", "unseal"]

CHUNK_BYTES = 1 << 20
_TAG_BYTES = 16
_MAGIC = b"ACIEARC\x01"
_LENGTH = struct.Struct(">I")
_MAXIMUM_HEADER_BYTES = 1 << 16
_SALT_BYTES = 32
_PREFIX_BYTES = 7
_HEX = re.compile("[0-9a-f]{64}")
_NOTE = re.compile("(?:[0-9a-f]{2})*")
_NOTE_BLOCK_BYTES = 256
_MAXIMUM_NOTE_BYTES = 4096
_NOTE_NONCE = bytes(12)
_NOTE_DOMAIN = b"acie.archive/1 note on "
_INFO_KEY = b"acie.archive/1 AES-256-GCM key"
_INFO_COMMITMENT = b"acie.archive/1 key commitment"
_INFO_NOTE = b"acie.archive/1 AES-256-GCM note key"
_TAMPERED = "it was changed, cut or sealed under another key; use another copy"


@dataclass(frozen=True)
class ArchiveHeader:
    """What an archive says about itself. Trustworthy once the archive has been unsealed.

    Attributes
    ----------
    name
        Name of the original file.
    size
        Its length in bytes.
    sha256, streebog256
        Its fingerprints, 64 hexadecimal digits each.
    key_id
        Vault entry whose archive key opens it.
    note
        Encrypted, in hexadecimal digits; empty if there is none. See `read_note`.
    """

    name: str
    size: int
    sha256: str
    streebog256: str
    key_id: str
    note: str = ""

    def __post_init__(self) -> None:
        if not (
            self.name
            and 0 <= self.size <= CHUNK_BYTES << 32
            and _HEX.fullmatch(self.sha256)
            and _HEX.fullmatch(self.streebog256)
            and _NOTE.fullmatch(self.note)
        ):
            raise CryptoError(
                f"archive of {self.name!r}",
                "its name, size, fingerprints or note are malformed",
                "give a name, a length in bytes and 64 hexadecimal digits per fingerprint",
            )

    @property
    def fingerprint(self) -> Fingerprint:
        """Identity of the content."""
        return Fingerprint(self.sha256, self.streebog256, self.size)


@dataclass(frozen=True, repr=False)
class _Cipher:
    """Chunk cipher of one archive."""

    aead: AESGCM
    prefix: bytes
    associated: bytes

    def nonce(self, counter: int, last: bool) -> bytes:
        return self.prefix + _LENGTH.pack(counter) + bytes([last])


def seal(
    source: IO[bytes],
    sink: IO[bytes],
    *,
    archive_key: ArchiveKey,
    name: str,
    size: int,
    sha256: str,
    streebog256: str,
    note: Mapping[str, Any] | None = None,
) -> ArchiveHeader:
    """Write a sealed archive of a stream in constant memory.

    Parameters
    ----------
    source
        Plaintext, read to its end.
    sink
        Receives the archive.
    archive_key
        Secret of the vault.
    name, size, sha256, streebog256
        Identity of the file, bound to the content and verified on the way.
    note
        JSON values that tell of the content; bound to it and readable with the key only.

    Returns
    -------
    ArchiveHeader
        What was written in front of the content.

    Raises
    ------
    IntegrityError
        If the stream is not the file described; discard what the sink received.
    CryptoError
        If the note is too long.
    """
    header = ArchiveHeader(name, size, sha256, streebog256, archive_key.key_id)
    salt, prefix = secrets.token_bytes(_SALT_BYTES), secrets.token_bytes(_PREFIX_BYTES)
    if note is not None:
        header = replace(header, note=_seal_note(note, archive_key, header, salt, prefix).hex())
    return _seal(source, sink, archive_key, header, salt, prefix)


def _seal_note(
    note: Mapping[str, Any],
    archive_key: ArchiveKey,
    header: ArchiveHeader,
    salt: bytes,
    prefix: bytes,
) -> bytes:
    encoded = json.dumps(
        dict(note), sort_keys=True, separators=(",", ":"), allow_nan=False
    ).encode()
    framed = _LENGTH.pack(len(encoded)) + encoded
    if len(framed) > _MAXIMUM_NOTE_BYTES:
        raise CryptoError(
            f"note on {header.name!r}", f"is {len(encoded)} bytes long", "write a shorter one"
        )
    # Names of classes differ in length.
    padded = framed.ljust(-(-len(framed) // _NOTE_BLOCK_BYTES) * _NOTE_BLOCK_BYTES, b"\0")
    _, commitment = _derive(archive_key, salt)
    associated = _NOTE_DOMAIN + _canonical(header, salt, prefix, commitment)
    # The key serves once.
    return AESGCM(_expand(archive_key, salt, _INFO_NOTE)).encrypt(_NOTE_NONCE, padded, associated)


def _seal(
    source: IO[bytes],
    sink: IO[bytes],
    archive_key: ArchiveKey,
    header: ArchiveHeader,
    salt: bytes,
    prefix: bytes,
) -> ArchiveHeader:
    key, commitment = _derive(archive_key, salt)
    body = _canonical(header, salt, prefix, commitment)
    front = _MAGIC + _LENGTH.pack(len(body)) + body
    cipher = _Cipher(AESGCM(key), prefix, front)
    sink.write(front)
    counter = 0
    chunk = _read_exactly(source, CHUNK_BYTES)
    with ContentHasher() as hasher:
        while True:
            following = _read_exactly(source, CHUNK_BYTES)
            hasher.update(chunk)
            if hasher.size > header.size:
                break
            nonce = cipher.nonce(counter, not following)
            sink.write(cipher.aead.encrypt(nonce, chunk, cipher.associated))
            if not following:
                break
            chunk, counter = following, counter + 1
        found = hasher.fingerprint()
    if found != header.fingerprint:
        raise IntegrityError(
            header.name,
            "is not the file that was described",
            "it changed after it was ingested; ingest it again",
        )
    return header


def read_header(source: IO[bytes]) -> ArchiveHeader:
    """Read what an archive claims to hold, without a key and therefore without proof.

    Raises
    ------
    TamperedDataError
        If it is no archive of this version.
    """
    return _read_front(source)[0]


def read_note(source: IO[bytes], *, archive_key: ArchiveKey) -> dict[str, Any] | None:
    """Decrypt what was noted about the content.

    Parameters
    ----------
    source
        The archive.
    archive_key
        Secret of the vault entry named by `read_header`.

    Returns
    -------
    dict or None
        ``None`` if nothing was noted.

    Raises
    ------
    TamperedDataError
        If the note or the header was changed, or the key is another one. That the content is the
        one it was noted about, `unseal` tells.
    """
    header, public, _ = _read_front(source)
    _check_commitment(header, public, archive_key)
    if not header.note:
        return None
    key = _expand(archive_key, public["salt"], _INFO_NOTE)
    associated = _NOTE_DOMAIN + _canonical(replace(header, note=""), *public.values())
    try:
        padded = AESGCM(key).decrypt(_NOTE_NONCE, bytes.fromhex(header.note), associated)
        (length,) = _LENGTH.unpack_from(padded)
        note = json.loads(padded[_LENGTH.size : _LENGTH.size + length])
        if not isinstance(note, dict):
            raise TypeError("no object")
    except (InvalidTag, ValueError, TypeError, struct.error, RecursionError):
        raise TamperedDataError(
            f"archive of {header.name!r}", "its note is not authentic", _TAMPERED
        ) from None
    return note


def unseal(source: IO[bytes], sink: IO[bytes], *, archive_key: ArchiveKey) -> ArchiveHeader:
    """Verify and decrypt an archive in constant memory.

    Each chunk is authenticated before the sink receives it, but only the return of this function
    says that the whole file is there: use `destination.Destination.file` unless the sink
    can be discarded.

    Parameters
    ----------
    source
        The archive.
    sink
        Receives the original content.
    archive_key
        Secret of the vault entry named by `read_header`.

    Raises
    ------
    TamperedDataError
        If anything at all differs from what was sealed, or the key is another one.
    """
    header, cipher = _open(source, archive_key)
    counter = 0
    chunk = _read_exactly(source, CHUNK_BYTES + _TAG_BYTES)
    with ContentHasher() as hasher:
        while True:
            following = _read_exactly(source, CHUNK_BYTES + _TAG_BYTES)
            nonce = cipher.nonce(counter, not following)
            plain: bytes | None
            try:
                plain = cipher.aead.decrypt(nonce, chunk, cipher.associated)
            except InvalidTag:
                plain = None
            if plain is None or (following and counter == 0xFFFFFFFF):
                raise TamperedDataError(
                    f"archive of {header.name!r}", f"chunk {counter} is not authentic", _TAMPERED
                )
            hasher.update(plain)
            sink.write(plain)
            if not following:
                break
            chunk, counter = following, counter + 1
        found = hasher.fingerprint()
    if found != header.fingerprint:
        raise TamperedDataError(
            f"archive of {header.name!r}", "content does not match its header", _TAMPERED
        )
    return header


def _expand(archive_key: ArchiveKey, salt: bytes, info: bytes) -> bytes:
    return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(archive_key.secret)


def _derive(archive_key: ArchiveKey, salt: bytes) -> tuple[bytes, bytes]:
    return _expand(archive_key, salt, _INFO_KEY), _expand(archive_key, salt, _INFO_COMMITMENT)


def _fields(header: ArchiveHeader) -> dict[str, Any]:
    fields = dict(vars(header))
    if not header.note:
        del fields["note"]
    return fields


def _json(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _canonical(header: ArchiveHeader, salt: bytes, prefix: bytes, commitment: bytes) -> bytes:
    public = {"salt": salt.hex(), "nonce_prefix": prefix.hex(), "commitment": commitment.hex()}
    return _json(_fields(header) | public)


def _read_front(source: IO[bytes]) -> tuple[ArchiveHeader, dict[str, bytes], bytes]:
    """Parse everything before the chunks; only the one canonical spelling is accepted."""
    lead = _read_exactly(source, len(_MAGIC) + _LENGTH.size)
    if lead[: len(_MAGIC)] != _MAGIC or len(lead) != len(_MAGIC) + _LENGTH.size:
        raise TamperedDataError(
            "archive", "does not begin like an archive of version 1", "check that it is one"
        )
    (length,) = _LENGTH.unpack_from(lead, len(_MAGIC))
    body = _read_exactly(source, min(length, _MAXIMUM_HEADER_BYTES + 1))
    try:
        fields = json.loads(body)
        public = {
            field: bytes.fromhex(fields.pop(field))
            for field in ("salt", "nonce_prefix", "commitment")
        }
        header = ArchiveHeader(**fields)
        sizes = [len(value) for value in public.values()]
        valid = (
            len(body) == length <= _MAXIMUM_HEADER_BYTES
            and sizes == [_SALT_BYTES, _PREFIX_BYTES, 32]
            and body == _canonical(header, *public.values())
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, CryptoError):
        valid = False
    if not valid:
        raise TamperedDataError("archive", "its header is malformed", _TAMPERED)
    return header, public, lead + body


def _open(source: IO[bytes], archive_key: ArchiveKey) -> tuple[ArchiveHeader, _Cipher]:
    header, public, front = _read_front(source)
    key = _check_commitment(header, public, archive_key)
    return header, _Cipher(AESGCM(key), public["nonce_prefix"], front)


def _check_commitment(
    header: ArchiveHeader, public: dict[str, bytes], archive_key: ArchiveKey
) -> bytes:
    """Derive the file's key if it is the one that the header commits to."""
    key, commitment = _derive(archive_key, public["salt"])
    if header.key_id != archive_key.key_id or not hmac.compare_digest(
        commitment, public["commitment"]
    ):
        raise TamperedDataError(
            f"archive of {header.name!r}",
            "does not commit to this archive key",
            f"it names key {header.key_id!r}; if that is the key given, the archive was changed",
        )
    return key


def _read_exactly(source: IO[bytes], count: int) -> bytes:
    """Read until `count` bytes or the end: raw streams may return less than asked."""
    parts: list[bytes] = []
    while count and (part := source.read(count)):
        parts.append(part)
        count -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)
