"""Figures show what was measured, and only what was."""

from pathlib import Path

import numpy as np
import pytest

from acie_pipelines.evaluation.counterfactual_figures import (
    calibration_figure,
    error_figure,
    example_figure,
    residual_figure,
    write,
)
from acie_pipelines.evaluation.measurements import Measured, Measurements
from acie_pipelines.evaluation.spectral_measurements import DRAWS, HISTOGRAM, SHARES

EXAMPLE = ("observed", "factual", "answer", "low", "high", "truth", "sigma")


def known() -> Measured:
    series = {f"example 0/{name}": [1.0 + k / 10] * 1000 for k, name in enumerate(EXAMPLE)}
    for suffix in ("", ", learned"):
        series[f"residuals{suffix}"] = [1 / HISTOGRAM[0]] * HISTOGRAM[0]
        series[f"errors{suffix}"] = [0.2, 0.1]
    return Measured({}, {**series, "coverage": list(SHARES)})


def test_bars_are_means_over_seeds() -> None:
    ours = [Measured({"fit": 1.0, "error of size": error}) for error in (0.1, 0.3)]
    (axis,) = error_figure({"acie": ours, "peer": [Measured({"error of size": 0.5})]}).axes
    assert [bar.get_height() for bar in axis.patches] == pytest.approx([0.2, 0.5])  # type: ignore[attr-defined]
    assert [label.get_text() for label in axis.get_xticklabels()] == ["size"]


def test_even_ranks_make_even_bars() -> None:
    ranks = [Measured({}, {"age": list(range(DRAWS + 1))})] * 20
    axes = calibration_figure(ranks, [known()]).axes
    heights = np.array([bar.get_height() for bar in axes[0].patches[:20]])  # type: ignore[attr-defined]
    assert heights.sum() == 20 * (DRAWS + 1)
    assert heights.max() <= 1.2 * heights.min()
    np.testing.assert_allclose(*axes[1].lines[0].get_data())


def test_examples_show_the_error_in_units_of_the_noise() -> None:
    figure = example_figure(known())
    error = figure.axes[1].lines[0].get_ydata()
    np.testing.assert_allclose(error, (1.2 - 1.5) / 1.6)


def test_residuals_have_a_curve_for_every_label() -> None:
    figure = residual_figure({"known": [known()], "peer": [known()]})
    galaxies = figure.axes[1]
    assert [line.get_label() for line in galaxies.lines] == ["known", "peer"]
    np.testing.assert_allclose(galaxies.lines[0].get_xdata(), [0.1, 0.2])


def test_figures_lie_beside_the_measurements(tmp_path: Path) -> None:
    measurements = Measurements(tmp_path)
    assert write(measurements, range(2)) == []
    measurements.measure("spectra/known", "acie", 0, known, depends_on=("causal",))
    galaxy = Measured({"error of size": 0.1})
    measurements.measure("galaxy", "acie", 0, lambda: galaxy, depends_on=("causal",))
    measurements.measure("galaxy", "acie", 5, lambda: galaxy, depends_on=("causal",))
    written = write(measurements, range(2))
    names = {path.name for path in written}
    assert names == {"examples.png", "residuals.png", "error-by-variable-galaxy.png"}
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)
    assert write(measurements, range(7, 9)) == []
