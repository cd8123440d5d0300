"""How galaxies work, as far as the data say."""

import json
from typing import TYPE_CHECKING

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
    from acie_pipelines.causal.fitting import EpochLosses


class ScmConfig(dg.Config):
    """What may be varied between trainings."""

    seed: int = 0
    max_epochs: int = 20


@dg.asset(
    group_name="training",
    kinds={"pytorch", "mlflow"},
    owners=["team:science"],
    metadata={DATASET: "scm/galaxies"},
    code_version="3",
    freshness_policy=WEEKLY,
    automation_condition=dg.AutomationCondition.eager(),
    retry_policy=dg.RetryPolicy(max_retries=1, delay=30),
    op_tags=GPU_OP_TAGS,
    pool=GPU_POOL,
)
def galaxy_scm(
    context: dg.AssetExecutionContext,
    config: ScmConfig,
    storage: StoreResource,
    registry: RegistryResource,
    training_table: Manifest,
) -> Materialization:
    """A structural causal model of stellar mass, star formation and ten emission lines.

    One invertible mechanism per variable, conditional on its causal parents, so that the noise
    behind an observed galaxy can be recovered exactly. Fitted on CUDA when present; parameters,
    losses, curves and the causal graph are in MLflow; an interrupted fit goes on from its last
    checkpoint and ends with the same bytes.
    """
    from acie_pipelines.causal.fitting import FitConfig
    from acie_pipelines.causal.graph import catalogue_graph
    from acie_pipelines.training.figures import graph_figure, loss_figure
    from acie_pipelines.training.fit import CURVES_FILE, TrainingConfig, train_scm

    def progress(losses: "EpochLosses") -> None:
        total = sum(losses.validation.values())
        context.log.info("epoch %d: validation loss %.4f nats", losses.epoch, total)

    store = storage.open()
    try:
        manifest = train_scm(
            store,
            training_table,
            TrainingConfig(fit=FitConfig(seed=config.seed, max_epochs=config.max_epochs)),
            code_version=code_version(context),
            tracker=registry.tracker(),
            progress=progress,
        )
    except AcieError as error:
        raise failure(error) from error
    facts = manifest.attributes
    curves = json.loads(store.read_bytes(f"{manifest.prefix}/{CURVES_FILE}"))
    losses = loss_figure([c["train"] for c in curves], [c["validation"] for c in curves])
    metadata = {
        "validation_loss_nats": sum(facts["validation_loss_nats"].values()),
        "epochs": facts["epochs"],
        "device": facts["device"],
        "mlflow_run": facts["mlflow_run_id"],
        "losses": figure(losses, "Training and validation loss by epoch"),
        "causal_graph": figure(graph_figure(catalogue_graph()), "Causal graph of the catalogue"),
    }
    yield from materialize(manifest, metadata)
