"""Maximum-likelihood fit of a structural causal model, epoch by epoch.

Belongs here: the optimiser loop, early stopping and its complete state.
Does not belong here: where rows come from, where checkpoints go, tracking.

The joint likelihood is a product over nodes, so every mechanism is stopped by its own validation
loss and keeps its own best weights; the fit ends when all have stopped. Networks follow Adam;
kernel mechanisms take one natural-gradient step per epoch.
"""

import math
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from acie_pipelines.causal.kernel import KernelMechanism
from acie_pipelines.causal.newton import NewtonTrainer
from acie_pipelines.causal.scm import StructuralCausalModel
from acie_pipelines.causal.threads import one_thread_each
from acie_pipelines.errors import ModelError

__all__ = ["EpochLosses", "FitConfig", "Fitter", "RowSource", "TensorRows", "fit_scm"]

_CONSTANTS_RATE = 5.0


class RowSource(Protocol):
    """Rows in blocks that fit in memory."""

    def blocks(self) -> Iterator[Tensor]:
        """Batches of shape ``(n, nodes)``, always in the same order."""
        ...


@dataclass(frozen=True)
class TensorRows:
    """Rows that are in memory already.

    Attributes
    ----------
    rows
        Shape ``(n, nodes)``.
    """

    rows: Tensor

    def blocks(self) -> Iterator[Tensor]:
        """All rows at once."""
        yield self.rows


@dataclass(frozen=True)
class FitConfig:
    """How a model is fitted.

    Attributes
    ----------
    seed
        Of the initial weights and of the row order.
    batch_rows
        Rows per gradient step.
    learning_rate
        Adam's, at the start; it falls along a half cosine to zero over `max_epochs`.
    max_epochs
        Upper limit.
    patience
        Epochs without improvement after which a mechanism stops.
    """

    seed: int = 0
    batch_rows: int = 512
    learning_rate: float = 1e-2
    max_epochs: int = 20
    patience: int = 6


@dataclass(frozen=True)
class EpochLosses:
    """Mean negative log-likelihood per node [nats per row] after one epoch.

    Attributes
    ----------
    epoch
        Counted from 1.
    train, validation
        Node name to loss; of stopped mechanisms, that of their kept weights is not recomputed.
    """

    epoch: int
    train: dict[str, float]
    validation: dict[str, float]


