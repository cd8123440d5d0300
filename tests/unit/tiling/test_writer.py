import uuid

import numpy as np
import pytest
import zarr

from acie_pipelines.errors import ConfigurationError, IntegrityError, UnreadableObservationError
from acie_pipelines.observations.model import Plane
from acie_pipelines.provenance import array_sha256, current_manifest, verify_chain, verify_outputs
from acie_pipelines.storage import Store
from acie_pipelines.tiling.reading import iter_tiles, open_plane, plane_record, read_tile, tiles_of
from acie_pipelines.tiling.writer import write_tiles

DTYPES = ["?", "u1", "i1", "<u2", "<i2", "<u4", "<i4", "<i8", "<u8", "<f2", "<f4", "<f8"]


def _same_bits(a, b):
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()


def test_every_sample_survives_bit_for_bit(store, observe, ingested, sky):
    mask = (np.nan_to_num(sky) > 150).astype(np.int32)
    observation = observe({"flags": "mask"}, N26=sky, flags=mask)
    manifest = write_tiles(
        store, ingested(store, observation), observation, code_version="1", tile_size=64
    )
    for name, expected in (("N26", sky), ("flags", mask)):
        assert _same_bits(np.asarray(open_plane(store, manifest, name)[:]), expected)
        for tile, pixels in iter_tiles(store, manifest, name):
            piece = expected[tile.channel, tile.y0 : tile.y1, tile.x0 : tile.x1]
            assert _same_bits(pixels, np.ascontiguousarray(piece))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_instruments_dtype_is_kept(store, observe, ingested, dtype):
    kind = np.dtype(dtype)
    rng = np.random.default_rng(3)
    if kind.kind == "f":
        cube = rng.normal(0, 1, (2, 33, 50)).astype(kind)
    elif kind.kind == "b":
        cube = rng.random((2, 33, 50)) < 0.5
    else:
        limits = np.iinfo(kind)
        cube = rng.integers(limits.min, limits.max, (2, 33, 50), dtype=kind, endpoint=True)
    observation = observe(cube=cube)
    manifest = write_tiles(
        store, ingested(store, observation), observation, code_version="1", tile_size=16
    )
    array = open_plane(store, manifest, "cube")
    assert array.dtype == kind
    assert _same_bits(np.asarray(array[:]), cube)


def test_payloads_of_nan_and_all_fill_tiles_survive(store, observe, ingested):
    field = np.full((1, 20, 20), np.nan, dtype=np.float32)
    field.view(np.uint32)[0, :10, :10] = 0x7FC0_0ABC
    counts = np.zeros((1, 20, 20), dtype=np.int16)
    observation = observe(field=field, counts=counts)
    manifest = write_tiles(
        store, ingested(store, observation), observation, code_version="1", tile_size=10
    )
    verify_outputs(store, manifest)
    assert _same_bits(np.asarray(open_plane(store, manifest, "field")[:]), field)


def test_manifest_states_planes_tiles_and_hashes(store, observe, ingested, sky):
    observation = observe(N26=sky)
    source = ingested(store, observation)
    manifest = write_tiles(store, source, observation, code_version="7", tile_size=128)
    assert manifest.kind == "tiles"
    assert manifest.key == source.key
    assert manifest.inputs == (source.as_input(),)
    assert manifest.code_version == "7"
    assert set(manifest.attributes) == {"planes", "tile_size", "tiles", "pixels", "bytes"}
    assert manifest.attributes["pixels"] == sky.size
    assert manifest.attributes["bytes"] == sky.nbytes
    (plane,) = manifest.attributes["planes"]
    assert plane == {
        "name": "N26",
        "kind": "image",
        "shape": [1, 300, 421],
        "dtype": "<f4",
        "unit": "adu",
        "wcs": "CTYPE1  = 'RA---TAN'",
        "pixel_scale_arcsec": 0.25,
        "array": "planes/N26",
    }
    last = manifest.attributes["tiles"][-1]
    assert {k: last[k] for k in ("plane", "channel", "y0", "y1", "x0", "x1")} == {
        "plane": "N26",
        "channel": 0,
        "y0": 256,
        "y1": 300,
        "x0": 384,
        "x1": 421,
    }
    assert manifest.outputs[-1].path == "planes/N26"
    assert manifest.outputs[-1].region == ((0, 1), (256, 300), (384, 421))
    assert manifest.outputs[-1].sha256 == array_sha256(sky[0, 256:, 384:])
    assert verify_chain(store, manifest) == 2


