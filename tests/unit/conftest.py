"""A store, and tiles of arrays in memory."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from acie_pipelines.observations.model import Observation, Plane, Window
from acie_pipelines.provenance import Manifest, Output, array_sha256, new_generation
from acie_pipelines.storage import Store
from acie_pipelines.tiling.writer import write_tiles


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


class ArrayObservation:
    """An observation whose planes are arrays in memory."""

    format = "FITS"

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._arrays = arrays
        self.header: Mapping[str, Any] = {}
        self.planes = tuple(
            Plane(name, "image", (len(pixels), *pixels[0].shape), pixels.dtype, unit="adu")
            for name, pixels in arrays.items()
        )

    def read(self, plane: Plane, window: Window) -> NDArray[Any]:
        rows, columns = slice(window.y0, window.y1), slice(window.x0, window.x1)
        return np.ascontiguousarray(self._arrays[plane.name][window.channel, rows, columns])

    def close(self) -> None:
        pass


@pytest.fixture
def tile_up(store: Store) -> Callable[..., Manifest]:
    """Cut named 3-D arrays into a ``tiles`` dataset."""

    def make(planes: dict[str, NDArray[Any]], tile_size: int = 8) -> Manifest:
        content = "".join(array_sha256(pixels) for pixels in planes.values()).encode()
        with new_generation(
            store, "observation", "field-0123456789ab", inputs=(), code_version="1", parameters={}
        ) as generation:
            store.write_bytes(f"{generation.prefix}/original/field.fits", content)
            sha256 = array_sha256(np.frombuffer(content, dtype=np.uint8))
            ingested = generation.commit(
                (Output("original/field.fits", sha256),), {"sha256": sha256}
            )
        observation: Observation = ArrayObservation(planes)
        return write_tiles(store, ingested, observation, code_version="1", tile_size=tile_size)

    return make
