"""Fit of a kernel mechanism by damped natural-gradient steps.

Belongs here: curvature, damping and the prior's strength for one mechanism.
Does not belong here: the basis and the noise map (`acie_pipelines.causal.kernel`) or when to stop
(`acie_pipelines.causal.fitting`).

A step solves ``(F + prior + damping) step = gradient`` (Amari 1998, doi:10.1162/089976698300017746)
with the Fisher matrix F estimated from outcomes drawn from the model itself. The prior's strength
per group of weights follows the evidence (MacKay 1992, doi:10.1162/neco.1992.4.3.415). One step
reads the rows a few times, block by block; its memory does not depend on their number.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import torch
from torch import Tensor

from acie_pipelines.causal.kernel import KernelMechanism, bounded
from acie_pipelines.errors import ModelError

__all__ = ["Blocks", "NewtonTrainer"]

Blocks = Callable[[], Iterator[tuple[Tensor, Tensor]]]

_EVIDENCE_ROWS: Final = 16384
_FISHER_ROWS: Final = 4096
# Features of so many numbers in all (64 MiB) are kept between steps, more are computed again.
_KEPT_NUMBERS: Final = 1 << 23
_TRIALS: Final = 6
_CONSTANT_PRIOR: Final = 1e-2
# Of draws: pieces of a curve that few rows reach would leave what a normal describes.
_CURVE_PRIOR: Final = 3.0
_SCALE_PRIOR: Final = 10.0
# The first steps see weights far from their optimum, from which no prior can be learned.
_PRIOR_AFTER: Final = 3
# Of the fixed point of strengths and curvature, which has nearly converged after these.
_PRIOR_STEPS: Final = 5
# Gains in total log-likelihood below which a step is small; so many in a row end the fit.
_SMALL_GAIN: Final = 0.3
_SMALL_GAINS: Final = 2
_LOG_SQRT_2PI: Final = 0.9189385332046727


class _Prepared(NamedTuple):
    """Rows as a step needs them."""

    z: Tensor
    log_derivative: Tensor
    features: Tensor


class NewtonTrainer:
    """Finds the weights of one mechanism.

    Parameters
    ----------
    mechanism
        Changed in place.
    seed
        Of the rows that give hyperparameters and curvature.
    resume
        Whether the mechanism was fitted before, so that its weights tell the prior's strength.
    """

    def __init__(self, mechanism: KernelMechanism, seed: int, *, resume: bool = False) -> None:
        self.mechanism = mechanism
        self._resume = resume
        self._generator = torch.Generator().manual_seed(seed)
        self._damping = 1.0
        self._steps = 0
        self._small_gains = 0
        self._kept: list[_Prepared] | None = None
        self._prior = torch.cat(
            [
                *(
                    torch.full((self._features,), 1.0 if k == 0 else _SCALE_PRIOR)
                    for k in range(self._outputs)
                ),
                torch.full((mechanism.constants.numel(),), _CONSTANT_PRIOR),
            ]
        ).double()

    @property
    def converged(self) -> bool:
        """Whether further steps would gain next to nothing."""
        return self._small_gains >= _SMALL_GAINS

    @property
    def _features(self) -> int:
        weights = self.mechanism.weights
        return 0 if weights is None else weights.shape[1]

    @property
    def _outputs(self) -> int:
        weights = self.mechanism.weights
        return 0 if weights is None else weights.shape[0]

    @torch.no_grad()
    def step(self, blocks: Blocks) -> float:
        """Improve the weights once.

        Parameters
        ----------
        blocks
            Gives the complete rows as pairs of the variable, shape ``(n,)``, and its parents,
            shape ``(n, parents)``.

        Returns
        -------
        float
            Mean negative log-likelihood before the step [nats per row].
        """
        if self.mechanism.basis is not None and not self.mechanism.basis.learned:
            self._learn_basis(blocks)
        if self._resume:
            self._adopt(blocks)
            self._steps, self._resume = _PRIOR_AFTER, False
        start = self.mechanism.vector.to(self._prior)
        total, count, gradient, fisher = self._curvature(blocks)
        gradient = gradient - self._prior * start
        best = total - self._penalty(start)
        diagonal = fisher.diagonal()
        for _ in range(_TRIALS):
            damped = fisher + torch.diag(self._prior + self._damping * (diagonal + 1e-6 * count))
            factor, failed = torch.linalg.cholesky_ex(damped)
            step = torch.cholesky_solve(gradient[:, None], factor)[:, 0]
            self.mechanism.set_vector(start + step)
            gain = -torch.inf if failed else float(self._objective(blocks) - best)
            if gain > 0:
                self._small_gains = self._small_gains + 1 if gain < _SMALL_GAIN else 0
                self._damping = max(self._damping / 4.0, 1e-6)
                break
            self._damping = min(self._damping * 4.0, 1e9)
        else:
            self.mechanism.set_vector(start)
            self._small_gains += 1
        self._steps += 1
        if self._steps > _PRIOR_AFTER:
            self._learn_prior(fisher)
        return -float(total) / max(count, 1)

    def _penalty(self, vector: Tensor) -> Tensor:
        return 0.5 * (self._prior * vector**2).sum()

    def _prepared(self, blocks: Blocks) -> Iterator[_Prepared]:
        """Blocks with their features, which are kept if they are few."""
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[_Prepared] = []
        held = 0
        for x, parents in blocks():
            column = x[:, None].double()
            basis, inputs = self.mechanism.basis, self.mechanism.inputs(parents).double()
            features = column.new_zeros(len(x), 0) if basis is None else basis(inputs)
            own = self.mechanism.own
            block = _Prepared(own(column)[:, 0], own.log_derivative(column).sum(), features)
            held += features.numel()
            if held <= _KEPT_NUMBERS:
                kept.append(block)
            yield block
        if held <= _KEPT_NUMBERS:
            self._kept = kept

    def _shift(self, features: Tensor) -> tuple[Tensor, Tensor]:
        mechanism = self.mechanism
        if mechanism.weights is None:
            return mechanism.constants[:1], mechanism.constants[1:2]
        return mechanism.add_constants(features @ mechanism.weights.T)

    def _objective(self, blocks: Blocks) -> Tensor:
        total = -self._penalty(self.mechanism.vector.to(self._prior))
        for block in self._prepared(blocks):
            u, slope = self.mechanism.forward_map(block.z, *self._shift(block.features))
            values = slope - 0.5 * u**2 - _LOG_SQRT_2PI
            total = total + values.sum() + block.log_derivative
        return total.nan_to_num(-torch.inf)

    def _learn_basis(self, blocks: Blocks) -> None:
        x, parents = next(iter(blocks()))
        chosen = torch.randperm(len(x), generator=self._generator)[:_EVIDENCE_ROWS].to(x.device)
        basis = self.mechanism.basis
        if basis is not None:
            target = self.mechanism.own(x[chosen][:, None].double())[:, 0]
            basis.maximise_evidence(self.mechanism.inputs(parents[chosen]).double(), target)

    @torch.no_grad()
    def draws(self, blocks: Blocks, count: int) -> Tensor:
        """Draw from the posterior near the fit; see `acie_pipelines.causal.weight_draws`.

        Parameters
        ----------
        blocks
            As of `step`.
        count
            Draws.

        Returns
        -------
        Tensor
            As `KernelMechanism.vector`, shape ``(count, size)``.
        """
        fisher = self._adopt(blocks)
        free = self.mechanism.varied
        prior = self._prior.clone()
        prior[self._outputs * self._features + 2 :] = _CURVE_PRIOR
        precision = (fisher + torch.diag(prior))[free][:, free]
        factor = torch.linalg.cholesky(precision)
        noise = torch.randn(len(factor), count, generator=self._generator, dtype=torch.float64)
        drawn = self.mechanism.vector.repeat(count, 1)
        drawn[:, free] += torch.linalg.solve_triangular(factor.mT, noise.to(factor), upper=True).T
        return drawn

    def _adopt(self, blocks: Blocks) -> Tensor:
        """Give the prior the strengths that the weights make most probable; the Fisher matrix."""
        *_, fisher = self._curvature(blocks, fisher_rows=None)
        for _ in range(_PRIOR_STEPS):
            self._learn_prior(fisher)
        return fisher

    def _curvature(
        self, blocks: Blocks, *, fisher_rows: int | None = _FISHER_ROWS
    ) -> tuple[Tensor, int, Tensor, Tensor]:
        """Log-likelihood, rows, its gradient, and the Fisher matrix by some rows of each block."""
        size, k = self._prior.numel(), self._outputs
        fisher = torch.zeros(size, size).to(self._prior)
        gradient, total, count = torch.zeros(size).to(fisher), fisher.new_zeros(()), 0
        for block in self._prepared(blocks):
            n = len(block.z)
            location, log_scale = self._shift(block.features)
            values, scores = self._scores(block.z, location, log_scale)
            total = total + values.sum() + block.log_derivative
            by_weights = (scores[:k] @ block.features).flatten()
            gradient += torch.cat([by_weights, scores.sum(1)])
            count += n
            rows = torch.randperm(n, generator=self._generator)[:fisher_rows].to(block.z.device)
            u = torch.randn(len(rows), generator=self._generator, dtype=torch.float64)
            location, log_scale = location.expand(n)[rows], log_scale.expand(n)[rows]
            drawn = self.mechanism.inverse_map(u.to(block.z.device), location, log_scale)
            scores = self._scores(drawn, location, log_scale)[1]
            features = block.features[rows]
            each = torch.cat([*(scores[i, :, None] * features for i in range(k)), scores.T], dim=1)
            fisher += each.T @ each * (n / len(rows))
        if not torch.isfinite(total):
            raise ModelError("fit", "the likelihood is not finite", "look for extreme values")
        return total, count, gradient, fisher

    def _scores(self, z: Tensor, location: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
        """Log-likelihood of each row, and its derivatives by the constants, ``(constants, n)``."""
        shape, warp = self.mechanism.shape(), self.mechanism.warp()
        n = len(z)
        with torch.enable_grad():
            pair = torch.stack([location.expand(n), log_scale.expand(n)]).requires_grad_()
            scale = bounded(pair[1])
            values, bent, by_warp = -scale, z, []
            if warp is not None:
                bent, slope, ends = warp.traced(z)
                values, by_warp = values + slope, [ends]
            u = (bent - pair[0]) * torch.exp(-scale)
            v, slope, ends = shape.traced(u)
            values = values + slope - 0.5 * v**2 - _LOG_SQRT_2PI
            found = torch.autograd.grad(values.sum(), [pair, ends, *by_warp])
        scores = [found[0], shape.free_scores(u.detach(), found[1])]
        if warp is not None:
            scores.append(warp.free_scores(z, found[2]))
        return values.detach(), torch.cat(scores)

    def _learn_prior(self, fisher: Tensor) -> None:
        basis = self.mechanism.basis
        if basis is None:
            return
        covariance = torch.linalg.inv(fisher + torch.diag(self._prior)).diagonal()
        vector = self.mechanism.vector
        start = 0
        for k in range(self._outputs):
            for size in basis.groups:
                group = slice(start, start + size)
                used = (1 - self._prior[group] * covariance[group]).clamp(0, 1).sum()
                strength = (used + 0.1) / (vector[group].square().sum() + 0.1)
                # The location's hyperparameters already maximise the evidence.
                if k > 0:
                    self._prior[group] = strength.clamp(1e-3, 1e6)
                start += size

    def state(self) -> dict[str, Any]:
        """Everything a continued fit needs besides the mechanism."""
        return {
            "generator": self._generator.get_state(),
            "damping": self._damping,
            "steps": self._steps,
            "small_gains": self._small_gains,
            "prior": self._prior,
            "resume": self._resume,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a `state`."""
        self._generator.set_state(state["generator"].cpu())
        self._damping, self._steps = float(state["damping"]), int(state["steps"])
        self._small_gains = int(state["small_gains"])
        self._prior = state["prior"].to(self._prior)
        self._resume = bool(state["resume"])
