"""The slope estimator against simulated doublets with noise and wild points."""

import numpy as np
import pytest

from acie_pipelines.physics.constants import N_II_6584_6548_RATIO, O_III_5007_4959_RATIO
from acie_pipelines.physics.residuals import doublet_residuals, slope_through_origin


def simulated(ratio: float, seed: int, n: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    strong = rng.lognormal(1.0, 1.0, n)
    return strong + rng.normal(0, 0.6, n), strong / ratio + rng.normal(0, 0.6, n)


def test_noise_in_both_lines_does_not_bias_the_ratio() -> None:
    pulls = []
    for seed in range(20):
        ratio, error, _ = slope_through_origin(
            *simulated(2.98, seed), 2.98, detection_angstrom=5.0, seed=seed
        )
        pulls.append((ratio - 2.98) / error)
    assert abs(np.mean(pulls)) < 0.7  # standard error of the mean of 20 pulls: 0.22
    assert 0.5 < np.std(pulls) < 1.6


def test_wild_measurements_hardly_move_the_ratio() -> None:
    strong, weak = simulated(2.98, 1)
    weak[:40] = 300.0
    ratio, _, _ = slope_through_origin(strong, weak, 2.98, detection_angstrom=5.0, seed=0)
    least_squares = (strong @ strong) / (strong @ weak)
    assert ratio == pytest.approx(2.98, rel=0.1)
    assert abs(least_squares / 2.98 - 1) > 0.2


def test_broken_law_is_reported_in_per_cent_and_missing_values_are_left_out() -> None:
    o_strong, o_weak = simulated(O_III_5007_4959_RATIO * 1.3, 2)
    n_strong, n_weak = simulated(N_II_6584_6548_RATIO, 3)
    n_weak[::2] = np.nan
    found = doublet_residuals(
        {"o_iii_5007": o_strong, "o_iii_4959": o_weak, "n_ii_6584": n_strong, "n_ii_6548": n_weak}
    )
    assert found["o_iii"].residual_percent == pytest.approx(
        30, abs=4 * found["o_iii"].error_percent
    )
    assert abs(found["n_ii"].residual_percent) < 4 * found["n_ii"].error_percent
    assert found["n_ii"].detections < found["o_iii"].detections * 0.8


def test_too_few_detections_give_no_number() -> None:
    ratio, error, count = slope_through_origin(
        np.ones(50), np.ones(50), 3.0, detection_angstrom=5.0, seed=0
    )
    assert np.isnan(ratio) and np.isnan(error) and count == 0
