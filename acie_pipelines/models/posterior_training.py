"""Training of the amortised posterior on simulated spectra, epoch by epoch.

Belongs here: the optimiser loop, early stopping and its complete state. Does not belong here: the
network or the simulator, where spectra come from, where checkpoints go, tracking.

Every batch has fresh pixel noise and missing pixels, so that the network does not see a pixel
twice.
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import Any, Final, Protocol

import numpy as np
import torch
from torch import Tensor

from acie_pipelines.errors import ModelError
from acie_pipelines.models.parameters import unconstrain
from acie_pipelines.models.posterior import AmortisedPosterior
from acie_pipelines.models.simulated import SimulatedSpectra

__all__ = [
    "Acceleration",
    "LabelledSpectra",
    "PosteriorEpoch",
    "PosteriorFitter",
    "PosteriorTraining",
    "SpectraInMemory",
    "SpectraSource",
    "train_posterior",
]

_WARM_UP: Final = 0.2
_MISSING_SHARE: Final = 0.02
_GRADIENT_NORM: Final = 5.0
_STANDARDISATION_ROWS: Final = 4096
_VALIDATION_SHARE: Final = 20
_LOG_TWO_PI: Final = math.log(2 * math.pi)


@dataclass(frozen=True)
class LabelledSpectra:
    """Spectra with the parameters behind them.

    Attributes
    ----------
    parameters
        Unconstrained, float64, shape ``(n, 8)``.
    clean, sigma
        Flux density without noise and the known noise of each pixel, shape ``(n, pixels)``.
    """

    parameters: Tensor
    clean: Tensor
    sigma: Tensor

    def __len__(self) -> int:
        return len(self.parameters)

    def rows(self, chosen: Tensor | slice) -> "LabelledSpectra":
        """Give some of them."""
        return LabelledSpectra(self.parameters[chosen], self.clean[chosen], self.sigma[chosen])

    def to(self, device: torch.device) -> "LabelledSpectra":
        """Move all of them to a device."""
        return LabelledSpectra(
            self.parameters.to(device), self.clean.to(device), self.sigma.to(device)
        )


class SpectraSource(Protocol):
    """Training spectra, in memory or not."""

    def first(self, count: int) -> LabelledSpectra:
        """Give the first galaxies, fewer if there are not as many."""
        ...

    def batches(self, size: int, generator: torch.Generator) -> Iterator[LabelledSpectra]:
        """One pass in an order that the generator decides, in batches of just this size."""
        ...


@dataclass(frozen=True)
class SpectraInMemory:
    """Training spectra that are in memory already."""

    spectra: LabelledSpectra

    def first(self, count: int) -> LabelledSpectra:
        """Give the first galaxies."""
        return self.spectra.rows(slice(count))

    def batches(self, size: int, generator: torch.Generator) -> Iterator[LabelledSpectra]:
        """One pass; what does not fill a batch is left out."""
        order = torch.randperm(len(self.spectra), generator=generator)
        for start in range(0, len(order) - size + 1, size):
            yield self.spectra.rows(order[start : start + size])


@dataclass(frozen=True)
class PosteriorTraining:
    """How long and how fast to train.

    Attributes
    ----------
    steps
        Optimiser steps at most; the learning rate falls to zero along half a cosine.
    epoch_steps
        Steps between two looks at the validation spectra.
    batch
        Spectra per step.
    learning_rate
        Its largest value.
    average
        Decay of the exponential average of the weights that is returned.
    patience
        Stop after this many epochs without a better validation loss.
    seed
        Of batches and pixel noise.
    """

    steps: int = 4000
    epoch_steps: int = 250
    batch: int = 256
    learning_rate: float = 5e-4
    average: float = 0.995
    patience: int = 10
    seed: int = 0


@dataclass(frozen=True)
class PosteriorEpoch:
    """What one epoch, counted from 1, brought.

    Attributes
    ----------
    epoch
        Number.
    train
        Mean loss of its batches [nats]: of the normal alone while that warms up, then of all.
    validation
        Term to loss of the averaged weights on validation spectra [nats]: ``density`` of the whole
        posterior, ``location`` of its normal of location and scale alone.
    gradient_norm
        Largest norm of a gradient before it was clipped.
    monitors
        What else was looked at.
    """

    epoch: int
    train: float
    validation: dict[str, float]
    gradient_norm: float
    monitors: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Acceleration:
    """How the embedding of spectra, most of the arithmetic, is computed.

    Attributes
    ----------
    half_precision
        Whether in bfloat16; the density stays in float32 and float64.
    compiled
        Whether by `torch.compile`.
    reason
        Why.
    """

    half_precision: bool
    compiled: bool
    reason: str

    @classmethod
    def for_device(cls, device: torch.device) -> "Acceleration":
        """Choose what helps on a device."""
        if device.type == "cuda":
            return cls(True, True, "tensor cores multiply bfloat16; one launch per fused kernel")
        return cls(
            False,
            False,
            "few CPUs multiply bfloat16, and compiling costs more than a short training",
        )

    def precision(self, device: torch.device) -> AbstractContextManager[Any]:
        """Context in which the embedding runs."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.half_precision)


