"""An observation held in memory and a store to tile it into."""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from acie_pipelines.observations.model import Plane, PlaneKind, Window
from acie_pipelines.provenance import Manifest, Output, array_sha256, new_generation
from acie_pipelines.storage import Store

WCS = "CTYPE1  = 'RA---TAN'"


class ArrayObservation:
    """Planes that are slices of arrays; counts how often each sample is read."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]], kinds: Mapping[str, PlaneKind]) -> None:
        self._arrays = arrays
        self.format = "FITS"
        self.header: dict[str, Any] = {}
        self.largest_read = 0
        self.samples_read = 0
        self.planes = tuple(
            Plane(
                name,
                kinds.get(name, "image"),
                array.shape,  # type: ignore[arg-type]
                array.dtype.newbyteorder("<"),
                unit="adu",
                wcs=WCS,
                pixel_scale_arcsec=0.25,
            )
            for name, array in arrays.items()
        )

    def read(self, plane: Plane, window: Window) -> NDArray[Any]:
        pixels = np.ascontiguousarray(
            self._arrays[plane.name][window.channel, window.y0 : window.y1, window.x0 : window.x1]
        )
        self.largest_read = max(self.largest_read, pixels.nbytes)
        self.samples_read += pixels.size
        return pixels

    def close(self) -> None:
        pass


@pytest.fixture
def observe() -> Callable[..., ArrayObservation]:
    """Make an observation from named 3-D arrays."""

    def make(kinds: Mapping[str, PlaneKind] | None = None, **arrays: NDArray[Any]) -> Any:
        return ArrayObservation(arrays, kinds or {})

    return make


@pytest.fixture
def store(tmp_path: Any) -> Iterator[Store]:
    yield Store(str(tmp_path / "store"))


def ingest(
    store: Store, observation: ArrayObservation, key: str = "field-0123456789ab"
) -> Manifest:
    content = "".join(array_sha256(a) for a in observation._arrays.values()).encode()
    with new_generation(
        store, "observation", key, inputs=(), code_version="1", parameters={}
    ) as generation:
        store.write_bytes(f"{generation.prefix}/source.fits", content)
        sha256 = array_sha256(np.frombuffer(content, dtype=np.uint8))
        return generation.commit((Output("source.fits", sha256),), {"sha256": sha256})


@pytest.fixture
def ingested() -> Callable[..., Manifest]:
    """Give an in-memory observation a manifest."""
    return ingest


@pytest.fixture
def sky() -> NDArray[np.float32]:
    """A noisy field with sources, gradients, NaN, infinities and a negative zero."""
    rng = np.random.default_rng(20)
    y, x = np.mgrid[0:300, 0:421]
    field = 100 + 0.02 * x + rng.normal(0, 3, (300, 421))
    for _ in range(30):
        cy, cx = rng.uniform(0, 300), rng.uniform(0, 421)
        field += rng.uniform(50, 900) * np.exp(-((y - cy) ** 2 + (x - cx) ** 2) / 18)
    field[10:14, 20:40] = math.nan
    field[200, 7] = math.inf
    field[201, 7] = -math.inf
    field[0, 0] = -0.0
    return field.astype(np.float32)[None]
