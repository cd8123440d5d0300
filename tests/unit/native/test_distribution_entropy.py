"""Entropy of vector distributions against known values, SciPy, and collapses it must notice."""

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy.special import digamma
from scipy.stats import differential_entropy, multivariate_normal

from acie_native import distribution_entropy
from acie_native._entropy import GAUSSIAN_NATS, WINDOW, _digamma


def normal(count: int, dimensions: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dimensions)).astype(np.float32)


@pytest.mark.parametrize("x", [0.5, 1.0, 2.5, 9.99, 10.0, 1234.5, 1e6])
def test_digamma_equals_scipy(x: float) -> None:
    assert _digamma(x) == pytest.approx(digamma(x), rel=1e-13, abs=1e-14)


@pytest.mark.parametrize(("count", "dimensions"), [(300, 1), (1000, 3), (1000, 40), (20000, 10)])
def test_gaussians_within_their_error_bars(count: int, dimensions: int) -> None:
    mixing = np.random.default_rng(9).normal(size=(dimensions, dimensions))
    truth = multivariate_normal(cov=mixing @ mixing.T).entropy()
    scores = []
    for seed in range(20):
        samples = (normal(count, dimensions, seed) @ mixing.T + 5).astype(np.float32)
        estimate = distribution_entropy(samples)
        scores.append((estimate.nats - truth) / estimate.standard_error)
    # Mean of 20 standard scores, and their spread: the error bars may be wide, not narrow.
    assert abs(np.mean(scores)) < 3 / math.sqrt(20)
    assert np.std(scores) < 1.4


def test_uniform_on_the_line_is_unbiased() -> None:
    values = [
        distribution_entropy(
            np.random.default_rng(seed).uniform(2, 7, (200, 1)).astype(np.float32)
        ).nats
        for seed in range(200)
    ]
    assert np.mean(values) == pytest.approx(math.log(5), abs=4 * np.std(values) / math.sqrt(200))


def test_one_dimension_equals_scipy_up_to_the_bias_correction() -> None:
    """Away from the ends Vasicek's terms differ by a constant, whatever the samples."""
    values = np.random.default_rng(4).gamma(2.0, size=30000).astype(np.float32)
    reference = differential_entropy(values.astype(float), window_length=WINDOW, method="vasicek")
    correction = math.log(2 * WINDOW) - digamma(2 * WINDOW)
    ours = distribution_entropy(values[:, None]).nats
    assert ours == pytest.approx(reference + correction, abs=2e-3)


def test_mixtures_lie_between_truth_and_the_gaussian_of_their_covariance() -> None:
    rng = np.random.default_rng(5)
    sides = rng.choice([-4.0, 4.0], size=(20000, 1))
    samples = rng.standard_normal((20000, 3))
    samples[:, :1] += sides
    estimate = distribution_entropy(samples.astype(np.float32), projections=300)
    truth = 3 * GAUSSIAN_NATS + math.log(2)
    gaussian = 3 * GAUSSIAN_NATS + 0.5 * math.log(17)
    assert truth - 3 * estimate.standard_error < estimate.nats < gaussian - 0.1


def test_units_shift_the_entropy_by_their_logarithm() -> None:
    samples = normal(2000, 5)
    base, scaled = (distribution_entropy(each) for each in (samples, samples * np.float32(1024)))
    assert scaled.nats == pytest.approx(base.nats + 5 * math.log(1024), abs=1e-6)
    assert scaled.standard_error == pytest.approx(base.standard_error, rel=1e-6)


@pytest.mark.parametrize("dimensions", [2, 8, 64])
@pytest.mark.parametrize("modes", [1, 2, 5])
def test_collapse_to_modes_shows(dimensions: int, modes: int) -> None:
    rng = np.random.default_rng(modes)
    healthy = distribution_entropy(normal(4000, dimensions))
    centers = rng.standard_normal((modes, dimensions))
    samples = centers[rng.integers(modes, size=4000)]
    samples = samples + 0.01 * rng.standard_normal(samples.shape)
    collapsed = distribution_entropy(samples.astype(np.float32))
    bits = healthy.standard_error + collapsed.standard_error
    assert collapsed.nats < healthy.nats - 10 * bits - 1


@pytest.mark.parametrize("dimensions", [2, 8, 64])
def test_collapse_to_a_subspace_shows_even_at_full_variance(dimensions: int) -> None:
    samples = normal(4000, dimensions).astype(np.float64)
    healthy = distribution_entropy(samples.astype(np.float32))
    basis = np.linalg.qr(np.random.default_rng(1).normal(size=(dimensions, dimensions)))[0]
    flattened = samples * np.where(np.arange(dimensions) < dimensions // 2, math.sqrt(2), 1e-3)
    collapsed = distribution_entropy((flattened @ basis).astype(np.float32))
    assert collapsed.nats < healthy.nats - 3 * dimensions


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros((100, 2), dtype=np.float32),
        np.repeat(normal(100, 1), 2, axis=1),
        np.repeat(normal(4, 2), 40, axis=0),
        np.concatenate([normal(60, 1), np.full((40, 1), 7, dtype=np.float32)]),
    ],
)
def test_samples_without_volume_have_no_entropy(samples: np.ndarray) -> None:
    estimate = distribution_entropy(samples)
    assert estimate.nats == -math.inf
    assert math.isnan(estimate.standard_error)


def test_the_same_seed_gives_the_same_estimate_from_every_thread() -> None:
    samples = np.random.default_rng(3).exponential(size=(3000, 12)).astype(np.float32)
    expected = distribution_entropy(samples, seed=5)
    assert distribution_entropy(samples, seed=6) != expected
    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(lambda _: distribution_entropy(samples, seed=5), range(8))
        assert all(each == expected for each in answers)


def test_more_projections_narrow_the_error() -> None:
    samples = (np.random.default_rng(3).random((3000, 16)) ** 8).astype(np.float32)
    few, many = (distribution_entropy(samples, projections=count) for count in (16, 512))
    assert many.standard_error < few.standard_error
    assert abs(few.nats - many.nats) < 4 * few.standard_error


@pytest.mark.parametrize(
    ("samples", "projections", "message"),
    [
        (np.zeros((100, 2)), 64, "must be a float32 array"),
        ([[1.0]], 64, "must be a float32 array"),
        (np.zeros(100, dtype=np.float32), 64, "shape"),
        (np.zeros((100, 0), dtype=np.float32), 64, "shape"),
        (np.zeros((0, 3), dtype=np.float32), 64, "too few"),
        (np.zeros((16, 1), dtype=np.float32), 64, "too few"),
        (np.zeros((50, 50), dtype=np.float32), 64, "too few"),
        (np.zeros((100, 2), dtype=np.float32), 0, "projections"),
        (np.full((100, 2), np.nan, dtype=np.float32), 64, "NaN"),
        (np.full((100, 2), np.inf, dtype=np.float32), 64, "infinity"),
    ],
)
def test_other_arguments_are_refused(samples: np.ndarray, projections: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        distribution_entropy(samples, projections=projections)


def test_any_memory_layout_gives_the_same_estimate() -> None:
    samples = normal(500, 6)
    expected = pytest.approx(distribution_entropy(samples).nats, rel=1e-12)
    assert distribution_entropy(np.asfortranarray(samples)).nats == expected
    wide = np.zeros((500, 12), dtype=np.float32)
    wide[:, ::2] = samples
    assert distribution_entropy(wide[:, ::2]).nats == expected
