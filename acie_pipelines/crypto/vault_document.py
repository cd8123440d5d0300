"""What a vault holds, how it is written down, and how its keys change state.

Belongs here: the JSON document (``acie.keys/2``), reading the earlier ``acie.keys/1``, and the
transitions of states.
Does not belong here: files and locks (`vault_file`), the cipher (`vault_wrapping`).

Everything but the secrets is readable without a passphrase: encrypting needs no more. In a
protected vault the whole of it (every key's id, modulus, version, times, state and reason, which
keys there are, and the protection itself) is associated data of each wrapped secret, together with
the id that the secret belongs to. So whoever edits a state, puts in a modulus of their own, adds or
removes a key, or swaps the secrets of two entries, is found out as soon as anything is unwrapped -
but not by those who only encrypt: a modulus that was replaced is noticed when the owner opens the
vault, and by the fingerprint of the exported document. Nor can a vault tell that the whole file was
put back to an older version of itself.
"""

import base64
import binascii
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from acie_pipelines.crypto.archive_key import ARCHIVE_KEY_BYTES, ArchiveKey
from acie_pipelines.crypto.keys import PaillierPrivateKey
from acie_pipelines.crypto.public_keys import (
    KeyRecord,
    KeyState,
    PublicKeys,
    parse_records,
    public_fields,
)
from acie_pipelines.crypto.vault_wrapping import KeyEncryptionKey, Protection, Wrapper
from acie_pipelines.errors import CryptoError, KeyVaultError
from acie_pipelines.manifest import canonical_json

__all__ = ["KeySecrets", "VaultContents", "VaultDocument", "parse_vault"]

_SCHEMA = "acie.keys/2"
_EARLIER_SCHEMA = "acie.keys/1"
_RESTORE = "restore it from its backup, or move it away and run `acie keys generate`"
_MAXIMUM_REASON = 500


@dataclass(frozen=True, repr=False)
class KeySecrets:
    """The secrets of one entry; both refuse to be printed or pickled.

    Attributes
    ----------
    private_key
        The Paillier key pair.
    archive_key
        What archives are sealed under.
    """

    private_key: PaillierPrivateKey
    archive_key: ArchiveKey

    @classmethod
    def of(cls, private_key: PaillierPrivateKey) -> "KeySecrets":
        """Join a new key pair with a new archive key."""
        secret = secrets.token_bytes(ARCHIVE_KEY_BYTES)
        return cls(private_key, ArchiveKey(private_key.key_id, secret))

    def fields(self) -> dict[str, str]:
        """Write them down."""
        return {
            "p": f"{self.private_key.p:x}",
            "q": f"{self.private_key.q:x}",
            "archive_key": base64.b64encode(self.archive_key.secret).decode(),
        }


@dataclass(frozen=True, repr=False)
class VaultContents:
    """A vault with its secrets at hand, to change it.

    Attributes
    ----------
    public
        What is no secret.
    secrets
        By key id, for exactly the keys in `public`.
    """

    public: PublicKeys
    secrets: Mapping[str, KeySecrets]

    def rotated(self, new: KeySecrets) -> "VaultContents":
        """Make a new key the current one; the one before only reads from now on."""
        now = _now()
        before = tuple(
            replace(record, state=KeyState.ROTATED, since=now)
            if record.state == KeyState.CURRENT
            else record
            for record in self.public.records
        )
        version = max((record.version for record in before), default=0) + 1
        record = KeyRecord(new.private_key.public_key, version, now, KeyState.CURRENT, now)
        return VaultContents(
            replace(self.public, records=(*before, record)),
            {**self.secrets, record.key_id: new},
        )

    def revoked(self, key_id: str, reason: str) -> "VaultContents":
        """Revoke a key for good; if it was the current one, there is none until a rotation.

        Raises
        ------
        LostKeyError
            If there is no such key.
        KeyVaultError
            If it is revoked already, or the reason is empty or longer than 500 characters.
        """
        found = self.public.find(key_id, allow_revoked=True)
        if found.state == KeyState.REVOKED:
            raise KeyVaultError(
                f"key {key_id}",
                f"was revoked already at {found.since}",
                "nothing to do: the first revocation stands",
            )
        reason = " ".join(reason.split())
        if not 0 < len(reason) <= _MAXIMUM_REASON:
            raise KeyVaultError(
                "the reason", "is empty or too long", f"say why in up to {_MAXIMUM_REASON} letters"
            )
        now = _now()
        records = tuple(
            replace(record, state=KeyState.REVOKED, since=now, reason=reason)
            if record.key_id == key_id
            else record
            for record in self.public.records
        )
        return replace(self, public=replace(self.public, records=records))

    def to_json(self, key: KeyEncryptionKey | None) -> bytes:
        """Write the vault down.

        Parameters
        ----------
        key
            Wraps the secrets; ``None`` leaves them readable to whoever can read the file.
        """
        wrapper = None if key is None else Wrapper(key)
        protection = None if wrapper is None else wrapper.protection
        entries: dict[str, dict[str, Any]] = {}
        for record in self.public.records:
            plain = self.secrets[record.key_id].fields()
            stored: dict[str, str] | str = plain
            if wrapper is not None:
                associated = _associated(self.public, protection, record.key_id)
                stored = wrapper.wrap(canonical_json(plain), associated)
            entries[record.key_id] = _public_entry(record) | {"secrets": stored}
        document = {
            "schema": _SCHEMA,
            "protection": None if protection is None else protection.fields(),
            "keys": entries,
        }
        return json.dumps(document, indent=1).encode() + b"\n"


