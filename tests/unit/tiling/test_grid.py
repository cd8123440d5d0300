import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acie_pipelines.errors import ConfigurationError
from acie_pipelines.tiling.grid import MAX_GROUP_BYTES, TileGrid

SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 90), st.integers(1, 90))


@given(shape=SHAPES, tile_size=st.integers(1, 40))
@settings(max_examples=150, deadline=None)
def test_tiles_cover_every_pixel_exactly_once(shape, tile_size):
    grid = TileGrid(shape, tile_size)
    covered = np.zeros(shape, dtype=np.int64)
    for tile in grid:
        assert 0 < tile.y1 - tile.y0 <= tile_size
        assert 0 < tile.x1 - tile.x0 <= tile_size
        covered[tile.channel, tile.y0 : tile.y1, tile.x0 : tile.x1] += 1
    assert (covered == 1).all()
    assert len(list(grid)) == len(grid)


@given(shape=SHAPES, tile_size=st.integers(1, 40), dtype=st.sampled_from(["u1", "<f4", "<f8"]))
@settings(max_examples=150, deadline=None)
def test_groups_hold_all_tiles_in_order(shape, tile_size, dtype):
    grid = TileGrid(shape, tile_size)
    groups = list(grid.groups(np.dtype(dtype)))
    assert [tile for group in groups for tile in group.tiles] == list(grid)
    for group in groups:
        window = group.window
        area = sum((t.y1 - t.y0) * (t.x1 - t.x0) for t in group.tiles)
        assert area == (window.y1 - window.y0) * (window.x1 - window.x0)


@given(
    height=st.integers(1, 70_000),
    width=st.integers(1, 2_000_000),
    tile_size=st.sampled_from([64, 256, 1024, 2048]),
    dtype=st.sampled_from(["u1", "<i2", "<f4", "<f8"]),
)
@settings(max_examples=60, deadline=None)
def test_groups_fit_memory_and_are_whole_shards(height, width, tile_size, dtype):
    kind = np.dtype(dtype)
    # One band stands for all: geometry along x is the same in each.
    grid = TileGrid((1, min(height, tile_size), width), tile_size)
    shard = grid.shard_columns(kind) * tile_size
    for group in grid.groups(kind):
        window = group.window
        samples = (window.y1 - window.y0) * (window.x1 - window.x0)
        assert samples * kind.itemsize <= MAX_GROUP_BYTES
        assert window.x0 % shard == 0
        assert window.x1 % shard == 0 or window.x1 == width


def test_a_band_of_a_wide_image_is_read_once():
    grid = TileGrid((1, 5000, 8_000), 1024)
    assert len(list(grid.groups(np.dtype("<f4")))) == grid.rows


@pytest.mark.parametrize(("shape", "tile_size"), [((1, 0, 5), 8), ((1, 5, 5), 0), ((1, 5, 5), -1)])
def test_impossible_grids_are_refused(shape, tile_size):
    with pytest.raises(ConfigurationError):
        TileGrid(shape, tile_size)


def test_a_tile_too_large_for_memory_is_refused():
    grid = TileGrid((1, 10_000, 10_000), 8192)
    with pytest.raises(ConfigurationError, match="MiB"):
        next(grid.groups(np.dtype("<f8")))
