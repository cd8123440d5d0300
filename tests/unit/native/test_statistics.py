"""Tile statistics against NumPy, exact sums and astropy."""

import math
import warnings
from functools import cache

import numpy as np
import pytest
from astropy.stats import sigma_clipped_stats
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from acie_native import TileStatistics, tile_statistics

FLOATS = [np.float32, np.float64]
INTEGERS = [np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64]


def sky(dtype: type, shape: tuple[int, int] = (200, 310), seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    pixels = rng.normal(100, 7, shape)
    stars = rng.random(shape) < 0.02
    pixels[stars] += rng.exponential(40, stars.sum())
    return np.clip(pixels, 0, 255).astype(dtype)


def check(pixels: np.ndarray, stats: TileStatistics, kept: np.ndarray, **clip: float) -> None:
    values = kept.astype(np.float64)
    assert stats.count == values.size
    assert stats.invalid_count == pixels.size - values.size
    assert stats.minimum == kept.min()
    assert stats.maximum == kept.max()
    if kept.dtype.kind == "f":
        exact = math.fsum(kept.tolist())
        assert stats.total == pytest.approx(exact, rel=1e-15, abs=0)
    else:
        exact = sum(kept.tolist())
        assert stats.total == exact
    assert stats.mean == pytest.approx(exact / values.size, rel=1e-14)
    assert stats.variance == pytest.approx(values.var(), rel=1e-11)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, median, deviation = sigma_clipped_stats(
            values,
            sigma=clip.get("clip_sigma", 3.0),
            maxiters=int(clip.get("clip_iterations", 5)),
            cenfunc="median",
            stdfunc="std",
        )
    assert stats.background == pytest.approx(median, rel=1e-14)
    assert stats.background_rms == pytest.approx(deviation, rel=1e-9, abs=1e-13)


@pytest.mark.parametrize("dtype", FLOATS + INTEGERS)
@pytest.mark.parametrize("shape", [(200, 310), (37, 41), (1, 2), (1, 1), (2, 2)])
def test_every_type(dtype: type, shape: tuple[int, int]) -> None:
    pixels = sky(dtype, shape)
    check(pixels, tile_statistics(pixels), pixels.ravel())


@pytest.mark.parametrize("dtype", [np.float32, np.uint16, np.int64])
@pytest.mark.parametrize("mask_type", [np.bool_, np.uint8])
def test_mask(dtype: type, mask_type: type) -> None:
    pixels = sky(dtype)
    valid = (np.random.default_rng(2).random(pixels.shape) < 0.7).astype(mask_type)
    stats = tile_statistics(pixels, valid=valid)
    check(pixels, stats, pixels[valid.astype(bool)])


def test_nonfinite_pixels_are_left_out() -> None:
    pixels = sky(np.float32)
    pixels[::7, ::3] = np.nan
    pixels[1, 1], pixels[2, 2] = np.inf, -np.inf
    valid = np.ones(pixels.shape, dtype=bool)
    valid[5] = False
    check(pixels, tile_statistics(pixels), pixels[np.isfinite(pixels)])
    kept = pixels[np.isfinite(pixels) & valid]
    check(pixels, tile_statistics(pixels, valid=valid), kept)


@pytest.mark.parametrize("clip", [{"clip_sigma": 1.5}, {"clip_iterations": 1}, {"clip_sigma": 2.0}])
def test_clipping_options(clip: dict[str, float]) -> None:
    pixels = sky(np.float64)
    check(pixels, tile_statistics(pixels, **clip), pixels.ravel(), **clip)


def test_no_clipping() -> None:
    pixels = sky(np.float64)
    stats = tile_statistics(pixels, clip_iterations=0)
    assert stats.background == np.median(pixels)
    assert stats.background_rms == pytest.approx(pixels.std(), rel=1e-12)


@settings(max_examples=150, deadline=None)
@given(
    hnp.arrays(
        np.float64,
        st.tuples(st.integers(1, 12), st.integers(1, 12)),
        # Below 1e-140 squares underflow, the deviation is 0 and everything is clipped away: NaN,
        # as astropy has it.
        elements=st.floats(-1e6, 1e6).filter(lambda x: x == 0 or abs(x) > 1e-140)
        | st.sampled_from([np.nan, np.inf, -np.inf]),
    )
)
def test_any_small_tile(pixels: np.ndarray) -> None:
    stats = tile_statistics(pixels)
    kept = pixels[np.isfinite(pixels)]
    assert stats.count == kept.size
    if kept.size == 0:
        return
    assert (stats.minimum, stats.maximum) == (kept.min(), kept.max())
    assert stats.total == pytest.approx(math.fsum(kept), rel=1e-12, abs=1e-15)
    assert kept.min() <= stats.background <= kept.max()
    unclipped = tile_statistics(pixels, clip_iterations=0)
    assert unclipped.background == pytest.approx(np.median(kept), rel=1e-15, abs=1e-300)


@pytest.mark.parametrize("count", [16383, 16384, 16385, 70001])
@pytest.mark.parametrize("kind", ["normal", "sorted", "two values", "heavy tail", "reversed"])
def test_medians_of_large_tiles(count: int, kind: str) -> None:
    rng = np.random.default_rng(count)
    values = {
        "normal": lambda: rng.normal(size=count),
        "sorted": lambda: np.sort(rng.normal(size=count)),
        "reversed": lambda: np.arange(count, 0, -1.0),
        "two values": lambda: rng.integers(0, 2, count).astype(float),
        "heavy tail": lambda: rng.standard_cauchy(count),
    }[kind]()
    stats = tile_statistics(values.reshape(1, -1), clip_iterations=0)
    assert stats.background == np.median(values)


def test_median_survives_a_misleading_sample() -> None:
    # The sample takes every eighth value: make exactly those unlike the rest.
    values = np.random.default_rng(4).normal(size=1 << 16)
    values[::8] = 1e6
    stats = tile_statistics(values.reshape(256, 256), clip_iterations=0)
    assert stats.background == np.median(values)


@cache
def large_tiles() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(6)
    shape = (150, 301)
    noise = rng.normal(10, 3, shape)
    blank = np.where(rng.random(shape) < 0.4, np.nan, noise)
    blank[:50] = np.inf
    return {
        "noise": noise,
        "crowded": noise + rng.pareto(1.0, shape) * (rng.random(shape) < 0.3) * 20,
        "float32 crowded": (noise + rng.pareto(1.0, shape) * 5).astype(np.float32),
        "blanks": blank,
        "almost all blank": np.where(rng.random(shape) < 0.001, noise, -np.inf),
        "mostly one value": np.where(rng.random(shape) < 0.02, noise, 0.0),
        "signed zeros": np.where(rng.random(shape) < 0.5, 0.0, -0.0),
        "two values": np.where(rng.random(shape) < 0.4, 1.5, 7.25),
        "integral": np.rint(noise),
        "huge": rng.uniform(-1, 1, shape) * 1e148,
        "wide range": rng.normal(size=shape) * 10.0 ** rng.integers(-60, 60, shape),
        "denormal float32": (rng.integers(0, 5000, shape) * 2.0**-149).astype(np.float32),
        "large offset": 1e9 + noise,
        "wide integers": (noise * 1e7).astype(np.int32),
        "wide unsigned": (noise * 1e8).clip(0, 2**32 - 1).astype(np.uint32),
        "wide long": (noise * 1e15).astype(np.int64),
        "16 bits": rng.integers(-(2**15), 2**15, shape).astype(np.int16),
        "far integers": rng.integers(2**40, 2**40 + 900, shape),
    }


@pytest.mark.parametrize("clip", [{}, {"clip_sigma": 1.0}, {"clip_sigma": 2.5}])
@pytest.mark.parametrize("name", large_tiles())
def test_large_tiles(name: str, clip: dict[str, float], isa: str) -> None:
    pixels = large_tiles()[name]
    stats = tile_statistics(pixels, isa=isa, **clip)
    assert stats == tile_statistics(pixels, isa="portable", **clip)
    check(pixels, stats, pixels[np.isfinite(pixels)], **clip)


@pytest.mark.parametrize("edge", [np.float64(2.0) ** 1023, np.finfo(np.float64).max])
def test_values_whose_squares_overflow(edge: float, isa: str) -> None:
    pixels = np.where(np.arange(40_000).reshape(200, 200) % 3 == 0, edge, -edge)
    stats = tile_statistics(pixels, isa=isa)
    assert (stats.minimum, stats.maximum) == (-edge, edge)
    assert math.isinf(stats.variance) or math.isnan(stats.variance)
    assert tile_statistics(pixels, isa=isa, clip_iterations=0).background == -edge


def test_unavailable_path_is_an_error() -> None:
    with pytest.raises(ValueError, match="'vector9000' is not available here"):
        tile_statistics(np.zeros((2, 2)), isa="vector9000")


def test_total_is_compensated() -> None:
    # Flux that a plain sum loses: the large values cancel.
    pixels = np.array([[1e16, 1.0, -1e16, 1.0] * 1000])
    assert tile_statistics(pixels).total == 2000.0


def test_integer_total_beyond_64_bits() -> None:
    low = np.full((3, 5), np.iinfo(np.int64).min)
    stats = tile_statistics(low)
    assert stats.total == -15 * 2**63
    assert stats.minimum == stats.maximum == -(2**63)
    high = np.full((3, 5), np.iinfo(np.int64).max)
    assert tile_statistics(high).total == 15 * (2**63 - 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint16])
