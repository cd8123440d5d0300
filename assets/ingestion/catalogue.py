"""Measured properties of many galaxies, the data the causal model is fitted to."""

from pathlib import Path

import dagster as dg

from acie_pipelines.errors import AcieError
from acie_pipelines.io_managers import DATASET
from acie_pipelines.materialization import Materialization, code_version, failure, materialize
from acie_pipelines.metadata import table
from acie_pipelines.resources import StoreResource
from acie_pipelines.samples import CATALOGUE
from acie_pipelines.training.catalogue import ingest_catalogue
from assets.ingestion.checks import CATALOGUE_CHECKS, catalogue_is_intact


class CatalogueConfig(dg.Config):
    """Which catalogue to take in."""

    path: str = str(CATALOGUE)


@dg.asset(
    group_name="ingestion",
    kinds={"parquet", "pandas"},
    owners=["team:science"],
    metadata={DATASET: "catalogue/emission-lines"},
    code_version="1",
    automation_condition=dg.AutomationCondition.missing()
    & ~dg.AutomationCondition.in_progress()
    & ~dg.AutomationCondition.execution_failed(),
    check_specs=CATALOGUE_CHECKS,
)
def galaxy_catalogue(
    context: dg.AssetExecutionContext, config: CatalogueConfig, storage: StoreResource
) -> Materialization:
    """Emission-line equivalent widths, stellar mass and star-formation rate of SDSS galaxies.

    Ten rest-frame equivalent widths (Angstrom, positive in emission), log10 stellar mass (Msun) and
    log10 star-formation rate (Msun/yr) from the MPA-JHU measurements of SDSS spectra. Missing
    values, coded -9999 in the source, become nulls.
    """
    store = storage.open()
    try:
        manifest = ingest_catalogue(store, Path(config.path), code_version=code_version(context))
    except AcieError as error:
        raise failure(error) from error
    metadata = {
        "rows": manifest.attributes["rows"],
        "columns": table(
            [
                {"name": name, "unit": unit, "missing": manifest.attributes["missing"][name]}
                for name, unit in manifest.attributes["units"].items()
            ]
        ),
    }
    yield from materialize(manifest, metadata, [catalogue_is_intact(store, manifest)])
