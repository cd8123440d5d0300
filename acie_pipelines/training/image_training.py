"""Training of the stamp classifier: balanced, augmented, resumable.

Belongs here: batches, the loop, checkpoints. Does not belong here: the network
(`acie_pipelines.models.images`), the data (`acie_pipelines.training.efigi`), scores on the test
split (`acie_pipelines.evaluation.galaxy_images`).
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from acie_pipelines.errors import ModelError
from acie_pipelines.models.images import StampClassifier, scale_stamps
from acie_pipelines.training.efigi import ImageSet, Task

__all__ = ["ClassifierEpoch", "ClassifierFitConfig", "fit_classifier"]

_LABEL_SMOOTHING: Final = 0.05
_WARM_UP: Final = 0.25
_SHIFT: Final = 0.04
_SCALE_SD: Final = 0.1
_GAIN_SD: Final = 0.1
_OFFSET_SD: Final = 0.05


@dataclass(frozen=True)
class ClassifierFitConfig:
    """What decides the weights besides the data and the seed.

    Attributes
    ----------
    epochs
        At most this many.
    steps
        Batches per epoch.
    batch_stamps
        Stamps per batch, divided equally among the classes.
    learning_rate
        At its peak after a quarter of the steps; it then falls as a cosine.
    weight_decay
        Of AdamW.
    patience
        Stop after this many epochs without a better validation loss.
    """

    epochs: int = 12
    steps: int = 40
    batch_stamps: int = 64
    learning_rate: float = 4e-3
    weight_decay: float = 1e-2
    patience: int = 6


@dataclass(frozen=True)
class ClassifierEpoch:
    """Losses of one epoch, counted from 1 [nats per stamp, classes weighted alike]."""

    epoch: int
    train: float
    validation: float


def fit_classifier(
    train: ImageSet,
    validation: ImageSet,
    task: Task,
    config: ClassifierFitConfig,
    *,
    seed: int,
    checkpoint: Path | None = None,
    progress: Callable[[ClassifierEpoch], None] | None = None,
) -> tuple[StampClassifier, list[ClassifierEpoch]]:
    """Train on one split and keep the weights that are best on another.

    A run that was killed goes on from its checkpoint and, on the same machine with as many
    threads, ends with the same weights as one that was not.

    Parameters
    ----------
    train, validation
        Galaxies outside the task are left out.
    task
        Classes.
    config
        Shape of the run.
    seed
        Of initial weights, batches and augmentation.
    checkpoint
        File kept up to date after each epoch, and removed at the end.
    progress
        Called after each epoch.

    Returns
    -------
    StampClassifier
        Ready to classify.
    list[ClassifierEpoch]
        Losses by epoch.

    Raises
    ------
    ModelError
        If a class has no galaxy, the loss diverges, or the checkpoint cannot be read.
    """
    run = _Run(train.of_task(task), validation.of_task(task), task, config, seed)
    if checkpoint is not None and checkpoint.exists():
        run.restore(checkpoint)
    while not run.finished:
        losses = run.epoch()
        if checkpoint is not None:
            run.save(checkpoint)
        if progress is not None:
            progress(losses)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    run.model.load_state_dict(run.best_weights)
    return run.model.eval(), run.history


class _Run:
    """State of an unfinished fit. Each epoch draws from a generator of its own."""

    def __init__(
        self,
        train: ImageSet,
        validation: ImageSet,
        task: Task,
        config: ClassifierFitConfig,
        seed: int,
    ) -> None:
        self._config, self._seed = config, seed
        self._stamps = torch.from_numpy(train.stamps)
        labels = torch.from_numpy(task.labels(train.types))
        self._rows = [torch.nonzero(labels == k)[:, 0] for k in range(len(task.classes))]
        self._validation_stamps = torch.from_numpy(validation.stamps)
        self._validation_labels = torch.from_numpy(task.labels(validation.types))
        for number, name in enumerate(task.class_names):
            if not len(self._rows[number]) or not (self._validation_labels == number).any():
                raise ModelError(
                    f"class {name}", "has no galaxy in train or validation", "add labels"
                )
        self._request = repr((task, asdict(config), seed, train.digests, validation.digests))
        self.model = StampClassifier(task.class_names, seed=seed)
        self._optimiser = torch.optim.AdamW(
            self.model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay
        )
        self.history: list[ClassifierEpoch] = []
        self.best_weights: dict[str, Tensor] = {}

    @property
    def finished(self) -> bool:
        """Whether the last epoch is done or nothing better is to be expected."""
        losses = [epoch.validation for epoch in self.history]
        stale = len(losses) - 1 - int(np.argmin(losses)) if losses else 0
        return len(losses) >= self._config.epochs or stale >= self._config.patience

    def epoch(self) -> ClassifierEpoch:
        """Train for one epoch and look at the validation split."""
        number = len(self.history)
        config = self._config
        words = np.random.SeedSequence([self._seed, number]).generate_state(2, np.uint64) >> 1
        generator = torch.Generator().manual_seed(int(words[0]))
        total = 0.0
        self.model.train()
        with torch.random.fork_rng():
            torch.manual_seed(int(words[1]))  # of dropout
            for step in range(config.steps):
                self._optimiser.param_groups[0]["lr"] = self._rate(number * config.steps + step)
                total += self._step(generator)
        if not math.isfinite(total):
            raise ModelError("classifier", "diverged", "lower learning_rate")
        epoch = ClassifierEpoch(number + 1, total / config.steps, self._validate())
        if epoch.validation <= min((e.validation for e in self.history), default=math.inf):
            self.best_weights = {k: v.clone() for k, v in self.model.state_dict().items()}
        self.history.append(epoch)
        return epoch

    def _step(self, generator: torch.Generator) -> float:
        count = self._config.batch_stamps // len(self._rows)
        drawn = [
            rows[torch.randint(len(rows), (count,), generator=generator)] for rows in self._rows
        ]
        labels = torch.arange(len(drawn)).repeat_interleave(count)
        batch = _augmented(scale_stamps(self._stamps[torch.cat(drawn)]), generator)
        loss = functional.cross_entropy(self.model(batch), labels, label_smoothing=_LABEL_SMOOTHING)
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        return loss.item()

    def _rate(self, step: int) -> float:
        done = (step + 1) / (self._config.epochs * self._config.steps)
        if done < _WARM_UP:
            return self._config.learning_rate * done / _WARM_UP
        return self._config.learning_rate * (
            0.5 + 0.5 * math.cos(math.pi * (done - _WARM_UP) / (1 - _WARM_UP))
        )

    def _validate(self) -> float:
        chance = self.model.probabilities(self._validation_stamps)
        nats = functional.nll_loss(
            chance.clamp_min(1e-6).log(), self._validation_labels, reduction="none"
        )
        per_class = [nats[self._validation_labels == k].mean() for k in range(len(self._rows))]
        return float(torch.stack(per_class).mean())

    def save(self, path: Path) -> None:
        """Write the state; a kill leaves the old or the new one."""
        state: dict[str, Any] = {
            "request": self._request,
            "model": self.model.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "best": self.best_weights,
            "history": [asdict(epoch) for epoch in self.history],
        }
        partial = path.with_suffix(path.suffix + ".partial")
        torch.save(state, partial)
        partial.replace(path)

    def restore(self, path: Path) -> None:
        """Go back to a saved state of the same run."""
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            same = state["request"] == self._request
            if same:
                self.model.load_state_dict(state["model"])
                self._optimiser.load_state_dict(state["optimiser"])
                self.best_weights = state["best"]
                self.history = [ClassifierEpoch(**epoch) for epoch in state["history"]]
        except Exception as error:  # a damaged archive can fail in any way
            raise ModelError(
                path, f"cannot be restored ({error})", "delete it to train from the start"
            ) from error
        if not same:
            raise ModelError(
                path, "belongs to another data set, task, configuration or seed", "delete it"
            )


def _augmented(scaled: Tensor, generator: torch.Generator) -> Tensor:
    """Turn, mirror, resize, shift and recolour: none of it changes a galaxy's type."""
    n = len(scaled)
    angle = 2 * math.pi * torch.rand(n, generator=generator)
    scale = torch.exp(_SCALE_SD * torch.randn(n, generator=generator))
    mirror = 1 - 2.0 * (torch.rand(n, generator=generator) < 0.5)
    cos, sin = scale * angle.cos(), scale * angle.sin()
    shift = _SHIFT * (2 * torch.rand(n, 2, generator=generator) - 1)
    linear = torch.stack([cos * mirror, -sin, sin * mirror, cos], dim=1).reshape(n, 2, 2)
    grid = functional.affine_grid(
        torch.cat([linear, shift[:, :, None]], dim=2), list(scaled.shape), align_corners=False
    )
    moved = functional.grid_sample(scaled, grid, padding_mode="reflection", align_corners=False)
    gain = 1 + _GAIN_SD * torch.randn(n, 1, 1, 1, generator=generator)
    offset = _OFFSET_SD * torch.randn(n, scaled.shape[1], 1, 1, generator=generator)
    return moved * gain + offset
