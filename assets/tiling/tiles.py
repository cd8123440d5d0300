"""An observation cut into tiles with global coordinates."""

import dagster as dg

from acie_pipelines.errors import AcieError
from acie_pipelines.intake import quarantined_on_error
from acie_pipelines.io_managers import DATASET
from acie_pipelines.materialization import (
    Materialization,
    code_version,
    failure,
    materialize,
    progress_log,
)
from acie_pipelines.observations.ingest import open_stored
from acie_pipelines.partitions import observation_partitions
from acie_pipelines.provenance import Manifest
from acie_pipelines.resources import LedgerResource, StoreResource
from acie_pipelines.tiling.writer import write_tiles
from assets.tiling.checks import TILE_CHECKS, tiles_match_hashes


class TilingConfig(dg.Config):
    """How to cut."""

    tile_size: int = 1024


@dg.asset(
    partitions_def=observation_partitions,
    group_name="tiling",
    kinds={"zarr"},
    owners=["team:survey-data"],
    metadata={DATASET: "tiles"},
    code_version="1",
    retry_policy=dg.RetryPolicy(max_retries=2, delay=10, backoff=dg.Backoff.EXPONENTIAL),
    automation_condition=dg.AutomationCondition.eager(),
    check_specs=TILE_CHECKS,
)
def observation_tiles(
    context: dg.AssetExecutionContext,
    config: TilingConfig,
    storage: StoreResource,
    ledger: LedgerResource,
    raw_observation: Manifest,
) -> Materialization:
    """Zarr v3 tiles of every plane, each with global (x, y), true extent, SHA-256 and statistics.

    One array per plane, written as a stream: memory does not depend on the size of the image.
    Edge tiles keep their true extent; units, WCS, masks and the file's hash are attributes of the
    arrays. Statistics of each tile include a sigma-clipped background and its noise.
    """
    store = storage.open()
    key = context.partition_key
    try:
        with (
            quarantined_on_error(store, ledger.open(), key),
            open_stored(store, raw_observation) as observation,
        ):
            manifest = write_tiles(
                store,
                raw_observation,
                observation,
                code_version=code_version(context),
                tile_size=config.tile_size,
                progress=progress_log(context, "tiles"),
            )
    except AcieError as error:
        raise failure(error) from error
    metadata = {
        "tiles": len(manifest.attributes["tiles"]),
        "pixels": manifest.attributes["pixels"],
        "bytes": manifest.attributes["bytes"],
        "tile_size": manifest.attributes["tile_size"],
    }
    yield from materialize(manifest, metadata, [tiles_match_hashes(store, manifest)])
