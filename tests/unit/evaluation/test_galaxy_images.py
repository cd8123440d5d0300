"""The stamp rows of the counterfactual benchmark."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from acie_pipelines.evaluation import galaxy_images
from acie_pipelines.evaluation.bench import Row
from acie_pipelines.evaluation.galaxy_images import score_classifier, simulated_stamps
from acie_pipelines.evaluation.measurements import Measurements
from acie_pipelines.samples import GALAXY_IMAGES
from acie_pipelines.training.efigi import HUBBLE_STAGE, read_efigi
from acie_pipelines.training.image_training import ClassifierFitConfig

torch.set_num_threads(1)


def test_truth_shares_the_noise_of_the_factual_stamp() -> None:
    data = simulated_stamps(6, seed=2)
    assert data.stamps.shape == (6, 1, 88, 88)
    same = data.morphology == 1
    for question, rows in (("morphology=1", same), ("morphology=0", ~same)):
        torch.testing.assert_close(data.truth[question][rows], data.stamps[rows])
    doubled = (data.truth["flux*=2"] - data.stamps).sum(dim=(1, 2, 3))
    torch.testing.assert_close(doubled, torch.ones(6), rtol=1e-4, atol=0)
    again = simulated_stamps(6, seed=2)
    assert torch.equal(again.stamps, data.stamps)


def test_a_perfect_classifier_errs_by_the_width_of_its_classes() -> None:
    images = read_efigi(GALAXY_IMAGES)
    labels = HUBBLE_STAGE.labels(images.types)
    score = score_classifier(np.eye(7)[labels], images, HUBBLE_STAGE)
    assert score.balanced_accuracy == 1.0
    assert 0 < score.type_error < 1
    blurred = score_classifier(np.full((280, 7), 1 / 7), images, HUBBLE_STAGE)
    assert blurred.balanced_accuracy == pytest.approx(1 / 7)
    assert blurred.type_error > 3


def test_without_efigi_only_simulated_rows_are_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.delenv("ACIE_EFIGI_DIR", raising=False)
    monkeypatch.setattr(galaxy_images, "_SIMULATED", 5)
    rows: dict[str, Row] = {}
    galaxy_images.run(lambda row: rows.update({row.name: row}), Measurements(tmp_path), range(1))
    assert len(rows) == 9
    assert "ACIE_EFIGI_DIR" in capsys.readouterr().err
    assert rows["counterfactual/stamps/do nothing/error"].ours == 0.0
    for question in ("flux*=2", "size*=1.5"):
        error = rows[f"counterfactual/stamps/{question}/error"]
        assert error.ours < 0.1 * error.peer


@pytest.mark.slow
def test_rows_of_real_stamps(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ACIE_EFIGI_DIR", str(GALAXY_IMAGES))
    monkeypatch.setattr(galaxy_images, "_SIMULATED", 8)
    monkeypatch.setattr(galaxy_images, "_REAL_PER_CLASS", 3)
    short = ClassifierFitConfig(epochs=2, steps=8, batch_stamps=28)
    monkeypatch.setattr(galaxy_images, "ClassifierFitConfig", lambda: short)
    rows: list[Row] = []
    galaxy_images.run(rows.append, Measurements(tmp_path), range(2))
    names = [row.name for row in rows if "EFIGI" in row.name]
    assert len(names) == len(set(names)) == 9
    assert all(0 <= row.ours <= 1 for row in rows if row.unit == "share")
    assert all(math.isfinite(row.ours) and row.n == 2 for row in rows)
