"""A structural causal model in one file.

Belongs here: the file. Does not belong here: models in the store, with their provenance
(`acie_pipelines.training.fit`).

A ZIP archive of ``spec.json`` (format, graph, shape), ``weights.pt`` and ``draws.pt``
(`acie_pipelines.causal.weight_draws`), read with ``weights_only=True``: opening one runs no code of
whoever made it.
"""

import json
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Final

from acie_pipelines.errors import ModelError
from acie_pipelines.storage import atomic_writer, storage_errors

if TYPE_CHECKING:
    from torch import Tensor

    from acie_pipelines.causal.scm import StructuralCausalModel

__all__ = ["read_model", "write_model"]

_SPEC: Final = "spec.json"
_WEIGHTS: Final = "weights.pt"
_DRAWS: Final = "draws.pt"
_LARGEST_PART: Final = 1 << 30


def write_model(path: Path, model: "StructuralCausalModel", draws: Mapping[str, "Tensor"]) -> None:
    """Write a model; an older file is replaced only by the whole new one.

    Parameters
    ----------
    path
        The file.
    model, draws
        Fitted, and draws of its weights, if there are any.

    Raises
    ------
    StorageError
        If the file cannot be written.
    """
    import torch

    drawn = BytesIO()
    torch.save(dict(draws), drawn)
    with atomic_writer(path) as handle, zipfile.ZipFile(handle, "w") as archive:
        archive.writestr(_SPEC, json.dumps(model.spec(), indent=1))
        archive.writestr(_WEIGHTS, model.weights())
        archive.writestr(_DRAWS, drawn.getvalue())


def read_model(path: Path) -> tuple["StructuralCausalModel", dict[str, "Tensor"]]:
    """Read what `write_model` wrote.

    Raises
    ------
    StorageError
        If there is no such file.
    ModelError
        If it is damaged or no model.
    """
    import torch

    from acie_pipelines.causal.scm import StructuralCausalModel

    try:
        with storage_errors(path), zipfile.ZipFile(path) as archive:
            sizes = [archive.getinfo(name).file_size for name in (_SPEC, _WEIGHTS, _DRAWS)]
            if max(sizes) > _LARGEST_PART:
                raise ModelError(path, "claims to hold more than 1 GiB", "use another copy")
            # The archive's own checksums are verified on reading.
            spec, weights = archive.read(_SPEC), archive.read(_WEIGHTS)
            draws = torch.load(BytesIO(archive.read(_DRAWS)), weights_only=True)
    except (zipfile.BadZipFile, KeyError, RuntimeError, UnpicklingError) as error:
        raise ModelError(
            path, f"is damaged or no model ({error})", "write it again with `acie scm fit`"
        ) from error
    return StructuralCausalModel.load(spec, weights), draws
