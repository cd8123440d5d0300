"""Rows of a user's own table, as batches of a structural causal model, and back.

Belongs here: Parquet and HDF5 tables whose columns are nodes. Does not belong here: the training
table of the lineage graph (`acie_pipelines.training.table`), fitting.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.causal.graph import CausalGraph, Node
from acie_pipelines.errors import ConfigurationError, UnreadableObservationError
from acie_pipelines.storage import atomic_writer

__all__ = ["read_errors", "read_rows", "write_rows"]

_PARQUET: Final = frozenset({".parquet", ".pq"})
_HDF5: Final = frozenset({".h5", ".hdf5"})
_GROUP: Final = "galaxies"


def read_rows(
    path: Path, graph: CausalGraph, *, missing: Collection[float] = ()
) -> dict[str, NDArray[np.float32]]:
    """Read the columns of a graph's observed nodes.

    Parameters
    ----------
    path
        Parquet with one column per node, or HDF5 with one dataset per node at its root or in the
        group ``galaxies``, as `acie simulate` and the training table have them. The attribute
        ``unit`` of a dataset, if there is one, has to be the node's.
    graph
        Variables. Labels of a categorical node may be text.
    missing
        Codes that stand for a missing value besides NaN, for instance -9999.

    Returns
    -------
    dict[str, NDArray]
        Node to float32 values, shape ``(rows,)``, NaN where a value is missing.

    Raises
    ------
    ConfigurationError
        If the format is unknown, a column is missing, no number, of another unit, or leaves the
        support of its node.
    UnreadableObservationError
        If the file cannot be read.
    """
    wanted = [node for node in graph.nodes.values() if not node.latent]
    columns, units = _read(path, [node.name for node in wanted])
    for node in wanted:
        _check_unit(path, node, units.get(node.name))
    return {node.name: _values(path, node, columns[node.name], missing) for node in wanted}


def read_errors(
    path: Path, graph: CausalGraph, columns: Mapping[str, str]
) -> dict[str, NDArray[np.float32]]:
    """Read the standard deviations of measured values.

    Parameters
    ----------
    path, graph
        As of `read_rows`.
    columns
        Node to the column with the errors of its values, in the values' own scale (dex for a
        logarithmic node).

    Returns
    -------
    dict[str, NDArray]
        Node to float32 standard deviations, shape ``(rows,)``, NaN where none is stated.

    Raises
    ------
    ConfigurationError
        If a node is unknown, or a column is missing or no number.
    UnreadableObservationError
        If the file cannot be read.
    """
    unknown = sorted(set(columns) - set(graph.nodes))
    if unknown:
        raise ConfigurationError(
            f"errors of {unknown}", "name no node", f"choose among {list(graph.nodes)}"
        )
    found, _ = _read(path, list(columns.values()))
    return {
        node: _numbers(f"{path}:{column}", found[column]).astype(np.float32)
        for node, column in columns.items()
    }


def _read(path: Path, names: list[str]) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Columns by name, and the units that are stated."""
    suffix = path.suffix.lower()
    if suffix not in _PARQUET | _HDF5:
        raise ConfigurationError(
            path,
            "is neither Parquet nor HDF5",
            "store the rows as Parquet (.parquet, .pq) or HDF5 (.h5, .hdf5)",
        )
    try:
        return (_read_parquet if suffix in _PARQUET else _read_hdf5)(path, names)
    except ConfigurationError:
        raise
    except Exception as error:  # damaged files fail in any way inside the two libraries
        raise UnreadableObservationError(
            path, f"cannot be read ({error})", "write the table again"
        ) from error


def _absent(path: Path, absent: list[str], present: Collection[str]) -> ConfigurationError:
    return ConfigurationError(
        path,
        f"has no columns {absent}",
        f"it has {sorted(present)}; rename them, or mark the nodes latent",
    )


def _read_parquet(path: Path, names: list[str]) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    import pyarrow.parquet as pq

    present = pq.read_schema(path).names
    absent = [name for name in names if name not in present]
    if absent:
        raise _absent(path, absent, present)
    table = pq.read_table(path, columns=names)
    return {name: table.column(name).to_pandas().to_numpy() for name in names}, {}


