"""Datasets that are made as batches of independent units.

Belongs here: what all kinds of units share: opening a batch, doing all of it, publishing what was
made.
Does not belong here: what any unit does (see `KINDS` in `acie_pipelines.secure.tasks`), or leases
(`acie_pipelines.secure.queue`).
"""

import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from acie_pipelines.crypto.keys import PaillierPublicKey
from acie_pipelines.crypto.public_keys import PublicKeys
from acie_pipelines.errors import IntegrityError
from acie_pipelines.provenance import (
    Generation,
    InputRef,
    Manifest,
    Output,
    generation_name,
    read_manifest,
    request_digest,
    resumed_generation,
    reusable_manifest,
)
from acie_pipelines.secure.queue import LeaseLostError, WorkQueue
from acie_pipelines.secure.queue_tables import Batch
from acie_pipelines.secure.tasks import LEASE_SECONDS, Progress, check_key, perform
from acie_pipelines.storage import Store

__all__ = [
    "Recipe",
    "Work",
    "discard_batch",
    "do_batch",
    "input_of",
    "make",
    "open_batch",
    "publish_batch",
]

_POLL_SECONDS = 0.5

# Makes a manifest's outputs and attributes of the results of all units, in order.
Assemble = Callable[[Generation, Sequence[Mapping[str, Any]]], tuple[tuple[Output, ...], Any]]


@dataclass(frozen=True)
class Recipe:
    """What decides the content of a dataset; see `acie_pipelines.provenance.new_generation`."""

    kind: str
    key: str
    inputs: tuple[InputRef, ...]
    code_version: str
    parameters: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """Equal for equal content: equal recipes share a batch."""
        return request_digest(**vars(self))

    def reusable(self, store: Store) -> Manifest | None:
        """Return the current dataset if it was made from just this and is undamaged."""
        return reusable_manifest(store, **vars(self))


@dataclass(frozen=True)
class Work:
    """A dataset to be made in units.

    Attributes
    ----------
    recipe
        What it is made from.
    public_key
        Key of all ciphertexts in it.
    payload, unit_payloads
        What all units, and each of them, must know: references, never samples or secrets.
    assemble
        Puts the results together.
    """

    recipe: Recipe
    public_key: PaillierPublicKey
    payload: Mapping[str, Any]
    unit_payloads: Sequence[Mapping[str, Any]]
    assemble: Assemble


def input_of(store: Store, ref: Mapping[str, Any]) -> Manifest:
    """Read the manifest of a dataset that a unit is made from.

    Parameters
    ----------
    store
        Holds it.
    ref
        Fields of its `InputRef`, from a batch's payload.

    Raises
    ------
    IntegrityError
        If it is not the dataset that the batch was opened for.
    """
    stated = InputRef(**ref)
    manifest = read_manifest(store, stated.kind, stated.key, stated.generation)
    if manifest.digest != stated.digest:
        raise IntegrityError(
            manifest.prefix,
            "is not the dataset that work was begun on",
            "materialise it again, and then what is made from it",
        )
    return manifest


def open_batch(queue: WorkQueue, work: Work) -> Batch:
    """Open the batch that makes a dataset, or find it as it was left."""
    recipe, key = work.recipe, work.public_key
    return queue.open(
        recipe.kind,
        recipe.key,
        request=recipe.digest,
        generation=generation_name(),
        payload={**work.payload, "key_id": key.key_id, "modulus": f"{key.n:x}"},
        unit_payloads=work.unit_payloads,
    )


def do_batch(
    queue: WorkQueue,
    store: Store,
    keys: PublicKeys,
    batch: Batch,
    progress: Progress | None = None,
) -> None:
    """Do units of a batch until none is left, together with whoever else does.

    Parameters
    ----------
    queue, store
        Where the units are, and where results go.
    keys
        What the owner exported; units under another key are refused.
    batch
        From `open_batch`.
    progress
        Called with the units done, by anybody, and their total.

    Raises
    ------
    AcieError
        What a unit failed with here.
    """
    owner = f"{socket.gethostname()}, process {os.getpid()}"
    while True:
        counts = queue.counts(batch.id)
        if progress is not None:
            progress(counts.done, counts.total)
        if not counts.ready and not counts.leased:
            return
        lease = queue.claim(owner, seconds=LEASE_SECONDS, batch_id=batch.id)
        if lease is None:
            time.sleep(_POLL_SECONDS)
            continue
        check_key(queue, lease, keys)
        try:
            perform(queue, store, lease)
        except LeaseLostError:
            continue


def publish_batch(queue: WorkQueue, store: Store, work: Work) -> tuple[Manifest, float | None]:
    """Publish a dataset once every unit of its batch is done, and close the batch.

    The manifest lists the files of the claims whose results stand, and no others. Publishing again
    finds what was published.

    Returns
    -------
    manifest
        Of the dataset.
    seconds
        That the units took, added up; ``None`` if nothing was made.

    Raises
    ------
    UnitFailedError
        If a unit failed or is not done.
    IntegrityError
        If what a unit wrote is gone, or there is neither a batch nor a finished dataset.
    """
    recipe = work.recipe
    batch = queue.lookup(recipe.kind, recipe.key, recipe.digest)
    if batch is None:
        manifest = recipe.reusable(store)
        if manifest is None:
            raise IntegrityError(f"{recipe.kind}/{recipe.key}", "was not made yet", "run it again")
        return manifest, None
    results = queue.results(batch.id)
    generation = resumed_generation(
        store,
        recipe.kind,
        recipe.key,
        batch.generation,
        inputs=recipe.inputs,
        code_version=recipe.code_version,
        parameters=recipe.parameters,
    )
    present = set(store.names(f"{generation.prefix}/units"))
    winners = {directory.rpartition("/")[2] for directory, _ in results}
    if not winners <= present:
        queue.close(batch.id)
        missing = f"{generation.prefix}/units/{min(winners - present)}"
        raise IntegrityError(missing, "is gone", "run it again")
    for name in present - winners:
        store.delete(f"{generation.prefix}/units/{name}")
    manifest = generation.commit(*work.assemble(generation, [result for _, result in results]))
    queue.close(batch.id)
    return manifest, sum(float(result["seconds"]) for _, result in results)


def discard_batch(queue: WorkQueue, store: Store, batch: Batch) -> None:
    """Give a batch up that will not be published, with everything that its units wrote.

    Parameters
    ----------
    queue, store
        Where the batch is, and where its units wrote.
    batch
        From `WorkQueue.batches`; whoever still works on it is refused from then on.
    """
    queue.close(batch.id)
    # A publisher that died just before it closed the batch has left a finished dataset.
    if not store.exists(f"{batch.prefix}/manifest.json"):
        store.delete(batch.prefix)


def make(
    queue: WorkQueue,
    store: Store,
    keys: PublicKeys,
    work: Work,
    progress: Progress | None = None,
) -> Manifest:
    """Make a dataset: find it finished, or open its batch, do it with whoever helps, publish.

    Parameters
    ----------
    queue, store, keys, progress
        As of `do_batch`.
    work
        What to make.

    Raises
    ------
    AcieError
        What a unit failed with; those that are done stay done.
    """
    found = work.recipe.reusable(store)
    if found is not None:
        return found
    do_batch(queue, store, keys, open_batch(queue, work), progress)
    return publish_batch(queue, store, work)[0]
