"""Encryption of an observation's tiles as a batch of independent units.

The owner's work, done with the public key alone: whoever encrypts reads plaintext tiles, and cannot
decrypt what others encrypted.

Belongs here: opening, doing and publishing the batch. Does not belong here: encryption itself
(`acie_pipelines.crypto.tile_encryption`), or leases (`acie_pipelines.secure.queue`).
"""

from typing import Any

from acie_pipelines.crypto.encryption_plan import EncryptionPlan, plan_encryption
from acie_pipelines.crypto.keys import PaillierPublicKey
from acie_pipelines.crypto.tile_encryption import (
    KIND,
    EncryptedTile,
    assemble,
    encrypt_group,
    request,
)
from acie_pipelines.errors import IntegrityError
from acie_pipelines.provenance import (
    InputRef,
    Manifest,
    generation_name,
    read_manifest,
    request_digest,
    resumed_generation,
    reusable_manifest,
)
from acie_pipelines.secure.queue import WorkQueue
from acie_pipelines.secure.queue_tables import Batch, Lease
from acie_pipelines.secure.tasks import Progress
from acie_pipelines.storage import Store

__all__ = ["do_unit", "open_encryption", "publish_encryption", "reusable_encryption"]


def reusable_encryption(
    store: Store, tiles: Manifest, public_key: PaillierPublicKey, code_version: str
) -> Manifest | None:
    """Return the current ciphertexts if they were made from just this and are undamaged."""
    made_from = request(tiles, public_key, code_version)
    return reusable_manifest(store, KIND, tiles.key, **vars(made_from))


def open_encryption(
    queue: WorkQueue, tiles: Manifest, public_key: PaillierPublicKey, code_version: str
) -> tuple[Batch, int]:
    """Open the batch that encrypts a dataset of tiles, or find it as it was left.

    Parameters
    ----------
    queue
        Receives the batch.
    tiles, public_key, code_version
        As of `acie_pipelines.crypto.tile_encryption.encrypt_tiles`.

    Returns
    -------
    batch, units
        The batch and the number of its units, each a group of tiles.

    Raises
    ------
    CryptoError
        If a plane cannot be encrypted.
    """
    plan = plan_encryption(tiles, public_key)
    made_from = request(tiles, public_key, code_version)
    batch = queue.open(
        KIND,
        tiles.key,
        request=request_digest(KIND, tiles.key, **vars(made_from)),
        generation=generation_name(),
        payload={
            "tiles": vars(tiles.as_input()),
            "key_id": public_key.key_id,
            "modulus": f"{public_key.n:x}",
            "code_version": code_version,
        },
        unit_payloads=[{"tiles": group} for group in plan.groups],
    )
    return batch, len(plan.groups)


def _plan(store: Store, batch: Batch) -> EncryptionPlan:
    """Come to the plan that the batch was opened with."""
    ref = InputRef(**batch.payload["tiles"])
    tiles = read_manifest(store, ref.kind, ref.key, ref.generation)
    if tiles.digest != ref.digest:
        raise IntegrityError(
            tiles.prefix, "is not the dataset whose encryption was begun", "materialise it again"
        )
    return plan_encryption(tiles, PaillierPublicKey(int(batch.payload["modulus"], 16)))


def do_unit(store: Store, lease: Lease, progress: Progress) -> dict[str, Any]:
    """Encrypt one group of tiles.

    Parameters
    ----------
    store
        Holds the tiles and receives the ciphertexts.
    lease
        Of a unit of a batch that `open_encryption` opened.
    progress
        Called after each tile.

    Returns
    -------
    dict
        ``tiles``, one record of `EncryptedTile` for each.
    """
    batch = lease.batch
    plan = _plan(store, batch)
    first, stop = lease.payload["tiles"]
    prefix = f"{batch.kind}/{batch.key}/{batch.generation}"
    records = []
    for record in encrypt_group(store, plan, (first, stop), prefix, lease.directory):
        records.append(record.to_json())
        progress(len(records), stop - first)
    return {"tiles": records}


def publish_encryption(
    queue: WorkQueue,
    store: Store,
    tiles: Manifest,
    public_key: PaillierPublicKey,
    code_version: str,
) -> tuple[Manifest, float | None]:
    """Publish ciphertexts once every unit of their batch is done, and close the batch.

    The manifest lists the files of the claims whose results stand, and no others. Publishing again
    finds what was published.

    Parameters
    ----------
    queue, store
        Where the batch is, and where its units wrote.
    tiles, public_key, code_version
        As of `open_encryption`.

    Returns
    -------
    manifest
        As of `acie_pipelines.crypto.tile_encryption.encrypt_tiles`.
    seconds
        That the units took, added up; ``None`` if nothing was encrypted.

    Raises
    ------
    UnitFailedError
        If a unit failed or is not done.
    IntegrityError
        If what a unit wrote is gone, or there is neither a batch nor a finished dataset.
    """
    made_from = request(tiles, public_key, code_version)
    batch = queue.lookup(KIND, tiles.key, request_digest(KIND, tiles.key, **vars(made_from)))
    if batch is None:
        manifest = reusable_encryption(store, tiles, public_key, code_version)
        if manifest is None:
            raise IntegrityError(
                f"{KIND}/{tiles.key}", "was not encrypted yet", "run the encryption again"
            )
        return manifest, None
    plan = _plan(store, batch)
    results = queue.results(batch.id)
    generation = resumed_generation(store, KIND, tiles.key, batch.generation, **vars(made_from))
    present = set(store.names(f"{generation.prefix}/units"))
    winners = {directory.rpartition("/")[2] for directory, _ in results}
    if not winners <= present:
        queue.close(batch.id)
        raise IntegrityError(
            f"{generation.prefix}/units/{min(winners - present)}",
            "is gone",
            "run the encryption again",
        )
    for name in present - winners:
        store.delete(f"{generation.prefix}/units/{name}")
    records = (EncryptedTile.from_json(each) for _, result in results for each in result["tiles"])
    manifest = generation.commit(*assemble(plan, records))
    queue.close(batch.id)
    return manifest, sum(float(result["seconds"]) for _, result in results)
