"""The training table: catalogue rows and rows measured on sealed spectra, in one HDF5 file.

Belongs here: the table's layout, its splits, writing it and reading it by block.
Does not belong here: how a row is measured, or what is fitted to it.

Layout::

    /galaxies/<node>          float32 (rows,), attributes unit, description, missing
    /galaxies/split           uint8: 0 train, 1 validation, 2 test
    /galaxies/origin          int32: -1 catalogue, else index into /observations
    /observations/key         observation keys
    /observations/digest      digests of their tiles manifests
"""

import hashlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.causal.graph import CausalGraph, catalogue_graph
from acie_pipelines.errors import IntegrityError
from acie_pipelines.provenance import (
    Manifest,
    Output,
    file_sha256,
    new_generation,
    reusable_manifest,
)
from acie_pipelines.storage import Store
from acie_pipelines.training.catalogue import CATALOGUE_FILE
from acie_pipelines.training.spectra import (
    SealedSpectrum,
    holds_spectrum,
    measure_sealed,
    require_seal,
)

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["KIND", "SPLITS", "TABLE_FILE", "TableReader", "build_training_table"]

KIND: Final = "training_table"
TABLE_FILE: Final = "table.h5"
SplitName = Literal["train", "validation", "test"]
SPLITS: Final[tuple[SplitName, ...]] = ("train", "validation", "test")
_TRAIN_PERCENT: Final = 70
_VALIDATION_PERCENT: Final = 15


def _split(identity: bytes) -> int:
    """Split of a row, a function of what the row is and of nothing else."""
    draw = int.from_bytes(hashlib.sha256(identity).digest()[:8], "big") % 100
    return int(draw >= _TRAIN_PERCENT) + int(draw >= _TRAIN_PERCENT + _VALIDATION_PERCENT)


def _catalogue_splits(rows: "pd.DataFrame") -> NDArray[np.uint8]:
    # float32, as the table stores it: the last bit of a parsed decimal must not move a row.
    values = np.ascontiguousarray(rows.to_numpy(dtype="<f4"))
    return np.array([_split(row.tobytes()) for row in values], dtype=np.uint8)


def build_training_table(
    store: Store,
    catalogue: Manifest,
    sealed: Sequence[tuple[Manifest, Manifest]],
    *,
    code_version: str,
) -> Manifest:
    """Join the catalogue with what sealed spectra add.

    Parameters
    ----------
    store
        Where datasets live.
    catalogue
        Manifest of kind ``catalogue``.
    sealed
        Pairs (tiles, ciphertexts) of encrypted observations; each pair that holds an SDSS
        spectrum becomes an input.
    code_version
        Version of the code, for provenance.

    Returns
    -------
    Manifest
        Kind ``training_table``, key ``galaxies``; attributes count rows by split and origin and
        name spectra that add no row, with the reason.

    Raises
    ------
    IntegrityError
        If an observation is not sealed or stored data do not match their manifest.
    """
    for tiles, ciphertexts in sealed:
        require_seal(tiles, ciphertexts)
    spectra = sorted((p for p in sealed if holds_spectrum(p[0])), key=lambda p: p[0].key)
    refs = [m.as_input() for pair in spectra for m in pair]
    inputs = (catalogue.as_input(), *refs)
    parameters: dict[str, Any] = {
        "train_percent": _TRAIN_PERCENT,
        "validation_percent": _VALIDATION_PERCENT,
    }
    ready = reusable_manifest(
        store, KIND, "galaxies", inputs=inputs, code_version=code_version, parameters=parameters
    )
    if ready is not None:
        return ready
    graph = catalogue_graph()
    rows = _read_catalogue(store, catalogue)
    measured = measure_sealed(store, spectra)
    used = [spectrum for spectrum in measured if not spectrum.reason]
    split = np.concatenate(
        [_catalogue_splits(rows), np.array([_split(s.key.encode()) for s in used], np.uint8)]
    )
    with new_generation(
        store, KIND, "galaxies", inputs=inputs, code_version=code_version, parameters=parameters
    ) as generation:
        name = f"{generation.prefix}/{TABLE_FILE}"
        with tempfile.TemporaryDirectory(prefix="acie-table-") as directory:
            path = Path(directory) / TABLE_FILE
            _write(path, graph, rows, used, split)
            with path.open("rb") as source, store.writer(name) as target:
                shutil.copyfileobj(source, target, 1 << 22)
        return generation.commit(
            (Output(TABLE_FILE, file_sha256(store, name)),),
            {
                "rows": len(split),
                "rows_from_catalogue": len(rows),
                "rows_from_observations": len(used),
                "rows_by_split": {n: int((split == k).sum()) for k, n in enumerate(SPLITS)},
                "observations": [s.key for s in used],
                "without_row": [{"key": s.key, "reason": s.reason} for s in measured if s.reason],
                "units": {n: _unit(graph, n) for n in graph.nodes},
            },
        )


