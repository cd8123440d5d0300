"""HDF5 observations: every numeric dataset with two or more axes is a plane.

Belongs here: finding and reading such datasets.
Does not belong here: conventions of any one instrument's HDF5 files.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from acie_pipelines.errors import (
    AcieError,
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
from acie_pipelines.observations.model import Plane, Window

__all__ = ["Hdf5Reader"]

_CHUNK_CACHE_BYTES = 64 << 20
_MAX_OBJECTS = 100_000


class Hdf5Reader(Reader):
    """An open HDF5 file.

    Parameters
    ----------
    path
        File to read.
    limits
        How much datasets and their chunks may expand to.

    Raises
    ------
    ObservationError
        If the file is damaged, refers to other files, or holds no plane.
    """

    format = "HDF5"

    def __init__(self, path: Path, limits: Limits) -> None:
        super().__init__(path)
        self._limits = limits
        self._size = path.stat().st_size
        self._names = NameRegister()
        self._datasets: dict[str, Any] = {}
        self._numeric = 0
        try:
            self._file = h5py.File(path, "r", rdcc_nbytes=_CHUNK_CACHE_BYTES, locking=False)
        except OSError as error:
            if "truncated file" in str(error):
                raise TruncatedFileError(
                    path, "ends before the size its superblock states", "transfer the file again"
                ) from error
            raise UnreadableObservationError(
                path, f"is not readable as HDF5 ({error})", "obtain an undamaged copy"
            ) from error
        try:
            with self.collecting("the HDF5 structure"):
                self.header = _attributes(self._file)
                self.planes = tuple(self._find_planes())
        except BaseException:
            self.close()
            raise
        if not self.planes:
            self.close()
            raise NoImagePlaneError(
                path,
                f"none of its {self._numeric} numeric datasets has two axes",
                "store the samples as a numeric array of two or more axes",
            )

    def _find_planes(self) -> Iterator[Plane]:
        expanded = 0
        for dataset in self._walk():
            shape, dtype = dataset.shape, dataset.dtype
            if shape is None or not isinstance(dtype, np.dtype):
                continue
            self._numeric += dtype.kind in "biufc"
            if not is_plane(shape, dtype):
                continue
            label = dataset.name.strip("/")
            plane = array_plane(
                self.path,
                self._names.claim(label.replace("/", ".")),
                label,
                shape,
                dtype,
                _attributes(dataset),
            )
            expanded += math.prod(shape) * dtype.itemsize
            self._check(dataset, label, expanded)
            self._datasets[plane.name] = dataset
            yield plane

    def _walk(self) -> Iterator[Any]:
        """Every dataset once, in name order, without leaving the file."""
        seen: set[Any] = set()
        waiting = [self._file["/"]]
        while waiting:
            group = waiting.pop()
            groups = []
            for name in sorted(group):
                link = group.get(name, getlink=True)
                if isinstance(link, h5py.ExternalLink):
                    raise UnreadableObservationError(
                        self.path,
                        f"{group.name.rstrip('/')}/{name} links to another file",
                        "copy the data into this file",
                    )
                if isinstance(link, h5py.SoftLink):
                    continue
                item = group[name]
                identity = h5py.h5o.get_info(item.id).addr
                if identity in seen:
                    continue
                seen.add(identity)
                if len(seen) > _MAX_OBJECTS:
                    raise InvalidGeometryError(
                        self.path, f"holds more than {_MAX_OBJECTS} objects", "split the file"
                    )
                if isinstance(item, h5py.Group):
                    groups.append(item)
                elif isinstance(item, h5py.Dataset):
                    yield item
            waiting.extend(reversed(groups))

    def _check(self, dataset: Any, label: str, expanded: int) -> None:
        if dataset.is_virtual or dataset.external:
            raise UnreadableObservationError(
                self.path, f"{label} is stored in another file", "copy the data into this file"
            )
        size = math.prod(dataset.shape) * dataset.dtype.itemsize
        if dataset.chunks is not None:
            check_segment(
                self.path,
                math.prod(dataset.chunks) * dataset.dtype.itemsize,
                "chunk",
                self._limits,
            )
        offset = dataset.id.get_offset()
        if dataset.chunks is None and offset is not None:
            if offset + size > self._size:
                raise TruncatedFileError(
                    self.path, f"{label} reaches beyond the end", "transfer the file again"
                )
            return
        stored = min(dataset.id.get_storage_size(), self._size)
        check_expansion(self.path, size, stored, self._limits)
        check_expansion(self.path, expanded, self._size, self._limits)

    def _read(self, plane: Plane, window: Window) -> NDArray[Any]:
        dataset = self._datasets[plane.name]
        return np.asarray(dataset[selection(dataset.shape, window)])

    def close(self) -> None:
        """Release the file."""
        self._datasets.clear()
        self._file.close()


def _attributes(item: Any) -> dict[str, Any]:
    """Attributes as JSON values; those of types h5py cannot convert are named, not read."""
    values: dict[str, Any] = {}
    for name in item.attrs:
        try:
            values[str(name)] = json_value(item.attrs[name])
        except AcieError:
            raise
        except Exception as error:  # h5py raises many types for attributes it cannot convert
            values[str(name)] = f"(unreadable: {type(error).__name__})"
    return values
