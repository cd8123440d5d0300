"""Cutting an observation into hashed, measured tiles, as a stream.

Belongs here: the pass that reads an observation once and writes the ``tiles`` dataset.
Does not belong here: reading tiles back (`acie_pipelines.tiling.reading`), file formats.
"""

import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.errors import UnreadableObservationError
from acie_pipelines.observations.model import Observation, Plane, Window
from acie_pipelines.provenance import (
    Generation,
    Manifest,
    Output,
    array_sha256,
    new_generation,
    reusable_manifest,
)
from acie_pipelines.storage import Store, storage_errors
from acie_pipelines.tiling.grid import DEFAULT_TILE_SIZE, TileGrid, TileGroup

if TYPE_CHECKING:
    from zarr import Array

__all__ = ["KIND", "Progress", "write_tiles"]

KIND = "tiles"
# Level 3 costs noise-dominated float images no more time than level 1 and a shuffled mantissa
# gains nothing from more.
_COMPRESSION_LEVEL = 3
_MAX_WORKERS = 4

Progress = Callable[[int, int], None]


def write_tiles(
    store: Store,
    observation_manifest: Manifest,
    observation: Observation,
    *,
    code_version: str,
    tile_size: int = DEFAULT_TILE_SIZE,
    progress: Progress | None = None,
) -> Manifest:
    """Cut every plane of an observation into tiles.

    Each plane becomes a sharded Zarr v3 array ``planes/<name>`` of the plane's own dtype. Samples
    survive bit for bit: the reader already yields the instrument's exact type, and narrowing
    ``float64`` to ``float32`` would lose digits for a gain in size that compression mostly
    recovers. Missing chunks of float arrays read as NaN, so damage cannot look like dark sky.

    Parameters
    ----------
    store
        Where the dataset goes.
    observation_manifest
        Dataset of kind ``observation`` that `observation` was opened from.
    observation
        The open observation; read once, window by window.
    code_version
        Version of the code, recorded in the manifest.
    tile_size
        Side of a tile in pixels; tiles at the right and lower edge are smaller.
    progress
        Called with tiles done and tiles in all.

    Returns
    -------
    Manifest
        Of kind ``tiles`` under the observation's key. Its attributes are ``planes``,
        ``tile_size``, ``tiles`` (one record per output, in the same order), ``pixels`` and
        ``bytes`` (both before compression). The current manifest is returned when it was made
        from the same input, code and parameters and is undamaged.

    Raises
    ------
    StorageError
        If the store is full or unreachable; the earlier tiles are intact.
    ObservationError
        If samples cannot be decoded.
    ConfigurationError
        If the tile size is not positive or makes tiles too large to hold in memory.
    """
    inputs = (observation_manifest.as_input(),)
    parameters = {"tile_size": tile_size}
    key = observation_manifest.key
    reusable = reusable_manifest(
        store, KIND, key, inputs=inputs, code_version=code_version, parameters=parameters
    )
    if reusable is not None:
        return reusable
    grids = [(plane, TileGrid(plane.shape, tile_size)) for plane in observation.planes]
    total = sum(len(grid) for _, grid in grids)
    with new_generation(
        store, KIND, key, inputs=inputs, code_version=code_version, parameters=parameters
    ) as generation:
        origin = observation_manifest.attributes["sha256"]
        records: list[dict[str, Any]] = []
        outputs: list[Output] = []
        with (
            _plane_writer(store, generation, origin) as create,
            ThreadPoolExecutor(min(_MAX_WORKERS, os.cpu_count() or 1)) as pool,
        ):
            for plane, grid in grids:
                array = create(plane, grid)
                for group in grid.groups(plane.dtype):
                    for tile, (statistics, sha256) in zip(
                        group.tiles,
                        _write_group(observation, plane, grid, group, array, pool),
                        strict=True,
                    ):
                        records.append(_record(plane, tile, statistics))
                        outputs.append(_output(plane, tile, sha256, array.dtype))
                    if progress is not None:
                        progress(len(outputs), total)
        return generation.commit(
            tuple(outputs),
            {
                "planes": [_describe(plane) for plane, _ in grids],
                "tile_size": tile_size,
                "tiles": records,
                "pixels": sum(math.prod(plane.shape) for plane, _ in grids),
                "bytes": sum(plane.nbytes for plane, _ in grids),
            },
        )


