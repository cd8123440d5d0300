"""Validation passes a fitted model and refuses each kind of bad one."""

import json
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from acie_pipelines.causal.fitting import FitConfig, fit_scm
from acie_pipelines.causal.graph import catalogue_graph
from acie_pipelines.causal.mechanisms import MechanismConfig
from acie_pipelines.causal.scm import StructuralCausalModel
from acie_pipelines.evaluation.calibration import calibration
from acie_pipelines.evaluation.figures import mass_doubling_figure, pit_figure
from acie_pipelines.evaluation.validation import (
    ValidationThresholds,
    checks,
    measure_scm,
    read_report,
    validate_scm,
)
from acie_pipelines.provenance import verify_chain
from acie_pipelines.samples import CATALOGUE
from acie_pipelines.storage import Store
from acie_pipelines.training.catalogue import (
    ingest_catalogue,
    read_catalogue_csv,
)
from acie_pipelines.training.figures import figure_png
from acie_pipelines.training.fit import TrainingConfig, train_scm
from acie_pipelines.training.table import build_training_table

torch.set_num_threads(1)

FIT = FitConfig(batch_rows=512, max_epochs=8, patience=8)
Splits = tuple[Tensor, Tensor, Tensor]


def new_model() -> StructuralCausalModel:
    return StructuralCausalModel(catalogue_graph(), MechanismConfig(bins=6), seed=0)


@pytest.fixture(scope="module")
def splits() -> Splits:
    table = read_catalogue_csv(CATALOGUE, catalogue_graph())
    batch = new_model().tensor({name: table[name].to_numpy() for name in table.columns})
    rows = batch[torch.randperm(len(batch), generator=torch.Generator().manual_seed(0))]
    return rows[:7000], rows[7000:8500], rows[8500:10500]


@pytest.fixture(scope="module")
def good(splits: Splits) -> StructuralCausalModel:
    model = new_model()
    fit_scm(model, splits[0], splits[1], FIT)
    return model


def failures(model: StructuralCausalModel, splits: Splits) -> set[str]:
    report = measure_scm(model, *splits, splits[2][:0], seed=0)
    assert json.dumps(report, allow_nan=False)
    return {c.name for c in checks(report, ValidationThresholds()) if not c.passed}


def test_a_fitted_model_passes(good: StructuralCausalModel, splits: Splits) -> None:
    assert failures(good, splits) == set()


def test_a_model_that_ignores_its_parents_is_refused(
    good: StructuralCausalModel, splits: Splits
) -> None:
    blind = deepcopy(good)
    for name in blind.names:
        network = blind.mechanism(name).network
        if network is not None:
            for parameter in network.parameters():
                torch.nn.init.zeros_(parameter)
    assert {"gain_over_marginals", "parent_sensitivity"} <= failures(blind, splits)


def test_a_collapsed_model_is_refused(good: StructuralCausalModel, splits: Splits) -> None:
    collapsed = deepcopy(good)
    with torch.no_grad():
        for name in collapsed.names:
            collapsed.mechanism(name).constants[1] -= 3.0
    assert {"gain_over_marginals", "calibration_ks", "coverage_error_90"} <= failures(
        collapsed, splits
    )


def test_a_model_trained_on_shuffled_labels_is_refused(splits: Splits) -> None:
    generator = torch.Generator().manual_seed(1)
    shuffled = []
    for part in splits[:2]:
        columns = [column[torch.randperm(len(part), generator=generator)] for column in part.T]
        shuffled.append(torch.stack(columns, dim=1))
    model = new_model()
    fit_scm(model, *shuffled, FitConfig(batch_rows=1024, max_epochs=3))
    assert {"gain_over_marginals", "parent_sensitivity"} <= failures(model, splits)


def test_calibration_of_known_samples() -> None:
    noise = np.random.default_rng(0).normal(size=20000)
    assert calibration(noise)["ks"] < 0.012
    assert calibration(noise)["coverage_90"] == pytest.approx(0.9, abs=0.007)
    assert calibration(3 * noise)["coverage_90"] < 0.5
    assert calibration(noise + 0.5)["ks"] == pytest.approx(0.197, abs=0.01)
    assert calibration(np.array([np.nan]))["ks"] is None


@pytest.mark.slow
def test_the_dataset_holds_report_table_and_verdict(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    catalogue = ingest_catalogue(store, CATALOGUE, code_version="1")
    table = build_training_table(store, catalogue, [], code_version="1")
    config = TrainingConfig(MechanismConfig(hidden=8, bins=4), FitConfig(max_epochs=1))
    model = train_scm(store, table, config, code_version="1")
    limits = ValidationThresholds(min_gain_over_marginals_nats=50.0)
    found = validate_scm(store, model, table, limits, code_version="1", seed=0)
    verdicts = {check["name"]: check["passed"] for check in found.attributes["checks"]}
    assert found.attributes["passed"] is False and verdicts["gain_over_marginals"] is False
    assert found.attributes["warnings"]
    assert verify_chain(store, found) == 4
    report = read_report(store, found)
    assert {entry["node"] for entry in report["mass_doubling"]} == set(catalogue_graph().nodes)
    for figure in (pit_figure(report), mass_doubling_figure(report)):
        assert figure_png(figure).startswith(b"\x89PNG")
    again = validate_scm(store, model, table, limits, code_version="1", seed=0)
    assert again.generation == found.generation
