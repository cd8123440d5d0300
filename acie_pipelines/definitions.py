"""The code location: assets, jobs, sensors, schedules and resources put together.

Belongs here: wiring. Does not belong here: anything with behaviour of its own.
"""

from collections.abc import Mapping
from types import ModuleType
from typing import Any

import dagster as dg

import assets.encryption.archive
import assets.encryption.checks
import assets.encryption.statistics
import assets.encryption.tiles
import assets.ingestion.catalogue
import assets.ingestion.observation
import assets.operations.failures
import assets.promotion.moves
import assets.tiling.mosaic
import assets.tiling.tiles
import assets.training.counterfactual
import assets.training.model
import assets.training.simulation
import assets.training.table
import assets.validation.counterfactual
import assets.validation.report
from acie_pipelines.execution import default_executor
from acie_pipelines.io_managers import ManifestIOManager, UnitIOManager
from acie_pipelines.jobs import build_jobs
from acie_pipelines.resources import (
    AttestationsResource,
    InboxResource,
    LedgerResource,
    PublicKeysResource,
    QueueResource,
    RegistryResource,
    StoreResource,
    VaultResource,
)
from acie_pipelines.schedules import weekly_retraining
from acie_pipelines.sensors import (
    keep_observations_current,
    new_observations,
    record_failures,
    retrain_when_enough_new,
)
from acie_pipelines.settings import Settings

__all__ = ["GROUPS", "build_defs", "defs"]

# Group of the UI -> modules that hold its assets, and checks that are steps of their own.
GROUPS: Mapping[str, tuple[ModuleType, ...]] = {
    "ingestion": (assets.ingestion.observation, assets.ingestion.catalogue),
    "tiling": (assets.tiling.tiles, assets.tiling.mosaic),
    "encryption": (
        assets.encryption.tiles,
        assets.encryption.checks,
        assets.encryption.archive,
        assets.encryption.statistics,
    ),
    "training": (
        assets.training.table,
        assets.training.model,
        assets.training.simulation,
        assets.training.counterfactual,
    ),
    "validation": (assets.validation.report, assets.validation.counterfactual),
    "promotion": (assets.promotion.moves,),
    "operations": (assets.operations.failures,),
}


def build_defs(
    *, settings: Settings | None = None, resource_overrides: Mapping[str, Any] | None = None
) -> dg.Definitions:
    """Build the code location.

    Parameters
    ----------
    settings
        Read from the environment by default.
    resource_overrides
        Resources that replace the ones of the same name, for instance in tests.
    """
    settings = settings or Settings.from_environment()
    storage = StoreResource(url=settings.storage_url)
    resources: dict[str, Any] = {
        "storage": storage,
        "inbox": InboxResource(url=settings.inbox_url),
        "ledger": LedgerResource(database_url=settings.database_url),
        "attestations": AttestationsResource(database_url=settings.database_url),
        "public_keys": PublicKeysResource(
            keys_file=str(settings.keys_file),
            public_keys_file=None
            if settings.public_keys_file is None
            else str(settings.public_keys_file),
        ),
        "queue": QueueResource(database_url=settings.database_url),
        "vault": VaultResource(keys_file=str(settings.keys_file)),
        "registry": RegistryResource(
            tracking_uri=settings.mlflow_tracking_uri,
            database_url=settings.database_url,
            artifact_root=settings.mlflow_artifact_root,
        ),
        "io_manager": ManifestIOManager(storage=storage),
        "unit_io_manager": UnitIOManager(),
    } | dict(resource_overrides or {})
    modules = [module for group in GROUPS.values() for module in group]
    return dg.Definitions(
        assets=dg.load_assets_from_modules(modules, include_specs=True),
        asset_checks=dg.load_asset_checks_from_modules(modules),
        jobs=build_jobs(settings),
        schedules=[weekly_retraining],
        sensors=[
            new_observations,
            retrain_when_enough_new,
            keep_observations_current,
            record_failures,
        ],
        resources=resources,
        executor=default_executor(settings),
    )


defs = build_defs()
