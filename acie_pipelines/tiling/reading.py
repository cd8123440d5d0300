"""Reading tiles back, through their manifest only and checked against it.

Belongs here: the way from a ``tiles`` manifest to verified samples.
Does not belong here: writing tiles, or what is computed from them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.errors import IntegrityError
from acie_pipelines.provenance import Manifest, array_sha256
from acie_pipelines.storage import Store

if TYPE_CHECKING:
    from zarr import Array

__all__ = ["Tile", "iter_tiles", "open_plane", "plane_record", "read_tile", "tiles_of"]

_FIX = "materialise the tiles again"


@dataclass(frozen=True)
class Tile:
    """One tile as its manifest describes it.

    Attributes
    ----------
    plane
        Name of the plane it belongs to.
    channel, y0, y1, x0, x1
        Its place in the plane, in pixels, ends excluded.
    statistics
        What was measured when it was written; null where nothing finite could be.
    sha256
        Of its samples.
    """

    plane: str
    channel: int
    y0: int
    y1: int
    x0: int
    x1: int
    statistics: Mapping[str, Any]
    sha256: str


def tiles_of(manifest: Manifest, plane_name: str | None = None) -> Iterator[Tile]:
    """Tiles of a dataset in storage order.

    Parameters
    ----------
    manifest
        Dataset of kind ``tiles``.
    plane_name
        Only this plane's; by default every plane's.
    """
    for record, output in zip(manifest.attributes["tiles"], manifest.outputs, strict=True):
        if plane_name is None or record["plane"] == plane_name:
            yield Tile(**record, sha256=output.sha256)


def plane_record(manifest: Manifest, plane_name: str) -> dict[str, Any]:
    """Look up the description of a plane in a manifest.

    Raises
    ------
    IntegrityError
        If the manifest has no such plane.
    """
    for record in manifest.attributes["planes"]:
        if record["name"] == plane_name:
            return dict(record)
    names = ", ".join(record["name"] for record in manifest.attributes["planes"])
    raise IntegrityError(
        f"{manifest.kind}/{manifest.key}", f"has no plane {plane_name!r}", f"choose one of {names}"
    )


def open_plane(store: Store, manifest: Manifest, plane_name: str) -> "Array[Any]":
    """Open a plane's array for reading.

    Samples read through it are not hashed; see `read_tile`.

    Raises
    ------
    IntegrityError
        If the array is missing, or its shape or dtype is not what the manifest states.
    """
    import zarr

    record = plane_record(manifest, plane_name)
    name = f"{manifest.prefix}/{record['array']}"
    try:
        array: Array[Any] = zarr.open_array(store.zarr(name), mode="r")
    except Exception as error:  # damaged metadata can fail in any way
        raise IntegrityError(name, f"cannot be opened ({error})", _FIX) from error
    if list(array.shape) != record["shape"] or array.dtype != np.dtype(record["dtype"]):
        raise IntegrityError(
            name,
            f"is {array.dtype}{array.shape} where its manifest states "
            f"{record['dtype']}{tuple(record['shape'])}",
            _FIX,
        )
    return array


def read_tile(
    store: Store, manifest: Manifest, tile: Tile, *, array: "Array[Any] | None" = None
) -> NDArray[Any]:
    """Read a tile and check its hash.

    Parameters
    ----------
    store, manifest
        Where the tile is.
    tile
        One of `tiles_of`.
    array
        The plane's array if the caller has opened it already.

    Returns
    -------
    NDArray
        Samples, shape ``(y1 - y0, x1 - x0)``, C-contiguous.

    Raises
    ------
    IntegrityError
        If the samples cannot be decoded or are not those that were written.
    """
    plane = open_plane(store, manifest, tile.plane) if array is None else array
    where = (
        f"{manifest.prefix}/planes/{tile.plane}"
        f"[{tile.channel}, {tile.y0}:{tile.y1}, {tile.x0}:{tile.x1}]"
    )
    try:
        stored = plane[tile.channel, tile.y0 : tile.y1, tile.x0 : tile.x1]
    except Exception as error:  # decoding damaged bytes can fail in any way
        raise IntegrityError(where, f"cannot be read ({error})", _FIX) from error
    pixels = np.ascontiguousarray(stored)
    if array_sha256(pixels) != tile.sha256:
        raise IntegrityError(where, "content does not match the hash in its manifest", _FIX)
    return pixels


def iter_tiles(
    store: Store, manifest: Manifest, plane_name: str | None = None
) -> Iterator[tuple[Tile, NDArray[Any]]]:
    """Read tiles one after the other, each checked against its hash.

    Parameters
    ----------
    store, manifest
        Where the tiles are.
    plane_name
        Only this plane's; by default every plane's.
    """
    arrays: dict[str, Array[Any]] = {}
    for tile in tiles_of(manifest, plane_name):
        if tile.plane not in arrays:
            arrays[tile.plane] = open_plane(store, manifest, tile.plane)
        yield tile, read_tile(store, manifest, tile, array=arrays[tile.plane])
