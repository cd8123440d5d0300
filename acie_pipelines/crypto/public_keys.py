"""What may be known of keys without a secret: moduli, versions and states.

Belongs here: the public part of a vault and the document that hands it to others.
Does not belong here: secrets of any kind, or where they are kept (`vault`).

States follow NIST SP 800-57 part 1 revision 5, section 7. ``current`` is its *active* state: the
key protects new data. ``rotated`` is *deactivated*: it only reads. ``revoked`` is *compromised*: it
protects nothing, and reading with it needs an explicit decision, because what is under it may have
been written by somebody else.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from acie_pipelines.crypto.keys import PaillierPublicKey
from acie_pipelines.errors import (
    CryptoError,
    KeyVaultError,
    LostKeyError,
    RevokedKeyError,
    RoleError,
)

__all__ = ["KeyRecord", "KeyState", "PublicKeys", "read_public_keys"]

_SCHEMA = "acie.public-keys/1"
_FIELDS = {"modulus", "version", "created", "state", "since"}
_EXPORT = "take what `acie keys export-public` writes"
_MAXIMUM_DOCUMENT_BYTES = 1 << 24
_MAXIMUM_BITS = 1 << 14


class KeyState(StrEnum):
    """What a key may be used for."""

    CURRENT = "current"
    ROTATED = "rotated"
    REVOKED = "revoked"


@dataclass(frozen=True)
class KeyRecord:
    """Everything about a key that is no secret.

    Attributes
    ----------
    public_key
        The modulus.
    version
        1 for the first key of a vault, one more for each that follows; never used again.
    created, since
        UTC times in ISO 8601: of the key, and of its state.
    state
        What it may be used for.
    reason
        Why it was revoked, in its owner's words; empty otherwise. Not exported.
    """

    public_key: PaillierPublicKey
    version: int
    created: str
    state: KeyState
    since: str
    reason: str = ""

    @property
    def key_id(self) -> str:
        """Id of the key."""
        return self.public_key.key_id


@dataclass(frozen=True)
class PublicKeys:
    """Public keys with their states.

    Attributes
    ----------
    subject
        Where they come from, for messages.
    records
        One per key, versions ascending; at most one is current.
    """

    subject: str
    records: tuple[KeyRecord, ...]

    def key_ids(self) -> tuple[str, ...]:
        """Ids of all keys: the current one first, then the latest first."""
        latest = sorted(self.records, key=lambda r: (r.state != KeyState.CURRENT, -r.version))
        return tuple(record.key_id for record in latest)

    def find(self, key_id: str | None = None, *, allow_revoked: bool = False) -> KeyRecord:
        """Look a key up.

        Parameters
        ----------
        key_id
            Its id; the current key by default.
        allow_revoked
            Give a revoked key too, to read what is under it all the same.

        Raises
        ------
        LostKeyError
            If there is no such key, or none is current.
        RevokedKeyError
            If it is revoked.
        """
        if key_id is None:
            for record in self.records:
                if record.state == KeyState.CURRENT:
                    return record
            raise LostKeyError(
                self.subject, "has no current key", "make one with `acie keys rotate`"
            )
        for record in self.records:
            if record.key_id == key_id:
                if record.state == KeyState.REVOKED and not allow_revoked:
                    raise RevokedKeyError(
                        f"key {key_id}",
                        f"was revoked at {record.since}",
                        "encrypt the data anew under the current key; what is under a revoked one "
                        "is read only on request (--allow-revoked, allow_revoked=True)",
                    )
                return record
        held = ", ".join(self.key_ids())
        raise LostKeyError(
            f"key {key_id}",
            f"is not in the {self.subject}, which holds {held or 'no key'}",
            "point ACIE_KEYS_FILE at the vault that made the data, or restore that vault from its "
            "backup; without the key its data cannot be read",
        )

    def public_key(
        self, key_id: str | None = None, *, allow_revoked: bool = False
    ) -> PaillierPublicKey:
        """Public key of this id; of the current key by default. Errors are those of `find`."""
        return self.find(key_id, allow_revoked=allow_revoked).public_key

    def to_json(self) -> bytes:
        """Write the document that others are given."""
        keys = {record.key_id: public_fields(record) for record in self.records}
        return json.dumps({"schema": _SCHEMA, "keys": keys}, indent=1).encode() + b"\n"

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the document, to compare over another channel."""
        return hashlib.sha256(self.to_json()).hexdigest()

    @classmethod
    def from_json(
        cls, data: bytes, subject: str, *, allow_insecure_size: bool = False
    ) -> "PublicKeys":
        """Parse and validate such a document.

        Whoever can change the document on its way can put in a key of their own; compare
        `fingerprint` with the owner's.

        Parameters
        ----------
        data
            What `to_json` wrote.
        subject
            Where it comes from, for messages.
        allow_insecure_size
            Accept keys below 2048 bits, for tests only.

        Raises
        ------
        RoleError
            If it is a vault.
        CryptoError
            If it is anything else, or a key's id, size or state is not as it must be.
        """
        document: Any
        try:
            document = json.loads(data)
        except (ValueError, RecursionError):
            document = None
        schema = document.get("schema") if isinstance(document, dict) else None
        if isinstance(schema, str) and schema.startswith("acie.keys/"):
            raise RoleError(subject, "is a key vault, not a public key document", _EXPORT)
        if schema != _SCHEMA or set(document) != {"schema", "keys"}:
            raise CryptoError(subject, f"is not a JSON document of schema {_SCHEMA}", _EXPORT)
        try:
            entries = document["keys"]
            if any(set(entry) != _FIELDS for entry in entries.values()):
                raise ValueError("a key does not have exactly the fields of a public one")
            records = parse_records(entries)
            for record in records:
                record.public_key.check(allow_insecure_size=allow_insecure_size)
        except (ValueError, TypeError, AttributeError) as error:
            reason = str(error) if type(error) is ValueError else "its keys are malformed"
            raise CryptoError(subject, reason, _EXPORT) from None
        return cls(subject, records)


