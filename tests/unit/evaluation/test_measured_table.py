"""The proof of deconvolution: known errors win back what ignored ones cost."""

from pathlib import Path

import pytest
import torch

from acie_pipelines.evaluation import measured_table
from acie_pipelines.evaluation.bench import Row
from acie_pipelines.evaluation.measurements import Measurements


@pytest.mark.slow
def test_errors_that_are_known_cost_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measured_table, "_ROWS", 1200)
    monkeypatch.setattr(measured_table, "_VALIDATION", 200)
    torch.set_num_threads(1)
    rows: list[Row] = []
    measured_table.run(rows.append, Measurements(tmp_path), range(0, 1))
    [row] = rows
    assert (row.unit, row.n, row.peer_name) == ("sd", 1, "errors ignored")
    assert row.floor is not None
    assert max(row.ours, row.floor) < 0.7 * row.peer
    assert row.ratio == pytest.approx(row.peer / row.ours)
    again: list[Row] = []
    measured_table.run(again.append, Measurements(tmp_path), range(0, 1))
    assert again == rows
