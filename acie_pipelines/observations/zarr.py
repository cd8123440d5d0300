"""Zarr observations: directories and zip files, format 2 or 3.

Belongs here: finding and reading numeric arrays with two or more axes.
Does not belong here: the tiles ACIE writes (see `acie_pipelines.tiling`).
"""

import math
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore, ZipStore

from acie_pipelines.errors import (
    FormatMismatchError,
    InvalidGeometryError,
    NoImagePlaneError,
    TruncatedFileError,
    UnreadableObservationError,
)
from acie_pipelines.observations.arrays import array_plane, is_plane, selection
from acie_pipelines.observations.base import (
    Limits,
    NameRegister,
    Reader,
    check_expansion,
    check_segment,
    json_value,
)
from acie_pipelines.observations.identity import tree_files
from acie_pipelines.observations.model import Plane, Window

__all__ = ["ZarrReader", "tree_files"]

_DOCUMENTS = ("zarr.json", ".zgroup", ".zarray", ".zattrs", ".zmetadata")
_ROOTS = ("zarr.json", ".zgroup", ".zarray")


class ZarrReader(Reader):
    """An open Zarr directory or zip file.

    Parameters
    ----------
    path
        Directory with Zarr metadata, or a zip of one.
    limits
        How much arrays and their chunks may expand to.

    Raises
    ------
    ObservationError
        If the metadata are damaged or name no readable plane.
    """

    format = "Zarr"

    def __init__(self, path: Path, limits: Limits) -> None:
        super().__init__(path)
        self._limits = limits
        self._names = NameRegister()
        self._arrays: dict[str, Any] = {}
        self._numeric = 0
        self._store: LocalStore | ZipStore | None = None
        try:
            with self.collecting("the Zarr metadata"):
                root = self._open_root()
                self.header = {str(k): json_value(v) for k, v in dict(root.attrs).items()}
                self.planes = tuple(self._find_planes(root))
        except BaseException:
            self.close()
            raise
        if not self.planes:
            self.close()
            raise NoImagePlaneError(
                path,
                f"none of its {self._numeric} numeric arrays has two axes",
                "store the samples as a numeric array of two or more axes",
            )

    def _open_root(self) -> Any:
        if self.path.is_dir():
            sizes = [(file.name, file.stat().st_size) for file in tree_files(self.path)]
            inside = ""
            self._store = LocalStore(self.path, read_only=True)
        else:
            sizes, inside = self._zip_members()
            self._store = ZipStore(self.path, mode="r")
        self._stored = sum(size for _, size in sizes)
        for name, size in sizes:
            if name in _DOCUMENTS and size > self._limits.max_header_bytes:
                raise InvalidGeometryError(
                    self.path, f"has {size} bytes of metadata in {name}", "export it again"
                )
        return zarr.open(self._store, mode="r", path=inside or None)

    def _zip_members(self) -> tuple[list[tuple[str, int]], str]:
        """Sizes of the members, and the directory that holds the Zarr metadata."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                members = [item for item in archive.infolist() if not item.is_dir()]
        except zipfile.BadZipFile as error:
            raise TruncatedFileError(
                self.path, f"the zip directory is not readable ({error})", "transfer it again"
            ) from error
        check_expansion(
            self.path,
            sum(item.file_size for item in members),
            self.path.stat().st_size,
            self._limits,
        )
        for item in members:
            check_segment(self.path, item.file_size, "zip member", self._limits)
            if item.flag_bits & 1:
                raise UnreadableObservationError(
                    self.path, f"{item.filename} is encrypted", "store it without a password"
                )
        names = {item.filename for item in members}
        tops = ["", *sorted({name.split("/", 1)[0] + "/" for name in names if "/" in name})]
        for top in tops:
            if any(top + document in names for document in _ROOTS):
                return [(i.filename.rsplit("/", 1)[-1], i.file_size) for i in members], top[:-1]
        raise FormatMismatchError(
            self.path, "is a zip without Zarr metadata", "supply FITS, TIFF, HDF5 or Zarr"
        )

    def _find_planes(self, root: Any) -> Iterator[Plane]:
        if isinstance(root, zarr.Array):
            found = [("data", root)]
        else:
            members = sorted(root.members(max_depth=None), key=lambda member: str(member[0]))
            found = [(name, item) for name, item in members if isinstance(item, zarr.Array)]
        expanded = 0
        for label, array in found:
            dtype = np.dtype(array.dtype)
            self._numeric += dtype.kind in "biufc"
            if not is_plane(array.shape, dtype):
                continue
            plane = array_plane(
                self.path,
                self._names.claim(label.replace("/", ".")),
                label,
                array.shape,
                dtype,
                dict(array.attrs),
            )
            expanded += math.prod(array.shape) * dtype.itemsize
            check_expansion(self.path, expanded, self._stored, self._limits)
            check_segment(
                self.path, math.prod(array.chunks) * dtype.itemsize, "chunk", self._limits
            )
            self._arrays[plane.name] = array
            yield plane

    def _read(self, plane: Plane, window: Window) -> NDArray[Any]:
        array = self._arrays[plane.name]
        return np.asarray(array[selection(array.shape, window)])

    def close(self) -> None:
        """Release the store."""
        self._arrays.clear()
        if self._store is not None:
            self._store.close()
            self._store = None