def test_statistics_of_a_tile_without_valid_samples_are_null(store, observe, ingested):
    observation = observe(field=np.full((1, 8, 8), np.nan, dtype=np.float32))
    manifest = write_tiles(store, ingested(store, observation), observation, code_version="1")
    (tile,) = tiles_of(manifest)
    assert tile.statistics["count"] == 0
    assert tile.statistics["invalid_count"] == 64
    assert tile.statistics["mean"] is None
    assert tile.statistics["background"] is None


def test_statistics_agree_with_numpy(store, observe, ingested, sky):
    observation = observe(N26=sky)
    manifest = write_tiles(
        store, ingested(store, observation), observation, code_version="1", tile_size=100
    )
    for tile in tiles_of(manifest):
        piece = sky[0, tile.y0 : tile.y1, tile.x0 : tile.x1].astype(np.float64)
        valid = piece[np.isfinite(piece)]
        assert tile.statistics["count"] == valid.size
        assert tile.statistics["invalid_count"] == piece.size - valid.size
        assert tile.statistics["minimum"] == valid.min()
        assert tile.statistics["maximum"] == valid.max()
        assert tile.statistics["mean"] == pytest.approx(valid.mean(), rel=1e-12)
        assert tile.statistics["variance"] == pytest.approx(valid.var(), rel=1e-10)
        assert tile.statistics["total"] == pytest.approx(valid.sum(), rel=1e-12)


def test_the_zarr_group_opens_on_its_own(store, observe, ingested, sky):
    observation = observe(N26=sky)
    source = ingested(store, observation)
    manifest = write_tiles(store, source, observation, code_version="1", tile_size=64)
    group = zarr.open_group(store.zarr(manifest.prefix), mode="r")
    array = group["planes/N26"]
    assert array.metadata.zarr_format == 3
    assert array.shards is not None
    assert array.chunks == (1, 64, 64)
    assert array.metadata.dimension_names == ("channel", "y", "x")
    assert array.attrs["BUNIT"] == "adu"
    assert array.attrs["wcs"].startswith("CTYPE1")
    assert array.attrs["origin_sha256"] == source.attributes["sha256"]
    assert np.isnan(array.fill_value)


def test_the_observation_is_read_once_in_bounded_windows(store, observe, ingested):
    wide = np.arange(70 * 9000, dtype=np.float32).reshape(1, 70, 9000)
    observation = observe(wide=wide)
    write_tiles(store, ingested(store, observation), observation, code_version="1", tile_size=32)
    assert observation.samples_read == wide.size
    assert observation.largest_read <= 64 << 20


def test_a_spectrum_is_not_padded_to_square_chunks(store, observe, ingested):
    flux = np.linspace(0, 1, 5000, dtype=np.float32).reshape(1, 1, 5000)
    observation = observe({"flux": "spectrum"}, flux=flux)
    manifest = write_tiles(store, ingested(store, observation), observation, code_version="1")
    assert open_plane(store, manifest, "flux").chunks == (1, 1, 1024)
    assert plane_record(manifest, "flux")["kind"] == "spectrum"


def test_unchanged_input_reuses_the_tiles(store, observe, ingested, sky):
    observation = observe(N26=sky)
    source = ingested(store, observation)
    first = write_tiles(store, source, observation, code_version="1", tile_size=128)
    read = observation.samples_read
    again = write_tiles(store, source, observation, code_version="1", tile_size=128)
    assert again == first
    assert observation.samples_read == read
    other_size = write_tiles(store, source, observation, code_version="1", tile_size=100)
    other_code = write_tiles(store, source, observation, code_version="2", tile_size=100)
    assert len({first.generation, other_size.generation, other_code.generation}) == 3


def test_damaged_tiles_are_made_again(store, observe, ingested, sky):
    observation = observe(N26=sky)
    source = ingested(store, observation)
    first = write_tiles(store, source, observation, code_version="1", tile_size=128)
    store.delete(f"{first.prefix}/planes/N26/c")
    again = write_tiles(store, source, observation, code_version="1", tile_size=128)
    assert again.generation != first.generation
    assert again.digest == first.digest
    verify_outputs(store, again)


