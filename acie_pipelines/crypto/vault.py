"""Where secret keys are kept: a private JSON file, or a JSON environment variable.

Belongs here: opening a vault, giving out its keys, and the commands that change it.
Does not belong here: its document (`vault_document`), its cipher (`vault_wrapping`), its file
(`vault_file`), where passphrases come from (`vault_unlock`), the arithmetic of keys (`keys`).

A vault that is not protected by a passphrase or wrapping key is guarded by the mode of its file
alone. Protecting it, or changing what protects it, does not reach copies made before: whoever has
one of them and what opens it has the keys. Rotate after a leak; revoke what leaked.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn, Protocol

from acie_pipelines.crypto.archive_key import ArchiveKey
from acie_pipelines.crypto.keys import (
    DEFAULT_KEY_BITS,
    PaillierPrivateKey,
    PaillierPublicKey,
    generate_keypair,
)
from acie_pipelines.crypto.public_keys import KeyRecord, PublicKeys
from acie_pipelines.crypto.vault_document import (
    KeySecrets,
    VaultContents,
    VaultDocument,
    parse_vault,
)
from acie_pipelines.crypto.vault_file import (
    already_there,
    locked,
    publish,
    read_private,
    replace_locked,
)
from acie_pipelines.crypto.vault_unlock import Ask, key_to
from acie_pipelines.crypto.vault_wrapping import KeyEncryptionKey, UnlockSecret, Wrapper
from acie_pipelines.errors import KeyVaultError

__all__ = [
    "ENVIRONMENT_VARIABLE",
    "EnvironmentVault",
    "FileVault",
    "KeyVault",
    "open_vault",
]

ENVIRONMENT_VARIABLE = "ACIE_KEYS"
_CREATE = "create one with `acie keys generate`"


class KeyVault(Protocol):
    """Source of secret keys. Every error is a `CryptoError` without secrets in it.

    A key is current, rotated or revoked (see `acie_pipelines.crypto.public_keys`). Asked for no
    particular key, a vault gives the current one, which protects new data. By id it also gives
    rotated ones, to read; and revoked ones only with ``allow_revoked=True``, because what is under
    a compromised key may be a forgery (NIST SP 800-57 part 1 revision 5, section 7).
    """

    def key_ids(self) -> tuple[str, ...]:
        """Ids of all keys, the current one first, then the latest first."""
        ...

    def public_keys(self) -> PublicKeys:
        """Give what is no secret, without unlocking the vault and therefore not proved."""
        ...

    def authenticate(self) -> None:
        """Unlock the vault, if it is protected, and prove what is public of it."""
        ...

    def public_key(
        self, key_id: str | None = None, *, allow_revoked: bool = False
    ) -> PaillierPublicKey:
        """Public key of this id; of the current one by default. Not proved, see `public_keys`."""
        ...

    def private_key(
        self, key_id: str | None = None, *, allow_revoked: bool = False
    ) -> PaillierPrivateKey:
        """Private key of this id, checked; of the current one by default."""
        ...

    def archive_key(self, key_id: str | None = None, *, allow_revoked: bool = False) -> ArchiveKey:
        """Archive key of this id; of the current one by default."""
        ...


class _JsonVault(ABC):
    """What the two vaults share: the document, its validation and its unlocking."""

    def __init__(
        self,
        subject: str,
        environ: Mapping[str, str] | None,
        ask: Ask | None,
        allow_revoked: bool,
        allow_insecure_size: bool,
    ) -> None:
        self.subject = subject
        self.allow_revoked = allow_revoked
        self.allow_insecure_size = allow_insecure_size
        self._environ = os.environ if environ is None else environ
        self._ask = ask
        # Scrypt takes a third of a second; a vault object is opened per task.
        self._key: KeyEncryptionKey | None = None

    def __reduce__(self) -> NoReturn:
        raise KeyVaultError(self.subject, "cannot be pickled or copied", "open it where it is used")

    @abstractmethod
    def _read(self) -> bytes: ...

    def key_ids(self) -> tuple[str, ...]:
        """Ids of all keys, the current one first, then the latest first."""
        return self.public_keys().key_ids()

    def public_keys(self) -> PublicKeys:
        """Give what is no secret, without unlocking the vault and therefore not proved.

        Raises
        ------
        KeyVaultError
            If the vault cannot be used.
        """
        return self._document().public

    def protection(self) -> str | None:
        """``passphrase`` or ``wrapping key``; ``None`` if only the file's mode guards the keys."""
        protection = self._document().protection
        return None if protection is None else protection.method

    def authenticate(self) -> None:
        """Unlock the vault, if it is protected, and prove what is public of it.

        Raises
        ------
        TamperedDataError
            If a protected vault was changed.
        KeyVaultError
            If it cannot be used or unlocked, or the secrets do not belong to their keys.
        """
        document = self._document()
        document.contents(self._wrapper(document))

    def public_key(
        self, key_id: str | None = None, *, allow_revoked: bool = False
    ) -> PaillierPublicKey:
        """Public key of this id; of the current one by default.

        Parameters
        ----------
        key_id
            Id of the key.
        allow_revoked
            Give a revoked key too, to read what is under it all the same.

        Raises
        ------
        LostKeyError
            If the vault holds no such key, or none is current.
        RevokedKeyError
            If it is revoked.
        KeyVaultError
            If the vault cannot be used.
        CryptoError
            If the key is too short.
        """
        allowed = allow_revoked or self.allow_revoked
        key = self.public_keys().public_key(key_id, allow_revoked=allowed)
        key.check(allow_insecure_size=self.allow_insecure_size)
        return key

    def private_key(
        self, key_id: str | None = None, *, allow_revoked: bool = False
    ) -> PaillierPrivateKey:
        """Private key of this id, checked; of the current one by default.

        Parameters are those of `public_key`.

        Raises
        ------
        TamperedDataError
            If a protected vault was changed.
        CryptoError
            As `public_key`; or if the vault cannot be unlocked, or the key breaks an assumption of
            the scheme.
        """
        key = self._secrets(key_id, allow_revoked).private_key
        key.check(allow_insecure_size=self.allow_insecure_size)
        return key

    def archive_key(self, key_id: str | None = None, *, allow_revoked: bool = False) -> ArchiveKey:
        """Archive key of this id; of the current one by default; as `private_key`."""
        return self._secrets(key_id, allow_revoked).archive_key

    def _document(self) -> VaultDocument:
        return parse_vault(self._read(), self.subject)

    def _secrets(self, key_id: str | None, allow_revoked: bool) -> KeySecrets:
        document = self._document()
        allowed = allow_revoked or self.allow_revoked
        record = document.public.find(key_id, allow_revoked=allowed)
        return document.secrets_of(record.key_id, self._wrapper(document))

    def _wrapper(self, document: VaultDocument) -> Wrapper | None:
        protection = document.protection
        if protection is None:
            return None
        key = self._key
        if key is None or key.scrypt != protection.scrypt:
            key = key_to(protection, self.subject, self._environ, self._ask)
        wrapper = Wrapper.opening(key, protection, self.subject)
        self._key = key
        return wrapper


