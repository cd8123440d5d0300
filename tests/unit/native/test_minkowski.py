"""Minkowski intervals against exact rational arithmetic."""

import math
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acie_native import Separation, causal_separation, cpu_features, minkowski_interval

COORDINATES = st.floats(-1e6, 1e6).filter(lambda x: x == 0 or abs(x) > 1e-30)
EVENTS = st.lists(COORDINATES, min_size=4, max_size=4)


def exact(start: np.ndarray, end: np.ndarray, speed: float) -> list[Fraction]:
    rows = []
    for a, b in zip(start.tolist(), end.tolist(), strict=True):
        t, x, y, z = (
            Fraction(after) - Fraction(before) for before, after in zip(a, b, strict=True)
        )
        rows.append(x * x + y * y + z * z - (Fraction(speed) * t) ** 2)
    return rows


def check(start: np.ndarray, end: np.ndarray, speed: float) -> None:
    ours = minkowski_interval(start, end, speed_of_light=speed)
    truth = exact(start, end, speed)
    for value, true in zip(ours.tolist(), truth, strict=True):
        assert abs(Fraction(value) - true) <= 2 * Fraction(math.ulp(float(true)))
    signs = [(true > 0) - (true < 0) for true in truth]
    assert causal_separation(start, end, speed_of_light=speed).tolist() == signs


@settings(max_examples=300)
@given(st.lists(st.tuples(EVENTS, EVENTS), max_size=20), st.sampled_from([1.0, 0.3, 299792.458]))
def test_any_events(pairs: list[tuple[list[float], list[float]]], speed: float) -> None:
    events = np.array(pairs, dtype=np.float64).reshape(-1, 2, 4)
    check(events[:, 0].copy(), events[:, 1].copy(), speed)


@pytest.mark.parametrize("speed", [1.0, 0.1, 299792.458])
def test_next_to_the_light_cone(speed: float) -> None:
    """One unit in the last place of time on either side of the cone: NumPy loses every digit."""
    rng = np.random.default_rng(8)
    start, end = rng.normal(size=(2, 500, 4))
    end[:, 0] = start[:, 0] + np.linalg.norm(end[:, 1:] - start[:, 1:], axis=1) / speed
    end[100:200, 0] = np.nextafter(end[100:200, 0], np.inf)
    end[200:300, 0] = np.nextafter(end[200:300, 0], -np.inf)
    check(start, end, speed)
    kinds = causal_separation(start, end, speed_of_light=speed)
    assert {Separation.TIMELIKE, Separation.SPACELIKE} <= set(kinds.tolist())


def test_light_is_lightlike() -> None:
    start = np.zeros((3, 4))
    end = np.array([[5.0, 3, 4, 0], [7, 2, 3, 6], [0, 0, 0, 0]])
    assert causal_separation(start, end).tolist() == [Separation.LIGHTLIKE] * 3
    assert not minkowski_interval(start, end).any()


def test_what_is_no_finite_number_stays_visible() -> None:
    start = np.zeros((3, 4))
    end = np.array([[np.nan, 0, 0, 0], [0, np.inf, 0, 0], [1e200, 0, 0, 0]])
    interval = minkowski_interval(start, end)
    assert math.isnan(interval[0])
    assert interval[2] == -np.inf
    with pytest.raises(ValueError, match="interval 0 is not a number"):
        causal_separation(start, end)


@pytest.mark.parametrize("isa", cpu_features().available)
def test_every_path_gives_the_same_bits(isa: str) -> None:
    start, end = np.random.default_rng(7).normal(size=(2, 1003, 4))
    end[5] = start[5] + 1e-9
    expected = minkowski_interval(start, end, speed_of_light=0.7, isa="portable")
    assert np.array_equal(minkowski_interval(start, end, speed_of_light=0.7, isa=isa), expected)


def test_many_threads_agree() -> None:
    start, end = np.random.default_rng(2).normal(size=(2, 4099, 4))
    expected = minkowski_interval(start, end)
    with ThreadPoolExecutor(4) as pool:
        for each in pool.map(lambda _: minkowski_interval(start, end), range(16)):
            assert np.array_equal(each, expected)


@pytest.mark.parametrize(
    ("start", "end", "speed", "message"),
    [
        (np.zeros((1, 4), dtype=np.float32), np.zeros((1, 4)), 1.0, "start must be a float64"),
        (np.zeros((1, 4)), [[0.0] * 4], 1.0, "end must be a float64"),
        (np.zeros((1, 3)), np.zeros((1, 4)), 1.0, "start must have shape"),
        (np.zeros((1, 4)), np.zeros((4, 1)).T[:, ::-1], 1.0, "end must be C-contiguous"),
        (np.zeros((1, 4)), np.zeros((2, 4)), 1.0, "1 events and end has 2"),
        (np.zeros((1, 4)), np.zeros((1, 4)), 0.0, "speed_of_light"),
        (np.zeros((1, 4)), np.zeros((1, 4)), math.nan, "speed_of_light"),
    ],
)
def test_other_arguments_are_refused(
    start: np.ndarray, end: np.ndarray, speed: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        minkowski_interval(start, end, speed_of_light=speed)


def test_no_events_give_no_intervals() -> None:
    assert minkowski_interval(np.zeros((0, 4)), np.zeros((0, 4))).shape == (0,)
