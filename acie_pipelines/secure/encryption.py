"""Encryption of an observation's tiles as a batch of independent units.

The owner's work, done with the public key alone: whoever encrypts reads plaintext tiles, and cannot
decrypt what others encrypted.

Belongs here: opening, doing and publishing the batch. Does not belong here: encryption itself
(`acie_pipelines.crypto.tile_encryption`), or leases (`acie_pipelines.secure.queue`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from acie_pipelines.crypto.encryption_plan import plan_encryption
from acie_pipelines.crypto.keys import PaillierPublicKey
from acie_pipelines.crypto.tile_encryption import (
    KIND,
    EncryptedTile,
    assemble,
    encrypt_group,
    request,
)
from acie_pipelines.provenance import Generation, Manifest, Output
from acie_pipelines.secure.batches import Recipe, Work, input_of, open_batch, publish_batch
from acie_pipelines.secure.queue import WorkQueue
from acie_pipelines.secure.queue_tables import Batch, Lease
from acie_pipelines.secure.tasks import Progress
from acie_pipelines.storage import Store

__all__ = ["do_unit", "open_encryption", "publish_encryption", "reusable_encryption"]


def _recipe(tiles: Manifest, public_key: PaillierPublicKey, code_version: str) -> Recipe:
    return Recipe(KIND, tiles.key, **vars(request(tiles, public_key, code_version)))


def _work(tiles: Manifest, public_key: PaillierPublicKey, code_version: str) -> Work:
    plan = plan_encryption(tiles, public_key)

    def put_together(
        _: Generation, results: Sequence[Mapping[str, Any]]
    ) -> tuple[tuple[Output, ...], dict[str, Any]]:
        return assemble(
            plan, (EncryptedTile.from_json(each) for result in results for each in result["tiles"])
        )

    return Work(
        _recipe(tiles, public_key, code_version),
        public_key,
        {"tiles": vars(tiles.as_input())},
        [{"tiles": group} for group in plan.groups],
        put_together,
    )


def reusable_encryption(
    store: Store, tiles: Manifest, public_key: PaillierPublicKey, code_version: str
) -> Manifest | None:
    """Return the current ciphertexts if they were made from just this and are undamaged."""
    return _recipe(tiles, public_key, code_version).reusable(store)


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
    work = _work(tiles, public_key, code_version)
    return open_batch(queue, work), len(work.unit_payloads)


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
    key = PaillierPublicKey(int(batch.payload["modulus"], 16))
    plan = plan_encryption(input_of(store, batch.payload["tiles"]), key)
    first, stop = lease.payload["tiles"]
    records = []
    for record in encrypt_group(store, plan, (first, stop), batch.prefix, lease.directory):
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

    Parameters
    ----------
    queue, store
        Where the batch is, and where its units wrote.
    tiles, public_key, code_version
        As of `open_encryption`.

    Returns
    -------
    manifest, seconds
        See `publish_batch`; the manifest is that of
        `acie_pipelines.crypto.tile_encryption.encrypt_tiles`.
    """
    return publish_batch(queue, store, _work(tiles, public_key, code_version))
