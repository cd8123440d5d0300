"""The ``simulation`` dataset: galaxies whose true counterfactuals are known, to train from.

Belongs here: the stored form. Does not belong here: the simulation or the file's layout
(`acie_pipelines.simulation.dataset`).
"""

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from acie_pipelines.provenance import (
    Manifest,
    Output,
    file_sha256,
    new_generation,
    reusable_manifest,
)
from acie_pipelines.storage import Store

if TYPE_CHECKING:
    from acie_pipelines.simulation.dataset import Simulation

__all__ = ["GALAXIES_FILE", "KIND", "store_simulation"]

KIND: Final = "simulation"
GALAXIES_FILE: Final = "galaxies.h5"


def store_simulation(
    store: Store,
    simulation: "Simulation",
    *,
    code_version: str,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Simulate galaxies into the store.

    Parameters
    ----------
    store
        Where datasets live.
    simulation
        What to simulate.
    code_version
        Version of the code, for provenance.
    progress
        Called with galaxies done and galaxies in all.

    Returns
    -------
    Manifest
        Kind ``simulation``, key ``galaxies``; attributes count galaxies and bytes.
    """
    from acie_pipelines.simulation.dataset import write_dataset

    key, parameters = "galaxies", json.loads(simulation.to_json())
    ready = reusable_manifest(
        store, KIND, key, inputs=(), code_version=code_version, parameters=parameters
    )
    if ready is not None:
        return ready
    with new_generation(
        store, KIND, key, inputs=(), code_version=code_version, parameters=parameters
    ) as generation:
        name = f"{generation.prefix}/{GALAXIES_FILE}"
        with tempfile.TemporaryDirectory(prefix="acie-simulation-") as directory:
            path = Path(directory) / GALAXIES_FILE
            write_dataset(path, simulation, progress=progress)
            size = path.stat().st_size
            with path.open("rb") as source, store.writer(name) as target:
                shutil.copyfileobj(source, target, 1 << 22)
        return generation.commit(
            (Output(GALAXIES_FILE, file_sha256(store, name)),),
            {"galaxies": simulation.count, "preset": simulation.preset, "bytes": size},
        )
