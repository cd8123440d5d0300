"""A model's way from candidate to production, one audited move per asset."""

from typing import Any

import dagster as dg

from acie_pipelines import promotion
from acie_pipelines.errors import AcieError, PromotionError
from acie_pipelines.io_managers import DATASET
from acie_pipelines.materialization import Materialization, code_version, failure, materialize
from acie_pipelines.provenance import Manifest
from acie_pipelines.registry.registry import ModelRegistry, Version
from acie_pipelines.registry.states import State
from acie_pipelines.resources import RegistryResource, StoreResource
from acie_pipelines.storage import Store
from assets.freshness import WEEKLY
from assets.promotion.checks import (
    CANARY_CHECKS,
    CANDIDATE_CHECKS,
    PRODUCTION_CHECKS,
    move_is_on_record,
    not_worse_than_production,
    provenance_is_complete,
)

_KINDS = {"mlflow"}
_OWNERS = ["team:science"]
_METADATA = {DATASET: "release/galaxies"}
_AUTOMATION = dg.AutomationCondition.eager()

_ORDER = list(State)


def _facts(version: Version) -> dict[str, Any]:
    return {"version": version.version, "state": version.state.value} | dict(version.metrics)


def _move(
    context: dg.AssetExecutionContext,
    store: Store,
    registry: ModelRegistry,
    release: Manifest,
    to: State,
) -> Version:
    """Advance the release's version, unless it is there or further on already."""
    version = promotion.version_of_release(registry, release)
    if version.state is State.ARCHIVED:
        raise PromotionError(
            f"version {version.version}",
            "was archived and does not come back by retraining",
            "train on new data or another seed, or use `acie models rollback`",
        )
    if _ORDER.index(version.state) < _ORDER.index(to):
        promotion.advance(
            store,
            registry,
            version,
            to,
            actor="dagster",
            reason=f"run {context.run.run_id}",
        )
    return promotion.version_of_release(registry, release)


@dg.asset(
    group_name="promotion",
    kinds=_KINDS,
    owners=_OWNERS,
    metadata=_METADATA,
    code_version="2",
    automation_condition=_AUTOMATION,
    check_specs=CANDIDATE_CHECKS,
)
def candidate_model(
    context: dg.AssetExecutionContext,
    storage: StoreResource,
    registry: RegistryResource,
    galaxy_scm: Manifest,
    validation_report: Manifest,
    counterfactual_model: Manifest,
    counterfactual_report: Manifest,
) -> Materialization:
    """Two validated models, registered in MLflow as one `candidate` with its full provenance.

    A release binds the causal model of the catalogue and the counterfactual model of spectra to
    their validation reports; the registered version carries the
    release's digest, from which `acie verify --model` walks back to the observations' bytes.
    """
    store = storage.open()
    try:
        release = promotion.make_release(
            store,
            galaxy_scm,
            validation_report,
            counterfactual_model,
            counterfactual_report,
            code_version=code_version(context),
        )
        version = promotion.register_release(registry.open(), release, actor="dagster")
    except AcieError as error:
        raise failure(error) from error
    yield from materialize(release, _facts(version), [provenance_is_complete(store, release)])


@dg.asset(
    group_name="promotion",
    kinds=_KINDS,
    owners=_OWNERS,
    metadata=_METADATA,
    code_version="1",
    automation_condition=_AUTOMATION,
)
def staging_model(
    context: dg.AssetExecutionContext,
    storage: StoreResource,
    registry: RegistryResource,
    candidate_model: Manifest,
) -> Materialization:
    """The candidate in `staging`: its validation passed and its provenance is complete."""
    try:
        version = _move(context, storage.open(), registry.open(), candidate_model, State.STAGING)
    except AcieError as error:
        raise failure(error) from error
    yield from materialize(candidate_model, _facts(version))


@dg.asset(
    group_name="promotion",
    kinds=_KINDS,
    owners=_OWNERS,
    metadata=_METADATA,
    code_version="1",
    automation_condition=_AUTOMATION,
    check_specs=CANARY_CHECKS,
)
def canary_model(
    context: dg.AssetExecutionContext,
    storage: StoreResource,
    registry: RegistryResource,
    staging_model: Manifest,
) -> Materialization:
    """The staged model as `canary`: compared with the reigning one on the same held-out galaxies.

    A model that is worse stays in staging and the run stops here.
    """
    store, models = storage.open(), registry.open()
    try:
        version = promotion.version_of_release(models, staging_model)
        comparison = promotion.compare_with_production(store, models, version)
        if comparison.passed:
            version = _move(context, store, models, staging_model, State.CANARY)
    except AcieError as error:
        raise failure(error) from error
    yield from materialize(staging_model, _facts(version), [not_worse_than_production(comparison)])


@dg.asset(
    group_name="promotion",
    kinds=_KINDS,
    owners=_OWNERS,
    metadata=_METADATA,
    code_version="1",
    automation_condition=_AUTOMATION,
    freshness_policy=WEEKLY,
    check_specs=PRODUCTION_CHECKS,
)
def production_model(
    context: dg.AssetExecutionContext,
    storage: StoreResource,
    registry: RegistryResource,
    canary_model: Manifest,
) -> Materialization:
    """The model that answers questions. The one it replaces is archived in the same move.

    `acie models rollback` puts the previous one back.
    """
    models = registry.open()
    try:
        version = _move(context, storage.open(), models, canary_model, State.PRODUCTION)
        checks = [move_is_on_record(models, version.version)]
    except AcieError as error:
        raise failure(error) from error
    yield from materialize(canary_model, _facts(version), checks)
