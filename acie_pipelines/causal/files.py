"""A structural causal model in one file.

Belongs here: the file. Does not belong here: models in the store, with their provenance
(`acie_pipelines.training.fit`).

A ZIP archive of ``spec.json`` (format, graph, shape) and ``weights.pt``, read with
``weights_only=True``: opening one runs no code of whoever made it.
"""

import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from acie_pipelines.errors import ModelError
from acie_pipelines.storage import atomic_writer, storage_errors

if TYPE_CHECKING:
    from acie_pipelines.causal.scm import StructuralCausalModel

__all__ = ["read_model", "write_model"]

_SPEC: Final = "spec.json"
_WEIGHTS: Final = "weights.pt"
_LARGEST_PART: Final = 1 << 30


def write_model(path: Path, model: "StructuralCausalModel") -> None:
    """Write a model; an older file is replaced only by the whole new one.

    Raises
    ------
    StorageError
        If the file cannot be written.
    """
    with atomic_writer(path) as handle, zipfile.ZipFile(handle, "w") as archive:
        archive.writestr(_SPEC, json.dumps(model.spec(), indent=1))
        archive.writestr(_WEIGHTS, model.weights())


def read_model(path: Path) -> "StructuralCausalModel":
    """Read what `write_model` wrote.

    Raises
    ------
    StorageError
        If there is no such file.
    ModelError
        If it is damaged or no model.
    """
    from acie_pipelines.causal.scm import StructuralCausalModel

    try:
        with storage_errors(path), zipfile.ZipFile(path) as archive:
            sizes = [archive.getinfo(name).file_size for name in (_SPEC, _WEIGHTS)]
            if max(sizes) > _LARGEST_PART:
                raise ModelError(path, "claims to hold more than 1 GiB", "use another copy")
            # The archive's own checksums are verified on reading.
            spec, weights = archive.read(_SPEC), archive.read(_WEIGHTS)
    except (zipfile.BadZipFile, KeyError) as error:
        raise ModelError(
            path, f"is damaged or no model ({error})", "write it again with `acie scm fit`"
        ) from error
    return StructuralCausalModel.load(spec, weights)
