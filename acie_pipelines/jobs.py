"""The two ways through the graph: one observation to its sealed form, and catalogue to production.

Belongs here: job definitions. Does not belong here: when they run (schedules and sensors).
"""

from typing import TYPE_CHECKING

import dagster as dg

from acie_pipelines.execution import observation_executor
from acie_pipelines.settings import Settings

if TYPE_CHECKING:
    from dagster._core.definitions.unresolved_asset_job_definition import (
        UnresolvedAssetJobDefinition,
    )

__all__ = ["PROCESS_OBSERVATION", "RETRAIN", "RETRAINING_TAGS", "build_jobs"]

PROCESS_OBSERVATION = "process_observation"
RETRAIN = "retrain"

# dagster.yaml lets one run with this tag go at a time.
RETRAINING_TAGS = {"acie/retraining": "true"}


def build_jobs(settings: Settings) -> list["UnresolvedAssetJobDefinition"]:
    """Make the jobs for an executor choice."""
    observation_assets = dg.AssetSelection.assets(
        "raw_observation",
        "observation_tiles",
        "observation_mosaic",
        "encrypted_tiles",
        "encrypted_statistics",
        "sealed_archive",
    )
    training_assets = dg.AssetSelection.assets("galaxy_catalogue") | dg.AssetSelection.groups(
        "training", "validation", "promotion"
    )
    return [
        dg.define_asset_job(
            PROCESS_OBSERVATION,
            selection=observation_assets,
            executor_def=observation_executor(settings),
            description="Validate, tile, encrypt and archive one observation.",
        ),
        dg.define_asset_job(
            RETRAIN,
            selection=training_assets,
            run_tags=RETRAINING_TAGS,
            description="Fit the causal model on the catalogue and every sealed observation, train "
            "the counterfactual model on simulated galaxies, validate both, and promote them as "
            "far as their evidence allows.",
        ),
    ]