def _unit(graph: CausalGraph, name: str) -> str:
    node = graph.nodes[name]
    return f"log10({node.unit})" if node.log10 else node.unit


def _read_catalogue(store: Store, catalogue: Manifest) -> "pd.DataFrame":
    name = f"{catalogue.prefix}/{CATALOGUE_FILE}"
    if file_sha256(store, name) != catalogue.outputs[0].sha256:
        raise IntegrityError(name, "content does not match its manifest", "ingest it again")
    import pandas as pd

    with store.open(name) as handle:
        return pd.read_parquet(handle)


def _write(
    path: Path,
    graph: CausalGraph,
    rows: "pd.DataFrame",
    used: Sequence[SealedSpectrum],
    split: NDArray[np.uint8],
) -> None:
    import h5py

    with h5py.File(path, "w", libver="latest") as file:
        galaxies = file.create_group("galaxies")
        for name, node in graph.nodes.items():
            extra = [spectrum.widths.get(name, np.nan) for spectrum in used]
            column = np.concatenate([rows[name].to_numpy(), extra]).astype(np.float32)
            dataset = galaxies.create_dataset(name, data=column, chunks=True, compression="gzip")
            dataset.attrs["unit"] = _unit(graph, name)
            dataset.attrs["description"] = node.description
            dataset.attrs["missing"] = "NaN"
        galaxies.create_dataset("split", data=split).attrs["values"] = ", ".join(
            f"{k} {name}" for k, name in enumerate(SPLITS)
        )
        origin = np.concatenate([np.full(len(rows), -1), np.arange(len(used))]).astype(np.int32)
        galaxies.create_dataset("origin", data=origin).attrs["values"] = (
            "-1 catalogue, else index into /observations"
        )
        observations = file.create_group("observations")
        text = h5py.string_dtype()
        observations.create_dataset("key", data=[s.key for s in used], dtype=text)
        observations.create_dataset("digest", data=[s.tiles.digest for s in used], dtype=text)


@dataclass(frozen=True)
class TableReader:
    """Rows of a table on a local disk, by block.

    Attributes
    ----------
    path
        The HDF5 file.
    names
        Columns, in order.
    block_rows
        Rows read at once.
    """

    path: Path
    names: tuple[str, ...]
    block_rows: int = 8192

    def blocks(
        self, split: SplitName, *, origin: Literal["any", "catalogue", "observation"] = "any"
    ) -> Iterator[NDArray[np.float32]]:
        """Blocks of shape ``(n, columns)`` with only the rows asked for."""
        import h5py

        with h5py.File(self.path, "r") as file:
            galaxies = file["galaxies"]
            total = galaxies["split"].shape[0]
            for start in range(0, total, self.block_rows):
                window = slice(start, start + self.block_rows)
                wanted = galaxies["split"][window] == SPLITS.index(split)
                if origin != "any":
                    measured = galaxies["origin"][window] >= 0
                    wanted &= measured if origin == "observation" else ~measured
                block = np.stack([galaxies[name][window] for name in self.names], axis=1)
                if wanted.any():
                    yield np.ascontiguousarray(block[wanted], dtype=np.float32)

    def read(
        self, split: SplitName, *, origin: Literal["any", "catalogue", "observation"] = "any"
    ) -> NDArray[np.float32]:
        """All rows of a split at once, shape ``(n, columns)``."""
        found = list(self.blocks(split, origin=origin))
        return np.concatenate(found) if found else np.empty((0, len(self.names)), np.float32)
