"""What held-out galaxies and atomic physics say about the fitted model."""

import json

import dagster as dg

from acie_pipelines.errors import AcieError
from acie_pipelines.io_managers import DATASET
from acie_pipelines.materialization import Materialization, code_version, failure, materialize
from acie_pipelines.metadata import figure, table
from acie_pipelines.provenance import Manifest
from acie_pipelines.resources import StoreResource
from assets.freshness import WEEKLY
from assets.validation.checks import REPORT_CHECKS, verdicts


class ValidationConfig(dg.Config):
    """Limits that may be set otherwise; see `evaluation.validation.ValidationThresholds`."""

    thresholds: dict[str, float] = {}  # noqa: RUF012
    seed: int = 0


@dg.asset(
    group_name="validation",
    kinds={"json"},
    owners=["team:science"],
    metadata={DATASET: "validation/galaxies"},
    code_version="1",
    freshness_policy=WEEKLY,
    automation_condition=dg.AutomationCondition.eager(),
    check_specs=REPORT_CHECKS,
)
def validation_report(
    context: dg.AssetExecutionContext,
    config: ValidationConfig,
    storage: StoreResource,
    training_table: Manifest,
    galaxy_scm: Manifest,
) -> Materialization:
    """Held-out likelihood against baselines, calibration, causal sensitivity and physics residuals.

    Measured on galaxies the model has never seen, next to two baselines fitted in the same run:
    independent variables and linear regressions. Laws of atomic physics are tested on galaxies
    drawn from the model and on counterfactual galaxies of twice the mass. A model that ignores the
    causes of a variable, or has collapsed, is refused.
    """
    from acie_pipelines.evaluation.figures import mass_doubling_figure, pit_figure
    from acie_pipelines.evaluation.validation import (
        REPORT_FILE,
        ValidationThresholds,
        validate_scm,
    )

    store = storage.open()
    try:
        manifest = validate_scm(
            store,
            galaxy_scm,
            training_table,
            ValidationThresholds(**config.thresholds),
            code_version=code_version(context),
            seed=config.seed,
        )
    except AcieError as error:
        raise failure(error) from error
    facts = manifest.attributes
    report = json.loads(store.read_bytes(f"{manifest.prefix}/{REPORT_FILE}"))
    metadata = {
        "test_galaxies": facts["test_galaxies"],
        **{f"nats_per_galaxy_{name}": value for name, value in facts["nats_per_galaxy"].items()},
        "checks": table(
            [
                {
                    "check": entry["name"],
                    "value": float("nan") if entry["value"] is None else float(entry["value"]),
                    "limit": float(entry["threshold"]),
                    "passed": entry["passed"],
                }
                for entry in facts["checks"]
            ]
        ),
        "warnings": dg.MetadataValue.json(facts["warnings"]),
        "calibration": figure(pit_figure(report), "Probability integral transform by variable"),
        "mass_doubling": figure(
            mass_doubling_figure(report), "Change of each line at twice the stellar mass"
        ),
    }
    yield from materialize(manifest, metadata, verdicts(manifest))
