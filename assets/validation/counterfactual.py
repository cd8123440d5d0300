"""What simulated galaxies of known truth say about the counterfactual model."""

import dagster as dg

from acie_pipelines.errors import AcieError
from acie_pipelines.io_managers import DATASET
from acie_pipelines.materialization import Materialization, code_version, failure, materialize
from acie_pipelines.metadata import figure, table
from acie_pipelines.provenance import Manifest
from acie_pipelines.resources import StoreResource
from assets.freshness import WEEKLY
from assets.validation.checks import COUNTERFACTUAL_CHECKS, verdicts


class CounterfactualValidationConfig(dg.Config):
    """Limits and galaxies; see `evaluation.counterfactual_validation`."""

    thresholds: dict[str, float] = {}  # noqa: RUF012
    galaxies: int = 60
    draws: int = 40
    seed: int = 1_000_003


@dg.asset(
    group_name="validation",
    kinds={"json"},
    owners=["team:science"],
    metadata={DATASET: "counterfactual_validation/galaxies"},
    code_version="1",
    freshness_policy=WEEKLY,
    automation_condition=dg.AutomationCondition.eager(),
    check_specs=COUNTERFACTUAL_CHECKS,
)
def counterfactual_report(
    context: dg.AssetExecutionContext,
    config: CounterfactualValidationConfig,
    storage: StoreResource,
    counterfactual_model: Manifest,
) -> Materialization:
    """Counterfactual spectra against the truth, coverage of intervals, and physics of the answers.

    Measured on simulated galaxies that no training has seen, at twice their stellar mass, next to
    the error of changing nothing. Laws of physics are tested on the pixels of the answers. A model
    that ignores the causes of a variable or its input, has collapsed, or was trained on shuffled
    labels is refused.
    """
    from acie_pipelines.evaluation.counterfactual_validation import (
        CounterfactualThresholds,
        HeldOut,
        read_counterfactual_report,
        validate_counterfactual,
    )
    from acie_pipelines.evaluation.figures import (
        coverage_figure,
        error_figure,
        examples_figure,
        physics_figure,
    )

    store = storage.open()
    try:
        manifest = validate_counterfactual(
            store,
            counterfactual_model,
            CounterfactualThresholds(**config.thresholds),
            HeldOut(config.galaxies, config.seed, config.draws),
            code_version=code_version(context),
        )
        report = read_counterfactual_report(store, manifest)
    except AcieError as error:
        raise failure(error) from error
    facts = manifest.attributes
    metadata = {
        "galaxies": facts["galaxies"],
        "error": float("nan") if facts["error"] is None else facts["error"],
        "error_of_no_change": facts["error_of_no_change"],
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
        "errors": figure(error_figure(report), "Error of each galaxy, answered and unchanged"),
        "coverage": figure(coverage_figure(report), "Truth inside 90 % intervals"),
        "physics": figure(physics_figure(facts["checks"]), "Broken laws over their limits"),
        "examples": figure(examples_figure(report), "Factual, counterfactual and true spectra"),
    }
    yield from materialize(manifest, metadata, verdicts(manifest))
