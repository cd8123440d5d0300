"""How the secrets of a vault are wrapped under a key-encryption key.

Belongs here: scrypt, AES-256-GCM, the commitment to the key, and what a vault says about them.
Does not belong here: the vault's document (`vault_document`), where secrets to unlock it come from
(`vault_unlock`).

The key-encryption key is 32 random bytes, or scrypt (RFC 7914) of a passphrase. Each time a vault
is written, HKDF-SHA256 (RFC 5869) makes from it and a fresh random salt the AES-256-GCM key (NIST
SP 800-38D) of that version, so that nonces never meet, and a commitment. AES-GCM alone does not
commit to its key: without the commitment a forged vault could tell by one failure or success
whether the passphrase is among many (J. Len, P. Grubbs, T. Ristenpart, *Partitioning Oracle
Attacks*, USENIX Security 2021). It is compared before anything is unwrapped.
"""

import base64
import binascii
import hmac
import secrets
import unicodedata
from dataclasses import dataclass
from typing import Any, NoReturn

from acie_pipelines.errors import KeyVaultError, TamperedDataError

__all__ = [
    "KEY_BYTES",
    "KeyEncryptionKey",
    "Passphrase",
    "Protection",
    "ScryptParameters",
    "UnlockSecret",
    "Wrapper",
    "WrappingKey",
]

KEY_BYTES = 32
_SALT_BYTES = 32
_NONCE_BYTES = 12
_INFO_KEY = b"acie.keys/2 AES-256-GCM key"
_INFO_COMMITMENT = b"acie.keys/2 key commitment"
# Below 16 MiB guessing is cheap; above 1 GiB a forged vault would take all memory.
_MINIMUM_N, _MAXIMUM_N = 1 << 14, 1 << 20
_MINIMUM_PASSPHRASE = 12


