"""What the tiles of an observation add up to."""

from typing import Any

import dagster as dg
import numpy as np

from acie_pipelines.errors import AcieError
from acie_pipelines.io_managers import DATASET
from acie_pipelines.materialization import Materialization, code_version, failure, materialize
from acie_pipelines.metadata import figure, grey_png, table
from acie_pipelines.observations.ingest import open_stored
from acie_pipelines.observations.thumbnail import stretch
from acie_pipelines.partitions import observation_partitions
from acie_pipelines.provenance import Manifest
from acie_pipelines.resources import StoreResource
from acie_pipelines.tiling.aggregate import aggregate_tiles
from acie_pipelines.tiling.figures import histogram_figure
from assets.tiling.checks import MOSAIC_CHECKS, flux_is_conserved


@dg.asset(
    partitions_def=observation_partitions,
    group_name="tiling",
    kinds={"numpy"},
    owners=["team:survey-data"],
    metadata={DATASET: "mosaic"},
    code_version="1",
    automation_condition=dg.AutomationCondition.eager(),
    check_specs=MOSAIC_CHECKS,
)
def observation_mosaic(
    context: dg.AssetExecutionContext,
    storage: StoreResource,
    raw_observation: Manifest,
    observation_tiles: Manifest,
) -> Materialization:
    """Totals over all tiles, the background map, and a preview of the whole observation.

    Count, mean, variance and total of each plane are pooled from the tiles' statistics; the total
    is compared with an independent pass over the original file (flux conservation).
    """
    store = storage.open()
    try:
        with open_stored(store, raw_observation) as observation:
            manifest = aggregate_tiles(
                store, observation_tiles, observation, code_version=code_version(context)
            )
    except AcieError as error:
        raise failure(error) from error
    planes = manifest.attributes["planes"]
    metadata: dict[str, Any] = {
        "planes": table(
            [
                {"name": plane["name"], "kind": plane["kind"], "unit": plane["unit"] or ""}
                | {
                    name: float("nan") if value is None else float(value)
                    for name, value in plane["statistics"].items()
                }
                | {"flux_difference": float(plane["flux"]["relative_difference"])}
                for plane in planes
            ]
        )
    }
    shown = next((plane for plane in planes if plane["kind"] in ("image", "mask")), None)
    if shown is not None:
        with store.open(f"{manifest.prefix}/{shown['preview']}") as handle:
            preview = np.load(handle, allow_pickle=False)
        label = f"{shown['name']} [{shown['unit'] or 'no unit'}]"
        metadata["mosaic"] = grey_png(stretch(preview), f"Mosaic of the tiles of {shown['name']}")
        metadata["histogram"] = figure(histogram_figure(preview, label), f"Histogram of {label}")
    yield from materialize(manifest, metadata, [flux_is_conserved(manifest)])
