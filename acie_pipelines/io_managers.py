"""Hands manifests from one asset to the next, and units of work from one step to the next.

The data themselves never pass through Dagster.

Belongs here: finding the manifest an asset made. Does not belong here: reading what it describes.

An asset names its dataset in its definition metadata: ``dataset: "tiles"`` for a partitioned asset,
whose partition key is the dataset's key, or ``dataset: "scm/galaxies"`` for an unpartitioned one.
"""

import dagster as dg

from acie_pipelines.metadata import manifest_metadata
from acie_pipelines.provenance import Manifest, current_manifest
from acie_pipelines.resources import StoreResource

__all__ = ["DATASET", "ManifestIOManager", "UnitIOManager", "unit_key", "unit_of"]

DATASET = "dataset"


class ManifestIOManager(dg.ConfigurableIOManager):
    """Resolve manifests by dataset name and partition key."""

    storage: dg.ResourceDependency[StoreResource]

    def handle_output(self, context: dg.OutputContext, obj: Manifest) -> None:
        """Record which manifest the asset committed."""
        expected = context.definition_metadata[DATASET]
        kind = expected.partition("/")[0]
        if obj.kind != kind:
            raise dg.DagsterInvariantViolationError(
                f"{context.asset_key.to_user_string()} declares dataset {expected!r} "
                f"but returned a manifest of kind {obj.kind!r}"
            )
        context.add_output_metadata(manifest_metadata(obj))

    def load_input(self, context: dg.InputContext) -> Manifest | dict[str, Manifest]:
        """Give the upstream manifest, or all of them to an unpartitioned asset.

        Partitions without a completed dataset (quarantined ones) are left out of the mapping.
        """
        upstream = context.upstream_output
        if upstream is None:
            raise dg.DagsterInvariantViolationError("only assets can be loaded")
        kind, _, key = upstream.definition_metadata[DATASET].partition("/")
        store = self.storage.open()
        if key:
            return current_manifest(store, kind, key)
        if context.has_partition_key:
            return current_manifest(store, kind, context.partition_key)
        keys = context.asset_partition_keys
        return {
            key: current_manifest(store, kind, key)
            for key in keys
            if store.exists(f"{kind}/{key}/current.json")
        }


def unit_key(batch_id: int, number: int) -> str:
    """Make the mapping key of the step that does a unit of work."""
    return f"batch_{batch_id}_unit_{number:05d}"


def unit_of(key: str) -> tuple[int, int]:
    """Read the batch and number that a mapping key stands for."""
    _, batch_id, _, number = key.split("_")
    return int(batch_id), int(number)


class UnitIOManager(dg.IOManager):
    """Pass the mapping key itself: a step finds everything else about its unit in the queue."""

    def handle_output(self, context: dg.OutputContext, obj: str) -> None:
        """Store nothing."""

    def load_input(self, context: dg.InputContext) -> str:
        """Give the key of the mapped step."""
        upstream = context.upstream_output
        if upstream is None or upstream.mapping_key is None:
            raise dg.DagsterInvariantViolationError("only mapped units can be loaded")
        return upstream.mapping_key
