"""Reading of legacy archives: files that ``openssl enc -rc2-cbc`` wrote. Nothing here encrypts.

Belongs here: that format, and what it becomes: a restored file or a sealed archive.
Does not belong here: formats that protect (`archive`).

RC2 (RFC 2268) has blocks of 64 bits and is long obsolete, and in CBC mode without a tag nothing
shows whether a file was changed: a wrong passphrase is noticed by the padding only, and goes
unnoticed once in about 256 times. Only keys of 128 bits are read, OpenSSL's ``rc2-cbc``; the
ciphers ``rc2-40-cbc`` and ``rc2-64-cbc`` are not, because the library has no such keys.

A file is ``Salted__``, eight bytes of salt and the ciphertext. Key and initialisation vector come
from the passphrase by EVP_BytesToKey with one iteration (OpenSSL's default; MD5 up to version 1.0,
SHA-256 since 1.1) or, with ``-pbkdf2``, by PBKDF2-HMAC (RFC 8018; 10,000 iterations by default).
"""

import hashlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, cast

from acie_pipelines.crypto.archive import seal
from acie_pipelines.crypto.archive_files import SUFFIX, Outcome, header_of, open_regular
from acie_pipelines.crypto.archive_key import ArchiveKey
from acie_pipelines.crypto.destination import Destination
from acie_pipelines.errors import CryptoError, StorageError
from acie_pipelines.observations.identity import ContentHasher
from acie_pipelines.storage import atomic_writer

__all__ = ["Digest", "LegacyKey", "decrypt_rc2", "restore_legacy", "seal_legacy"]

_MAGIC = b"Salted__"
_SALT_BYTES, _KEY_BYTES, _BLOCK_BYTES = 8, 16, 8
_READ_BYTES = 1 << 20
_SUFFIXES = (".rc2", ".enc")


class Digest(StrEnum):
    """Hash functions that ``openssl enc -md`` may have been used with."""

    MD5 = "md5"
    SHA1 = "sha1"
    SHA256 = "sha256"
    SHA512 = "sha512"


@dataclass(frozen=True, repr=False)
class LegacyKey:
    """A passphrase and how a key is made of it.

    Attributes
    ----------
    passphrase
        As it was given to OpenSSL.
    digest
        Hash function.
    iterations
        Of PBKDF2; ``None`` for EVP_BytesToKey.
    """

    passphrase: bytes
    digest: Digest = Digest.SHA256
    iterations: int | None = None

    def __repr__(self) -> str:
        return f"LegacyKey({self.digest}, iterations={self.iterations})"

    def derive(self, salt: bytes) -> tuple[bytes, bytes]:
        """Make key and initialisation vector."""
        length = _KEY_BYTES + _BLOCK_BYTES
        if self.iterations is not None:
            material = hashlib.pbkdf2_hmac(
                self.digest, self.passphrase, salt, self.iterations, length
            )
        else:
            block = material = b""
            while len(material) < length:
                block = hashlib.new(
                    self.digest, block + self.passphrase + salt, usedforsecurity=False
                ).digest()
                material += block
        return material[:_KEY_BYTES], material[_KEY_BYTES:length]


