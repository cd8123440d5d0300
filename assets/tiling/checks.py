"""Whether tiles hold just the pixels of the image. These warn; ingest and validation block."""

import dagster as dg

from acie_pipelines.errors import IntegrityError
from acie_pipelines.materialization import check
from acie_pipelines.provenance import Manifest, verify_outputs
from acie_pipelines.storage import Store

__all__ = ["MOSAIC_CHECKS", "TILE_CHECKS", "flux_is_conserved", "tiles_match_hashes"]

TILE_CHECKS = [
    dg.AssetCheckSpec(
        "tiles_match_hashes",
        asset="observation_tiles",
        description="Every tile, read back and decoded, hashes to what the manifest states.",
    )
]
MOSAIC_CHECKS = [
    dg.AssetCheckSpec(
        "flux_is_conserved",
        asset="observation_mosaic",
        description="The tiles add up to the image, measured by an independent pass over the file.",
    )
]


def tiles_match_hashes(store: Store, manifest: Manifest) -> dg.AssetCheckResult:
    """Decode every tile from the store and compare it with its hash."""
    damage = None
    try:
        verify_outputs(store, manifest)
    except IntegrityError as error:
        damage = str(error)
    return check(
        "tiles_match_hashes", damage is None, description=damage, tiles=len(manifest.outputs)
    )


def flux_is_conserved(mosaic: Manifest) -> dg.AssetCheckResult:
    """Compare the tiles' total of each plane with the image's."""
    planes = mosaic.attributes["planes"]
    worst = max((plane["flux"]["relative_difference"] for plane in planes), default=0.0)
    lost = [plane["name"] for plane in planes if not plane["flux"]["conserved"]]
    return check(
        "flux_is_conserved",
        not lost,
        description=f"planes that lost flux: {', '.join(lost)}" if lost else None,
        largest_relative_difference=float(worst),
    )