def _read_hdf5(path: Path, names: list[str]) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    import h5py

    with h5py.File(path, "r") as file:
        group = file.get(_GROUP, file)
        absent = [name for name in names if name not in group]
        if absent:
            raise _absent(path, absent, list(group))
        units = {}
        for name in names:
            stated = group[name].attrs.get("unit")
            if stated is not None:
                units[name] = stated.decode() if isinstance(stated, bytes) else str(stated)
        return {name: group[name][()] for name in names}, units


def _check_unit(path: Path, node: Node, stated: str | None) -> None:
    expected = f"log10({node.unit})" if node.log10 else node.unit
    # The simulator's spelling, as in astropy.units.
    dex = f"dex({node.unit})" if node.unit else "dex"
    if stated is not None and stated != expected and not (node.log10 and stated == dex):
        raise ConfigurationError(
            f"{path}:{node.name}",
            f"is in {stated!r}, the graph expects {expected!r}",
            "convert the column or correct the unit of the node",
        )


def _values(
    path: Path, node: Node, column: NDArray[Any], missing: Collection[float]
) -> NDArray[np.float32]:
    subject = f"{path}:{node.name}"
    if node.categories and column.dtype.kind not in "biuf":
        numbers: Mapping[str, int] = {label: k for k, label in enumerate(node.categories)}
        texts = [x.decode() if isinstance(x, bytes) else x for x in column.tolist()]
        unknown = {x for x in texts if x is not None and x not in numbers}
        if unknown:
            raise ConfigurationError(
                subject, f"holds {sorted(map(str, unknown))[:3]}", f"use {list(numbers)}"
            )
        return np.array([np.nan if x is None else numbers[x] for x in texts], dtype=np.float32)
    values = _numbers(subject, column)
    values = np.where(np.isfinite(values) & ~np.isin(values, list(missing)), values, np.nan)
    low, high = node.support
    outside = (values < low) | (values > high)
    if outside.any():
        row = int(np.flatnonzero(outside)[0])
        raise ConfigurationError(
            subject,
            f"leaves the support [{low:g}, {high:g}] in {int(outside.sum())} rows, "
            f"first in row {row} with {values[row]:g}",
            "widen the support, drop the rows, or name the code of missing values",
        )
    return values.astype(np.float32)


def _numbers(subject: str, column: NDArray[Any]) -> NDArray[np.float64]:
    try:
        values = np.asarray(column, dtype=np.float64)
    except (TypeError, ValueError):
        raise ConfigurationError(subject, f"holds {column.dtype}", "store numbers") from None
    if values.ndim != 1:
        raise ConfigurationError(subject, f"has {values.ndim} axes", "store one value per row")
    return values


def write_rows(
    path: Path,
    graph: CausalGraph,
    columns: Mapping[str, NDArray[np.float32]],
    intervals: Mapping[str, tuple[NDArray[np.float32], NDArray[np.float32]]] = MappingProxyType({}),
) -> None:
    """Write columns of nodes as Parquet or HDF5, by the file's suffix, atomically.

    Parameters
    ----------
    path, graph
        File, and the nodes.
    columns
        Node to values.
    intervals
        Node to lower and upper ends, written as ``<node>_low`` and ``<node>_high``.

    Raises
    ------
    ConfigurationError
        If the suffix is neither's, or a node has the name of an interval's end.
    StorageError
        If the file cannot be written; an older one is intact.
    """
    suffix = path.suffix.lower()
    written = {name: (graph.nodes[name], values) for name, values in columns.items()}
    for name, ends in intervals.items():
        for end, values in zip((f"{name}_low", f"{name}_high"), ends, strict=True):
            if end in written:
                raise ConfigurationError(
                    path, f"would hold {end} twice: a node has that name", "rename the node"
                )
            written[end] = graph.nodes[name], values
    if suffix in _PARQUET:
        import pandas as pd

        with atomic_writer(path) as handle:
            pd.DataFrame({name: values for name, (_, values) in written.items()}).to_parquet(
                handle, index=False
            )
        return
    if suffix not in _HDF5:
        raise ConfigurationError(path, "is neither Parquet nor HDF5", "name it .parquet or .h5")
    import h5py

    with atomic_writer(path) as handle, h5py.File(handle, "w") as file:
        for name, (node, values) in written.items():
            dataset = file.create_dataset(f"{_GROUP}/{name}", data=values)
            dataset.attrs["unit"] = f"log10({node.unit})" if node.log10 else node.unit
            dataset.attrs["missing"] = "NaN"
