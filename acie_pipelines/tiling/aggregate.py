"""The observation as a whole, put together from its tiles.

Belongs here: the ``mosaic`` dataset: pooled statistics, flux conservation, preview and
background map.
Does not belong here: the arithmetic itself (`acie_pipelines.tiling.pooling`).
"""

import io
from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.observations.model import Observation, Window
from acie_pipelines.provenance import (
    Generation,
    Manifest,
    Output,
    file_sha256,
    new_generation,
    reusable_manifest,
)
from acie_pipelines.storage import Store
from acie_pipelines.tiling.grid import TileGrid
from acie_pipelines.tiling.pooling import BlockMean, StreamingTotal, pool_statistics
from acie_pipelines.tiling.reading import Tile, iter_tiles, tiles_of

__all__ = ["FLUX_TOLERANCE", "KIND", "PREVIEW_SIZE", "aggregate_tiles"]

KIND = "mosaic"
PREVIEW_SIZE = 512
# Relative to the sum of absolute values: a few roundings of a pairwise sum in doubles.
FLUX_TOLERANCE = 1e-12


def aggregate_tiles(
    store: Store, tiles: Manifest, observation: Observation | None, *, code_version: str
) -> Manifest:
    """Aggregate tiles into statistics, a preview and a background map per plane.

    Parameters
    ----------
    store
        Where the datasets are.
    tiles
        Dataset of kind ``tiles``; every tile read is checked against its hash.
    observation
        The observation the tiles were cut from, for the flux check: its samples are summed anew,
        without the tile kernel, and compared with the tiles' totals. Without it the check is not
        made and ``flux_conserved`` is null.
    code_version
        Version of the code, recorded in the manifest.

    Returns
    -------
    Manifest
        Of kind ``mosaic`` under the observation's key. Its attributes are ``flux_conserved``
        (over all planes) and ``planes``: name, kind, unit, shape, pooled ``statistics``, ``flux``
        (``tiles_total``, ``image_total``, ``absolute_total``, ``relative_difference``, ``exact``,
        ``conserved``) and the paths ``preview`` and ``background_map``. A preview is the block
        mean over all channels; of a mask plane, the fraction of flagged pixels.

    Raises
    ------
    IntegrityError
        If tiles are not what their manifest states.
    StorageError
        If the store is full or unreachable; the earlier mosaic is intact.
    """
    inputs = (tiles.as_input(),)
    parameters = {"flux_check": observation is not None, "preview_size": PREVIEW_SIZE}
    reusable = reusable_manifest(
        store, KIND, tiles.key, inputs=inputs, code_version=code_version, parameters=parameters
    )
    if reusable is not None:
        return reusable
    with new_generation(
        store, KIND, tiles.key, inputs=inputs, code_version=code_version, parameters=parameters
    ) as generation:
        totals = None if observation is None else image_totals(observation)
        by_plane = defaultdict(list)
        for tile in tiles_of(tiles):
            by_plane[tile.plane].append(tile)
        outputs: list[Output] = []
        planes: list[dict[str, Any]] = []
        for record in tiles.attributes["planes"]:
            name = record["name"]
            statistics = pool_statistics(tile.statistics for tile in by_plane[name])
            background = background_map(record, tiles.attributes["tile_size"], by_plane[name])
            preview = preview_of(store, tiles, record)
            outputs += [
                _save(generation, f"preview/{name}.npy", preview),
                _save(generation, f"background/{name}.npy", background),
            ]
            planes.append(
                {
                    "name": name,
                    "kind": record["kind"],
                    "unit": record["unit"],
                    "shape": record["shape"],
                    "statistics": statistics,
                    "flux": None if totals is None else _flux(statistics, totals[name]),
                    "preview": f"preview/{name}.npy",
                    "background_map": f"background/{name}.npy",
                }
            )
        conserved = None if totals is None else all(p["flux"]["conserved"] for p in planes)
        return generation.commit(tuple(outputs), {"flux_conserved": conserved, "planes": planes})


def image_totals(observation: Observation) -> dict[str, StreamingTotal]:
    """Sum every plane of an observation as a stream, without its tiles.

    Parameters
    ----------
    observation
        The open observation.

    Returns
    -------
    dict
        A total per plane name.
    """
    totals = {}
    for plane in observation.planes:
        total = totals[plane.name] = StreamingTotal()
        for group in TileGrid(plane.shape).groups(plane.dtype):
            total.add(observation.read(plane, group.window))
    return totals


def _flux(statistics: dict[str, Any], image: StreamingTotal) -> dict[str, Any]:
    """Compare the total of the tiles with that of the image."""
    of_tiles = 0.0 if statistics["total"] is None else statistics["total"]
    difference = abs(of_tiles - image.total)
    exact = isinstance(of_tiles, int) and isinstance(image.total, int)
    bound = 0.0 if exact else FLUX_TOLERANCE * image.magnitude
    return {
        "tiles_total": of_tiles,
        "image_total": image.total,
        "absolute_total": image.magnitude,
        "relative_difference": difference / image.magnitude if image.magnitude else difference,
        "exact": exact,
        "conserved": difference <= bound,
    }


def background_map(
    record: dict[str, Any], tile_size: int, tiles: list[Tile]
) -> NDArray[np.float32]:
    """Background of every tile, shape ``(depth, rows, columns)``; NaN where none was measured.

    Parameters
    ----------
    record
        The plane's description in the manifest.
    tile_size
        Side of a tile in pixels.
    tiles
        The plane's tiles.
    """
    depth, height, width = record["shape"]
    grid = TileGrid((depth, height, width), tile_size)
    background = np.full((depth, grid.rows, grid.columns), np.nan, dtype=np.float32)
    for tile in tiles:
        value = tile.statistics["background"]
        if value is not None:
            background[tile.channel, tile.y0 // tile_size, tile.x0 // tile_size] = value
    return background


def preview_of(store: Store, tiles: Manifest, record: dict[str, Any]) -> NDArray[np.float32]:
    """Block mean of a plane over all channels, at most `PREVIEW_SIZE` pixels on a side.

    Parameters
    ----------
    store, tiles
        Where the tiles are.
    record
        The plane's description in the manifest.
    """
    _, height, width = record["shape"]
    mean = BlockMean(height, width, longest=PREVIEW_SIZE)
    for tile, pixels in iter_tiles(store, tiles, record["name"]):
        window = Window(tile.channel, tile.y0, tile.y1, tile.x0, tile.x1)
        mean.add(window, pixels != 0 if record["kind"] == "mask" else pixels)
    return mean.result()


def _save(generation: Generation, path: str, array: NDArray[Any]) -> Output:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    name = f"{generation.prefix}/{path}"
    generation.store.write_bytes(name, buffer.getvalue())
    return Output(path, file_sha256(generation.store, name))
