"""One file from a telescope, exactly as it arrived."""

import dagster as dg

from acie_pipelines.errors import AcieError
from acie_pipelines.intake import take_in
from acie_pipelines.io_managers import DATASET
from acie_pipelines.materialization import (
    Materialization,
    code_version,
    failure,
    materialize,
    progress_log,
)
from acie_pipelines.metadata import grey_png, table
from acie_pipelines.observations.ingest import open_stored, planes_of
from acie_pipelines.observations.thumbnail import plane_preview
from acie_pipelines.partitions import observation_partitions
from acie_pipelines.resources import LedgerResource, StoreResource
from assets.ingestion.checks import OBSERVATION_CHECKS, observation_is_intact


@dg.asset(
    partitions_def=observation_partitions,
    group_name="ingestion",
    kinds={"fits", "python"},
    owners=["team:survey-data"],
    metadata={DATASET: "observation"},
    code_version="1",
    retry_policy=dg.RetryPolicy(max_retries=2, delay=10, backoff=dg.Backoff.EXPONENTIAL),
    check_specs=OBSERVATION_CHECKS,
)
def raw_observation(
    context: dg.AssetExecutionContext, storage: StoreResource, ledger: LedgerResource
) -> Materialization:
    """A raw observation: the file byte for byte, its header, planes, WCS and fingerprints.

    A partition is one file of pixels or samples (FITS, TIFF, HDF5 or Zarr), named after the
    SHA-256 of its content. The file is validated (structure, checksums, size limits), copied into
    the store and fingerprinted with SHA-256 and Streebog-256 (GOST R 34.11-2012). A file that
    fails is moved to quarantine with the reason, and its partition is shown as failed.
    """
    store = storage.open()
    key = context.partition_key
    try:
        manifest = take_in(
            store,
            ledger.open(),
            key,
            code_version=code_version(context),
            progress=progress_log(context, "bytes"),
        )
    except AcieError as error:
        raise failure(error) from error
    planes = planes_of(manifest)
    shown = next((plane for plane in planes if plane.kind in ("image", "mask", "weight")), None)
    metadata = {
        "source": manifest.attributes["source_name"],
        "format": manifest.attributes["format"],
        "bytes": manifest.attributes["bytes"],
        "sha256": manifest.attributes["sha256"],
        "streebog256": manifest.attributes["streebog256"],
        "planes": table(
            [
                {
                    "name": plane.name,
                    "kind": plane.kind,
                    "shape": "x".join(map(str, plane.shape)),
                    "dtype": plane.dtype.name,
                    "unit": plane.unit or "",
                    "arcsec_per_pixel": plane.pixel_scale_arcsec or float("nan"),
                    "wcs": "yes" if plane.wcs else "no",
                }
                for plane in planes
            ]
        ),
        "quality": dg.MetadataValue.json(manifest.attributes["quality"]),
    }
    if shown is not None:
        with open_stored(store, manifest) as observation:
            preview = plane_preview(observation, shown, size=256)
        metadata["preview"] = grey_png(preview, f"Plane {shown.name}")
    yield from materialize(
        manifest, metadata, [observation_is_intact(store, manifest, context.partition_key)]
    )
