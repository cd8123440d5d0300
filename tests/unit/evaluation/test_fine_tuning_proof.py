"""The proof of fine-tuning: what its rows compare, and that it is measured once."""

import math
from pathlib import Path

import pytest

from acie_pipelines.evaluation import fine_tuning_proof
from acie_pipelines.evaluation.bench import Row
from acie_pipelines.evaluation.measurements import Measured, Measurements


def test_rows_compare_after_with_before_and_are_measured_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def simulated(network: object, name: str, seed: int) -> Measured:
        calls.append(seed)
        sides = {"departure": (4.0, 7.0 + seed), "no departure": (9.0, 8.0)}
        return Measured(
            {
                f"{side}/{when}/{measure}": value
                for side, both in sides.items()
                for when, value in zip(("before", "after"), both, strict=True)
                for measure in fine_tuning_proof._UNITS
            }
        )

    def real(network: object, seed: int) -> Measured:
        calls.append(-1)
        return Measured({"before": -3.0, "after": -1.0})

    monkeypatch.setattr(fine_tuning_proof, "trained_posterior", lambda _: None)
    monkeypatch.setattr(fine_tuning_proof, "measure_fine_tuning", simulated)
    monkeypatch.setattr(fine_tuning_proof, "measure_real_galaxies", real)
    for _ in range(2):
        rows: list[Row] = []
        fine_tuning_proof.run(rows.append, Measurements(tmp_path), range(0, 2))
    assert calls == [0, 1, -1]
    found = {row.name.removeprefix("counterfactual/fine-tuning/"): row for row in rows}
    assert len(found) == 2 * len(fine_tuning_proof._UNITS) + 1
    density = found["departure all/log density of the truth"]
    assert (density.ours, density.peer, density.n) == (7.5, 4.0, 2)
    assert density.ratio == pytest.approx(math.exp(3.5))
    # Less error is better, and forgetting is seen.
    assert found["departure all/error"].ratio == pytest.approx(4.0 / 7.5)
    assert found["no departure/error"].ratio == pytest.approx(9.0 / 8.0)
    assert found["no departure/log density of the truth"].ratio == pytest.approx(math.exp(-1))
    assert found["SDSS/log density of exact draws"].ratio == pytest.approx(math.exp(2))
