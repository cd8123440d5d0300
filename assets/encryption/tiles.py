"""Tiles that nobody without the private key can read.

The steps that plan, encrypt and publish need public keys only; what needs the private one is
checked by the owner, in a step of its own (`assets.encryption.checks`).
"""

import os
import socket
from collections.abc import Iterator
from typing import Any

import dagster as dg

from acie_pipelines.errors import AcieError
from acie_pipelines.execution import ENCRYPTION_OP_TAGS
from acie_pipelines.io_managers import DATASET, unit_key, unit_of
from acie_pipelines.materialization import code_version, failure, progress_log
from acie_pipelines.metadata import table
from acie_pipelines.partitions import observation_partitions
from acie_pipelines.provenance import Manifest
from acie_pipelines.resources import PublicKeysResource, QueueResource, StoreResource
from acie_pipelines.secure.encryption import (
    open_encryption,
    publish_encryption,
    reusable_encryption,
)
from acie_pipelines.secure.tasks import do_unit

_RETRIES = dg.RetryPolicy(max_retries=2, delay=10, backoff=dg.Backoff.EXPONENTIAL)


@dg.op(out=dg.DynamicOut(str, io_manager_key="unit_io_manager"), retry_policy=_RETRIES)
def plan_encryption(
    context: dg.OpExecutionContext,
    storage: StoreResource,
    queue: QueueResource,
    public_keys: PublicKeysResource,
    observation_tiles: Manifest,
) -> Iterator[dg.DynamicOutput[str]]:
    """Cut the tiles into groups of about a minute's work; none if nothing has changed."""
    version = code_version(context)
    try:
        public_key = public_keys.proved().public_key()
        if reusable_encryption(storage.open(), observation_tiles, public_key, version) is not None:
            return
        batch, units = open_encryption(queue.open(), observation_tiles, public_key, version)
    except AcieError as error:
        raise failure(error) from error
    for number in range(units):
        key = unit_key(batch.id, number)
        yield dg.DynamicOutput(key, mapping_key=key)


@dg.op(
    out=dg.Out(str, io_manager_key="unit_io_manager"),
    retry_policy=_RETRIES,
    tags=ENCRYPTION_OP_TAGS,
)
def encrypt_group(
    context: dg.OpExecutionContext,
    storage: StoreResource,
    queue: QueueResource,
    public_keys: PublicKeysResource,
    unit: str,
) -> str:
    """Encrypt one group of tiles with the public key, or wait for the worker that does."""
    batch_id, number = unit_of(unit)
    owner = f"run {context.run_id} on {socket.gethostname()}, process {os.getpid()}"
    progress = progress_log(context, "tiles encrypted")
    try:
        work = queue.open()
        if context.retry_number == 0:
            work.revive(batch_id, number)
        do_unit(work, storage.open(), public_keys.open(), batch_id, number, owner, progress)
    except AcieError as error:
        raise failure(error) from error
    return unit


@dg.op(ins={"groups": dg.In(dg.Nothing)}, retry_policy=_RETRIES)
def publish_ciphertexts(
    context: dg.OpExecutionContext,
    storage: StoreResource,
    queue: QueueResource,
    public_keys: PublicKeysResource,
    observation_tiles: Manifest,
) -> dg.Output[Manifest]:
    """Put the groups together in one manifest."""
    try:
        public_key = public_keys.open().public_key()
        manifest, seconds = publish_encryption(
            queue.open(), storage.open(), observation_tiles, public_key, code_version(context)
        )
    except AcieError as error:
        raise failure(error) from error
    metadata: dict[str, Any] = {
        "values": int(manifest.attributes["values"]),
        "ciphertexts": int(manifest.attributes["ciphertexts"]),
        "key_id": manifest.attributes["key_id"],
        "planes": table(
            [
                {"name": plane["name"], "fractional_bits": plane["layout"]["fractional_bits"]}
                for plane in manifest.attributes["planes"]
            ]
        ),
    }
    if seconds is not None:  # nothing is encrypted anew when nothing has changed
        metadata["seconds"] = seconds
        metadata["values_per_second"] = metadata["values"] / seconds
    return dg.Output(manifest, metadata=metadata)


@dg.graph_asset(
    partitions_def=observation_partitions,
    group_name="encryption",
    kinds={"zarr", "rust"},
    owners=["team:security"],
    metadata={DATASET: "ciphertexts"},
    code_version="2",
    automation_condition=dg.AutomationCondition.eager(),
)
def encrypted_tiles(observation_tiles: Manifest) -> Any:
    """Every tile as Paillier ciphertexts of packed fixed-point values, in Zarr.

    Only the public key is used to make them. Sums of tiles can be computed without decrypting.
    Values decrypt back exactly at the scale stated per plane; integer planes are lossless. Groups
    of tiles are steps of their own: they run side by side, `acie secure worker` helps with them,
    and what a killed run has finished is not done again.
    """
    done = plan_encryption(observation_tiles).map(encrypt_group).collect()
    return publish_ciphertexts(observation_tiles, groups=done)
