"""What has to be true before a model moves one step closer to users, and the move itself.

Belongs here: releases and the evidence each step needs. Does not belong here: which moves exist and
how they are recorded (`registry`), or how a model is judged (`evaluation`).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from acie_pipelines.errors import PromotionError
from acie_pipelines.provenance import (
    InputRef,
    Manifest,
    new_generation,
    read_manifest,
    reusable_manifest,
)
from acie_pipelines.registry.registry import ModelRegistry, Version
from acie_pipelines.registry.states import FORWARD, State
from acie_pipelines.settings import Settings
from acie_pipelines.storage import Store
from acie_pipelines.training.tracking import MODEL_ARTIFACTS

if TYPE_CHECKING:
    from acie_pipelines.evaluation.validation import Check

__all__ = [
    "Comparison",
    "advance",
    "compare_with_production",
    "evidence_for",
    "make_release",
    "open_registry",
    "register_release",
    "resolve_version",
    "validate_version",
    "version_of_release",
]

KIND = "release"

# A candidate may be worse than the reigning model by this many standard errors of the difference:
# noise of the comparison must not block an equal model.
_TOLERATED_ERRORS = 2.0


@dataclass(frozen=True)
class Comparison:
    """A model against the one in production, galaxy by galaxy on the same held-out sets.

    Attributes
    ----------
    reigning
        Version in production; ``None`` if there is none yet.
    gain_nats, error_nats
        Mean log-likelihood gained per galaxy of the catalogue, and its standard error.
    error_saved, error_of_saving
        Mean error of counterfactual spectra saved per simulated galaxy [noise of a pixel], and its
        standard error.
    passed
        In neither respect worse than the reigning model by more than the comparison's own noise.
    """

    reigning: int | None
    gain_nats: float
    error_nats: float
    error_saved: float
    error_of_saving: float
    passed: bool


def open_registry(settings: Settings) -> ModelRegistry:
    """Open the registry that the settings name."""
    return ModelRegistry(settings.mlflow_tracking_uri, settings.database_url)


def make_release(
    store: Store,
    scm: Manifest,
    validation: Manifest,
    counterfactual: Manifest,
    counterfactual_validation: Manifest,
    *,
    code_version: str,
) -> Manifest:
    """Bind two models and their validations into what the registry refers to.

    Parameters
    ----------
    scm, validation
        Causal model of the catalogue, and its report.
    counterfactual, counterfactual_validation
        Counterfactual model of spectra, and its report.

    Returns
    -------
    Manifest
        Of kind ``release``, without files of its own: its digest covers all four and, through
        them, everything back to the observations' bytes.

    Raises
    ------
    PromotionError
        If a validation is of another model, or speaks against it.
    """
    for model, report in ((scm, validation), (counterfactual, counterfactual_validation)):
        if model.digest not in {ref.digest for ref in report.inputs}:
            raise PromotionError(
                model.prefix, "was not validated by this report", "materialise the report again"
            )
        if not report.attributes["passed"]:
            failed = [c["name"] for c in report.attributes["checks"] if not c["passed"]]
            raise PromotionError(
                model.prefix, f"failed its validation ({', '.join(failed)})", "train another model"
            )
    parts = (scm, validation, counterfactual, counterfactual_validation)
    inputs = tuple(part.as_input() for part in parts)
    made = reusable_manifest(
        store, KIND, scm.key, inputs=inputs, code_version=code_version, parameters={}
    )
    if made is not None:
        return made
    metrics = {
        f"nats_per_galaxy_{name}": value
        for name, value in validation.attributes["nats_per_galaxy"].items()
    }
    metrics["counterfactual_error"] = counterfactual_validation.attributes["error"]
    with new_generation(
        store, KIND, scm.key, inputs=inputs, code_version=code_version, parameters={}
    ) as generation:
        return generation.commit(
            (),
            {
                "mlflow_run_id": scm.attributes["mlflow_run_id"],
                "counterfactual_mlflow_run_id": counterfactual.attributes["mlflow_run_id"],
                "validation_passed": True,
                "metrics": metrics,
            },
        )


def register_release(registry: ModelRegistry, release: Manifest, *, actor: str) -> Version:
    """Register a release as candidate; the same release twice is one version."""
    run_id = release.attributes["mlflow_run_id"]
    registry.register(
        run_id,
        f"runs:/{run_id}/{MODEL_ARTIFACTS}",
        release.as_input(),
        metrics=release.attributes["metrics"],
        actor=actor,
        reason="trained and validated",
    )
    return version_of_release(registry, release)


def version_of_release(registry: ModelRegistry, release: Manifest) -> Version:
    """Find the newest version that was registered from a release.

    Raises
    ------
    PromotionError
        If there is none.
    """
    for version in registry.list():
        if version.manifest.digest == release.digest:
            return version
    raise PromotionError(release.prefix, "is not registered", "materialise candidate_model first")


def resolve_version(registry: ModelRegistry, name: str) -> Version:
    """Find a version by alias or number.

    Raises
    ------
    PromotionError
        If there is none.
    """
    found = (
        next((v for v in registry.list() if v.version == int(name)), None)
        if name.isdigit()
        else registry.current(name)
    )
    if found is None:
        raise PromotionError(
            name,
            "no such model version",
            "see `acie models list`; candidate_model registers them, `acie train` does not",
        )
    return found


def _read(store: Store, ref: InputRef) -> Manifest:
    return read_manifest(store, ref.kind, ref.key, ref.generation)


def _input(store: Store, manifest: Manifest, kind: str) -> Manifest:
    return _read(store, next(ref for ref in manifest.inputs if ref.kind == kind))


def compare_with_production(store: Store, registry: ModelRegistry, version: Version) -> Comparison:
    """Score a version and the reigning one on the version's own held-out galaxies.

    A catalogue galaxy's split depends on its content alone, and simulated ones come from a seed
    that no training uses, so that the reigning model has not trained on these galaxies either.
    """
    reigning = registry.current(State.PRODUCTION)
    if reigning is None or reigning.version == version.version:
        return Comparison(None, 0.0, 0.0, 0.0, 0.0, True)
    ours, theirs = _read(store, version.manifest), _read(store, reigning.manifest)
    gain, gain_error = _compare_likelihoods(store, ours, theirs)
    saved, saved_error = _compare_spectra(store, ours, theirs)
    return Comparison(
        reigning.version,
        gain,
        gain_error,
        saved,
        saved_error,
        gain >= -_TOLERATED_ERRORS * gain_error and saved >= -_TOLERATED_ERRORS * saved_error,
    )


def _compare_likelihoods(store: Store, ours: Manifest, theirs: Manifest) -> tuple[float, float]:
    """Mean log-likelihood gained per held-out galaxy, and its standard error."""
    import torch

    from acie_pipelines.training.fit import load_scm
    from acie_pipelines.training.table import TABLE_FILE, TableReader

    model = _input(store, ours, "scm")
    table = _input(store, model, "training_table")
    mine, other = load_scm(store, model), load_scm(store, _input(store, theirs, "scm"))
    with store.local_copy(f"{table.prefix}/{TABLE_FILE}") as path:
        rows = torch.from_numpy(TableReader(path, mine.names).read("test", origin="catalogue"))
    complete = rows[torch.isfinite(rows).all(dim=1)]
    with torch.no_grad():
        gains = (mine.log_prob(complete) - other.log_prob(complete)).double().numpy()
    return float(np.mean(gains)), float(np.std(gains, ddof=1) / np.sqrt(len(gains)))


def _compare_spectra(store: Store, ours: Manifest, theirs: Manifest) -> tuple[float, float]:
    """Mean error of counterfactual spectra saved per held-out galaxy, and its standard error."""
    from acie_pipelines.evaluation.counterfactual_validation import (
        KIND,
        HeldOut,
        measure_engine,
        paired_errors,
        read_counterfactual_report,
    )
    from acie_pipelines.models.saved_engine import KIND as MODEL
    from acie_pipelines.models.saved_engine import load_engine

    if MODEL not in {ref.kind for ref in theirs.inputs}:
        # Released before there were such models: there is nothing to be worse than.
        return 0.0, 0.0
    mine, other = _input(store, ours, KIND), _input(store, theirs, KIND)
    asked = mine.parameters["held_out"]
    same = other.parameters["held_out"] == asked and other.code_version == mine.code_version
    # An older report may be of other galaxies, or of an older engine.
    rival = (
        read_counterfactual_report(store, other)
        if same
        else measure_engine(load_engine(store, _input(store, theirs, MODEL)), HeldOut(**asked))
    )
    return paired_errors(read_counterfactual_report(store, mine), rival)


def validate_version(store: Store, registry: ModelRegistry, version: Version) -> "list[Check]":
    """Measure a registered version anew, and compare it with the one in production.

    Returns
    -------
    list[Check]
        Those of both reports under the default limits, then one per comparison.

    Raises
    ------
    IntegrityError
        If a dataset does not match its manifest.
    """
    from acie_pipelines.evaluation import counterfactual_validation as spectra
    from acie_pipelines.evaluation import validation as catalogue
    from acie_pipelines.models.saved_engine import load_engine, model_of_release

    release = _read(store, version.manifest)
    scm = _input(store, release, "scm")
    table = _input(store, scm, "training_table")
    seed = int(_input(store, release, catalogue.KIND).parameters["seed"])
    measured = catalogue.measure_stored(store, scm, table, seed=seed)
    engine = load_engine(store, model_of_release(store, version))
    answered = spectra.measure_engine(engine, spectra.HeldOut())
    comparison = compare_with_production(store, registry, version)
    why = "the model would be worse than the one in production"
    return [
        *catalogue.checks(measured, catalogue.ValidationThresholds()),
        *spectra.checks(answered, spectra.CounterfactualThresholds()),
        catalogue.at_least(
            "likelihood_against_production",
            comparison.gain_nats,
            -_TOLERATED_ERRORS * comparison.error_nats,
            why,
        ),
        catalogue.at_least(
            "spectra_against_production",
            comparison.error_saved,
            -_TOLERATED_ERRORS * comparison.error_of_saving,
            why,
        ),
    ]


def evidence_for(store: Store, registry: ModelRegistry, version: Version) -> dict[str, Any]:
    """Collect what a step towards production rests on.

    Returns
    -------
    dict
        JSON values with ``passed``: for staging the validation report's verdict, for canary and
        production also the comparison with the reigning model.
    """
    release = _read(store, version.manifest)
    passed = bool(release.attributes["validation_passed"])
    evidence: dict[str, Any] = {"passed": passed, "release": release.digest}
    if FORWARD.get(version.state) in (State.CANARY, State.PRODUCTION):
        comparison = compare_with_production(store, registry, version)
        evidence["comparison"] = vars(comparison)
        evidence["passed"] = passed and comparison.passed
    return evidence


def advance(
    store: Store, registry: ModelRegistry, version: Version, to: State, *, actor: str, reason: str
) -> dict[str, Any]:
    """Move a version one step, on evidence gathered here.

    Returns
    -------
    dict
        The evidence.

    Raises
    ------
    PromotionError
        If the move is illegal, the evidence speaks against it, or another move came first.
    """
    sequence = registry.sequence()
    evidence = evidence_for(store, registry, version)
    registry.promote(
        version.version,
        to,
        actor,
        reason,
        evidence=evidence,
        expected_state=version.state,
        expected_sequence=sequence,
    )
    return evidence
