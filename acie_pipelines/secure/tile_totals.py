"""Totals of encrypted tiles as a batch of independent units, for workers without a private key.

Belongs here: opening, doing and publishing the batch, and reading its result as the owner.
Does not belong here: the arithmetic (`acie_pipelines.crypto.totals`), or leases
(`acie_pipelines.secure.queue`).
"""

from typing import Any

import numpy as np

from acie_pipelines.crypto.cipher_planes import CipherPlane, cipher_plane, public_key_of
from acie_pipelines.crypto.kept import check_ciphertexts
from acie_pipelines.crypto.keys import PaillierPrivateKey
from acie_pipelines.crypto.totals import EncryptedTotal, RunningTotal
from acie_pipelines.errors import IntegrityError
from acie_pipelines.provenance import (
    InputRef,
    Manifest,
    Output,
    file_sha256,
    generation_name,
    read_manifest,
    request_digest,
    resumed_generation,
)
from acie_pipelines.secure.queue import WorkQueue
from acie_pipelines.secure.queue_tables import Batch, Lease
from acie_pipelines.secure.tasks import Progress
from acie_pipelines.storage import Store

__all__ = ["KIND", "decrypt_tile_totals", "do_unit", "open_tile_totals", "publish_tile_totals"]

KIND = "tile_totals"
# A tile of 1024 x 1024 pixels is read and summed in some tenths of a second.
_TILES_PER_UNIT = 128


def _request(ciphertexts: Manifest, code_version: str) -> dict[str, Any]:
    return {
        "inputs": (ciphertexts.as_input(),),
        "code_version": code_version,
        "parameters": {"key_id": ciphertexts.attributes["key_id"]},
    }


def open_tile_totals(queue: WorkQueue, ciphertexts: Manifest, code_version: str) -> Batch:
    """Open the batch that sums every tile of a dataset of ciphertexts, or find it as it was left.

    Parameters
    ----------
    queue
        Receives the batch.
    ciphertexts
        Dataset of kind ``ciphertexts``.
    code_version
        Version of the code, recorded in the manifest.
    """
    count = len(ciphertexts.attributes["tiles"])
    return queue.open(
        KIND,
        ciphertexts.key,
        request=request_digest(KIND, ciphertexts.key, **_request(ciphertexts, code_version)),
        generation=generation_name(),
        payload={
            "ciphertexts": vars(ciphertexts.as_input()),
            "key_id": ciphertexts.attributes["key_id"],
            "modulus": ciphertexts.attributes["modulus"],
            "code_version": code_version,
        },
        unit_payloads=[
            {"tiles": [first, min(first + _TILES_PER_UNIT, count)]}
            for first in range(0, count, _TILES_PER_UNIT)
        ],
    )


def _ciphertexts(store: Store, batch: Batch) -> Manifest:
    ref = InputRef(**batch.payload["ciphertexts"])
    manifest = read_manifest(store, ref.kind, ref.key, ref.generation)
    if manifest.digest != ref.digest or manifest.attributes["modulus"] != batch.payload["modulus"]:
        raise IntegrityError(
            manifest.prefix, "is not the dataset whose totals were asked for", "open a new batch"
        )
    return manifest


def _numbered(ciphertexts: Manifest) -> list[tuple[str, int]]:
    """Plane of every tile in storage order, and its number among the plane's tiles."""
    seen: dict[str, int] = {}
    places = []
    for record in ciphertexts.attributes["tiles"]:
        name = record["plane"]
        places.append((name, seen.get(name, 0)))
        seen[name] = seen.get(name, 0) + 1
    return places


