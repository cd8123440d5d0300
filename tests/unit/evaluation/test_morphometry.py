"""Shapes of stamps: known answers of simple profiles; the regression learns and weighs classes."""

import numpy as np
import pytest

from acie_pipelines.evaluation.morphometry import FEATURES, LogisticRegression, measure_shapes
from tests.unit.training.simulated_stamps import simulated_set

POSITION = np.arange(88) - 43.5
Y, X = np.meshgrid(POSITION, POSITION, indexing="ij")


def shape(profile: np.ndarray, **gains: float) -> dict[str, float]:
    bands = [gains.get(c, 1.0) * profile + 10 for c in ("red", "green", "blue")]
    measured = measure_shapes(np.stack(bands).clip(0, 255).astype(np.uint8)[None])
    return dict(zip(FEATURES, measured[0], strict=True))


def test_a_gaussian_has_its_known_concentration() -> None:
    found = shape(200 * np.exp(-(X**2 + Y**2) / (2 * 10**2)))
    # Half-light fractions of a Gaussian: r_q = sigma sqrt(-2 ln(1 - q)).
    expected = 5 * np.log10(np.sqrt(np.log(0.2) / np.log(0.8)))
    assert found["concentration"] == pytest.approx(expected, abs=0.05)
    assert found["asymmetry"] < 1e-9


def test_offset_light_is_asymmetric_and_knots_are_rough() -> None:
    disc = 80 * np.exp(-(X**2 + Y**2) / (2 * 12**2))
    blob = 120 * np.exp(-((X - 14) ** 2 + Y**2) / (2 * 2**2))
    plain, offset = shape(disc), shape(disc + blob)
    assert offset["asymmetry"] > plain["asymmetry"] + 0.02
    assert offset["smoothness"] > 2 * plain["smoothness"]
    assert offset["m20"] > plain["m20"]


def test_gini_is_larger_where_light_is_concentrated() -> None:
    flat = shape(150.0 * (X**2 + Y**2 < 30**2))
    peaked = shape(240 * np.exp(-np.hypot(X, Y) / 6))
    assert flat["gini"] < 0.25 < 0.4 < peaked["gini"]


def test_colours_are_ratios_of_bands() -> None:
    found = shape(100 * np.exp(-(X**2 + Y**2) / 200), red=2.0, blue=0.5)
    assert found["green_over_red"] == pytest.approx(np.log(0.5), abs=0.03)
    assert found["blue_over_green"] == pytest.approx(np.log(0.5), abs=0.03)


def test_blank_stamps_have_finite_shapes() -> None:
    assert np.isfinite(measure_shapes(np.zeros((2, 3, 88, 88), np.uint8))).all()


def test_regression_tells_spirals_from_ellipticals() -> None:
    train, test = simulated_set(60, seed=3), simulated_set(40, seed=4)
    labels = [(images.types > 0).astype(np.int64) for images in (train, test)]
    model = LogisticRegression.fit(measure_shapes(train.stamps), labels[0], 2)
    chosen = model.probabilities(measure_shapes(test.stamps)).argmax(axis=1)
    assert (chosen == labels[1]).mean() > 0.9


def test_regression_weighs_a_rare_class_like_a_common_one() -> None:
    rng = np.random.default_rng(2)
    labels = np.array([0] * 30 + [1] * 970)
    features = labels[:, None] + 0.5 * rng.standard_normal((1000, 1))
    middle = LogisticRegression.fit(features, labels, 2).probabilities(np.array([[0.5]]))
    assert middle[0, 0] == pytest.approx(0.5, abs=0.2)