class Fitter:
    """A fit in progress; `state` and `restore` carry all of it.

    Parameters
    ----------
    model
        Model; unless it is resumed, its standardisation is set from the training rows.
    train, validation
        Rows.
    config
        How to fit.
    nodes
        Nodes whose mechanisms are fitted, all if empty; the others stay as they are.
    resume
        Whether to go on from a fitted model: its standardisation and bases stay.

    Raises
    ------
    ModelError
        If a node has no complete training or validation rows.
    """

    def __init__(
        self,
        model: StructuralCausalModel,
        train: RowSource,
        validation: RowSource,
        config: FitConfig,
        *,
        nodes: Collection[str] = (),
        resume: bool = False,
    ) -> None:
        self.model, self.train, self.validation, self.config = model, train, validation, config
        self._nodes = tuple(n for n in model.names if not nodes or n in nodes)
        self.history: list[EpochLosses] = []
        # A root has only its constants, which are few and far from their optimum at first.
        free = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        constants = [p for n, p in free if n.endswith(".constants")]
        weights = [p for n, p in free if not n.endswith(".constants")]
        self._rates = [_CONSTANTS_RATE * config.learning_rate, config.learning_rate]
        self._optimiser = torch.optim.Adam([{"params": constants}, {"params": weights}])
        self._generator = torch.Generator().manual_seed(config.seed)
        self._newton: dict[str, NewtonTrainer] = {}
        for k, name in enumerate(model.names):
            mechanism = model.mechanism(name)
            if isinstance(mechanism, KernelMechanism):
                self._newton[name] = NewtonTrainer(mechanism, config.seed + k, resume=resume)
        self._best = {name: float("inf") for name in model.names}
        self._best_epoch = dict.fromkeys(model.names, 0)
        if not resume:
            self._standardise()
        self._best_weights = deepcopy(model.state_dict())

    def _standardise(self) -> None:
        """Mean and standard deviation after the arcsinh, by block."""
        names = self.model.names
        count = torch.zeros(len(names), dtype=torch.float64)
        total, squares = torch.zeros_like(count), torch.zeros_like(count)
        for block in self.train.blocks():
            for k, name in enumerate(names):
                own = self.model.mechanism(name).own
                column = block[:, k : k + 1].to(self.model.device)
                flat = own.flatten(column[torch.isfinite(column)][:, None]).double().cpu()
                count[k] += flat.numel()
                total[k] += flat.sum()
                squares[k] += (flat**2).sum()
        if (count < 2).any():
            empty = [name for k, name in enumerate(names) if count[k] < 2]
            raise ModelError("training rows", f"hold no values of {empty}", "add rows with them")
        mean = total / count
        scale = (squares / count - mean**2).clamp_min(1e-12).sqrt()
        self.model.set_standardisation(mean.float(), scale.float())

    @property
    def active(self) -> tuple[str, ...]:
        """Mechanisms that still train."""
        epoch = len(self.history)
        return tuple(
            name
            for name in self._nodes
            if epoch - self._best_epoch[name] < self.config.patience
            and not (name in self._newton and self._newton[name].converged)
        )

    @property
    def finished(self) -> bool:
        """Whether no further epoch is due."""
        return len(self.history) >= self.config.max_epochs or not self.active

    def _batches(self) -> Iterator[Tensor]:
        for block in self.train.blocks():
            order = torch.randperm(block.shape[0], generator=self._generator)
            for start in range(0, block.shape[0], self.config.batch_rows):
                yield block[order[start : start + self.config.batch_rows]].to(self.model.device)

    def epoch(self) -> EpochLosses:
        """Train one epoch, measure the validation loss, keep what improved."""
        active = self.active
        progress = len(self.history) / self.config.max_epochs
        decay = 0.5 * (1 + math.cos(math.pi * progress))
        for group, rate in zip(self._optimiser.param_groups, self._rates, strict=True):
            group["lr"] = rate * decay
        self.model.train()
        networks = tuple(name for name in active if name not in self._newton)
        kernels = [name for name in active if name in self._newton]
        # Mechanisms are fitted side by side, each on one core.
        threads = torch.get_num_threads()
        with one_thread_each(), ThreadPoolExecutor(threads) as pool:
            steps = pool.map(self._newton_step, kernels)
            train = self._descend(networks) if networks else {}
            train |= dict(zip(kernels, steps, strict=True))
            validation = self._validate(active)
        losses = EpochLosses(len(self.history) + 1, train, validation)
        self.history.append(losses)
        self._keep_best(losses)
        return losses

    def _newton_step(self, name: str) -> float:
        return self._newton[name].step(partial(self._pairs, name))

    def _pairs(self, name: str) -> Iterator[tuple[Tensor, Tensor]]:
        """Complete training rows of a node: its values and its parents'."""
        for block in self.train.blocks():
            yield self.model.node_rows(block.to(self.model.device), name)

    def _descend(self, names: tuple[str, ...]) -> dict[str, float]:
        """One epoch of Adam; mean loss of each mechanism while it moved."""
        sums, counts = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0)
        for batch in self._batches():
            self._optimiser.zero_grad(set_to_none=True)
            loss = torch.zeros((), device=self.model.device)
            for name in names:
                terms = self.model.node_log_prob(batch, name)
                if terms.numel():
                    loss = loss - terms.mean()
                    sums[name] -= float(terms.detach().sum())
                    counts[name] += terms.numel()
            if not torch.isfinite(loss):
                raise ModelError("fit", "the loss is not finite", "lower the learning rate")
            if loss.requires_grad:
                torch.autograd.backward(loss)
                self._optimiser.step()
        return {name: sums[name] / max(counts[name], 1) for name in names}

    @torch.no_grad()
    def _validate(self, names: tuple[str, ...]) -> dict[str, float]:
        self.model.eval()
        sums, counts = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0)
        for block in self.validation.blocks():
            rows = block.to(self.model.device)
            for name in names:
                terms = self.model.node_log_prob(rows, name)
                sums[name] -= float(terms.double().sum())
                counts[name] += terms.numel()
        empty = [name for name in names if not counts[name]]
        if empty:
            raise ModelError("validation rows", f"hold no complete rows for {empty}", "add some")
        return {name: sums[name] / counts[name] for name in names}

    def _keep_best(self, losses: EpochLosses) -> None:
        state = self.model.state_dict()
        for name, loss in losses.validation.items():
            if loss < self._best[name]:
                self._best[name], self._best_epoch[name] = loss, losses.epoch
                for key, value in state.items():
                    if key.startswith(f"mechanisms.{name}."):
                        self._best_weights[key] = value.clone()

    def finish(self) -> dict[str, float]:
        """Put the best weights in the model; returns the validation loss of each node."""
        self.model.load_state_dict(self._best_weights)
        self.model.eval()
        return dict(self._best)

    def state(self) -> dict[str, Any]:
        """Everything needed to go on as if never interrupted, as tensors and plain values."""
        return {
            "model": self.model.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "newton": {name: trainer.state() for name, trainer in self._newton.items()},
            "generator": self._generator.get_state(),
            "best": self._best,
            "best_epoch": self._best_epoch,
            "best_weights": self._best_weights,
            "history": [vars(losses) for losses in self.history],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state`."""
        self.model.load_state_dict(state["model"])
        self._optimiser.load_state_dict(state["optimiser"])
        for name, trainer in self._newton.items():
            trainer.restore(state["newton"][name])
        self._generator.set_state(state["generator"].cpu())
        self._best, self._best_epoch = dict(state["best"]), dict(state["best_epoch"])
        self._best_weights = {k: v.to(self.model.device) for k, v in state["best_weights"].items()}
        self.history = [EpochLosses(**losses) for losses in state["history"]]


def fit_scm(
    model: StructuralCausalModel,
    train: Tensor,
    validation: Tensor,
    config: FitConfig,
    *,
    resume: bool = False,
) -> dict[str, float]:
    """Fit on rows in memory; returns the validation loss of each node [nats per row].

    Parameters
    ----------
    model
        Changed in place.
    train, validation
        Shape ``(n, nodes)``.
    config, resume
        See `Fitter`.
    """
    fitter = Fitter(model, TensorRows(train), TensorRows(validation), config, resume=resume)
    while not fitter.finished:
        fitter.epoch()
    return fitter.finish()
