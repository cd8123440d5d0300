"""Sums of encrypted tiles, made without any private key."""

import dagster as dg

from acie_pipelines.crypto.keys import PaillierPrivateKey
from acie_pipelines.errors import AcieError
from acie_pipelines.io_managers import DATASET
from acie_pipelines.materialization import (
    Materialization,
    check,
    code_version,
    failure,
    materialize,
    progress_log,
)
from acie_pipelines.partitions import observation_partitions
from acie_pipelines.provenance import Manifest, current_manifest, read_manifest
from acie_pipelines.resources import (
    AttestationsResource,
    PublicKeysResource,
    QueueResource,
    StoreResource,
    VaultResource,
)
from acie_pipelines.secure.batches import make
from acie_pipelines.secure.statistics import KIND, differing_planes, statistics_work
from acie_pipelines.storage import Store


@dg.asset(
    partitions_def=observation_partitions,
    group_name="encryption",
    kinds={"zarr", "rust"},
    owners=["team:security"],
    metadata={DATASET: KIND},
    code_version="2",
    retry_policy=dg.RetryPolicy(max_retries=2, delay=10, backoff=dg.Backoff.EXPONENTIAL),
    automation_condition=dg.AutomationCondition.eager(),
)
def encrypted_statistics(
    context: dg.AssetExecutionContext,
    storage: StoreResource,
    queue: QueueResource,
    public_keys: PublicKeysResource,
    encrypted_tiles: Manifest,
) -> Materialization:
    """The sum of every tile of every plane, as Paillier ciphertexts.

    Computed on ciphertexts with the public key alone: whoever made it has learned nothing but the
    geometry. It is made in units of tiles, and `acie secure worker` helps with them. The sums are
    exact, and their total is the flux of the observation.
    """
    try:
        work = statistics_work(encrypted_tiles, code_version(context))
        progress = progress_log(context, "units summed")
        manifest = make(queue.open(), storage.open(), public_keys.open(), work, progress)
    except AcieError as error:
        raise failure(error) from error
    tiles = manifest.attributes["tiles"]
    metadata = {
        "planes": len(manifest.attributes["planes"]),
        "sums": len(tiles),
        "ciphertexts": sum(len(tile["weights"]) for tile in tiles),
        "key_id": manifest.attributes["key_id"],
    }
    yield from materialize(manifest, metadata)


@dg.asset_check(
    asset="encrypted_statistics",
    description="Decrypted by the owner, the sum of every tile equals that of the plaintext tile, "
    "to the last bit. The owner attests sums that do.",
)
def sums_equal_plaintext(
    context: dg.AssetCheckExecutionContext,
    storage: StoreResource,
    vault: VaultResource,
    attestations: AttestationsResource,
) -> dg.AssetCheckResult:
    """Compare encrypted with plaintext sums, with the owner's key and in a step of its own."""
    store = storage.open()
    try:
        statistics = current_manifest(store, KIND, context.op_execution_context.partition_key)
        (used,) = statistics.inputs
        ciphertexts = read_manifest(store, used.kind, used.key, used.generation)
        (used,) = ciphertexts.inputs
        tiles = read_manifest(store, used.kind, used.key, used.generation)
        keys = vault.open()
        result = _compare(
            store, statistics, tiles, keys.private_key(statistics.attributes["key_id"])
        )
        if result.passed:
            attestations.open().attest(store, statistics, keys.archive_key())
    except AcieError as error:
        raise failure(error) from error
    return result


def _compare(
    store: Store, statistics: Manifest, tiles: Manifest, private_key: PaillierPrivateKey
) -> dg.AssetCheckResult:
    name = "sums_equal_plaintext"
    try:
        differing = differing_planes(store, statistics, tiles, private_key)
    except AcieError as error:
        return check(name, False, description=str(error))
    return check(
        name,
        not differing,
        description=f"planes that differ: {', '.join(differing)}" if differing else None,
        planes=len(statistics.attributes["planes"]),
    )
