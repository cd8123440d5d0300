"""The original file, sealed."""

from pathlib import Path

import dagster as dg
from pydantic import Field

from acie_pipelines.crypto.archive_observation import archive_observation
from acie_pipelines.errors import AcieError
from acie_pipelines.io_managers import DATASET
from acie_pipelines.materialization import Materialization, code_version, failure, materialize
from acie_pipelines.partitions import observation_partitions
from acie_pipelines.provenance import Manifest
from acie_pipelines.resources import AttestationsResource, StoreResource, VaultResource
from assets.encryption.checks import ARCHIVE_CHECKS, archive_restores_original


class SealingConfig(dg.Config):
    """What is noted about a file inside its archive."""

    classifier: str | None = Field(
        default=None,
        description="File of `acie train-images`: galaxy stamps are sealed with their class.",
    )


@dg.asset(
    partitions_def=observation_partitions,
    group_name="encryption",
    kinds={"file"},
    owners=["team:security"],
    metadata={DATASET: "archive"},
    code_version="1",
    retry_policy=dg.RetryPolicy(max_retries=2, delay=10, backoff=dg.Backoff.EXPONENTIAL),
    automation_condition=dg.AutomationCondition.eager(),
    check_specs=ARCHIVE_CHECKS,
)
def sealed_archive(
    context: dg.AssetExecutionContext,
    config: SealingConfig,
    storage: StoreResource,
    vault: VaultResource,
    attestations: AttestationsResource,
    raw_observation: Manifest,
) -> Materialization:
    """An authenticated archive of the original bytes: AES-256-GCM in chunks.

    The name, size and fingerprints of the file are bound to the ciphertext, so that truncation,
    reordering, bit flips and swapped files are detected when it is opened. The class of a galaxy
    stamp, where a classifier is configured, lies encrypted in the archive's header.
    """
    store = storage.open()
    describe = None
    try:
        if config.classifier is not None:
            from acie_pipelines.models.file_classifier import FileClassifier

            describe = FileClassifier(Path(config.classifier))
        keys = vault.open()
        manifest = archive_observation(
            store,
            raw_observation,
            keys.archive_key(),
            code_version=code_version(context),
            describe=describe,
        )
        checks = [archive_restores_original(store, manifest, raw_observation, keys)]
        if all(result.passed for result in checks):
            attestations.open().attest(store, manifest, keys.archive_key())
    except AcieError as error:
        raise failure(error) from error
    metadata = {
        "files": len(manifest.attributes["files"]),
        "key_id": manifest.attributes["key_id"],
        "original_bytes": raw_observation.attributes["bytes"],
    }
    yield from materialize(manifest, metadata, checks)
