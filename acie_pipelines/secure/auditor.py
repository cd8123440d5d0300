"""Who verifies that everything is as it was made, and learns nothing from it.

Belongs here: the auditor's walk over the ledger, manifests and sealed datasets.
Does not belong here: keys of any kind, or reading plaintext (`acie_pipelines.verification` does).
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from acie_pipelines.crypto.archive import read_header
from acie_pipelines.crypto.keys import PaillierPublicKey
from acie_pipelines.errors import CryptoError, IntegrityError
from acie_pipelines.provenance import Manifest, current_manifest, verify_chain
from acie_pipelines.storage import Store

if TYPE_CHECKING:
    from acie_pipelines.ledger import Ledger

__all__ = ["Auditor"]

# What may leave its owner's hands: contents tell nothing without the keys.
_SEALED = ("ciphertexts", "archive")


class Auditor:
    """A party with fingerprints, manifests and the ledger; it needs neither keys nor plaintext.

    Of an observation it can tell that the ledger, every manifest on the way and the sealed datasets
    belong together and are intact, and that archives claim to hold the file that was ingested. That
    they do hold it, and that ciphertexts decrypt to the tiles, only the owner can tell.

    Parameters
    ----------
    store
        Holds the datasets. Of plaintext ones only manifests are read: access to
        ``*/manifest.json``, ``*/current.json``, ``ciphertexts/`` and ``archive/`` is enough.
    ledger
        Which contents were taken in.
    """

    def __init__(self, store: Store, ledger: "Ledger") -> None:
        self.store = store
        self.ledger = ledger

    def verify(self, key: str, report: Callable[[Manifest], None]) -> int:
        """Verify what is sealed of one observation, back to its fingerprint in the ledger.

        Parameters
        ----------
        key
            Observation key.
        report
            Called with every dataset that has been verified.

        Returns
        -------
        int
            Number of datasets verified, plaintext ones by their manifests.

        Raises
        ------
        IntegrityError
            Names the first thing that does not match; also if there is no such observation.
        """
        entry = self.ledger.entry(key)
        if entry is None:
            raise IntegrityError(key, "is not in the ledger", "see `acie status`")
        walked: list[Manifest] = []

        def visit(manifest: Manifest) -> None:
            self._check(manifest, entry.sha256)
            walked.append(manifest)
            report(manifest)

        sealed = [
            current_manifest(self.store, kind, key)
            for kind in _SEALED
            if self.store.exists(f"{kind}/{key}/current.json")
        ]
        observation = current_manifest(self.store, "observation", key)
        verify_chain(self.store, observation, *sealed, kinds=_SEALED, report=visit)
        for archive in sealed:
            if archive.kind == "archive":
                self._check_headers(archive, walked)
        return len(walked)

    def verify_all(self, report: Callable[[Manifest], None]) -> int:
        """Verify every observation in the store; see `verify`."""
        keys = sorted({key for kind in _SEALED for key in self.store.names(kind)})
        return sum(self.verify(key, report) for key in keys)

    def _check(self, manifest: Manifest, sha256: str) -> None:
        """Compare what a manifest says with what else is known."""
        attributes = manifest.attributes
        if manifest.kind == "observation" and attributes.get("sha256") != sha256:
            raise IntegrityError(
                manifest.prefix,
                "does not have the fingerprint that the ledger recorded",
                "ingest the original file again",
            )
        if manifest.kind == "ciphertexts":
            try:
                named = PaillierPublicKey(int(str(attributes["modulus"]), 16)).key_id
            except (KeyError, ValueError, CryptoError):
                named = None
            if named != attributes.get("key_id"):
                raise IntegrityError(
                    manifest.prefix,
                    "names a key that its modulus does not have",
                    "materialise the asset again",
                )

    def _check_headers(self, archive: Manifest, walked: list[Manifest]) -> None:
        """Compare what each archive claims to hold with its manifest and with the observation's."""
        sources = {ref.digest for ref in archive.inputs}
        original = {
            output.path.removeprefix("original/"): output.sha256
            for manifest in walked
            if manifest.digest in sources
            for output in manifest.outputs
        }
        for stated in archive.attributes["files"]:
            name = f"{archive.prefix}/{stated['archive']}"
            with self.store.open(name) as handle:
                header = read_header(handle)
            claimed = (header.name, header.size, header.sha256, header.streebog256, header.key_id)
            expected = (
                stated["name"],
                stated["bytes"],
                stated["sha256"],
                stated["streebog256"],
                archive.attributes["key_id"],
            )
            if claimed != expected or original.get(header.name) != header.sha256:
                raise IntegrityError(
                    name,
                    "does not claim to hold the file that was ingested",
                    "materialise the asset again",
                )
