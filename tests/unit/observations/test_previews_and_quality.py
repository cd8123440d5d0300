"""Bounded looks at planes: previews and quality samples."""

import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from acie_pipelines.observations.model import Plane
from acie_pipelines.observations.opening import open_observation
from acie_pipelines.observations.quality import plane_quality, sample_windows
from acie_pipelines.observations.thumbnail import plane_preview


def preview(tmp_path: Path, values: np.ndarray, size: int = 64) -> np.ndarray:
    path = tmp_path / "a.fits"
    fits.PrimaryHDU(values).writeto(path, overwrite=True)
    with open_observation(path) as observation, warnings.catch_warnings():
        warnings.simplefilter("error")
        return plane_preview(observation, observation.planes[0], size=size)


def test_a_source_is_bright_where_it_is(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(10, 1, (300, 500)).astype("f4")
    values[200:232, 400:432] += 500
    values[0:40, 0:40] = np.nan
    found = preview(tmp_path, values)
    assert found.dtype == np.uint8
    assert found.shape == (38, 63)
    assert found[26, 51] == 255
    assert np.median(found) < 200
    assert (found[:4, :4] == 0).all()


@pytest.mark.parametrize("fill", [np.nan, 0.0, 7.5, np.inf])
def test_constant_and_empty_planes(tmp_path: Path, fill: float) -> None:
    assert (preview(tmp_path, np.full((50, 60), fill, "f4")) == 0).all()


def test_small_planes_keep_their_size_and_cubes_show_the_first_channel(tmp_path: Path) -> None:
    values = np.zeros((2, 6, 5), "i2")
    values[0, 2, 3] = 100
    found = preview(tmp_path, values)
    assert found.shape == (6, 5)
    assert found.argmax() == 2 * 5 + 3


def test_a_spectrum_is_drawn_as_a_curve(samples: Path) -> None:
    with open_observation(samples / "spec-0266-51630-0168.fits") as observation:
        found = plane_preview(observation, observation.planes[0], size=256)
    assert found.shape[0] == 64
    assert (found == 255).any(axis=0).mean() > 0.9


@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1), (1, 1, 10**9), (1, 10**6, 3), (1, 511, 513), (1, 40000, 50000), (500, 700, 800)],
)
def test_quality_windows_are_bounded_disjoint_and_inside(shape: tuple[int, int, int]) -> None:
    plane = Plane("a", "image", shape, np.dtype("f4"))
    windows = sample_windows(plane)
    assert 1 <= len(windows) <= 18
    boxes = [(w.channel, w.y0, w.y1, w.x0, w.x1) for w in windows]
    assert len(set(boxes)) == len(boxes)
    for w in windows:
        assert 0 <= w.channel < shape[0]
        assert 0 <= w.y0 < w.y1 <= shape[1]
        assert 0 <= w.x0 < w.x1 <= shape[2]
        assert (w.y1 - w.y0) * (w.x1 - w.x0) <= 1 << 18
    for i, a in enumerate(windows):
        for b in windows[:i]:
            apart = a.y1 <= b.y0 or b.y1 <= a.y0 or a.x1 <= b.x0 or b.x1 <= a.x0
            assert apart or a.channel != b.channel


def test_small_planes_are_sampled_whole() -> None:
    for shape in [(1, 300, 700), (1, 251, 245), (1, 1, 3808), (1, 600, 1000)]:
        plane = Plane("a", "image", shape, np.dtype("f4"))
        covered = sum((w.y1 - w.y0) * (w.x1 - w.x0) for w in sample_windows(plane))
        assert covered == shape[1] * shape[2], shape


def test_quality_counts(tmp_path: Path) -> None:
    values = np.arange(100, dtype="f4").reshape(10, 10)
    values[0, :5] = np.nan
    values[1, :] = 0
    fits.PrimaryHDU(values, fits.Header({"SATURATE": 90})).writeto(tmp_path / "a.fits")
    with open_observation(tmp_path / "a.fits") as observation:
        found = plane_quality(observation, observation.planes[0])
    assert found == {
        "sample_fraction": 1.0,
        "invalid_fraction": 0.05,
        "zero_fraction": 0.1,
        "saturated_fraction": 0.1,
        "min": 0.0,
        "max": 99.0,
    }


def test_quality_of_nothing_valid_has_no_extremes(tmp_path: Path) -> None:
    fits.PrimaryHDU(np.full((4, 4), np.nan)).writeto(tmp_path / "a.fits")
    with open_observation(tmp_path / "a.fits") as observation:
        found = plane_quality(observation, observation.planes[0])
    assert (found["min"], found["max"], found["invalid_fraction"]) == (None, None, 1.0)