def do_unit(store: Store, lease: Lease, progress: Progress) -> dict[str, Any]:
    """Sum the tiles of one unit.

    Parameters
    ----------
    store
        Holds the ciphertexts and receives the totals.
    lease
        Of a unit of a batch that `open_tile_totals` opened.
    progress
        Called after each tile.

    Returns
    -------
    dict
        ``path`` and ``sha256`` of the file of ciphertexts, and ``weights`` of every tile.
    """
    batch = lease.batch
    ciphertexts = _ciphertexts(store, batch)
    public_key = public_key_of(ciphertexts)
    planes: dict[str, CipherPlane] = {}
    first, stop = lease.payload["tiles"]
    parts, weights = [], []
    for name, number in _numbered(ciphertexts)[first:stop]:
        if name not in planes:
            planes[name] = cipher_plane(ciphertexts, name)
        plane = planes[name]
        rows = plane.read_rows(store, ciphertexts, plane.tiles[number])
        check_ciphertexts(rows, public_key)
        running = RunningTotal(public_key, plane.layout)
        running.add(public_key.context.load(rows))
        total = running.total()
        parts.append(total.ciphertexts)
        weights.append(list(total.weights))
        progress(len(weights), stop - first)
    path = f"{lease.directory}/totals.limbs"
    name = f"{batch.kind}/{batch.key}/{batch.generation}/{path}"
    store.write_bytes(name, np.concatenate(parts).astype("<u8").tobytes())
    return {"path": path, "sha256": file_sha256(store, name), "weights": weights}


def publish_tile_totals(queue: WorkQueue, store: Store, batch: Batch) -> Manifest:
    """Publish the totals of a batch whose units are all done, and close it.

    Returns
    -------
    Manifest
        Of kind ``tile_totals`` under the observation's key; one file of little-endian 64-bit limbs
        for each unit. Its attributes are ``key_id`` and ``units``, each with ``path`` and the
        ``weights`` of its tiles.

    Raises
    ------
    UnitFailedError
        If a unit failed or is not done.
    """
    results = [result for _, result in queue.results(batch.id)]
    made_from = _request(_ciphertexts(store, batch), batch.payload["code_version"])
    generation = resumed_generation(store, KIND, batch.key, batch.generation, **made_from)
    manifest = generation.commit(
        tuple(Output(str(result["path"]), str(result["sha256"])) for result in results),
        {
            "key_id": batch.payload["key_id"],
            "units": [{"path": r["path"], "weights": r["weights"]} for r in results],
        },
    )
    queue.close(batch.id)
    return manifest


def decrypt_tile_totals(
    store: Store, totals: Manifest, ciphertexts: Manifest, private_key: PaillierPrivateKey
) -> list[int]:
    """Decrypt the total of every tile.

    Parameters
    ----------
    store, totals
        Dataset of kind ``tile_totals``; every file is checked against its hash.
    ciphertexts
        What it was made from.
    private_key
        Key of the ciphertexts.

    Returns
    -------
    list of int
        Totals in storage order, in units of the quantum of each tile's plane.

    Raises
    ------
    IntegrityError
        If the datasets do not belong together, or files are not those that were written.
    CryptoError
        If the key is another one, or a total cannot be a sum of so many values.
    """
    if ciphertexts.digest not in {ref.digest for ref in totals.inputs}:
        raise IntegrityError(
            totals.prefix, f"was not made from {ciphertexts.prefix}", "use its own ciphertexts"
        )
    public_key = public_key_of(ciphertexts)
    limbs = public_key.context.ciphertext_limbs
    places = iter(_numbered(ciphertexts))
    layouts = {
        record["name"]: cipher_plane(ciphertexts, record["name"]).layout
        for record in ciphertexts.attributes["planes"]
    }
    found = []
    for unit, output in zip(totals.attributes["units"], totals.outputs, strict=True):
        name = f"{totals.prefix}/{output.path}"
        if file_sha256(store, name) != output.sha256:
            raise IntegrityError(
                name, "content does not match the hash in its manifest", "compute it again"
            )
        rows = np.frombuffer(store.read_bytes(name), dtype="<u8").reshape(-1, limbs)
        start = 0
        for weights in unit["weights"]:
            plane, _ = next(places)
            part = np.ascontiguousarray(rows[start : start + len(weights)], dtype=np.uint64)
            start += len(weights)
            total = EncryptedTotal(public_key, layouts[plane], part, tuple(weights))
            found.append(total.decrypt(private_key))
    return found