def test_changed_content_makes_a_new_generation_and_leaves_the_old(store, observe, ingested, sky):
    first_view = observe(N26=sky)
    first = write_tiles(
        store, ingested(store, first_view), first_view, code_version="1", tile_size=128
    )
    second_view = observe(N26=sky * 2)
    second = write_tiles(
        store, ingested(store, second_view), second_view, code_version="1", tile_size=128
    )
    assert current_manifest(store, "tiles", first.key) == second
    assert verify_chain(store, first) == 2
    assert verify_chain(store, second) == 2


def test_a_failing_reader_leaves_nothing_behind(store, observe, ingested, sky):
    observation = observe(N26=sky)
    source = ingested(store, observation)
    first = write_tiles(store, source, observation, code_version="1", tile_size=64)
    broken = observe(N26=sky)
    calls = iter(range(100))

    def read(plane, window):
        if next(calls) == 2:
            raise UnreadableObservationError("field.fits", "bad tile", "fetch it again")
        return np.ascontiguousarray(sky[0, window.y0 : window.y1, window.x0 : window.x1])

    broken.read = read
    with pytest.raises(UnreadableObservationError):
        write_tiles(store, source, broken, code_version="2", tile_size=64)
    assert store.names(f"tiles/{source.key}") == ["current.json", first.generation]
    verify_outputs(store, current_manifest(store, "tiles", source.key))


def test_a_reader_that_breaks_its_promise_is_caught(store, observe, ingested, sky):
    observation = observe(N26=sky)
    observation.planes = (Plane("N26", "image", (1, 300, 421), np.dtype("<f8")),)
    with pytest.raises(UnreadableObservationError, match="float64"):
        write_tiles(store, ingested(store, observation), observation, code_version="1")


def test_a_bad_tile_size_is_refused(store, observe, ingested, sky):
    observation = observe(N26=sky)
    with pytest.raises(ConfigurationError):
        write_tiles(store, ingested(store, observation), observation, code_version="1", tile_size=0)


def test_progress_counts_tiles(store, observe, ingested, sky):
    observation = observe(N26=sky)
    seen = []
    write_tiles(
        store,
        ingested(store, observation),
        observation,
        code_version="1",
        tile_size=128,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(4, 12), (8, 12), (12, 12)]


@pytest.fixture
def tiled(store, observe, ingested, sky):
    observation = observe(N26=sky)
    return write_tiles(
        store, ingested(store, observation), observation, code_version="1", tile_size=128
    )


def test_a_flipped_byte_is_named(store, tiled):
    shard = store.local_path(f"{tiled.prefix}/planes/N26/c/0/1/0")
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 0x10
    shard.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"planes/N26"):
        list(iter_tiles(store, tiled))


def test_a_missing_shard_is_not_read_as_sky(store, tiled):
    store.delete(f"{tiled.prefix}/planes/N26/c/0/2/0")
    tile = next(t for t in tiles_of(tiled) if t.y0 == 256)
    with pytest.raises(IntegrityError, match="256:300"):
        read_tile(store, tiled, tile)


def test_the_same_bytes_under_another_dtype_are_refused(store, tiled):
    metadata = store.local_path(f"{tiled.prefix}/planes/N26/zarr.json")
    text = metadata.read_text()
    metadata.write_text(text.replace('"float32"', '"int32"').replace('"NaN"', "0"))
    with pytest.raises(IntegrityError, match="int32"):
        open_plane(store, tiled, "N26")
    with pytest.raises(IntegrityError, match="does not match"):
        verify_outputs(store, tiled)


def test_an_unknown_plane_is_named(store, tiled):
    with pytest.raises(IntegrityError, match="choose one of N26"):
        open_plane(store, tiled, "R")


def test_a_missing_array_is_named(store, tiled):
    store.delete(f"{tiled.prefix}/planes/N26/zarr.json")
    with pytest.raises(IntegrityError, match="cannot be opened"):
        open_plane(store, tiled, "N26")


def test_remote_stores_hold_the_same_tiles(tiled, observe, ingested, sky):
    remote = Store(f"memory://{uuid.uuid4().hex}")
    observation = observe(N26=sky)
    manifest = write_tiles(
        remote, ingested(remote, observation), observation, code_version="1", tile_size=128
    )
    assert manifest.digest == tiled.digest
    assert verify_chain(remote, manifest) == 2
