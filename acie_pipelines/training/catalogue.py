"""The emission-line catalogue as a dataset: validated, with units, in Parquet.

Belongs here: reading the CSV and refusing a bad one. Does not belong here: rows measured by us.
"""

import gzip
import hashlib
import io
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from acie_pipelines.causal.graph import CausalGraph, catalogue_graph
from acie_pipelines.errors import (
    FormatMismatchError,
    ObservationError,
    TruncatedFileError,
    UnreadableObservationError,
)
from acie_pipelines.provenance import (
    Manifest,
    Output,
    file_sha256,
    new_generation,
    reusable_manifest,
)
from acie_pipelines.storage import Store

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CATALOGUE_FILE", "KIND", "ingest_catalogue", "read_catalogue_csv"]

KIND: Final = "catalogue"
CATALOGUE_FILE: Final = "catalogue.parquet"
_MISSING_CODE: Final = -9999.0
# Columns of the CSV that are not the node's name in lower case.
_RENAMED: Final = {"mass": "stellar_mass"}
# A catalogue this size is read whole; a longer file is not this catalogue.
_MAX_BYTES: Final = 1 << 28


def _content(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UnreadableObservationError(path, f"cannot be read ({error})", "check it") from error
    if data[:2] == b"\x1f\x8b":
        try:
            with gzip.GzipFile(fileobj=io.BytesIO(data)) as handle:
                data = handle.read(_MAX_BYTES + 1)
        except (EOFError, OSError, zlib.error) as error:
            raise TruncatedFileError(
                path, f"does not decompress ({error})", "obtain a whole copy"
            ) from error
    if len(data) > _MAX_BYTES:
        raise ObservationError(path, "is larger than a catalogue can be", "split it")
    return data


def read_catalogue_csv(path: Path, graph: CausalGraph) -> "pd.DataFrame":
    """Read and check the CSV.

    Parameters
    ----------
    path
        CSV, plain or gzip'ed, one column per node, -9999 where missing.
    graph
        Gives names, units and supports.

    Returns
    -------
    pandas.DataFrame
        float64 columns in node order, NaN where missing.

    Raises
    ------
    ObservationError
        If columns are missing or unknown, a value is no number or outside its node's support, or
        a row repeats.
    """
    import pandas as pd

    try:
        text = _content(path).decode("utf-8")
        raw = pd.read_csv(io.StringIO(text), dtype=np.float64)
    except (UnicodeDecodeError, ValueError) as error:
        raise FormatMismatchError(
            path, f"is not a CSV of numbers ({error})", "use the catalogue's own file"
        ) from error
    table = raw.rename(columns={name: name.strip().lower() for name in raw.columns})
    table = table.rename(columns=_RENAMED)
    missing = [name for name in graph.nodes if name not in table.columns]
    unknown = [name for name in table.columns if name not in graph.nodes]
    if missing or unknown or table.empty:
        raise FormatMismatchError(
            path,
            f"lacks columns {missing}, has unknown columns {unknown}, {len(table)} rows",
            f"give one column per variable: {list(graph.nodes)}",
        )
    table = table[list(graph.nodes)]
    if table.isna().to_numpy().any():
        raise ObservationError(path, "has empty cells", "write -9999 where a value is missing")
    table = table.mask(table == _MISSING_CODE)
    for name, node in graph.nodes.items():
        low, high = node.support
        outside = table.index[(table[name] < low) | (table[name] > high)]
        if len(outside):
            # Line 1 is the header.
            raise ObservationError(
                path,
                f"line {outside[0] + 2}: {name} = {table[name][outside[0]]} is outside "
                f"[{low}, {high}] ({len(outside)} such rows)",
                "correct it or mark it missing with -9999",
            )
    repeated = table.index[table.duplicated()]
    if len(repeated):
        raise ObservationError(
            path,
            f"line {repeated[0] + 2} repeats an earlier row ({len(repeated)} such rows)",
            "keep each galaxy once: repeated rows would fall on both sides of a split",
        )
    return table


def ingest_catalogue(store: Store, csv_path: Path, *, code_version: str) -> Manifest:
    """Validate a catalogue and store it.

    Parameters
    ----------
    store
        Where datasets live.
    csv_path
        CSV, plain or gzip'ed.
    code_version
        Version of the code, for provenance.

    Returns
    -------
    Manifest
        Kind ``catalogue``, key ``emission-lines``; attributes hold rows, missing values per column
        and units.

    Raises
    ------
    ObservationError
        If the file is not a valid catalogue.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    graph = catalogue_graph()
    digest = hashlib.sha256(_content(csv_path)).hexdigest()
    parameters = {"source": csv_path.name, "sha256": digest, "missing_code": _MISSING_CODE}
    key = "emission-lines"
    ready = reusable_manifest(
        store, KIND, key, inputs=(), code_version=code_version, parameters=parameters
    )
    if ready is not None:
        return ready
    table = read_catalogue_csv(csv_path, graph)
    units = {n: f"log10({v.unit})" if v.log10 else v.unit for n, v in graph.nodes.items()}
    schema = pa.schema(
        [
            pa.field(n, pa.float64(), metadata={"unit": units[n], "description": v.description})
            for n, v in graph.nodes.items()
        ]
    )
    with new_generation(
        store, KIND, key, inputs=(), code_version=code_version, parameters=parameters
    ) as generation:
        name = f"{generation.prefix}/{CATALOGUE_FILE}"
        with store.writer(name) as handle, tempfile.TemporaryFile() as spool:
            pq.write_table(pa.Table.from_pandas(table, schema=schema, preserve_index=False), spool)
            spool.seek(0)
            handle.write(spool.read())
        return generation.commit(
            (Output(CATALOGUE_FILE, file_sha256(store, name)),),
            {
                "rows": len(table),
                "missing": {n: int(table[n].isna().sum()) for n in table.columns},
                "units": units,
            },
        )
