"""What the causal model learns from."""

import dagster as dg

from acie_pipelines.automation import EnoughNewObservations
from acie_pipelines.errors import AcieError
from acie_pipelines.io_managers import DATASET
from acie_pipelines.materialization import Materialization, code_version, failure, materialize
from acie_pipelines.metadata import table
from acie_pipelines.provenance import Manifest
from acie_pipelines.resources import LedgerResource, StoreResource
from assets.freshness import WEEKLY
from assets.training.checks import TABLE_CHECKS, splits_are_filled

# New observations that make a retraining worthwhile.
_ENOUGH_NEW = 10


@dg.asset(
    group_name="training",
    kinds={"hdf5"},
    owners=["team:science"],
    metadata={DATASET: "training_table/galaxies"},
    code_version="1",
    freshness_policy=WEEKLY,
    automation_condition=EnoughNewObservations(_ENOUGH_NEW)
    # Of observations, those in quarantine are missing for good.
    & ~dg.AutomationCondition.any_deps_missing().allow(dg.AssetSelection.assets("galaxy_catalogue"))
    & ~dg.AutomationCondition.any_deps_in_progress()
    & ~dg.AutomationCondition.in_progress()
    # What has failed waits for a person; it would be requested again at every tick.
    & ~dg.AutomationCondition.execution_failed(),
    check_specs=TABLE_CHECKS,
)
def training_table(
    context: dg.AssetExecutionContext,
    storage: StoreResource,
    ledger: LedgerResource,
    galaxy_catalogue: Manifest,
    observation_tiles: dict[str, Manifest],
    encrypted_tiles: dict[str, Manifest],
    sealed_archive: dict[str, Manifest],
) -> Materialization:
    """Galaxies in rows, as float32 HDF5 with a unit per column and fixed splits.

    The catalogue, and one row per ingested spectrum: its emission lines, measured by us, train the
    mechanisms between lines. Only observations that are encrypted and archived enter. A row's
    split depends on its content alone, so that no galaxy ever moves between train and test.
    """
    from acie_pipelines.training.table import build_training_table

    store, book = storage.open(), ledger.open()
    accepted = book.accepted_count()
    sealed_keys = sorted(observation_tiles.keys() & encrypted_tiles.keys() & sealed_archive.keys())
    try:
        manifest = build_training_table(
            store,
            galaxy_catalogue,
            [(observation_tiles[key], encrypted_tiles[key]) for key in sealed_keys],
            code_version=code_version(context),
        )
    except AcieError as error:
        raise failure(error) from error
    book.mark_trained(accepted)
    facts = manifest.attributes
    metadata = {
        "rows": facts["rows"],
        "rows_from_catalogue": facts["rows_from_catalogue"],
        "rows_from_observations": facts["rows_from_observations"],
        "sealed_observations": len(sealed_keys),
        "columns": table([{"name": n, "unit": unit} for n, unit in facts["units"].items()]),
    }
    if facts["without_row"]:
        metadata["spectra_without_row"] = table(facts["without_row"])
    yield from materialize(manifest, metadata, [splits_are_filled(manifest)])
