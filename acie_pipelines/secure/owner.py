"""Whose data it is: the one role that holds private keys.

Belongs here: what an owner does with a vault: encrypt, decrypt, seal, restore, export public keys.
Does not belong here: the vault itself, or anything a worker imports.
"""

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from acie_pipelines.crypto.archive_files import (
    Describe,
    Outcome,
    restore_file,
    seal_file,
    verify_file,
)
from acie_pipelines.crypto.cipher_tensor import CipherTensor
from acie_pipelines.crypto.destination import Destination
from acie_pipelines.crypto.packing import PackingLayout
from acie_pipelines.crypto.public_keys import PublicKeys
from acie_pipelines.crypto.vault import KeyVault
from acie_pipelines.provenance import Manifest, current_manifest
from acie_pipelines.secure.attestation import Attestation, Attestations
from acie_pipelines.storage import Store

__all__ = ["DataOwner"]


class DataOwner:
    """A party that opens the vault, and does so before anything is encrypted.

    The public part of a vault can be read without its passphrase, and therefore be forged; an owner
    proves it first, so that nothing is encrypted or sealed under somebody else's key.

    Parameters
    ----------
    vault
        Opened with `acie_pipelines.crypto.vault.open_vault`.

    Raises
    ------
    CryptoError
        If the vault cannot be unlocked, or was changed.
    """

    def __init__(self, vault: KeyVault) -> None:
        vault.authenticate()
        self.vault = vault

    def __repr__(self) -> str:
        return f"DataOwner({self.vault!r})"

    def public_keys(self) -> PublicKeys:
        """Keys that workers may have."""
        return self.vault.public_keys()

    def encrypt(self, values: NDArray[Any], layout: PackingLayout) -> CipherTensor:
        """Encrypt an array under the current key; see `CipherTensor.encrypt`."""
        return CipherTensor.encrypt(values, self.vault.private_key().public_key, layout)

    def decrypt(self, tensor: CipherTensor) -> NDArray[Any]:
        """Decrypt a tensor under the key that it names; see `CipherTensor.decrypt`.

        Raises
        ------
        LostKeyError
            If the vault does not hold the key.
        RevokedKeyError
            If it was revoked, and the vault was not opened to read such keys.
        """
        return tensor.decrypt(self.vault.private_key(tensor.public_key.key_id))

    def attest(self, store: Store, attestations: Attestations, kind: str, key: str) -> Attestation:
        """State that the dataset that readers use is the newest; see `Attestations.attest`.

        Its contents are not verified here: let `acie_pipelines.verification` do so before.
        """
        manifest = current_manifest(store, kind, key)
        return attestations.attest(store, manifest, self.vault.archive_key())

    def current_manifest(
        self, store: Store, attestations: Attestations, kind: str, key: str
    ) -> tuple[Manifest, Attestation | None]:
        """Find the dataset that readers use, and prove that it is the newest.

        Returns
        -------
        manifest
            As of `acie_pipelines.provenance.current_manifest`, whose errors are raised too.
        attestation
            The owner's statement; ``None`` if there is none: it is not authenticated.

        Raises
        ------
        RollbackError, IntegrityError, CryptoError
            See `Attestations.authenticate`.
        """
        manifest = current_manifest(store, kind, key)
        return manifest, attestations.authenticate(manifest, self.vault.archive_key)

    def seal(self, path: Path, target: Path, describe: Describe | None = None) -> Outcome:
        """Seal a file under the current archive key; see `seal_file`."""
        return seal_file(path, target, self.vault.archive_key(), describe)

    def restore(self, archive: Path, destination: Destination) -> Outcome:
        """Restore the file that an archive holds; see `restore_file`."""
        return restore_file(archive, destination, self.vault)

    def verify(self, archive: Path) -> Outcome:
        """Verify an archive to its last byte; see `verify_file`."""
        return verify_file(archive, self.vault)
