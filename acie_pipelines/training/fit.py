"""The ``scm`` dataset: a causal model fitted to the training table, resumable after a kill.

Belongs here: blocks in, outputs with hashes.
Does not belong here: the optimiser loop (`acie_pipelines.causal.fitting`), checkpoints
(`acie_pipelines.training.resumable`) or what MLflow sees (`acie_pipelines.training.tracking`).
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import torch
from torch import Tensor

from acie_pipelines.causal.fitting import EpochLosses, FitConfig, Fitter
from acie_pipelines.causal.graph import catalogue_graph
from acie_pipelines.causal.mechanisms import MechanismConfig
from acie_pipelines.causal.scm import StructuralCausalModel
from acie_pipelines.causal.threads import one_thread_each
from acie_pipelines.provenance import (
    Manifest,
    Output,
    new_generation,
    reusable_manifest,
    verify_outputs,
)
from acie_pipelines.storage import Store
from acie_pipelines.training.resumable import Checkpoint, Tracker, run_epochs
from acie_pipelines.training.table import TABLE_FILE, SplitName, TableReader

__all__ = ["KIND", "TrainingConfig", "load_scm", "train_scm"]

KIND: Final = "scm"
WEIGHTS_FILE: Final = "weights.pt"
SPEC_FILE: Final = "spec.json"
CURVES_FILE: Final = "curves.json"


@dataclass(frozen=True)
class TrainingConfig:
    """What decides the fitted model, and how often its state is saved.

    Attributes
    ----------
    mechanisms, fit
        Shape of the mechanisms and how they are fitted.
    checkpoint_epochs
        A checkpoint is written after this many epochs ...
    checkpoint_seconds
        ... or after the first epoch that ends this long after the last checkpoint.
    """

    mechanisms: MechanismConfig = field(default_factory=MechanismConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    checkpoint_epochs: int = 5
    checkpoint_seconds: float = 300.0

    def parameters(self) -> dict[str, Any]:
        """List what the result depends on; checkpoints do not change it."""
        return {"mechanisms": asdict(self.mechanisms), "fit": asdict(self.fit)}


@dataclass(frozen=True)
class _SplitRows:
    """One split of the table as the fit loop wants it."""

    reader: TableReader
    split: SplitName

    def blocks(self) -> Iterator[Tensor]:
        for block in self.reader.blocks(self.split):
            yield torch.from_numpy(block)


def train_scm(
    store: Store,
    table: Manifest,
    config: TrainingConfig,
    *,
    code_version: str,
    tracker: Tracker[Manifest, EpochLosses] | None = None,
    progress: Callable[[EpochLosses], None] | None = None,
    checkpoint_prefix: str = "checkpoints",
) -> Manifest:
    """Fit the catalogue's causal model.

    A run that was killed goes on from its last checkpoint and, on a CPU, ends with the same bytes
    as one that was not.

    Parameters
    ----------
    store, table
        Where datasets live, and the training table.
    config
        Shape, fit and checkpoint interval.
    code_version
        Version of the code, for provenance.
    tracker
        Where to report; nowhere by default.
    progress
        Called after each epoch.
    checkpoint_prefix
        Prefix in the store below which checkpoints are kept while training.

    Returns
    -------
    Manifest
        Kind ``scm``, key of the table; attributes hold validation losses, epochs, the device
        and the tracker's run id.

    Raises
    ------
    IntegrityError
        If the table does not match its manifest.
    ModelError
        If the fit diverges or a checkpoint cannot be read.
    """
    inputs, parameters = (table.as_input(),), config.parameters()
    ready = reusable_manifest(
        store, KIND, table.key, inputs=inputs, code_version=code_version, parameters=parameters
    )
    if ready is not None:
        return ready
    verify_outputs(store, table)
    graph = catalogue_graph()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    checkpoint = Checkpoint(
        store,
        checkpoint_prefix,
        [table.digest, parameters, code_version],
        seconds=config.checkpoint_seconds,
        epochs=config.checkpoint_epochs,
    )
    run_id = tracker.start(parameters, table, code_version) if tracker is not None else None
    try:
        # Faster for these small networks, and sums do not depend on cores.
        with store.local_copy(f"{table.prefix}/{TABLE_FILE}") as path, one_thread_each():
            reader = TableReader(path, tuple(graph.nodes))
            model = StructuralCausalModel(graph, config.mechanisms, seed=config.fit.seed).to(device)
            fitter = Fitter(
                model, _SplitRows(reader, "train"), _SplitRows(reader, "validation"), config.fit
            )
            checkpoint.restore(fitter)
            run_epochs(fitter, checkpoint, tracker, progress)
            best = fitter.finish()
        curves = [vars(losses) for losses in fitter.history]
        files = {
            WEIGHTS_FILE: model.weights(),
            SPEC_FILE: json.dumps(model.spec(), indent=1).encode() + b"\n",
            CURVES_FILE: json.dumps(curves, indent=1).encode() + b"\n",
        }
        attributes = {
            "validation_loss_nats": best,
            "epochs": len(fitter.history),
            "device": device.type,
            "torch": str(torch.__version__),
        } | ({"mlflow_run_id": run_id} if run_id is not None else {})
        with new_generation(
            store, KIND, table.key, inputs=inputs, code_version=code_version, parameters=parameters
        ) as generation:
            for name, data in files.items():
                store.write_bytes(f"{generation.prefix}/{name}", data)
            outputs = tuple(Output(n, hashlib.sha256(d).hexdigest()) for n, d in files.items())
            manifest = generation.commit(outputs, attributes)
        if tracker is not None:
            tracker.finish(graph, fitter.history, manifest, files)
    except BaseException:
        if tracker is not None:
            tracker.fail()
        raise
    checkpoint.delete()
    return manifest


def load_scm(store: Store, manifest: Manifest) -> StructuralCausalModel:
    """Load a fitted model after checking its hashes; on the CPU, ready to answer.

    Raises
    ------
    IntegrityError
        If its files do not match the manifest.
    ModelError
        If they do not make a model.
    """
    verify_outputs(store, manifest)
    return StructuralCausalModel.load(
        store.read_bytes(f"{manifest.prefix}/{SPEC_FILE}"),
        store.read_bytes(f"{manifest.prefix}/{WEIGHTS_FILE}"),
    )
