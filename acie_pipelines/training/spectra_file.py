"""Training spectra out of a file of simulated galaxies, a few blocks at a time.

Belongs here: reading what `acie_pipelines.simulation.dataset` wrote, split into training and
validation. Does not belong here: writing it, or what is trained.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
import torch
from torch import Tensor

from acie_pipelines.causal.graph import CausalGraph
from acie_pipelines.errors import ConfigurationError, ModelError
from acie_pipelines.models.parameters import PARAMETERS, unconstrain
from acie_pipelines.models.posterior_training import LabelledSpectra
from acie_pipelines.simulation.dataset import SCHEMA, Simulation

__all__ = ["SpectraFile"]

_VALIDATION_SHARE: Final = 10
_MOST_VALIDATION_ROWS: Final = 1024
_FEWEST_ROWS: Final = 200
# Blocks in memory at once, among which rows are shuffled: 32 MB of the sdss preset.
_SHUFFLED_BLOCKS: Final = 16


class SpectraFile:
    """Simulated galaxies on disk; implements `SpectraSource` for all but the last ones.

    Galaxies are independent draws, so the first ones train and the last tenth, at most 1,024,
    validates. A pass reads whole blocks in random order and shuffles the rows of a few at a time,
    so that memory does not grow with the file.

    Parameters
    ----------
    path
        Written by `acie simulate`.

    Raises
    ------
    ConfigurationError
        If it is no such file, holds galaxies that depart from the model's physics, or too few.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with h5py.File(path, "r") as file:
                if file.attrs.get("schema") != SCHEMA:
                    raise ConfigurationError(
                        path, f"has no schema {SCHEMA}", "write it with `acie simulate`"
                    )
                self.request = str(file.attrs["request"])
                self.simulation = Simulation.from_json(self.request)
                self.count, self.pixels = file["spectra/clean_flux"].shape
        except OSError as error:
            raise ConfigurationError(
                path, f"is not readable as HDF5 ({error})", "write it with `acie simulate`"
            ) from error
        if self.count < _FEWEST_ROWS:
            raise ConfigurationError(
                path, f"holds {self.count} galaxies", f"simulate at least {_FEWEST_ROWS}"
            )
        if self.simulation.departure != "none":
            raise ConfigurationError(
                path,
                f"departs from the model's physics ({self.simulation.departure})",
                "simulate without --departure",
            )
        self.train_rows = self.count - min(self.count // _VALIDATION_SHARE, _MOST_VALIDATION_ROWS)

    def _read(self, file: h5py.File, start: int, stop: int) -> LabelledSpectra:
        rows = slice(start, stop)
        values = {
            name: torch.from_numpy(file[f"galaxies/{name}"][rows]).double() for name in PARAMETERS
        }
        ivar = torch.from_numpy(file["spectra/ivar"][rows])
        clean = torch.from_numpy(file["spectra/clean_flux"][rows])
        found = LabelledSpectra(unconstrain(values), clean, ivar**-0.5)
        if not all(bool(each.isfinite().all()) for each in (found.parameters, clean, found.sigma)):
            raise ModelError(
                self.path, f"holds values that are not finite in rows {start} to {stop}", "check it"
            )
        return found

    def first(self, count: int) -> LabelledSpectra:
        """Give the first training galaxies."""
        with h5py.File(self.path, "r") as file:
            return self._read(file, 0, min(count, self.train_rows))

    def validation(self) -> LabelledSpectra:
        """Give the galaxies that no batch holds."""
        with h5py.File(self.path, "r") as file:
            return self._read(file, self.train_rows, self.count)

    def batches(self, size: int, generator: torch.Generator) -> Iterator[LabelledSpectra]:
        """One pass; what does not fill a batch is left out."""
        block = self.simulation.block
        starts = torch.arange(0, self.train_rows, block)
        starts = starts[torch.randperm(len(starts), generator=generator)]
        rest: LabelledSpectra | None = None
        with h5py.File(self.path, "r") as file:
            for first in range(0, len(starts), _SHUFFLED_BLOCKS):
                parts = [
                    self._read(file, start, min(start + block, self.train_rows))
                    for start in starts[first : first + _SHUFFLED_BLOCKS].tolist()
                ]
                pool = _joined(parts if rest is None else [rest, *parts])
                pool = pool.rows(torch.randperm(len(pool), generator=generator))
                whole = len(pool) // size * size
                for start in range(0, whole, size):
                    yield pool.rows(slice(start, start + size))
                rest = pool.rows(slice(whole, None))

    def table(self, graph: CausalGraph, rows: int) -> tuple[Tensor, Tensor]:
        """Properties of galaxies without their spectra, for training and validation of mechanisms.

        Parameters
        ----------
        graph
            Names the columns.
        rows
            Training galaxies, fewer if there are not as many.

        Returns
        -------
        tuple[Tensor, Tensor]
            float32, shape ``(n, nodes)``.
        """
        with h5py.File(self.path, "r") as file:
            columns: list[Any] = [file[f"galaxies/{name}"] for name in graph.nodes]
            train = np.stack([c[: min(rows, self.train_rows)] for c in columns], axis=1)
            judged = np.stack([c[self.train_rows :] for c in columns], axis=1)
        return torch.from_numpy(train), torch.from_numpy(judged)


def _joined(parts: list[LabelledSpectra]) -> LabelledSpectra:
    return LabelledSpectra(
        torch.cat([part.parameters for part in parts]),
        torch.cat([part.clean for part in parts]),
        torch.cat([part.sigma for part in parts]),
    )