class _Secret:
    """Something that is neither printed, pickled nor copied."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def __reduce__(self) -> NoReturn:
        raise KeyVaultError(
            f"a {type(self).__name__}", "cannot be pickled or copied", "open the vault again"
        )


@dataclass(frozen=True, repr=False)
class Passphrase(_Secret):
    """What a person remembers, or an environment holds, to open a vault.

    Attributes
    ----------
    text
        Compared in Unicode's composed form (NFC), so that keyboards do not matter.
    """

    text: str

    def require_length(self) -> None:
        """Refuse a passphrase that is too short to protect a vault with.

        Raises
        ------
        KeyVaultError
            If it has fewer than 12 characters.
        """
        if len(self.text) < _MINIMUM_PASSPHRASE:
            raise KeyVaultError(
                "the passphrase",
                f"has fewer than {_MINIMUM_PASSPHRASE} characters",
                "choose a longer one, for instance five random words",
            )


@dataclass(frozen=True, repr=False)
class WrappingKey(_Secret):
    """A key-encryption key that a machine keeps.

    Attributes
    ----------
    secret
        32 random bytes.
    """

    secret: bytes


UnlockSecret = Passphrase | WrappingKey


@dataclass(frozen=True)
class ScryptParameters:
    """Cost and salt of a passphrase; ``128 n r`` bytes of memory.

    Attributes
    ----------
    salt
        32 random bytes.
    n, r, p
        As in RFC 7914; 128 MiB and a third of a second by default.
    """

    salt: bytes
    n: int = 1 << 17
    r: int = 8
    p: int = 1

    def __post_init__(self) -> None:
        within = all(type(value) is int for value in (self.n, self.r, self.p)) and (
            _MINIMUM_N <= self.n <= _MAXIMUM_N
            and self.n & (self.n - 1) == 0
            and self.r == 8
            and 1 <= self.p <= 4
        )
        if not within:
            raise ValueError("its scrypt parameters are out of bounds")


@dataclass(frozen=True, repr=False)
class KeyEncryptionKey(_Secret):
    """Key that wraps the secrets of a vault.

    Attributes
    ----------
    secret
        32 bytes.
    scrypt
        How it came from a passphrase; ``None`` for a wrapping key.
    """

    secret: bytes
    scrypt: ScryptParameters | None

    @classmethod
    def new(cls, secret: UnlockSecret, *, n: int | None = None) -> "KeyEncryptionKey":
        """Make the key for a vault that shall be protected from now on.

        Parameters
        ----------
        secret
            What shall open it.
        n
            Cost of scrypt; see `ScryptParameters`.
        """
        if isinstance(secret, WrappingKey):
            return cls(secret.secret, None)
        secret.require_length()
        salt = secrets.token_bytes(_SALT_BYTES)
        return cls.of_passphrase(
            secret, ScryptParameters(salt) if n is None else ScryptParameters(salt, n)
        )

    @classmethod
    def of_passphrase(
        cls, passphrase: Passphrase, parameters: ScryptParameters
    ) -> "KeyEncryptionKey":
        """Derive it by scrypt."""
        from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

        encoded = unicodedata.normalize("NFC", passphrase.text).encode("utf-8", "surrogateescape")
        kdf = Scrypt(parameters.salt, KEY_BYTES, parameters.n, parameters.r, parameters.p)
        return cls(kdf.derive(encoded), parameters)


@dataclass(frozen=True)
class Protection:
    """What a vault says about how it is protected.

    Attributes
    ----------
    scrypt
        Cost and salt of the passphrase; ``None`` if a wrapping key opens it.
    salt
        32 bytes, fresh in every version of the vault.
    commitment
        32 bytes that only the right key gives with this salt.
    """

    scrypt: ScryptParameters | None
    salt: bytes
    commitment: bytes

    @property
    def method(self) -> str:
        """``passphrase`` or ``wrapping key``, for people."""
        return "wrapping key" if self.scrypt is None else "passphrase"

    def fields(self) -> dict[str, Any]:
        """Write it down as JSON values."""
        common = {"salt": self.salt.hex(), "commitment": self.commitment.hex()}
        if self.scrypt is None:
            return {"method": "wrapping-key"} | common
        cost = {"n": self.scrypt.n, "r": self.scrypt.r, "p": self.scrypt.p}
        return {"method": "scrypt", "scrypt_salt": self.scrypt.salt.hex()} | cost | common

    @classmethod
    def parse(cls, fields: Any) -> "Protection":
        """Read it; only what `fields` writes is accepted.

        Raises
        ------
        ValueError
            Says what is wrong.
        """
        try:
            scrypt = None
            if fields["method"] == "scrypt":
                salt = bytes.fromhex(fields["scrypt_salt"])
                scrypt = ScryptParameters(salt, fields["n"], fields["r"], fields["p"])
            parsed = cls(scrypt, bytes.fromhex(fields["salt"]), bytes.fromhex(fields["commitment"]))
        except (KeyError, TypeError):
            raise ValueError("does not say how it is protected") from None
        salts = [parsed.salt] if scrypt is None else [parsed.salt, scrypt.salt]
        if {len(salt) for salt in salts} != {_SALT_BYTES} or parsed.fields() != fields:
            raise ValueError("does not say how it is protected")
        return parsed


class Wrapper:
    """Wraps and unwraps the secrets of one version of a vault.

    Parameters
    ----------
    key
        Key-encryption key.
    salt
        Of the version; a fresh one by default, for writing.
    """

    def __init__(self, key: KeyEncryptionKey, salt: bytes | None = None) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        salt = secrets.token_bytes(_SALT_BYTES) if salt is None else salt
        self.protection = Protection(key.scrypt, salt, _expand(key, salt, _INFO_COMMITMENT))
        self._cipher = AESGCM(_expand(key, salt, _INFO_KEY))

    @classmethod
    def opening(cls, key: KeyEncryptionKey, protection: Protection, subject: str) -> "Wrapper":
        """Check a key against the commitment of a vault.

        Raises
        ------
        KeyVaultError
            If it is not the vault's.
        """
        wrapper = cls(key, protection.salt)
        if not hmac.compare_digest(wrapper.protection.commitment, protection.commitment):
            raise KeyVaultError(
                subject,
                f"is not opened by this {protection.method}",
                f"give the {protection.method} it was protected with; if this is the one, the file "
                "was changed: restore it from its backup",
            )
        return wrapper

    def wrap(self, payload: bytes, associated: bytes) -> str:
        """Encrypt the secrets of an entry, bound to what is public of the vault."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        return base64.b64encode(nonce + self._cipher.encrypt(nonce, payload, associated)).decode()

    def unwrap(self, wrapped: Any, associated: bytes, subject: str) -> bytes:
        """Decrypt the secrets of an entry and so prove what is public of the vault.

        Raises
        ------
        TamperedDataError
            If either was changed.
        """
        from cryptography.exceptions import InvalidTag

        payload: bytes | None = None
        try:
            data = base64.b64decode(wrapped, validate=True)
            nonce, ciphertext = data[:_NONCE_BYTES], data[_NONCE_BYTES:]
            payload = self._cipher.decrypt(nonce, ciphertext, associated)
        except (InvalidTag, TypeError, ValueError, binascii.Error):
            pass
        if payload is None:
            raise TamperedDataError(
                subject,
                "was changed by somebody without its passphrase or wrapping key: a key's id, "
                "modulus, state or secrets are not what they were",
                "restore it from its backup, and trust nothing encrypted since under its keys",
            )
        return payload


def _expand(key: KeyEncryptionKey, salt: bytes, info: bytes) -> bytes:
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    return HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=salt, info=info).derive(key.secret)