@dataclass(frozen=True, repr=False)
class VaultDocument:
    """A vault as it was read: what is public, and secrets as they are stored.

    Attributes
    ----------
    public
        What is no secret, not yet proved.
    protection
        How the secrets are wrapped; ``None`` if they are not.
    stored
        Secrets by key id: fields, or wrapped.
    """

    public: PublicKeys
    protection: Protection | None
    stored: Mapping[str, Any]

    def secrets_of(self, key_id: str, wrapper: Wrapper | None) -> KeySecrets:
        """Secrets of one entry; unwrapping them proves everything public.

        Parameters
        ----------
        key_id
            A key in `public`.
        wrapper
            Made for `protection`; ``None`` if there is none.

        Raises
        ------
        TamperedDataError
            If anything in a protected vault was changed.
        KeyVaultError
            If the secrets are malformed or do not belong to the key.
        """
        subject = self.public.subject
        fields: Any = self.stored[key_id]
        if wrapper is not None:
            associated = _associated(self.public, self.protection, key_id)
            fields = json.loads(wrapper.unwrap(fields, associated, subject))
        found = _parse_secrets(fields, key_id, subject)
        if found.private_key.public_key != self.public.find(key_id, allow_revoked=True).public_key:
            raise _malformed(subject, f"the secrets of key {key_id} belong to another modulus")
        return found

    def contents(self, wrapper: Wrapper | None) -> VaultContents:
        """All secrets, to change the vault; errors are those of `secrets_of`."""
        held = {key_id: self.secrets_of(key_id, wrapper) for key_id in self.public.key_ids()}
        return VaultContents(self.public, held)


def parse_vault(data: bytes, subject: str) -> VaultDocument:
    """Read a vault of this schema or the earlier one.

    Parameters
    ----------
    data
        The document.
    subject
        Where it comes from, for messages.

    Raises
    ------
    KeyVaultError
        If it is not a vault; the message holds nothing of the content but key ids.
    """
    document: Any
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = None
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema not in (_SCHEMA, _EARLIER_SCHEMA):
        raise _malformed(subject, f"is not a JSON document of schema {_SCHEMA}")
    entries = document.get("keys")
    if not isinstance(entries, dict) or not all(isinstance(e, dict) for e in entries.values()):
        raise _malformed(subject, "has no entries")
    if schema == _EARLIER_SCHEMA:
        return _parse_earlier(document.get("current"), entries, subject)
    reason: str
    try:
        fields = document["protection"]
        protection = None if fields is None else Protection.parse(fields)
        stored = {key_id: entry["secrets"] for key_id, entry in entries.items()}
        return VaultDocument(PublicKeys(subject, parse_records(entries)), protection, stored)
    except ValueError as error:
        reason = str(error)
    except KeyError:
        reason = "lacks its protection or the secrets of a key"
    # Raised outside the handler: a chained exception could carry what was parsed.
    raise _malformed(subject, reason)


def _parse_earlier(current: Any, entries: Mapping[str, Any], subject: str) -> VaultDocument:
    """Read ``acie.keys/1``: no protection, no states but which key is current."""
    if not isinstance(current, str) or current not in entries:
        raise _malformed(subject, "does not say which of its keys is current")
    public, stored = {}, {}
    by_age = sorted(entries, key=lambda key_id: (key_id == current, _created(entries[key_id])))
    for version, key_id in enumerate(by_age, start=1):
        entry = entries[key_id]
        held = _parse_secrets(entry, key_id, subject)
        stored[key_id] = held.fields()
        created = _created(entry)
        state = KeyState.CURRENT if key_id == current else KeyState.ROTATED
        public[key_id] = public_fields(
            KeyRecord(held.private_key.public_key, version, created, state, created)
        )
    reason: str
    try:
        return VaultDocument(PublicKeys(subject, parse_records(public)), None, stored)
    except ValueError as error:
        reason = str(error)
    raise _malformed(subject, reason)


def _created(entry: Mapping[str, Any]) -> str:
    return str(entry.get("created"))


def _parse_secrets(fields: Any, key_id: str, subject: str) -> KeySecrets:
    primes: tuple[int, int] | None = None
    archive_key: bytes | None = None
    try:
        if all(re.fullmatch("[0-9a-f]+", fields[name]) for name in ("p", "q")):
            primes = int(fields["p"], 16), int(fields["q"], 16)
        archive_key = base64.b64decode(fields["archive_key"], validate=True)
    except (KeyError, TypeError, ValueError, binascii.Error):
        pass
    # Raised outside the handler: a chained exception could carry what was parsed.
    if primes is None:
        raise _malformed(subject, f"key {key_id} has no two primes in hexadecimal")
    if archive_key is None or len(archive_key) != ARCHIVE_KEY_BYTES:
        raise _malformed(subject, f"archive key of {key_id} is not 32 bytes in base64")
    private_key: PaillierPrivateKey | None
    try:
        private_key = PaillierPrivateKey(*primes)
    except CryptoError:
        private_key = None
    if private_key is None:
        raise _malformed(subject, f"key {key_id} has no two primes")
    if private_key.key_id != key_id:
        raise _malformed(subject, f"key {key_id} does not have that id")
    return KeySecrets(private_key, ArchiveKey(key_id, archive_key))


def _public_entry(record: KeyRecord) -> dict[str, Any]:
    return public_fields(record) | {"reason": record.reason}


def _associated(public: PublicKeys, protection: Protection | None, key_id: str) -> bytes:
    """Everything that is public of a vault, and which entry a secret belongs to."""
    return canonical_json(
        {
            "schema": _SCHEMA,
            "protection": None if protection is None else protection.fields(),
            "keys": {record.key_id: _public_entry(record) for record in public.records},
            "entry": key_id,
        }
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _malformed(subject: str, reason: str) -> KeyVaultError:
    return KeyVaultError(subject, reason, _RESTORE)
