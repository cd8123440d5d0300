"""Catalogue and sealed observations to a model in production, through the job that is scheduled."""

import dataclasses
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from typer.testing import CliRunner

from acie_pipelines import cli
from acie_pipelines.causal.fitting import FitConfig, fit_scm
from acie_pipelines.causal.graph import catalogue_graph
from acie_pipelines.causal.mechanisms import MechanismConfig
from acie_pipelines.causal.scm import StructuralCausalModel
from acie_pipelines.causes import first_cause
from acie_pipelines.crypto.vault import FileVault
from acie_pipelines.definitions import build_defs
from acie_pipelines.errors import IntegrityError, PromotionError
from acie_pipelines.evaluation.counterfactual_validation import CounterfactualThresholds
from acie_pipelines.evaluation.validation import ValidationThresholds, checks, measure_scm
from acie_pipelines.jobs import RETRAIN
from acie_pipelines.ledger import Ledger
from acie_pipelines.promotion import open_registry
from acie_pipelines.provenance import Manifest, current_manifest, read_manifest
from acie_pipelines.registry.states import State
from acie_pipelines.runs import JobOutcome
from acie_pipelines.samples import CATALOGUE
from acie_pipelines.settings import Settings
from acie_pipelines.storage import Store
from acie_pipelines.training.catalogue import read_catalogue_csv
from acie_pipelines.verification import verify_model
from assets.training.table import _ENOUGH_NEW
from assets.validation.checks import REPORT_CHECKS
from tests.small_counterfactual import CONFIG

# A few epochs on a part of the catalogue miss the limits of a full training by a little.
LENIENT = {
    "max_ks": 0.25,
    "max_coverage_error": 0.1,
    "max_sampled_residual_percent": 60.0,
    "max_counterfactual_residual_percent": 60.0,
}
NO_LIMITS = {
    field.name: -1e9 if field.name.startswith("min_") else 1e9
    for field in dataclasses.fields(ValidationThresholds)
}
ANY_SPECTRA = {
    field.name: -1e9 if field.name.startswith("min_") else 1e9
    for field in dataclasses.fields(CounterfactualThresholds)
}
SHORT = {
    name: value
    for name, value in dataclasses.asdict(CONFIG).items()
    if name in ("network", "posterior", "mechanisms")
}
SEALED_KINDS = ("observation", "tiles", "ciphertexts")
PROMOTION = ("candidate_model", "staging_model", "canary_model", "production_model")


def test_checks_have_specs() -> None:
    """Dagster refuses results of undeclared checks and waits in vain for those never yielded."""
    import torch

    table = read_catalogue_csv(CATALOGUE, catalogue_graph())
    model = StructuralCausalModel(catalogue_graph(), MechanismConfig(hidden=4, bins=4), seed=0)
    rows = model.tensor({name: table[name].to_numpy() for name in table.columns})
    rows = rows[torch.isfinite(rows).all(dim=1)]
    fit_scm(model, rows[:300], rows[300:500], FitConfig(max_epochs=1))
    report = measure_scm(model, rows[:300], rows[300:500], rows[500:700], rows[:0], seed=0)
    yielded = [check.name for check in checks(report, ValidationThresholds())]
    assert yielded == [spec.name for spec in REPORT_CHECKS]
    assert all(spec.blocking for spec in REPORT_CHECKS)


@pytest.fixture
def small_catalogue(tmp_path: Path) -> Path:
    with gzip.open(CATALOGUE, "rt") as source:
        lines = [line for _, line in zip(range(4001), source, strict=False)]
    path = tmp_path / "catalogue.csv"
    path.write_text("".join(lines))
    return path


Retrain = Callable[..., dg.ExecuteInProcessResult]


