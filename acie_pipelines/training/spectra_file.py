"""Training spectra out of a file of simulated galaxies, a few blocks at a time.

Belongs here: reading what `acie_pipelines.simulation.dataset` wrote, split into training and
validation. Does not belong here: writing it, or what is trained.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from acie_pipelines.causal.graph import CausalGraph
from acie_pipelines.errors import ConfigurationError, ModelError
from acie_pipelines.models.parameters import PARAMETERS, unconstrain
from acie_pipelines.models.posterior_training import LabelledSpectra
from acie_pipelines.simulation.container import Container, open_container
from acie_pipelines.simulation.dataset import SCHEMA, Simulation
from acie_pipelines.simulation.galaxy import galaxy_graph

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
        Written by `acie simulate`, HDF5 or Zarr.

    Raises
    ------
    ConfigurationError
        If it is no such file, holds galaxies that depart from the model's physics, or too few.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with open_container(path) as file:
            if file.attributes.get("schema") != SCHEMA:
                raise ConfigurationError(
                    path, f"has no schema {SCHEMA}", "write it with `acie simulate`"
                )
            self.request = str(file.attributes["request"])
            self.simulation = Simulation.from_json(self.request)
            self.count, self.pixels = file.shape("spectra/clean_flux")
            columns = [f"galaxies/{name}" for name in galaxy_graph().nodes]
            file.require([*columns, "spectra/clean_flux", "spectra/ivar"])
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

    def _read(self, file: Container, start: int, stop: int) -> LabelledSpectra:
        values = {
            name: torch.from_numpy(file.rows(f"galaxies/{name}", start, stop)).double()
            for name in PARAMETERS
        }
        ivar = torch.from_numpy(file.rows("spectra/ivar", start, stop))
        clean = torch.from_numpy(file.rows("spectra/clean_flux", start, stop))
        found = LabelledSpectra(unconstrain(values), clean, ivar**-0.5)
        if not all(bool(each.isfinite().all()) for each in (found.parameters, clean, found.sigma)):
            raise ModelError(
                self.path, f"holds values that are not finite in rows {start} to {stop}", "check it"
            )
        return found

    def first(self, count: int) -> LabelledSpectra:
        """Give the first training galaxies."""
        with open_container(self.path) as file:
            return self._read(file, 0, min(count, self.train_rows))

    def validation(self) -> LabelledSpectra:
        """Give the galaxies that no batch holds."""
        with open_container(self.path) as file:
            return self._read(file, self.train_rows, self.count)

    def batches(self, size: int, generator: torch.Generator) -> Iterator[LabelledSpectra]:
        """One pass; what does not fill a batch is left out."""
        block = self.simulation.block
        starts = torch.arange(0, self.train_rows, block)
        starts = starts[torch.randperm(len(starts), generator=generator)]
        rest: LabelledSpectra | None = None
        with open_container(self.path) as file:
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
        with open_container(self.path) as file:
            names = [f"galaxies/{name}" for name in graph.nodes]
            first = min(rows, self.train_rows)
            train = np.stack([file.rows(n, 0, first) for n in names], axis=1)
            judged = np.stack([file.rows(n, self.train_rows, self.count) for n in names], axis=1)
        return torch.from_numpy(train), torch.from_numpy(judged)


def _joined(parts: list[LabelledSpectra]) -> LabelledSpectra:
    return LabelledSpectra(
        torch.cat([part.parameters for part in parts]),
        torch.cat([part.clean for part in parts]),
        torch.cat([part.sigma for part in parts]),
    )