class FileVault(_JsonVault):
    """Vault in a JSON file that only its owner can read.

    Parameters
    ----------
    path
        The file; it is read on every use, so that a rotated mount takes effect.
    environ
        Variables that may open a protected vault; the process environment by default.
    ask
        Asks the person at the terminal for the passphrase; nobody by default.
    allow_revoked
        Give revoked keys too, by their ids, to everything that is handed this vault.
    allow_insecure_size
        Accept keys below 2048 bits, for tests only.
    """

    def __init__(
        self,
        path: Path,
        *,
        environ: Mapping[str, str] | None = None,
        ask: Ask | None = None,
        allow_revoked: bool = False,
        allow_insecure_size: bool = False,
    ) -> None:
        self.path = path
        super().__init__(f"key vault {path}", environ, ask, allow_revoked, allow_insecure_size)

    def __repr__(self) -> str:
        return f"FileVault({str(self.path)!r})"

    @classmethod
    def create(
        cls,
        path: Path,
        bits: int = DEFAULT_KEY_BITS,
        *,
        secret: UnlockSecret | None = None,
        allow_insecure_size: bool = False,
    ) -> "FileVault":
        """Make a vault with one new key; a file that exists is never touched.

        Parameters
        ----------
        path
            Where to write it; missing directories are made with mode 0700.
        bits, allow_insecure_size
            See `acie_pipelines.crypto.keys.generate_keypair`.
        secret
            What shall protect it; by default only the mode of the file does.

        Raises
        ------
        KeyVaultError
            If there is a file already or it cannot be written.
        """
        vault = cls(path, allow_insecure_size=allow_insecure_size)
        if path.exists():  # before the key is made: that takes long
            raise already_there(vault.subject)
        vault._key = None if secret is None else KeyEncryptionKey.new(secret)
        new = KeySecrets.of(generate_keypair(bits, allow_insecure_size=allow_insecure_size))
        contents = VaultContents(PublicKeys(vault.subject, ()), {}).rotated(new)
        publish(path, contents.to_json(vault._key), vault.subject)
        return vault

    def rotate(self, bits: int = DEFAULT_KEY_BITS) -> KeyRecord:
        """Make a new key the current one; the one before stays to read what is under it.

        Parameters
        ----------
        bits
            See `acie_pipelines.crypto.keys.generate_keypair`.

        Returns
        -------
        KeyRecord
            The new key.

        Raises
        ------
        CryptoError
            If the vault cannot be unlocked or written, or was changed; it is intact.
        """
        # What takes long comes before the lock.
        self.authenticate()
        new = KeySecrets.of(generate_keypair(bits, allow_insecure_size=self.allow_insecure_size))
        return self._change(lambda contents: contents.rotated(new)).find()

    def revoke(self, key_id: str, reason: str) -> KeyRecord:
        """Revoke a key for good; see `acie_pipelines.crypto.vault_document.VaultContents.revoked`.

        Raises
        ------
        CryptoError
            As `rotate`; or if there is no such key, it is revoked already, or no reason is given.
        """
        self.authenticate()
        changed = self._change(lambda contents: contents.revoked(key_id, reason))
        return changed.find(key_id, allow_revoked=True)

    def protect(self, secret: UnlockSecret, *, n: int | None = None) -> None:
        """Wrap all secrets under a new passphrase or wrapping key, instead of what did before.

        Parameters
        ----------
        secret
            What shall open the vault from now on.
        n
            Cost of scrypt; see `acie_pipelines.crypto.vault_wrapping.ScryptParameters`.

        Raises
        ------
        CryptoError
            As `rotate`; or if the passphrase is too short.
        """
        self.authenticate()
        self._change(lambda contents: contents, KeyEncryptionKey.new(secret, n=n))

    def _change(
        self,
        change: Callable[[VaultContents], VaultContents],
        key: KeyEncryptionKey | None = None,
    ) -> PublicKeys:
        with locked(self.path, self.subject, _CREATE) as path:
            document = self._document()
            contents = change(document.contents(self._wrapper(document)))
            if key is None and document.protection is not None:
                key = self._key
            replace_locked(path, contents.to_json(key), self.subject)
        self._key = key
        return contents.public

    def _read(self) -> bytes:
        return read_private(self.path, self.subject, _CREATE)


