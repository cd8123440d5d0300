import io
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acie_pipelines.errors import IntegrityError
from acie_pipelines.observations.model import Window
from acie_pipelines.provenance import verify_chain
from acie_pipelines.tiling.aggregate import aggregate_tiles
from acie_pipelines.tiling.grid import TileGrid
from acie_pipelines.tiling.pooling import (
    BlockMean,
    StreamingTotal,
    pool_statistics,
    weighted_median,
)
from acie_pipelines.tiling.writer import write_tiles


def _load(store, manifest, path):
    return np.load(io.BytesIO(store.read_bytes(f"{manifest.prefix}/{path}")))


@pytest.fixture
def mosaic(store, observe, ingested):
    """Tile and aggregate named arrays; a second set of arrays can stand in for the original."""

    def make(original=None, tile_size=64, kinds=None, **arrays):
        observation = observe(kinds, **arrays)
        tiles = write_tiles(
            store, ingested(store, observation), observation, code_version="1", tile_size=tile_size
        )
        view = observation if original is None else observe(kinds, **original)
        return aggregate_tiles(store, tiles, view, code_version="1")

    return make


def test_pooled_statistics_equal_those_of_the_whole_plane(mosaic, store, sky):
    manifest = mosaic(N26=sky)
    statistics = manifest.attributes["planes"][0]["statistics"]
    valid = sky[np.isfinite(sky)].astype(np.float64)
    assert statistics["count"] == valid.size
    assert statistics["invalid_count"] == sky.size - valid.size
    assert statistics["minimum"] == valid.min()
    assert statistics["maximum"] == valid.max()
    assert statistics["mean"] == pytest.approx(valid.mean(), rel=1e-13)
    assert statistics["variance"] == pytest.approx(valid.var(), rel=1e-12)
    assert statistics["background"] == pytest.approx(104, abs=2)
    assert verify_chain(store, manifest) == 3


def test_flux_is_conserved(mosaic, sky):
    manifest = mosaic(N26=sky)
    flux = manifest.attributes["planes"][0]["flux"]
    assert manifest.attributes["flux_conserved"] is True
    assert flux["conserved"] is True
    assert flux["relative_difference"] < 1e-12
    assert flux["exact"] is False
    exact = math.fsum(sky[np.isfinite(sky)].tolist())
    assert flux["image_total"] == pytest.approx(exact, rel=1e-15)


def test_integer_flux_is_exact(mosaic):
    rng = np.random.default_rng(1)
    counts = rng.integers(0, 65535, (1, 200, 301), dtype=np.uint16, endpoint=True)
    flux = mosaic(counts=counts).attributes["planes"][0]["flux"]
    assert flux["exact"] is True
    assert flux["image_total"] == flux["tiles_total"] == int(counts.sum(dtype=np.int64))
    assert flux["conserved"] is True


def test_one_count_lost_is_found(mosaic):
    counts = np.full((1, 100, 100), 1000, dtype=np.int32)
    changed = counts.copy()
    changed[0, 3, 4] -= 1
    manifest = mosaic(original={"counts": changed}, counts=counts)
    assert manifest.attributes["flux_conserved"] is False


def test_a_lost_tile_is_found_in_a_float_image(mosaic, sky):
    original = sky.copy()
    original[0, 128:192, 128:192] += 1e-5
    manifest = mosaic(original={"N26": original}, N26=sky)
    assert manifest.attributes["flux_conserved"] is False


def test_without_the_observation_flux_is_not_claimed(store, observe, ingested, sky):
    observation = observe(N26=sky)
    tiles = write_tiles(store, ingested(store, observation), observation, code_version="1")
    manifest = aggregate_tiles(store, tiles, None, code_version="1")
    assert manifest.attributes["flux_conserved"] is None
    assert manifest.attributes["planes"][0]["flux"] is None
    checked = aggregate_tiles(store, tiles, observation, code_version="1")
    assert checked.attributes["flux_conserved"] is True
    assert aggregate_tiles(store, tiles, observation, code_version="1") == checked


def test_planes_without_valid_samples_aggregate_to_null(mosaic):
    manifest = mosaic(empty=np.full((1, 70, 70), np.nan, dtype=np.float32))
    plane = manifest.attributes["planes"][0]
    assert plane["statistics"]["mean"] is None
    assert plane["flux"]["conserved"] is True


def test_maps_are_stored_and_hashed(mosaic, store, sky):
    manifest = mosaic(N26=sky)
    plane = manifest.attributes["planes"][0]
    background = _load(store, manifest, plane["background_map"])
    assert background.shape == (1, 5, 7)
    assert background.dtype == np.float32
    assert np.all(np.abs(background - 104) < 12)
    preview = _load(store, manifest, plane["preview"])
    assert preview.dtype == np.float32
    # 421 pixels fit as they are.
    finite = np.isfinite(sky[0])
    assert np.array_equal(preview[finite], sky[0][finite])
    assert np.isnan(preview[~finite]).all()


def test_preview_of_a_mask_is_the_flagged_fraction(mosaic, store):
    mask = np.zeros((1, 1030, 8), dtype=np.int32)
    mask[0, :3] = 64
    manifest = mosaic(kinds={"flags": "mask"}, flags=mask)
    preview = _load(store, manifest, "preview/flags.npy")
    assert preview.shape == (344, 3)
    assert preview[0, 0] == 1
    assert preview[1:].max() == 0