def decrypt_rc2(source: IO[bytes], name: object, key: LegacyKey) -> Iterator[bytes]:
    """Decrypt a file in constant memory.

    What is yielded is not authenticated, and until the end not even known to be under this key.

    Parameters
    ----------
    source
        The file, at its start.
    name
        Named in errors.
    key
        Passphrase and derivation.

    Raises
    ------
    CryptoError
        If it is no such file, or its end is not what this key leads to.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.decrepit.ciphers.algorithms import RC2
    from cryptography.hazmat.primitives.ciphers import Cipher, modes

    lead = source.read(len(_MAGIC) + _SALT_BYTES)
    if len(lead) != len(_MAGIC) + _SALT_BYTES or not lead.startswith(_MAGIC):
        raise CryptoError(
            name,
            "does not begin as `openssl enc` writes files",
            "give a file that starts with Salted__, not in base64",
        )
    secret, vector = key.derive(lead[len(_MAGIC) :])
    try:
        decryptor = Cipher(RC2(secret), modes.CBC(vector)).decryptor()
    except UnsupportedAlgorithm:
        raise CryptoError(
            name,
            "is encrypted with RC2, which OpenSSL offers in its legacy provider only",
            "unset CRYPTOGRAPHY_OPENSSL_NO_LEGACY",
        ) from None
    held, length = b"", 0
    while block := source.read(_READ_BYTES):
        length += len(block)
        plain = held + decryptor.update(block)
        # The padding is in the last block, which cannot be told before the end.
        cut = max(0, len(plain) - _BLOCK_BYTES)
        if cut:
            yield plain[:cut]
        held = plain[cut:]
    pad = held[-1] if held else 0
    whole = length > 0 and length % _BLOCK_BYTES == 0 and len(held) == _BLOCK_BYTES
    if not (whole and 1 <= pad <= _BLOCK_BYTES and held.endswith(bytes([pad]) * pad)):
        raise CryptoError(
            name,
            "does not decrypt: another passphrase or derivation, or it was damaged",
            "check the passphrase, -md (md5 before OpenSSL 1.1), -pbkdf2 and its iterations",
        )
    yield held[:-pad]


def restore_legacy(path: Path, destination: Destination, key: LegacyKey) -> Outcome:
    """Decrypt a legacy file; it appears, with mode 0600, when its padding was right.

    Parameters
    ----------
    path
        ``NAME.rc2`` or ``NAME.enc`` becomes NAME, any other name gets ``.restored``.
    destination
        Directory that receives it. Existing files are never replaced.
    key
        Passphrase and derivation.

    Raises
    ------
    CryptoError
        See `decrypt_rc2`.
    StorageError
        If it cannot be read or written, or a file of that name exists.
    """
    name = _original_name(path)
    with open_regular(path) as source, ContentHasher() as hasher, destination.file(name) as sink:
        for block in decrypt_rc2(source, path, key):
            hasher.update(block)
            sink.write(block)
        identity = hasher.fingerprint()
    result = str(destination.path / name)
    return Outcome(str(path), "restored", result, **vars(identity))


def seal_legacy(path: Path, directory: Path, key: LegacyKey, archive_key: ArchiveKey) -> Outcome:
    """Decrypt a legacy file straight into a sealed archive; no plaintext is written anywhere.

    It is decrypted twice: the archive's header, which comes first, holds the fingerprints.

    Parameters
    ----------
    path, key
        See `restore_legacy`.
    directory
        Receives the archive.
    archive_key
        Key to seal under.

    Raises
    ------
    CryptoError
        See `decrypt_rc2`.
    StorageError
        If it cannot be read or written, or an archive of that name exists.
    """
    name = _original_name(path)
    target = directory / f"{name}{SUFFIX}"
    if target.exists():
        raise StorageError(target, "exists already", "move it away")
    with open_regular(path) as source:
        with ContentHasher() as hasher:
            for block in decrypt_rc2(source, path, key):
                hasher.update(block)
            identity = hasher.fingerprint()
        source.seek(0)
        plain = cast(IO[bytes], _Stream(decrypt_rc2(source, path, key)))
        with atomic_writer(target) as sink:
            seal(plain, sink, archive_key=archive_key, name=name, **vars(identity))
    return Outcome.of(path, "sealed", target, header_of(name, identity, archive_key))


def _original_name(path: Path) -> str:
    return path.stem if path.suffix.lower() in _SUFFIXES else f"{path.name}.restored"


class _Stream(io.RawIOBase):
    """Reads from an iterator of blocks."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks, self._left = blocks, b""

    def read(self, size: int = -1) -> bytes:
        while not self._left:
            block = next(self._blocks, None)
            if block is None:
                return b""
            self._left = block
        taken = self._left if size < 0 else self._left[:size]
        self._left = self._left[len(taken) :]
        return taken