@pytest.fixture
def retrain(settings: Settings, instance: dg.DagsterInstance, small_catalogue: Path) -> Retrain:
    import torch

    torch.set_num_threads(1)

    def run(
        *,
        seed: int,
        epochs: int,
        thresholds: dict[str, float],
        spectral: dict[str, float] = ANY_SPECTRA,
    ) -> dg.ExecuteInProcessResult:
        job = build_defs(settings=settings).resolve_job_def(RETRAIN)
        return job.execute_in_process(
            instance=instance,
            raise_on_error=False,
            run_config={
                "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
                "ops": {
                    "galaxy_catalogue": {"config": {"path": str(small_catalogue)}},
                    "galaxy_scm": {"config": {"seed": seed, "max_epochs": epochs}},
                    "validation_report": {"config": {"thresholds": thresholds}},
                    "simulated_galaxies": {"config": {"galaxies": 800, "seed": 11}},
                    "counterfactual_model": {"config": {"training": SHORT}},
                    "counterfactual_report": {
                        "config": {"thresholds": spectral, "galaxies": 3, "draws": 20}
                    },
                },
            },
        )

    return run


def materialized(result: dg.ExecuteInProcessResult) -> set[str]:
    return {
        event.asset_key.to_user_string()
        for event in result.get_asset_materialization_events()
        if event.asset_key is not None
    }


def failed_checks(result: dg.ExecuteInProcessResult) -> set[str]:
    return {check.check_name for check in result.get_asset_check_evaluations() if not check.passed}


def cause(result: dg.ExecuteInProcessResult) -> Any:
    return first_cause(result.get_step_failure_events(), None)


def states(settings: Settings) -> dict[int, str]:
    return {version.version: version.state.value for version in open_registry(settings).list()}


def ancestors(store: Store, manifest: Manifest) -> set[str]:
    """Everything a manifest rests on, found by reading manifests alone."""
    found = {manifest.prefix}
    for ref in manifest.inputs:
        found |= ancestors(store, read_manifest(store, ref.kind, ref.key, ref.generation))
    return found


