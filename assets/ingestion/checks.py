"""Whether what was taken in is what arrived. All of these block."""

import dagster as dg

from acie_pipelines.errors import IntegrityError
from acie_pipelines.materialization import check
from acie_pipelines.provenance import Manifest, verify_outputs
from acie_pipelines.storage import Store

__all__ = ["CATALOGUE_CHECKS", "OBSERVATION_CHECKS", "catalogue_is_intact", "observation_is_intact"]

OBSERVATION_CHECKS = [
    dg.AssetCheckSpec(
        "observation_is_intact",
        asset="raw_observation",
        blocking=True,
        description="The stored bytes hash to the content the partition is named after.",
    )
]
CATALOGUE_CHECKS = [
    dg.AssetCheckSpec(
        "catalogue_is_intact",
        asset="galaxy_catalogue",
        blocking=True,
        description="The stored table hashes to what its manifest states and has galaxies in it.",
    )
]


def _damage(store: Store, manifest: Manifest) -> str | None:
    try:
        verify_outputs(store, manifest)
    except IntegrityError as error:
        return str(error)
    return None


def observation_is_intact(store: Store, manifest: Manifest, partition: str) -> dg.AssetCheckResult:
    """Re-read the stored file and compare it with its hash and with the partition's name."""
    damage = _damage(store, manifest)
    if damage is None and not partition.endswith("-" + manifest.attributes["sha256"][:12]):
        damage = "the content is not the one this partition is named after"
    return check(
        "observation_is_intact",
        damage is None,
        blocking=True,
        description=damage,
        sha256=manifest.attributes["sha256"],
        warnings=len(manifest.attributes["warnings"]),
    )


def catalogue_is_intact(store: Store, manifest: Manifest) -> dg.AssetCheckResult:
    """Re-read the stored table and compare it with its hash."""
    damage = _damage(store, manifest)
    rows = int(manifest.attributes["rows"])
    return check(
        "catalogue_is_intact",
        damage is None and rows > 0,
        blocking=True,
        description=damage,
        rows=rows,
    )