def read_public_keys(path: Path, *, allow_insecure_size: bool = False) -> PublicKeys:
    """Read an exported document; see `PublicKeys.from_json`.

    Raises
    ------
    KeyVaultError
        If the file cannot be read.
    """
    subject = f"public key document {path}"
    try:
        with path.open("rb") as handle:
            data = handle.read(_MAXIMUM_DOCUMENT_BYTES)
    except OSError as error:
        raise KeyVaultError(subject, f"cannot be read ({error.strerror})", _EXPORT) from None
    return PublicKeys.from_json(data, subject, allow_insecure_size=allow_insecure_size)


def public_fields(record: KeyRecord) -> dict[str, Any]:
    """Write down what `parse_records` reads, without the reason."""
    return {
        "modulus": f"{record.public_key.n:x}",
        "version": record.version,
        "created": record.created,
        "state": record.state.value,
        "since": record.since,
    }


def parse_records(entries: Mapping[str, Mapping[str, Any]]) -> tuple[KeyRecord, ...]:
    """Read the public fields of entries by key id, versions ascending.

    Raises
    ------
    ValueError
        Says what is wrong, without values that could be secrets.
    """
    records = []
    for key_id, entry in entries.items():
        if not re.fullmatch("[0-9a-f]{16}", key_id):
            raise ValueError("a key has an id that is not 16 hexadecimal digits")
        modulus, version = entry.get("modulus"), entry.get("version")
        reason = entry.get("reason", "")
        if not isinstance(modulus, str) or not re.fullmatch("[1-9a-f][0-9a-f]*", modulus):
            raise ValueError(f"key {key_id} has no modulus in hexadecimal")
        if 4 * len(modulus) > _MAXIMUM_BITS:
            raise ValueError(f"key {key_id} has more than {_MAXIMUM_BITS} bits")
        if type(version) is not int or version < 1 or not isinstance(reason, str):
            raise ValueError(f"key {key_id} has no version")
        if entry.get("state") not in list(KeyState):
            raise ValueError(f"key {key_id} has no known state")
        for field in ("created", "since"):
            _check_time(key_id, entry.get(field))
        try:
            public_key = PaillierPublicKey(int(modulus, 16))
        except CryptoError:
            raise ValueError(f"key {key_id} has a modulus that is no odd composite") from None
        if public_key.key_id != key_id:
            raise ValueError(f"key {key_id} does not have that id")
        state = KeyState(entry["state"])
        records.append(
            KeyRecord(public_key, version, entry["created"], state, entry["since"], reason)
        )
    if len({record.version for record in records}) != len(records):
        raise ValueError("two keys have the same version")
    if sum(record.state == KeyState.CURRENT for record in records) > 1:
        raise ValueError("more than one key is current")
    return tuple(sorted(records, key=lambda record: record.version))


def _check_time(key_id: str, text: object) -> None:
    try:
        known = isinstance(text, str) and datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        known = False
    if not known:
        raise ValueError(f"key {key_id} has a time that is not ISO 8601 with a zone")