@pytest.mark.slow
def test_a_model_reaches_production_and_can_be_put_back(
    settings: Settings,
    vault: FileVault,
    instance: dg.DagsterInstance,
    spectrum_file: Path,
    image_file: Path,
    process_file: Callable[..., tuple[str, JobOutcome]],
    retrain: Retrain,
    home: Path,
    key_leaks: Callable[[Path, Path], list[str]],
) -> None:
    for file in (spectrum_file, image_file):
        assert process_file(file, settings, instance)[1].success
    ledger = Ledger(settings.database_url)
    assert ledger.new_since_training() == 2 < _ENOUGH_NEW
    store = Store(settings.storage_url)

    first = retrain(seed=0, epochs=3, thresholds=LENIENT)
    assert first.success, cause(first)
    assert set(PROMOTION) <= materialized(first)
    assert states(settings) == {1: "production"}
    assert ledger.new_since_training() == 0
    verified: list[Manifest] = []
    count = verify_model(settings, "production", verified.append)
    release = current_manifest(store, "release", "galaxies")
    assert {manifest.prefix for manifest in verified} == ancestors(store, release)
    kinds = sorted(manifest.kind for manifest in verified)
    # The spectrum trains the model; the image is sealed but has no row in the table.
    assert kinds == sorted(
        (
            *("release", "validation", "scm", "training_table", "catalogue", *SEALED_KINDS),
            *("counterfactual_validation", "counterfactual_model", "simulation"),
        )
    )
    assert count == len(kinds)

    # Trained longer: better than the one in production, which it replaces.
    second = retrain(seed=1, epochs=6, thresholds=LENIENT)
    assert second.success, cause(second)
    [comparison] = [
        check
        for check in second.get_asset_check_evaluations()
        if check.check_name == "not_worse_than_production"
    ]
    assert comparison.metadata["reigning_version"].value == 1
    assert float(str(comparison.metadata["gain_nats"].value)) > 0
    assert states(settings) == {1: "archived", 2: "production"}

    # Hardly trained: the canary comparison stops it, and production keeps what it has.
    third = retrain(seed=2, epochs=1, thresholds=NO_LIMITS)
    assert not third.success
    assert failed_checks(third) == {"not_worse_than_production"}
    assert "not_worse_than_production" in cause(third).reason
    assert "production_model" not in materialized(third)
    assert states(settings) == {1: "archived", 2: "production", 3: "staging"}

    command = CliRunner()
    # No step may be skipped, and nothing moves that the evidence speaks against.
    for version, to in (("3", "production"), ("3", "canary"), ("1", "staging")):
        with pytest.raises(PromotionError):
            command.invoke(
                cli.app,
                ["models", "promote", version, to, "--reason", "impatience", "--actor", "eve"],
                catch_exceptions=False,
            )
    assert states(settings) == {1: "archived", 2: "production", 3: "staging"}
    done = command.invoke(cli.app, ["models", "rollback", "--reason", "v2 looks odd"])
    assert done.exit_code == 0 and "version 1 is production again" in done.output
    assert states(settings) == {1: "production", 2: "archived", 3: "staging"}
    listed = command.invoke(cli.app, ["models", "list", "--json"])
    rows = {row["version"]: row for row in map(json.loads, listed.output.splitlines())}
    assert (rows[1]["state"], rows[1]["reason"]) == ("production", "v2 looks odd")
    assert rows[2]["release"] != rows[1]["release"]
    assert all(
        isinstance(value, float) for row in rows.values() for value in row["metrics"].values()
    )
    registry = open_registry(settings)
    assert registry.current(State.PRODUCTION).version == 1
    # Version 1 is verified against its own release, which is no longer the current one.
    assert verify_model(settings, "production", lambda manifest: None) == count

    # Nothing of the vault went into MLflow, the event log or the datasets.
    assert (home / "acie" / "mlflow.db").stat().st_size > 0
    assert key_leaks(home, settings.keys_file) == []

    path = store.local_path(f"{verified[0].prefix}/{verified[0].outputs[0].path}")
    path.write_bytes(path.read_bytes()[:-1] + b"\x00\x00")
    with pytest.raises(IntegrityError, match=verified[0].prefix):
        verify_model(settings, "production", lambda manifest: None)


@pytest.mark.slow
def test_a_refused_model_is_never_registered(
    settings: Settings, instance: dg.DagsterInstance, retrain: Retrain
) -> None:
    impossible = {"min_gain_over_marginals_nats": 1e6}
    refused = retrain(seed=0, epochs=1, thresholds=NO_LIMITS | impossible)
    assert not refused.success
    assert failed_checks(refused) == {"gain_over_marginals"}
    found = cause(refused)
    assert found.step == "validation_report"
    assert "gain_over_marginals" in found.reason
    # The report itself is kept, since it says why.
    assert {"galaxy_scm", "validation_report"} <= materialized(refused)
    assert not set(PROMOTION) & materialized(refused)
    assert instance.get_latest_materialization_event(dg.AssetKey("candidate_model")) is None
    assert not open_registry(settings).list()
    assert not Store(settings.storage_url).exists("release")

    # Nor by a click on the candidate alone, past the check that stopped the run.
    job = build_defs(settings=settings).resolve_job_def(RETRAIN)
    clicked = job.execute_in_process(
        instance=instance, asset_selection=[dg.AssetKey("candidate_model")], raise_on_error=False
    )
    assert cause(clicked).error_type == "PromotionError"
    assert "gain_over_marginals" in cause(clicked).reason
    assert not open_registry(settings).list()

    # The same model under limits that it keeps: neither fitted again nor refused.
    scm = current_manifest(Store(settings.storage_url), "scm", "galaxies")
    passed = retrain(seed=0, epochs=1, thresholds=NO_LIMITS)
    assert passed.success, cause(passed)
    assert current_manifest(Store(settings.storage_url), "scm", "galaxies") == scm
    assert states(settings) == {1: "production"}
