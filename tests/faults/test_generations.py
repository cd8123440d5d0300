"""Making a dataset again with other content: a new generation, and never tiles of both."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from acie_pipelines.observations.model import Plane
from acie_pipelines.provenance import (
    Output,
    current_manifest,
    file_sha256,
    new_generation,
    read_manifest,
    verify_chain,
)
from acie_pipelines.storage import Store
from acie_pipelines.tiling.reading import iter_tiles
from acie_pipelines.tiling.writer import write_tiles

KEY = "field-0123456789ab"


class Flat:
    """An image of one value."""

    format = "FITS"

    def __init__(self, value):
        self.value = value
        self.header = {}
        self.planes = (Plane("flat", "image", (1, 160, 160), np.dtype("<i2")),)

    def read(self, plane, window):
        return np.full(
            (window.y1 - window.y0, window.x1 - window.x0), self.value, dtype=plane.dtype
        )

    def close(self):
        pass


def _ingest(store, value):
    with new_generation(
        store, "observation", KEY, inputs=(), code_version="1", parameters={"value": value}
    ) as generation:
        name = f"{generation.prefix}/source"
        store.write_bytes(name, str(value).encode())
        sha256 = file_sha256(store, name)
        return generation.commit((Output("source", sha256),), {"sha256": sha256})


def _tile(store, value):
    return write_tiles(store, _ingest(store, value), Flat(value), code_version="1", tile_size=40)


def test_changed_content_is_another_generation(tmp_path):
    store = Store(str(tmp_path))
    first, second = _tile(store, 1), _tile(store, 2)
    assert first.generation != second.generation
    assert first.inputs != second.inputs
    for manifest, value in ((first, 1), (second, 2)):
        assert verify_chain(store, read_manifest(store, "tiles", KEY, manifest.generation)) == 2
        assert all((pixels == value).all() for _, pixels in iter_tiles(store, manifest))
    assert current_manifest(store, "tiles", KEY) == second


def test_racing_writers_never_mix_tiles(tmp_path):
    store = Store(str(tmp_path))
    _tile(store, 0)
    stop = threading.Event()
    seen = []

    def read():
        while not stop.is_set():
            manifest = current_manifest(store, "tiles", KEY)
            tiles = [pixels for _, pixels in iter_tiles(store, manifest)]
            seen.append((len(tiles), len({int(v) for p in tiles for v in np.unique(p)})))

    reader = threading.Thread(target=read)
    reader.start()
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda value: _tile(store, value), range(1, 13)))
    stop.set()
    reader.join()
    assert set(seen) == {(16, 1)}