def test_tiles_are_checked_while_they_are_aggregated(store, observe, ingested, sky):
    observation = observe(N26=sky)
    tiles = write_tiles(store, ingested(store, observation), observation, code_version="1")
    store.delete(f"{tiles.prefix}/planes/N26/c")
    with pytest.raises(IntegrityError, match="planes/N26"):
        aggregate_tiles(store, tiles, observation, code_version="1")
    assert not store.exists(f"mosaic/{tiles.key}/current.json")


@given(
    shape=st.tuples(st.integers(1, 2), st.integers(1, 60), st.integers(1, 60)),
    tile_size=st.integers(1, 33),
    longest=st.integers(1, 20),
    seed=st.integers(0, 99),
)
@settings(max_examples=80, deadline=None)
def test_block_means_do_not_depend_on_the_tiling(shape, tile_size, longest, seed):
    rng = np.random.default_rng(seed)
    cube = rng.integers(-50, 50, shape).astype(np.float64)
    cube[rng.random(shape) < 0.1] = np.nan
    mean = BlockMean(shape[1], shape[2], longest=longest)
    for tile in TileGrid(shape, tile_size):
        mean.add(tile, cube[tile.channel, tile.y0 : tile.y1, tile.x0 : tile.x1])
    result = mean.result()
    assert max(result.shape) <= longest
    step = mean.factor
    for row in range(result.shape[0]):
        for column in range(result.shape[1]):
            block = cube[:, row * step : (row + 1) * step, column * step : (column + 1) * step]
            valid = block[np.isfinite(block)]
            expected = np.float32(valid.mean()) if valid.size else np.float32(np.nan)
            assert np.array_equal(result[row, column], expected, equal_nan=True)


@given(
    values=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=40),
    dtype=st.sampled_from(["i1", "u1", "i2", "u4", "i8", "u8", "?"]),
)
@settings(max_examples=150, deadline=None)
def test_integer_totals_are_exact(values, dtype):
    pixels = np.array(values, dtype=np.int64).astype(dtype)[None]
    total = StreamingTotal()
    total.add(pixels)
    expected = [int(v) for v in pixels[0]]
    assert total.total == sum(expected)
    assert total.magnitude == sum(abs(v) for v in expected)


def test_float_totals_leave_out_what_is_not_finite():
    pixels = np.array([[1.0, np.nan, -3.5], [np.inf, -np.inf, 1e-3]], dtype=np.float32)
    total = StreamingTotal()
    total.add(pixels)
    total.add(pixels)
    assert total.total == pytest.approx(2 * (1 - 3.5 + 1e-3), rel=1e-7)
    assert total.magnitude == pytest.approx(2 * (1 + 3.5 + 1e-3), rel=1e-7)


@given(
    groups=st.lists(
        st.lists(st.integers(-1000, 1000), min_size=1, max_size=12), min_size=1, max_size=6
    )
)
@settings(max_examples=100, deadline=None)
def test_pooling_is_exact_against_fractions(groups):
    records = [
        {
            "count": len(g),
            "invalid_count": 1,
            "minimum": min(g),
            "maximum": max(g),
            "mean": sum(g) / len(g),
            "variance": float(np.var(g)),
            "total": float(sum(g)),
            "background": float(np.median(g)),
            "background_rms": 1.0,
        }
        for g in groups
    ]
    flat = [Fraction(v) for g in groups for v in g]
    mean = sum(flat) / len(flat)
    variance = sum((v - mean) ** 2 for v in flat) / len(flat)
    pooled = pool_statistics(records)
    assert pooled["count"] == len(flat)
    assert pooled["invalid_count"] == len(groups)
    assert pooled["total"] == float(sum(flat))
    assert pooled["mean"] == pytest.approx(float(mean), rel=1e-12, abs=1e-12)
    assert pooled["variance"] == pytest.approx(float(variance), rel=1e-10, abs=1e-8)


@pytest.mark.parametrize(
    ("values", "weights", "expected"),
    [
        ([5.0], [3], 5.0),
        ([1.0, 2.0], [1, 1], 1.5),
        ([9.0, 1.0, 2.0], [1, 1, 1], 2.0),
        ([1.0, 100.0], [1, 10], 100.0),
        ([3.0, 1.0, 2.0, 4.0], [1, 1, 1, 1], 2.5),
    ],
)
def test_weighted_median(values, weights, expected):
    assert weighted_median(values, weights) == expected


def test_weighted_median_is_the_median_of_repeated_values():
    rng = np.random.default_rng(8)
    for _ in range(50):
        values = rng.normal(size=7)
        weights = rng.integers(1, 6, 7)
        expected = np.median(np.repeat(values, weights))
        assert weighted_median(values.tolist(), weights.tolist()) == pytest.approx(expected)


def test_blocks_are_bounded_by_the_plane():
    mean = BlockMean(1, 1, longest=512)
    mean.add(Window(0, 0, 1, 0, 1), np.ones((1, 1)))
    assert mean.result().tolist() == [[1.0]]
