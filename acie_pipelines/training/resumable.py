"""What trainings that can be killed and go on share.

Belongs here: where a training is reported, its saved state, and its loop over epochs.
Does not belong here: what is trained (`acie_pipelines.training.fit`,
`acie_pipelines.training.counterfactual_training`) or MLflow (`acie_pipelines.training.tracking`).
"""

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from io import BytesIO
from typing import Any, Final, Protocol, TypeVar

import torch

from acie_pipelines.causal.graph import CausalGraph
from acie_pipelines.errors import ModelError
from acie_pipelines.provenance import Manifest
from acie_pipelines.storage import Store
from acie_pipelines.training.interruption import Interruption, TrainingInterrupted

__all__ = ["Checkpoint", "ResumableFitter", "Tracker", "run_epochs"]

_STATE: Final = "state.pt"

Data = TypeVar("Data", contravariant=True)
Epoch = TypeVar("Epoch")


class Tracker(Protocol[Data, Epoch]):
    """Where a training is reported."""

    def start(self, parameters: dict[str, Any], data: Data, code_version: str, /) -> str:
        """Open a run and return its id."""
        ...

    def epoch(self, epoch: Epoch, /) -> None:
        """Report one epoch."""
        ...

    def finish(
        self,
        graph: CausalGraph,
        history: list[Epoch],
        model: Manifest,
        files: Mapping[str, bytes],
        /,
    ) -> None:
        """Report the result with the model's files and close the run."""
        ...

    def fail(self) -> None:
        """Close the run as failed."""
        ...


class ResumableFitter(Protocol[Epoch]):
    """A fit in progress whose state can be saved after every epoch."""

    history: list[Epoch]

    @property
    def finished(self) -> bool:
        """Whether no further epoch is due."""
        ...

    def epoch(self) -> Epoch:
        """Train one epoch."""
        ...

    def state(self) -> dict[str, Any]:
        """Everything needed to go on, as tensors and plain values."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state`."""
        ...


class Checkpoint:
    """State of an unfinished training, under the digest of all that decides its result.

    Parameters
    ----------
    store, prefix
        Where states are kept.
    request
        JSON values that decide the result.
    seconds
        A state is saved after the first epoch that ends this long after the last one.
    epochs
        A state is also saved after this many epochs, if given.
    """

    def __init__(
        self,
        store: Store,
        prefix: str,
        request: list[Any],
        *,
        seconds: float,
        epochs: int | None = None,
    ) -> None:
        text = json.dumps(request, sort_keys=True).encode()
        self._store, self._seconds, self._epochs = store, seconds, epochs
        self._directory = f"{prefix}/{hashlib.sha256(text).hexdigest()}"
        self._saved_at = time.monotonic()

    def load(self, name: str) -> dict[str, Any] | None:
        """Read what an interrupted training saved under a name, if it did.

        Raises
        ------
        ModelError
            If it is damaged.
        """
        path = f"{self._directory}/{name}"
        if not self._store.exists(path):
            return None
        try:
            data = BytesIO(self._store.read_bytes(path))
            state: dict[str, Any] = torch.load(data, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged archive can fail in any way
            raise _unusable(path, error) from error
        return state

    def save(self, name: str, state: Mapping[str, Any]) -> None:
        """Keep tensors and plain values under a name."""
        buffer = BytesIO()
        torch.save(dict(state), buffer)
        self._store.write_bytes(f"{self._directory}/{name}", buffer.getvalue())

    def restore(self, fitter: ResumableFitter[Any]) -> None:
        """Bring a new fit to where the interrupted one was, if there was one.

        Raises
        ------
        ModelError
            If its state is damaged or does not fit.
        """
        state = self.load(_STATE)
        if state is None:
            return
        try:
            fitter.restore(state)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise _unusable(f"{self._directory}/{_STATE}", error) from error

    def save_if_due(self, fitter: ResumableFitter[Any]) -> None:
        """Save a fit after the configured number of epochs or seconds."""
        due = self._epochs is not None and len(fitter.history) % self._epochs == 0
        if due or time.monotonic() - self._saved_at >= self._seconds:
            self.save_fit(fitter)

    def save_fit(self, fitter: ResumableFitter[Any]) -> None:
        """Save a fit now."""
        self.save(_STATE, fitter.state())
        self._saved_at = time.monotonic()

    def delete(self) -> None:
        """Forget everything once the result is published."""
        self._store.delete(self._directory)


def _unusable(path: str, error: Exception) -> ModelError:
    return ModelError(path, f"cannot be restored ({error})", "delete it to train from the start")


def run_epochs(
    fitter: ResumableFitter[Epoch],
    checkpoint: Checkpoint,
    tracker: Tracker[Any, Epoch] | None,
    progress: Callable[[Epoch], None] | None,
    interruption: Interruption | None = None,
) -> None:
    """Train to the end; the tracker also hears of the epochs of an interrupted training.

    Raises
    ------
    TrainingInterrupted
        If the interruption heard a signal: at the end of the epoch, whose state is saved.
    """
    if tracker is not None:
        for epoch in fitter.history:
            tracker.epoch(epoch)
    with nullcontext() if interruption is None else interruption.postponed():
        while not fitter.finished:
            epoch = fitter.epoch()
            asked = None if interruption is None else interruption.asked
            if asked is None:
                checkpoint.save_if_due(fitter)
            else:
                checkpoint.save_fit(fitter)
            if tracker is not None:
                tracker.epoch(epoch)
            if progress is not None:
                progress(epoch)
            if asked is not None:
                raise TrainingInterrupted(asked, saved=True)