class PosteriorFitter:
    """A training in progress; `state` and `restore` carry all of it.

    The normal of location and scale is trained first; the spline joins after a fifth of the steps.

    Parameters
    ----------
    model
        Untrained; changed in place.
    train
        Training spectra; their noise is drawn afresh.
    validation
        Spectra that judge each epoch, with noise of their own.
    config
        Length and speed.
    monitor
        Called with the averaged weights after each epoch; what it returns enters the history, what
        it raises ends the training.
    acceleration
        As the model's device has it by default.
    """

    def __init__(
        self,
        model: AmortisedPosterior,
        train: SpectraSource,
        validation: LabelledSpectra,
        config: PosteriorTraining,
        *,
        monitor: Callable[[AmortisedPosterior], dict[str, float]] | None = None,
        acceleration: Acceleration | None = None,
    ) -> None:
        self.config, self.model, self._train, self._monitor = config, model, train, monitor
        self._device = next(model.parameters()).device
        self.acceleration = acceleration or Acceleration.for_device(self._device)
        start = train.first(_STANDARDISATION_ROWS).to(self._device)
        model.set_standardisation(start.clean, start.parameters)
        self._average = copy.deepcopy(model).eval()
        self._optimiser = torch.optim.AdamW(
            model.parameters(), config.learning_rate, weight_decay=1e-4
        )
        generator = self._generator(0, validation=True)
        self._validation = validation.to(self._device)
        self._observed = _noisy(self._validation, generator)
        self._context: Callable[[Tensor, Tensor], Tensor] = model.context
        if self.acceleration.compiled:
            self._context = torch.compile(model.context)
        self.history: list[PosteriorEpoch] = []
        self._best: dict[str, Tensor] = {}

    def _generator(self, epoch: int, *, validation: bool = False) -> torch.Generator:
        """Random numbers of an epoch, on the model's device."""
        words = np.random.SeedSequence([self.config.seed, epoch, int(validation)])
        seed = int(words.generate_state(1, np.uint64)[0] >> 1)
        return torch.Generator(self._device).manual_seed(seed)

    @property
    def finished(self) -> bool:
        """Whether the last step is done or nothing better is to be expected."""
        done = len(self.history) * self.config.epoch_steps
        warm = math.ceil(_WARM_UP * self.config.steps / self.config.epoch_steps)
        losses = [epoch.validation["density"] for epoch in self.history[warm:]]
        stale = len(losses) - 1 - int(np.argmin(losses)) if losses else 0
        return done >= self.config.steps or stale >= self.config.patience

    def _batches(self, generator: torch.Generator) -> Iterator[LabelledSpectra]:
        order = torch.Generator().manual_seed(generator.initial_seed())
        while True:
            whole = False
            for batch in self._train.batches(self.config.batch, order):
                whole = True
                yield batch.to(self._device)
            if not whole:
                raise ModelError(
                    "training spectra", f"do not fill a batch of {self.config.batch}", "add some"
                )

    def epoch(self) -> PosteriorEpoch:
        """Train for one epoch, look at the validation spectra, keep what improved.

        Raises
        ------
        ModelError
            If the loss is not finite, or the monitor finds a collapse.
        """
        config, number = self.config, len(self.history)
        generator = self._generator(number)
        first = number * config.epoch_steps
        last = min(first + config.epoch_steps, config.steps)
        self.model.train()
        losses, norms = [], []
        batches = islice(self._batches(generator), last - first)
        for step, batch in enumerate(batches, start=first):
            loss, norm = self._step(step, batch, generator)
            losses.append(loss)
            norms.append(norm)
        # One wait for the device per epoch.
        train, largest = float(torch.stack(losses).mean()), float(torch.stack(norms).max())
        if not (math.isfinite(train) and math.isfinite(largest)):
            raise ModelError("posterior", "diverged", "lower learning_rate")
        found = PosteriorEpoch(
            number + 1,
            train,
            self._validate(),
            largest,
            self._monitor(self._average) if self._monitor is not None else {},
        )
        if found.validation["density"] <= min(
            (epoch.validation["density"] for epoch in self.history), default=math.inf
        ):
            self._best = {k: v.clone() for k, v in self._average.state_dict().items()}
        self.history.append(found)
        return found

    def _step(
        self, step: int, batch: LabelledSpectra, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        config = self.config
        for group in self._optimiser.param_groups:
            group["lr"] = config.learning_rate * 0.5 * (1 + math.cos(math.pi * step / config.steps))
        flux, ivar = _noisy(batch, generator)
        with self.acceleration.precision(self._device):
            context = self._context(flux, ivar)
        context = context.float()
        warm = step < _WARM_UP * config.steps
        density = self.model.location_log_prob if warm else self.model.log_prob
        loss = -density(batch.parameters, context).mean()
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), _GRADIENT_NORM)
        self._optimiser.step()
        # A short memory at first, or the initial weights would stay in it.
        decay = min(config.average, (1 + step) / (10 + step))
        with torch.no_grad():
            for kept, new in zip(self._average.parameters(), self.model.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)
        return loss.detach(), norm.detach()

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        model, truth = self._average, self._validation.parameters
        context = model.context(*self._observed)
        # In the unit of the whole density, so that the two can be compared.
        constant = 0.5 * truth.shape[1] * _LOG_TWO_PI + float(torch.log(model.scale).sum())
        return {
            "density": -float(model.log_prob(truth, context).mean()),
            "location": constant - float(model.location_log_prob(truth, context).mean()),
        }

    def finish(self) -> AmortisedPosterior:
        """Give the averaged weights of the best epoch, ready to answer."""
        if self._best:
            self._average.load_state_dict(self._best)
        return self._average.eval()

    def state(self) -> dict[str, Any]:
        """Everything needed to go on as if never interrupted, as tensors and plain values."""
        return {
            "model": self.model.state_dict(),
            "average": self._average.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "best": self._best,
            "history": [asdict(epoch) for epoch in self.history],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state`."""
        self.model.load_state_dict(state["model"])
        self._average.load_state_dict(state["average"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._best = {k: v.to(self._device) for k, v in state["best"].items()}
        self.history = [PosteriorEpoch(**epoch) for epoch in state["history"]]


def train_posterior(
    model: AmortisedPosterior, data: SimulatedSpectra, config: PosteriorTraining
) -> AmortisedPosterior:
    """Train on spectra in memory, the last twentieth of which judges.

    Parameters
    ----------
    model
        Changed in place.
    data
        Spectra.
    config
        Length and speed.
    """
    spectra = LabelledSpectra(unconstrain(data.values), data.clean, data.sigma)
    judged = max(len(spectra) // _VALIDATION_SHARE, 1)
    fitter = PosteriorFitter(
        model,
        SpectraInMemory(spectra.rows(slice(-judged))),
        spectra.rows(slice(-judged, None)),
        config,
    )
    while not fitter.finished:
        fitter.epoch()
    return fitter.finish()


def _noisy(spectra: LabelledSpectra, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Fresh pixel noise, and a few missing pixels."""
    clean, sigma = spectra.clean, spectra.sigma
    noise = torch.randn(clean.shape, generator=generator, device=clean.device)
    flux = clean + sigma * noise
    seen = torch.rand(clean.shape, generator=generator, device=clean.device) >= _MISSING_SHARE
    return flux * seen, sigma**-2 * seen
