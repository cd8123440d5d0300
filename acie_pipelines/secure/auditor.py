"""Who verifies that everything is as it was made, and learns nothing from it.

Belongs here: the auditor's walk over the ledger, manifests and sealed datasets.
Does not belong here: keys of any kind, or reading plaintext (`acie_pipelines.verification` does).
"""

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from acie_pipelines.crypto.archive import read_header
from acie_pipelines.crypto.keys import PaillierPublicKey
from acie_pipelines.errors import CryptoError, IntegrityError
from acie_pipelines.provenance import Manifest, current_manifest, verify_chain
from acie_pipelines.secure.attestation import ATTESTED_KINDS, Attestations
from acie_pipelines.storage import Store

if TYPE_CHECKING:
    from acie_pipelines.ledger import Ledger

__all__ = ["Auditor"]

# What may leave its owner's hands: contents tell nothing without the keys.
_SEALED = ATTESTED_KINDS


class Auditor:
    """A party with fingerprints, manifests and the ledger; it needs neither keys nor plaintext.

    Of an observation it can tell that the ledger, every manifest on the way and the sealed datasets
    belong together and are intact, that archives claim to hold the file that was ingested, and that
    no older generation was put back in place of what the owner attested. That archives hold the
    file, that ciphertexts decrypt to the tiles, and that the owner's statements are his own, only
    the owner can tell.

    Parameters
    ----------
    store
        Holds the datasets. Of plaintext ones only manifests are read: access to
        ``*/manifest.json``, ``*/current.json``, ``ciphertexts/``, ``encrypted_statistics/`` and
        ``archive/`` is enough.
    ledger
        Which contents were taken in.
    attestations
        Which generations are the newest.
    """

    def __init__(self, store: Store, ledger: "Ledger", attestations: Attestations) -> None:
        self.store = store
        self.ledger = ledger
        self.attestations = attestations

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
        for manifest in sealed:
            self.attestations.compare(manifest)
            if manifest.kind == "archive":
                self._check_headers(manifest, walked)
            elif manifest.kind == "encrypted_statistics":
                _check_statistics(manifest, walked)
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
        if manifest.kind in ("ciphertexts", "encrypted_statistics"):
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


def _check_statistics(statistics: Manifest, walked: list[Manifest]) -> None:
    """Compare whose key the sums are under, and of which tiles they are, with the ciphertexts."""
    sources = {ref.digest for ref in statistics.inputs}
    made_of = [each for each in walked if each.digest in sources and each.kind == "ciphertexts"]
    if [_described(each) for each in made_of] != [_described(statistics)]:
        raise IntegrityError(
            statistics.prefix,
            "are not sums of the ciphertexts that they name",
            "materialise the asset again",
        )


def _described(manifest: Manifest) -> tuple[object, dict[str, int]]:
    """Key of a dataset, and how many tiles each of its planes has."""
    attributes = manifest.attributes
    tiles = attributes.get("tiles")
    if tiles is None:
        counts = {plane["name"]: len(plane["tiles"]) for plane in attributes["planes"]}
    else:
        counts = dict(Counter(tile["plane"] for tile in tiles))
    return attributes["modulus"], counts