def test_constant_tile(dtype: type) -> None:
    stats = tile_statistics(np.full((130, 140), 42, dtype=dtype))
    assert (stats.minimum, stats.maximum, stats.mean, stats.background) == (42, 42, 42, 42)
    assert (stats.variance, stats.background_rms) == (0, 0)
    assert stats.total == 42 * 130 * 140


@pytest.mark.parametrize(
    "pixels",
    [
        np.full((3, 4), np.nan),
        np.full((2, 2), np.inf, dtype=np.float32),
        np.empty((0, 5)),
        np.empty((5, 0), dtype=np.int32),
    ],
)
def test_nothing_usable(pixels: np.ndarray) -> None:
    stats = tile_statistics(pixels)
    assert (stats.count, stats.invalid_count, stats.total) == (0, pixels.size, 0)
    for name in ("minimum", "maximum", "mean", "variance", "background", "background_rms"):
        assert math.isnan(getattr(stats, name))


def test_everything_masked() -> None:
    stats = tile_statistics(np.ones((2, 3), np.uint8), valid=np.zeros((2, 3), np.uint8))
    assert stats.count == 0
    assert math.isnan(stats.minimum)


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((2, 2), np.float16), "unsupported type, float16"),
        (np.zeros((2, 2), np.complex64), "unsupported type, complex64"),
        ([[1.0]], "unsupported type, list"),
        (np.zeros((2, 2), ">f4"), "native byte order"),
        (np.zeros(4), "two-dimensional"),
        (np.zeros((4, 4))[:, ::2], "C-contiguous"),
    ],
)
def test_refused_pixels(pixels: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tile_statistics(pixels)  # type: ignore[arg-type]


def test_refused_options() -> None:
    pixels = np.zeros((2, 2))
    with pytest.raises(ValueError, match="clip_sigma must be positive"):
        tile_statistics(pixels, clip_sigma=float("nan"))
    with pytest.raises(ValueError, match="bool or uint8"):
        tile_statistics(pixels, valid=pixels)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"shape \[2, 2\]"):
        tile_statistics(pixels, valid=np.ones((2, 1), bool))