@contextmanager
def _plane_writer(
    store: Store, generation: Generation, origin: str
) -> "Iterator[Callable[[Plane, TileGrid], Array[Any]]]":
    """Make the observation's Zarr group; yield a function that makes a plane's array in it."""
    import zarr
    from zarr.codecs import BloscCodec

    with storage_errors(f"{store.url}/{generation.prefix}"):
        root = zarr.create_group(
            store.zarr(generation.prefix),
            attributes={"observation": generation.key, "origin_sha256": origin},
        )
        planes = root.create_group("planes")

    def create(plane: Plane, grid: TileGrid) -> "Array[Any]":
        chunk_y, chunk_x = (min(grid.tile_size, axis) for axis in plane.shape[1:])
        with storage_errors(f"{store.url}/{generation.prefix}"):
            array: Array[Any] = planes.create_array(
                plane.name,
                shape=plane.shape,
                dtype=plane.dtype,
                chunks=(1, chunk_y, chunk_x),
                shards=(1, chunk_y, chunk_x * grid.shard_columns(plane.dtype)),
                compressors=BloscCodec(cname="zstd", clevel=_COMPRESSION_LEVEL, shuffle="shuffle"),
                fill_value=math.nan if plane.dtype.kind == "f" else 0,
                dimension_names=("channel", "y", "x"),
                attributes={
                    "kind": plane.kind,
                    "BUNIT": plane.unit,
                    "wcs": plane.wcs,
                    "pixel_scale_arcsec": plane.pixel_scale_arcsec,
                    "origin_sha256": origin,
                },
                # Zarr drops chunks that equal the fill value, and with them the payload of NaNs.
                config={"write_empty_chunks": True},
            )
        return array

    yield create


def _write_group(
    observation: Observation,
    plane: Plane,
    grid: TileGrid,
    group: TileGroup,
    array: "Array[Any]",
    pool: ThreadPoolExecutor,
) -> list[tuple[dict[str, Any], str]]:
    """Read a group, measure and hash its tiles while its shards are compressed and written."""
    window = group.window
    pixels = observation.read(plane, window)
    expected = (window.y1 - window.y0, window.x1 - window.x0)
    if pixels.shape != expected or pixels.dtype != plane.dtype:
        raise UnreadableObservationError(
            plane.name,
            f"decodes to {pixels.dtype}{pixels.shape} where {plane.dtype}{expected} is declared",
            "check the file with its own tools",
        )
    measured: list[Future[tuple[dict[str, Any], str]]] = [
        pool.submit(_measure, pixels[:, tile.x0 - window.x0 : tile.x1 - window.x0])
        for tile in group.tiles
    ]
    per_shard = grid.shard_columns(plane.dtype)
    for first in range(0, len(group.tiles), per_shard):
        shard = group.tiles[first : first + per_shard]
        x0, x1 = shard[0].x0, shard[-1].x1
        with storage_errors(array.store_path):
            array[window.channel, window.y0 : window.y1, x0:x1] = pixels[
                :, x0 - window.x0 : x1 - window.x0
            ]
    return [future.result() for future in measured]


def _measure(pixels: NDArray[Any]) -> tuple[dict[str, Any], str]:
    """Statistics and hash of one tile."""
    from acie_native import tile_statistics

    tile = np.ascontiguousarray(pixels)
    found = tile_statistics(_measurable(tile))
    numbers: dict[str, Any] = {"count": int(found.count), "invalid_count": int(found.invalid_count)}
    for name in ("minimum", "maximum", "mean", "variance", "total", "background"):
        numbers[name] = _finite(getattr(found, name))
    numbers["background_rms"] = _finite(found.background_rms)
    return numbers, array_sha256(tile)


def _measurable(tile: NDArray[Any]) -> NDArray[Any]:
    """Widen a tile to a type the kernel takes; exact but for unsigned integers of 2**63 or more."""
    narrow = {"b1": "u1", "i1": "<i2", "f2": "<f4"}.get(tile.dtype.str[1:])
    if narrow is not None:
        return tile.astype(narrow)
    if tile.dtype == np.uint64:
        return tile.astype(np.int64 if tile.max() < 1 << 63 else np.float64)
    return tile


def _finite(value: float) -> float | None:
    """Keep integers as they are; JSON has no NaN, so what is not a number is null."""
    if isinstance(value, int):
        return value
    return float(value) if math.isfinite(value) else None


def _record(plane: Plane, tile: Window, statistics: dict[str, Any]) -> dict[str, Any]:
    return {
        "plane": plane.name,
        "channel": tile.channel,
        "y0": tile.y0,
        "y1": tile.y1,
        "x0": tile.x0,
        "x1": tile.x1,
        "statistics": statistics,
    }


def _output(plane: Plane, tile: Window, sha256: str, dtype: np.dtype[Any]) -> Output:
    region = ((tile.channel, tile.channel + 1), (tile.y0, tile.y1), (tile.x0, tile.x1))
    return Output(f"planes/{plane.name}", sha256, region, dtype.str)


def _describe(plane: Plane) -> dict[str, Any]:
    return {
        "name": plane.name,
        "kind": plane.kind,
        "shape": list(plane.shape),
        "dtype": plane.dtype.str,
        "unit": plane.unit,
        "wcs": plane.wcs,
        "pixel_scale_arcsec": plane.pixel_scale_arcsec,
        "array": f"planes/{plane.name}",
    }
