"""What light and causes together say about a galaxy that never was."""

from typing import TYPE_CHECKING, Any

import dagster as dg

from acie_pipelines.errors import AcieError
from acie_pipelines.execution import GPU_OP_TAGS, GPU_POOL
from acie_pipelines.io_managers import DATASET
from acie_pipelines.materialization import Materialization, code_version, failure, materialize
from acie_pipelines.metadata import figure
from acie_pipelines.provenance import Manifest
from acie_pipelines.resources import RegistryResource, StoreResource
from assets.freshness import WEEKLY

if TYPE_CHECKING:
    from acie_pipelines.models.posterior_training import PosteriorEpoch

# Enough for refinement to find the galaxy in under a minute on two cores; set more where it counts.
_SHORT: dict[str, Any] = {
    "network": {"hidden": 128, "transforms": 1, "spline_hidden": 32},
    "posterior": {
        "steps": 400,
        "epoch_steps": 50,
        "batch": 128,
        "learning_rate": 1e-3,
        "average": 0.99,
    },
    "mechanisms": {
        "rows": 3000,
        "families": "heteroscedastic",
        "shape": {"points": 40},
        "fit": {"max_epochs": 10},
    },
}


class CounterfactualConfig(dg.Config):
    """Training as `acie train` takes it; see `training.counterfactual_config`."""

    training: dict[str, Any] = _SHORT


@dg.asset(
    group_name="training",
    kinds={"pytorch", "mlflow"},
    owners=["team:science"],
    metadata={DATASET: "counterfactual_model/galaxies"},
    code_version="2",
    freshness_policy=WEEKLY,
    # The causal model of the catalogue comes first; both are released together.
    deps=["galaxy_scm"],
    automation_condition=dg.AutomationCondition.eager(),
    retry_policy=dg.RetryPolicy(max_retries=1, delay=30),
    op_tags=GPU_OP_TAGS,
    pool=GPU_POOL,
)
def counterfactual_model(
    context: dg.AssetExecutionContext,
    config: CounterfactualConfig,
    storage: StoreResource,
    registry: RegistryResource,
    simulated_galaxies: Manifest,
) -> Materialization:
    """Amortised posterior of a galaxy's parameters given its spectrum, and learned mechanisms.

    Together with the physics of the decoder they answer what a spectrum would have looked like.
    Trained on CUDA when present, streamed from disk; losses, gradients, entropy of the draws and
    broken laws are in MLflow. A training that collapses ends with an error; an interrupted one goes
    on from its last checkpoint and ends with the same bytes.
    """
    from acie_pipelines.training.counterfactual_config import parse_training
    from acie_pipelines.training.counterfactual_training import (
        read_curves,
        train_counterfactual_model,
    )
    from acie_pipelines.training.figures import loss_figure, monitor_figure
    from acie_pipelines.training.simulated_galaxies import GALAXIES_FILE

    def progress(epoch: "PosteriorEpoch") -> None:
        context.log.info(
            "epoch %d: validation loss %.3f nats", epoch.epoch, epoch.validation["density"]
        )

    store = storage.open()
    try:
        training = parse_training(config.training, "asset configuration")
        with store.local_copy(f"{simulated_galaxies.prefix}/{GALAXIES_FILE}") as path:
            manifest = train_counterfactual_model(
                store,
                "galaxies",
                path,
                training,
                code_version=code_version(context),
                data=simulated_galaxies,
                tracker=registry.counterfactual_tracker(),
                progress=progress,
            )
        history = read_curves(store, manifest)
    except AcieError as error:
        raise failure(error) from error
    facts = manifest.attributes
    losses = loss_figure(
        [{"density": epoch.train} for epoch in history], [epoch.validation for epoch in history]
    )
    metadata = {
        "validation_loss_nats": facts["validation_loss_nats"]["density"],
        "epochs": facts["epochs"],
        "device": facts["device"],
        "mlflow_run": facts["mlflow_run_id"],
        "losses": figure(losses, "Training and validation loss by epoch"),
        "monitors": figure(monitor_figure(history), "Entropy that draws lack, largest gradient"),
    }
    yield from materialize(manifest, metadata)
