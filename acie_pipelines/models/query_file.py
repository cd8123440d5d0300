"""The answer to a question as an HDF5 file and as JSON values.

Belongs here: the layout. Does not belong here: computing what is written.
"""

import io
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from acie_pipelines.causal.graph import Node
from acie_pipelines.models.query import TOLERANCE, Band, CounterfactualResult
from acie_pipelines.simulation.galaxy import galaxy_graph
from acie_pipelines.simulation.spectrum import FLUX_UNIT
from acie_pipelines.storage import atomic_writer

__all__ = ["SCHEMA", "summary", "write_result"]

SCHEMA: Final = "acie.counterfactual/1"
"""Version of the layout, in the attribute ``schema`` of the file."""

_IVAR_UNIT: Final = "1e34 s2 cm4 Angstrom2 / erg2"
_SPECTRA: Final = {
    "factual": "Spectrum without noise as it is",
    "counterfactual": "Spectrum without noise as it would have been",
    "difference": "Counterfactual minus factual, draw by draw",
}
_BAND: Final = {
    "median": "median of the draws",
    "low": "lower end of the central 90 % interval",
    "high": "upper end of the central 90 % interval",
}


def write_result(path: Path, result: CounterfactualResult) -> None:
    """Write an answer; the file appears whole or not at all.

    Attributes of the file hold the record of `summary`. Datasets, float32 with ``unit`` and
    ``description``: ``wavelength``, ``observed/flux`` and ``observed/ivar``; ``median``, ``low``
    and ``high`` in each of ``factual``, ``counterfactual`` and ``difference``; and the posterior
    draws of every node in ``latent/before`` and ``latent/after``.

    Raises
    ------
    StorageError
        If the path cannot be written; an older file is intact.
    """
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.attrs["schema"] = SCHEMA
        for name, value in summary(result).items():
            if name == "latent":
                continue
            nested = isinstance(value, dict | list)
            file.attrs[name] = json.dumps(value) if nested else value
        for name, samples, unit, description in _datasets(result):
            dataset = file.create_dataset(name, data=samples.astype(np.float32))
            dataset.attrs["unit"] = unit
            dataset.attrs["description"] = description
    with atomic_writer(path) as handle:
        handle.write(buffer.getbuffer())


def _datasets(result: CounterfactualResult) -> Iterator[tuple[str, NDArray[Any], str, str]]:
    """Name, samples, unit and description of each."""
    yield (
        "wavelength",
        result.wavelength_angstrom,
        "Angstrom",
        "Observed wavelength in vacuum of the middle of each pixel in log wavelength",
    )
    yield "observed/flux", result.observed[0], FLUX_UNIT, "Observed flux density"
    yield "observed/ivar", result.observed[1], _IVAR_UNIT, "Its inverse variance; 0 where missing"
    for group, meaning in _SPECTRA.items():
        band = getattr(result, group)
        for part, which in _BAND.items():
            yield f"{group}/{part}", getattr(band, part), FLUX_UNIT, f"{meaning}: {which}"
    for when, draws in (("before", result.before), ("after", result.after)):
        for name, values in draws.items():
            node = galaxy_graph().nodes[name]
            yield f"latent/{when}/{name}", values, _unit(node), node.description


def _unit(node: Node) -> str:
    if not node.log10:
        return node.unit
    return f"dex({node.unit})" if node.unit else "dex"


def summary(result: CounterfactualResult) -> dict[str, Any]:
    """Everything but the spectra, as JSON values.

    ``latent`` maps each node to its unit and to ``[low, median, high]`` of the central 90 %
    interval before and after.
    """
    return {
        "observation": result.observation,
        "survey": result.survey,
        "question": result.question,
        "model": result.model,
        "seed": result.seed,
        "draws": result.draws,
        "confidence": result.confidence,
        "confidence_tolerance": TOLERANCE,
        "chi_square_per_pixel": result.chi_square,
        "effective_draws": result.effective_draws,
        "reliable": result.reliable,
        "support": dict(result.support),
        "physics_residuals": {
            law: {"factual": before, "counterfactual": after}
            for law, (before, after) in result.laws.items()
        },
        "identification": [
            {**asdict(each), "status": each.status.value, "identified": each.identified}
            for each in result.identification
        ],
        "notes": list(result.notes),
        "warnings": list(result.warnings),
        "latent": {
            name: {
                "unit": _unit(galaxy_graph().nodes[name]),
                "before": _interval(values),
                "after": _interval(result.after[name]),
            }
            for name, values in result.before.items()
        },
    }


def _interval(draws: NDArray[np.float32]) -> list[float]:
    band = Band.of(torch.from_numpy(draws))
    return [float(edge) for edge in (band.low, band.median, band.high)]
