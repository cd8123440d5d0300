"""What HDF5 and Zarr have in common: named N-dimensional arrays with attributes.

Belongs here: turning an array's shape, dtype and attributes into a plane, and a window into an
index.
Does not belong here: access to either format.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from acie_pipelines.observations.base import flattened, json_value, kind_from_names
from acie_pipelines.observations.model import Plane, Window

__all__ = ["array_plane", "is_plane", "selection"]


def is_plane(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bool:
    """Whether an array holds real numbers along at least two axes."""
    return len(shape) >= 2 and dtype.kind in "biuf" and dtype.itemsize <= 8


def array_plane(
    path: Path,
    name: str,
    array_path: str,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    attributes: Mapping[str, Any],
) -> Plane:
    """Describe an array as a plane; all axes before the last two are folded into depth.

    Raises
    ------
    InvalidGeometryError
        If an axis has no length.
    """
    values = {str(key): json_value(value) for key, value in attributes.items()}
    little = np.dtype("u1") if dtype.kind == "b" else np.dtype(dtype.str).newbyteorder("<")
    unit = next((values[key] for key in ("unit", "units", "BUNIT") if values.get(key)), None)
    return Plane(
        name=name,
        kind=kind_from_names([array_path, path.name], little) or "image",
        shape=flattened(path, shape),
        dtype=little,
        unit=unit if isinstance(unit, str) else None,
        header=values,
    )


def selection(shape: tuple[int, ...], window: Window) -> tuple[int | slice, ...]:
    """Index of a window in the array as stored."""
    lead = [int(i) for i in np.unravel_index(window.channel, shape[:-2])] if shape[:-2] else []
    return (*lead, slice(window.y0, window.y1), slice(window.x0, window.x1))
