"""One file format for simulated galaxies in two containers: HDF5 and Zarr v3.

Belongs here: named arrays with a unit each, written and read by rows, in either container.
Does not belong here: which arrays there are (`acie_pipelines.simulation.dataset`).

The suffix decides the container. In Zarr an array has a checksum for each chunk and NaN for what
was never written, so that a copy that lost some of its files is not read as zeros.
"""

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
from numpy.typing import NDArray

from acie_pipelines.errors import ConfigurationError, UnreadableObservationError
from acie_pipelines.storage import storage_errors

__all__ = ["Container", "check_suffix", "create_container", "open_container"]

_HDF5: Final = frozenset({".h5", ".hdf5"})
_ZARR: Final = frozenset({".zarr"})


class Container:
    """An open container; made by `create_container` and `open_container`.

    Parameters
    ----------
    path
        Named in messages.
    root
        The file or group, as of h5py or zarr.
    """

    def __init__(self, path: Path, root: Any) -> None:
        self.path = path
        self._root = root
        self._arrays: dict[str, Any] = {}

    @property
    def attributes(self) -> Any:
        """Attributes of the whole, a mutable mapping."""
        return self._root.attrs

    def add(
        self,
        name: str,
        values: NDArray[Any],
        *,
        unit: str,
        description: str,
        rows: int | None = None,
    ) -> None:
        """Make an array.

        Parameters
        ----------
        name
            With ``/`` between groups.
        values
            Its first rows.
        unit, description
            Its attributes.
        rows
            How many there will be, stored in chunks as long as ``values``; just these by default.
        """
        shape = (len(values) if rows is None else rows, *values.shape[1:])
        if not isinstance(self._root, h5py.Group):
            from zarr.codecs import Crc32cCodec

            array = self._root.create_array(
                name,
                shape=shape,
                dtype=values.dtype,
                chunks=values.shape,
                compressors=Crc32cCodec(),
                fill_value=math.nan,
                config={"write_empty_chunks": True},
            )
        elif rows is None:
            array = self._root.create_dataset(name, data=values)
        else:
            array = self._root.create_dataset(name, shape, values.dtype, chunks=values.shape)
        array.attrs["unit"] = unit
        array.attrs["description"] = description
        array[: len(values)] = values

    def write(self, name: str, start: int, values: NDArray[Any]) -> None:
        """Write rows of an array from ``start`` on."""
        # Not kept open: h5py would hold back a chunk of every array until the end.
        self._root[name][start : start + len(values)] = values

    def shape(self, name: str) -> tuple[int, ...]:
        """Give the shape of an array.

        Raises
        ------
        UnreadableObservationError
            If there is none of this name.
        """
        return tuple(self._array(name).shape)

    def rows(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Read rows of an array.

        Raises
        ------
        UnreadableObservationError
            If there is none of this name, or these rows are damaged.
        """
        array = self._array(name)
        try:
            return np.asarray(array[start:stop])
        except Exception as error:  # damaged chunks fail in any way inside the two libraries
            raise UnreadableObservationError(
                self.path,
                f"is damaged: rows {start} to {stop} of {name} cannot be read ({error})",
                "remove it and run `acie simulate` again",
            ) from error

    def require(self, names: Iterable[str]) -> None:
        """Refuse a container that lacks an array or a part of it.

        Raises
        ------
        UnreadableObservationError
            If it does.
        """
        for name in names:
            array = self._array(name)
            # A cut HDF5 file is not even opened.
            if not isinstance(array, h5py.Dataset) and array.nchunks_initialized < array.nchunks:
                raise UnreadableObservationError(
                    self.path,
                    f"is incomplete: {name} has {array.nchunks_initialized} "
                    f"of {array.nchunks} chunks",
                    "copy it again, or remove it and run `acie simulate` again",
                )

    def _array(self, name: str) -> Any:
        if name not in self._arrays:
            try:
                self._arrays[name] = self._root[name]
            except Exception as error:  # as in `rows`
                raise UnreadableObservationError(
                    self.path,
                    f"has no readable {name} ({error})",
                    "copy it again, or remove it and run `acie simulate` again",
                ) from error
        return self._arrays[name]


def check_suffix(path: Path) -> None:
    """Refuse a name that says no container.

    Raises
    ------
    ConfigurationError
        If the suffix is neither's.
    """
    if path.suffix.lower() not in _HDF5 | _ZARR:
        raise ConfigurationError(path, "is neither HDF5 nor Zarr", "name it .h5 or .zarr")


def _is_zarr(path: Path) -> bool:
    check_suffix(path)
    return path.suffix.lower() in _ZARR


@contextmanager
def create_container(path: Path) -> Iterator[Container]:
    """Make an empty container in place of whatever is there.

    Raises
    ------
    ConfigurationError
        If the suffix is neither's.
    StorageError
        If it cannot be written.
    """
    zarr_wanted = _is_zarr(path)
    with storage_errors(path):
        if not zarr_wanted:
            with h5py.File(path, "w") as file:
                yield Container(path, file)
            return
        import zarr

        yield Container(path, zarr.open_group(path, mode="w", zarr_format=3))


@contextmanager
def open_container(path: Path) -> Iterator[Container]:
    """Open a container to read it.

    Raises
    ------
    ConfigurationError
        If the suffix is neither's, nothing is there, or it is not what its suffix says.
    """
    zarr_wanted = _is_zarr(path)
    if not path.exists():
        raise ConfigurationError(path, "does not exist", "write it with `acie simulate`")
    kind = "Zarr v3" if zarr_wanted else "HDF5"
    try:
        if zarr_wanted:
            import zarr

            root: Any = zarr.open_group(path, mode="r", zarr_format=3)
        else:
            root = h5py.File(path, "r", locking=False)
    except Exception as error:  # foreign and damaged files fail in any way inside the libraries
        raise ConfigurationError(
            path, f"is not readable as {kind} ({error})", "write it with `acie simulate`"
        ) from error
    try:
        yield Container(path, root)
    finally:
        if isinstance(root, h5py.File):
            root.close()
