"""Whether a model may take its next step. All of these block."""

import dagster as dg

from acie_pipelines.errors import IntegrityError
from acie_pipelines.materialization import check
from acie_pipelines.promotion import Comparison
from acie_pipelines.provenance import Manifest, verify_chain
from acie_pipelines.registry.registry import ModelRegistry
from acie_pipelines.registry.states import State
from acie_pipelines.storage import Store

__all__ = [
    "CANARY_CHECKS",
    "CANDIDATE_CHECKS",
    "PRODUCTION_CHECKS",
    "move_is_on_record",
    "not_worse_than_production",
    "provenance_is_complete",
]

CANDIDATE_CHECKS = [
    dg.AssetCheckSpec(
        "provenance_is_complete",
        asset="candidate_model",
        blocking=True,
        description="Every dataset from the observations' bytes to the model hashes as recorded.",
    )
]
CANARY_CHECKS = [
    dg.AssetCheckSpec(
        "not_worse_than_production",
        asset="canary_model",
        blocking=True,
        description="On the same held-out galaxies the model is at least as good as the one in "
        "production, within the comparison's own noise.",
    )
]
PRODUCTION_CHECKS = [
    dg.AssetCheckSpec(
        "move_is_on_record",
        asset="production_model",
        blocking=True,
        description="The audit log's last word on this model is that it is in production, and "
        "MLflow's alias agrees.",
    )
]


def provenance_is_complete(store: Store, release: Manifest) -> dg.AssetCheckResult:
    """Walk the chain of the release back to the observations."""
    name = "provenance_is_complete"
    try:
        datasets = verify_chain(store, release)
    except IntegrityError as error:
        return check(name, False, blocking=True, description=str(error))
    return check(name, True, blocking=True, datasets=datasets)


def not_worse_than_production(comparison: Comparison) -> dg.AssetCheckResult:
    """Judge the comparison with the reigning model."""
    metadata = {
        "gain_nats": comparison.gain_nats,
        "error_nats": comparison.error_nats,
        "error_saved": comparison.error_saved,
        "error_of_saving": comparison.error_of_saving,
    }
    if comparison.reigning is not None:
        metadata["reigning_version"] = comparison.reigning
    return check(
        "not_worse_than_production",
        comparison.passed,
        blocking=True,
        description=None if comparison.reigning is not None else "nothing is in production yet",
        **metadata,
    )


def move_is_on_record(registry: ModelRegistry, version: int) -> dg.AssetCheckResult:
    """Compare the audit log with the version and repair MLflow's aliases if they lag behind."""
    registry.reconcile()
    current = registry.current(State.PRODUCTION)
    return check(
        "move_is_on_record", current is not None and current.version == version, blocking=True
    )
