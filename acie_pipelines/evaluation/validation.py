"""The verdict on a fitted causal model, from held-out galaxies.

Belongs here: thresholds, checks and the ``validation`` dataset.
Does not belong here: how a number is measured (`acie_pipelines.evaluation.scm_metrics`).
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import Any, Final

import torch
from torch import Tensor

from acie_pipelines.causal.interventions import Intervention
from acie_pipelines.causal.scm import StructuralCausalModel
from acie_pipelines.evaluation import scm_metrics
from acie_pipelines.evaluation.calibration import calibration
from acie_pipelines.provenance import (
    Manifest,
    Output,
    new_generation,
    reusable_manifest,
    verify_outputs,
)
from acie_pipelines.storage import Store
from acie_pipelines.training.fit import load_scm
from acie_pipelines.training.table import TABLE_FILE, TableReader

__all__ = [
    "KIND",
    "Check",
    "ValidationThresholds",
    "at_least",
    "at_most",
    "checks",
    "measure_scm",
    "measure_stored",
    "read_report",
    "validate_scm",
]

KIND: Final = "validation"
REPORT_FILE: Final = "report.json"
CHANGES_FILE: Final = "mass_doubling.parquet"


@dataclass(frozen=True)
class ValidationThresholds:
    """Limits, each set from a measurement on the bundled catalogue with a margin.

    Measured with the default training configuration on two splits: gain over marginals 9.4 to 10.1
    nats per galaxy, over the linear-Gaussian model 3.1 to 3.5; Kolmogorov-Smirnov distance 0.04
    (sampling alone gives up to 0.03); coverage error 0.02; composition 4e-5; smallest loss with
    shuffled parents 0.33 nats; doublets 7.6 per cent sampled and 7.2 per cent counterfactual, each
    with an error of about 1, where the same galaxies' data deviate by 4 to 6.

    Attributes
    ----------
    min_gain_over_marginals_nats
        Lower 95 % bound of the gain per galaxy over independent variables.
    min_gain_over_linear_nats
        The same over a linear-Gaussian model.
    max_ks
        Largest Kolmogorov-Smirnov distance of any node's noise from normal.
    max_coverage_error
        Largest distance of any node's central 90 % coverage from 0.9.
    max_composition_error
        Largest error of predicting what was abducted, in standard deviations.
    min_nats_lost
        Smallest loss of any mechanism when its parents are shuffled.
    max_sampled_residual_percent, max_counterfactual_residual_percent
        Largest deviation of a doublet ratio from its law in model samples and under doubled mass.
    """

    min_gain_over_marginals_nats: float = 6.0
    min_gain_over_linear_nats: float = 1.0
    max_ks: float = 0.08
    max_coverage_error: float = 0.04
    max_composition_error: float = 0.01
    min_nats_lost: float = 0.05
    max_sampled_residual_percent: float = 12.0
    max_counterfactual_residual_percent: float = 12.0


@dataclass(frozen=True)
class Check:
    """One comparison of a measurement with its limit.

    Attributes
    ----------
    name
        Identifier.
    value
        What was measured; ``None`` if it could not be.
    threshold
        The limit.
    passed
        Verdict.
    why
        What failing it would mean.
    """

    name: str
    value: float | None
    threshold: float
    passed: bool
    why: str


def at_least(name: str, value: float | None, limit: float, why: str) -> Check:
    """Check that a value reaches its limit; what could not be measured does not."""
    return Check(name, value, limit, value is not None and value >= limit, why)


def at_most(name: str, value: float | None, limit: float, why: str) -> Check:
    """Check that a value keeps its limit; what could not be measured does not."""
    return Check(name, value, limit, value is not None and value <= limit, why)


def measure_scm(
    model: StructuralCausalModel,
    train: Tensor,
    validation: Tensor,
    test: Tensor,
    external: Tensor,
    *,
    seed: int,
) -> dict[str, Any]:
    """Measure everything a verdict needs.

    Parameters
    ----------
    model
        Fitted model.
    train, validation, test
        Catalogue rows of each split, shape ``(n, nodes)``; the first two fit the baselines.
    external
        Held-out rows measured on ingested spectra.
    seed
        Of every random draw.
    """
    do = Intervention.scale("stellar_mass", 2.0, model.graph)
    noise = model.columns(model.abduct(test))
    return {
        "likelihood": scm_metrics.likelihoods(model, train, validation, test, seed=seed),
        "calibration": {name: calibration(values) for name, values in noise.items()},
        "composition_error": scm_metrics.composition_error(model, test),
        "parents": scm_metrics.parent_sensitivity(model, test, seed=seed),
        "laws": scm_metrics.law_residuals(model, test, do, seed=seed),
        "mass_doubling": scm_metrics.counterfactual_changes(model, test, do, seed=seed).to_dict(
            orient="records"
        ),
        "external": scm_metrics.external_calibration(model, external),
    }


def checks(report: dict[str, Any], limits: ValidationThresholds) -> tuple[Check, ...]:
    """Compare measurements with limits; each check blocks promotion."""
    gain = report["likelihood"]["gain"]
    summaries = report["calibration"].values()
    lost = [entry["nats_lost"] for entry in report["parents"].values()]
    return (
        at_least(
            "gain_over_marginals",
            gain["marginals"]["low"],
            limits.min_gain_over_marginals_nats,
            "the model would know no more than the distribution of each variable",
        ),
        at_least(
            "gain_over_linear_gaussian",
            gain["linear_gaussian"]["low"],
            limits.min_gain_over_linear_nats,
            "a linear regression would do as well",
        ),
        at_most(
            "calibration_ks",
            _worst(summary["ks"] for summary in summaries),
            limits.max_ks,
            "abducted noise would not follow the noise distribution",
        ),
        at_most(
            "coverage_error_90",
            _worst(
                None if s["coverage_90"] is None else abs(s["coverage_90"] - 0.9) for s in summaries
            ),
            limits.max_coverage_error,
            "stated intervals would be too narrow or too wide",
        ),
        at_most(
            "composition_error",
            report["composition_error"],
            limits.max_composition_error,
            "an intervention that changes nothing would change the galaxy",
        ),
        at_least(
            "parent_sensitivity",
            min(lost, default=None),
            limits.min_nats_lost,
            "a mechanism would ignore its causes, and its counterfactuals would be empty",
        ),
        *_law_checks(report["laws"], limits),
    )


def _worst(values: Iterable[float | None]) -> float | None:
    found = list(values)
    known = [value for value in found if value is not None]
    return max(known) if known and len(known) == len(found) else None


def _law_checks(laws: dict[str, Any], limits: ValidationThresholds) -> Iterator[Check]:
    kinds = {
        "sampled": limits.max_sampled_residual_percent,
        "counterfactual": limits.max_counterfactual_residual_percent,
    }
    for kind, limit in kinds.items():
        for law, found in laws[kind].items():
            residual = found["residual_percent"]
            yield at_most(
                f"{kind}_{law}_doublet_percent",
                None if residual is None else abs(residual),
                limit,
                "galaxies of the model would break a law of atomic physics",
            )


def measure_stored(store: Store, model: Manifest, table: Manifest, *, seed: int) -> dict[str, Any]:
    """Measure a stored model on the table that it was fitted to.

    Raises
    ------
    IntegrityError
        If model or table do not match their manifests.
    """
    verify_outputs(store, table)
    fitted = load_scm(store, model)
    with store.local_copy(f"{table.prefix}/{TABLE_FILE}") as path:
        reader = TableReader(path, fitted.names)
        train, validation, test = (
            torch.from_numpy(reader.read(split, origin="catalogue"))
            for split in ("train", "validation", "test")
        )
        external = torch.cat(
            [
                torch.from_numpy(reader.read(split, origin="observation"))
                for split in ("validation", "test")
            ]
        )
    return measure_scm(fitted, train, validation, test, external, seed=seed)


def validate_scm(
    store: Store,
    model: Manifest,
    table: Manifest,
    thresholds: ValidationThresholds,
    *,
    code_version: str,
    seed: int,
) -> Manifest:
    """Validate a fitted model and store the report.

    Parameters
    ----------
    store
        Where datasets live.
    model, table
        Manifests of kinds ``scm`` and ``training_table``.
    thresholds
        Limits.
    code_version
        Version of the code, for provenance.
    seed
        Of every random draw.

    Returns
    -------
    Manifest
        Kind ``validation``, key of the model; attributes hold ``passed``, ``checks`` and
        ``warnings``. A failed validation is a result, not an error.

    Raises
    ------
    IntegrityError
        If model or table do not match their manifests.
    """
    inputs = (model.as_input(), table.as_input())
    parameters = {"thresholds": asdict(thresholds), "seed": seed}
    ready = reusable_manifest(
        store, KIND, model.key, inputs=inputs, code_version=code_version, parameters=parameters
    )
    if ready is not None:
        return ready
    report = measure_stored(store, model, table, seed=seed)
    verdict = checks(report, thresholds)
    attributes = {
        "passed": all(check.passed for check in verdict),
        "checks": [asdict(check) for check in verdict],
        "warnings": _warnings(report["external"], thresholds),
        "nats_per_galaxy": {
            k: v["total"]["mean"] for k, v in report["likelihood"]["nats_per_galaxy"].items()
        },
        "test_galaxies": report["likelihood"]["rows"],
    }
    files = {
        REPORT_FILE: json.dumps(attributes | report, indent=1, allow_nan=False).encode() + b"\n",
        CHANGES_FILE: _parquet(report["mass_doubling"]),
    }
    with new_generation(
        store, KIND, model.key, inputs=inputs, code_version=code_version, parameters=parameters
    ) as generation:
        for name, data in files.items():
            store.write_bytes(f"{generation.prefix}/{name}", data)
        outputs = tuple(Output(n, hashlib.sha256(d).hexdigest()) for n, d in files.items())
        return generation.commit(outputs, attributes)


def _parquet(records: list[dict[str, Any]]) -> bytes:
    import pandas as pd

    buffer = BytesIO()
    pd.DataFrame(records).to_parquet(buffer, index=False)
    return buffer.getvalue()


def _warnings(external: dict[str, Any], limits: ValidationThresholds) -> list[str]:
    """Say what ingested spectra show; their widths come from another fit than the catalogue's."""
    if not external:
        return ["no held-out row of an ingested spectrum has a line with all its causes"]
    found = []
    for name, summary in external.items():
        # Beyond the limit for large samples and three binomial standard errors of a small one.
        tolerance = limits.max_coverage_error + 3 * (0.09 / summary["rows"]) ** 0.5
        if abs(summary["coverage_90"] - 0.9) > tolerance:
            found.append(
                f"{name}: {summary['coverage_90']:.0%} of {summary['rows']} ingested spectra lie "
                "in the central 90 % interval"
            )
    return found


def read_report(store: Store, validation: Manifest) -> dict[str, Any]:
    """Read the full report after checking its hash.

    Raises
    ------
    IntegrityError
        If it does not match the manifest.
    """
    verify_outputs(store, validation)
    report: dict[str, Any] = json.loads(store.read_bytes(f"{validation.prefix}/{REPORT_FILE}"))
    return report