class EnvironmentVault(_JsonVault):
    """Vault in an environment variable that holds the same JSON document. Nothing changes it.

    Parameters
    ----------
    variable
        Its name.
    environ
        Variables to read; the process environment by default.
    ask, allow_revoked, allow_insecure_size
        See `FileVault`.
    """

    def __init__(
        self,
        variable: str = ENVIRONMENT_VARIABLE,
        environ: Mapping[str, str] | None = None,
        *,
        ask: Ask | None = None,
        allow_revoked: bool = False,
        allow_insecure_size: bool = False,
    ) -> None:
        self.variable = variable
        super().__init__(
            f"key vault in ${variable}", environ, ask, allow_revoked, allow_insecure_size
        )

    def __repr__(self) -> str:
        return f"EnvironmentVault({self.variable!r})"

    def _read(self) -> bytes:
        text = self._environ.get(self.variable)
        if not text:
            raise KeyVaultError(self.subject, "is not set", _CREATE)
        return text.encode("utf-8", "surrogateescape")


def open_vault(
    keys_file: Path,
    environ: Mapping[str, str] | None = None,
    *,
    ask: Ask | None = None,
    allow_revoked: bool = False,
) -> FileVault | EnvironmentVault:
    """Choose the vault: ``ACIE_KEYS`` if it is set, else the file.

    Parameters
    ----------
    keys_file
        `acie_pipelines.settings.Settings.keys_file`.
    environ
        Variables to read; the process environment by default.
    ask, allow_revoked
        See `FileVault`.
    """
    variables = os.environ if environ is None else environ
    if variables.get(ENVIRONMENT_VARIABLE):
        return EnvironmentVault(environ=variables, ask=ask, allow_revoked=allow_revoked)
    return FileVault(keys_file, environ=variables, ask=ask, allow_revoked=allow_revoked)
