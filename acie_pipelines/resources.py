"""What assets are given instead of reaching out themselves: store, ledger, vault, registry.

Belongs here: thin, configurable handles. Does not belong here: secrets (resources hold only where
to find them) or science.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from acie_pipelines.ledger import Ledger
from acie_pipelines.storage import Store

if TYPE_CHECKING:
    from acie_pipelines.crypto.public_keys import PublicKeys
    from acie_pipelines.crypto.vault import KeyVault
    from acie_pipelines.registry.registry import ModelRegistry
    from acie_pipelines.secure.attestation import Attestations
    from acie_pipelines.secure.queue import WorkQueue
    from acie_pipelines.training.tracking import CounterfactualTracker, MlflowTracker

__all__ = [
    "EXPERIMENT",
    "AttestationsResource",
    "InboxResource",
    "LedgerResource",
    "PublicKeysResource",
    "QueueResource",
    "RegistryResource",
    "StoreResource",
    "VaultResource",
]


EXPERIMENT = "acie"


class StoreResource(dg.ConfigurableResource[Any]):
    """Root of all datasets."""

    url: str

    def open(self) -> Store:
        """Open the store."""
        return Store(self.url)


class InboxResource(dg.ConfigurableResource[Any]):
    """Where new observations arrive."""

    url: str


class LedgerResource(dg.ConfigurableResource[Any]):
    """Which contents have been seen, and what became of them."""

    database_url: str

    def open(self) -> Ledger:
        """Open the ledger."""
        return Ledger(self.database_url)


class AttestationsResource(dg.ConfigurableResource[Any]):
    """Which generations of sealed datasets the owner attested."""

    database_url: str

    def open(self) -> "Attestations":
        """Open the owner's statements."""
        from acie_pipelines.secure.attestation import Attestations

        return Attestations(self.database_url)


class PublicKeysResource(dg.ConfigurableResource[Any]):
    """Public keys and their states; nothing of it leads to a private key."""

    keys_file: str
    public_keys_file: str | None

    def open(self) -> "PublicKeys":
        """Read the exported document when there is one, else the public part of the vault.

        The vault's public part is not proved by this, see `proved`.
        """
        from acie_pipelines.crypto.public_keys import read_public_keys
        from acie_pipelines.crypto.vault import open_vault

        if self.public_keys_file is not None:
            return read_public_keys(Path(self.public_keys_file))
        keys = open_vault(Path(self.keys_file)).public_keys()
        for record in keys.records:
            record.public_key.check()
        return keys

    def proved(self) -> "PublicKeys":
        """Read keys to encrypt under.

        A document is taken as its owner exported it, and no vault is opened. A vault's public part
        can be forged, and is proved with its private part before anything is encrypted under it.
        """
        from acie_pipelines.crypto.vault import open_vault

        if self.public_keys_file is None:
            open_vault(Path(self.keys_file)).authenticate()
        return self.open()


class QueueResource(dg.ConfigurableResource[Any]):
    """Units of work that any number of processes share."""

    database_url: str

    def open(self) -> "WorkQueue":
        """Open the queue."""
        from acie_pipelines.secure.queue import WorkQueue

        return WorkQueue(self.database_url)


class VaultResource(dg.ConfigurableResource[Any]):
    """Where the keys are; never the keys."""

    keys_file: str

    def open(self) -> "KeyVault":
        """Open the vault: the ``ACIE_KEYS`` variable when set, else the file."""
        from acie_pipelines.crypto.vault import open_vault

        return open_vault(Path(self.keys_file))


class RegistryResource(dg.ConfigurableResource[Any]):
    """Model tracking and the promotion registry."""

    tracking_uri: str
    artifact_root: str
    database_url: str

    def open(self) -> "ModelRegistry":
        """Open the registry."""
        from acie_pipelines.registry.registry import ModelRegistry

        return ModelRegistry(self.tracking_uri, self.database_url)

    def tracker(self) -> "MlflowTracker":
        """Prepare to report the fit of a causal model."""
        from acie_pipelines.training.tracking import MlflowTracker

        return MlflowTracker(
            self.tracking_uri, experiment=EXPERIMENT, artifact_root=self._artifact_root()
        )

    def counterfactual_tracker(self) -> "CounterfactualTracker":
        """Prepare to report the training of a counterfactual model."""
        from acie_pipelines.training.tracking import CounterfactualTracker

        return CounterfactualTracker(
            self.tracking_uri, experiment=EXPERIMENT, artifact_root=self._artifact_root()
        )

    def _artifact_root(self) -> str | None:
        # A tracking server decides itself where artifacts go, and hands them through.
        served = self.tracking_uri.startswith(("http://", "https://"))
        return None if served else self.artifact_root
