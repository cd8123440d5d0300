"""Basis of a sparse Gaussian process, whose smoothness is set by the evidence.

Belongs here: features of parents and their hyperparameters. Does not belong here: what mechanisms
make of them (`acie_pipelines.causal.kernel`).

Linear and quadratic features plus a rational-quadratic kernel on inducing points. Hyperparameters
maximise the variational bound on the marginal likelihood of Titsias 2009 (AISTATS, PMLR 5:567), so
that a relation that is a parabola is fitted as one and a rough one is not smoothed away. Everything
is in double precision: kernel matrices are ill-conditioned.
"""

import math
from typing import Final

import torch
from torch import Tensor, nn

from acie_pipelines.errors import ModelError

__all__ = ["KernelBasis"]

_JITTER: Final = 1e-6
_EVIDENCE_ROWS: Final = 5000
_EVIDENCE_STEPS: Final = 30
_PULL: Final = 2e-4
# Logarithm of the root of the kernel's variance where there is none.
_NO_KERNEL: Final = -20.0
# Rows whose kernel with 100 points, 1.6 MB, stays in a core's cache.
_BLOCK_ROWS: Final = 2000


def _asinh(x: Tensor) -> Tensor:
    """``torch.asinh`` to an absolute error of rounding in a fifth of the time, without gradient."""
    return (x.square() + 1).sqrt_().add_(x.abs()).log_().copysign_(x)


class KernelBasis(nn.Module):
    """Features whose weights are independent standard normal a priori.

    Parameters
    ----------
    inputs
        Number of input columns.
    points
        Inducing points.
    indicators
        Which input columns say whether a parent has a category; none if left out.

    Notes
    -----
    Columns are, in order, linear features, products of two inputs, and whitened kernel features.
    The kernel sees inputs bent by ``asinh(c (x - x0)) / c`` with c and x0 learned for each, which
    resolves where rows are dense and tames long tails, and then a learned linear map of the bent
    inputs and their products: relations often follow few combinations. Products with an indicator
    are slopes of a category and have a variance of their own, and every category has its own height
    of the kernel: what bends in one may be straight in another. How much of this is used, down to
    no kernel at all, is decided by the bound less the number of hyperparameters.

    `hyper` holds logarithms of the amplitudes of linear features, products, kernel and, with
    categories, products with an indicator, of the kernel's heights by category and of bends; then
    the centres of bends, and the map.
    """

    inducing: Tensor
    whitening: Tensor
    hyper: Tensor
    rows: Tensor
    cols: Tensor
    learned: Tensor
    indicator: Tensor
    slopes: Tensor

    def __init__(self, inputs: int, points: int, indicators: tuple[bool, ...] = ()) -> None:
        super().__init__()
        self.inputs = inputs
        double = torch.float64
        self.register_buffer("inducing", torch.zeros(points, inputs, dtype=double))
        self.register_buffer("whitening", torch.eye(points, dtype=double))
        self.register_buffer("learned", torch.zeros((), dtype=torch.bool))
        products = inputs * (inputs + 1) // 2
        metric = torch.cat([torch.eye(inputs) / 1.5, torch.zeros(products, inputs)])
        indicator = torch.tensor(indicators or (False,) * inputs)
        heights, half = int(indicator.sum()), math.log(0.5)
        self.polynomials = 3 + any(indicators)
        self.amplitudes = self.polynomials + heights
        amplitudes = torch.cat([torch.full((self.polynomials,), half), torch.zeros(heights)])
        bends = torch.cat([torch.full((inputs,), half), torch.zeros(inputs)])
        start = torch.cat([amplitudes, bends, metric.flatten()])
        self.register_buffer("hyper", start.to(double))
        rows, cols = torch.triu_indices(inputs, inputs)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("cols", cols, persistent=False)
        self.register_buffer("indicator", indicator, persistent=False)
        self.register_buffer("slopes", indicator[rows] | indicator[cols], persistent=False)

    @property
    def groups(self) -> tuple[int, int, int]:
        """Numbers of linear, quadratic and kernel features."""
        return self.inputs, self.inputs * (self.inputs + 1) // 2, self.inducing.shape[0]

    def _bend(self, x: Tensor, hyper: Tensor) -> Tensor:
        first = self.amplitudes
        bend, centre = hyper[first : first + 2 * self.inputs].view(2, -1)
        bent: Tensor = torch.asinh((x - centre) * bend.exp()) / bend.exp()
        return bent

    def _kernel(self, a: Tensor, b: Tensor, hyper: Tensor) -> Tensor:
        """Rational quadratic, exponent 2, of a learned map of inputs and their products."""
        metric = hyper[self.amplitudes + 2 * self.inputs :].view(-1, self.inputs)
        a, b = (torch.cat([x, x[:, self.rows] * x[:, self.cols]], 1) @ metric for x in (a, b))
        squared: Tensor = torch.addmm((a**2).sum(1)[:, None] + (b**2).sum(1), a, b.T, alpha=-2.0)
        if squared.requires_grad:
            smooth: Tensor = (hyper[2].exp() / (1.0 + squared.clamp_min(0.0) / 4.0)).square()
            return smooth
        squared.clamp_min_(0.0).mul_(0.25).add_(1.0).reciprocal_().mul_(hyper[2].exp())
        return squared.square_()

    def _height(self, x: Tensor, hyper: Tensor) -> Tensor:
        """Factor of the kernel's height in a row's categories, shape ``(n,)``."""
        heights = hyper[self.polynomials : self.amplitudes]
        factor: Tensor = (x[:, self.indicator] @ heights).exp()
        return factor

    def _whiten(self, hyper: Tensor) -> Tensor:
        points = self._bend(self.inducing, hyper)
        own = self._kernel(points, points, hyper)
        ridge = _JITTER * (hyper[2] * 2).exp()
        factor = torch.linalg.cholesky(own + ridge * torch.eye(len(own)).to(own))
        identity = torch.eye(len(own)).to(own)
        whitening: Tensor = torch.linalg.solve_triangular(factor, identity, upper=False)
        return whitening

    def _features(self, x: Tensor, hyper: Tensor, whitening: Tensor) -> Tensor:
        kernel = self._kernel(self._bend(x, hyper), self._bend(self.inducing, hyper), hyper)
        # Heights of inducing points cancel against those that their whitening would have.
        kernel = (kernel @ whitening.T) * self._height(x, hyper)[:, None]
        return torch.cat([self._polynomial(x, hyper), kernel], dim=1)

    def _polynomial(self, x: Tensor, hyper: Tensor) -> Tensor:
        products = x[:, self.rows] * x[:, self.cols]
        return torch.cat([x * hyper[0].exp(), products * self._spread(hyper)], dim=1)

    def _spread(self, hyper: Tensor) -> Tensor:
        """Give the standard deviations of the weights of products a priori."""
        if self.polynomials == 3:
            return hyper[1].exp()
        return torch.where(self.slopes, hyper[3], hyper[1]).exp()

    def forward(self, x: Tensor) -> Tensor:
        """Features of standardised inputs, shape ``(n, features)``."""
        return self._features(x, self.hyper, self.whitening)

    @torch.no_grad()
    def project(self, x: Tensor, weights: Tensor) -> Tensor:
        """``forward(x) @ weights.T`` by blocks of rows, without forming the whitened features."""
        hyper, first = self.hyper, self.amplitudes
        linear, quadratic, kernel = weights.split_with_sizes(list(self.groups), dim=1)
        polynomial = torch.cat([linear * hyper[0].exp(), quadratic * self._spread(hyper)], dim=1)
        columns = x.T.contiguous()
        answer = polynomial @ self._with_products(columns)
        if float(hyper[2]) == _NO_KERNEL:
            return answer.T
        heights = (kernel @ self.whitening) * (2 * hyper[2]).exp()
        bend, centre = hyper[first : first + 2 * self.inputs].view(2, -1, 1)
        bend = bend.exp()
        # asinh is not yet divided by the bend: the metric is instead.
        metric = hyper[first + 2 * self.inputs :].view(-1, self.inputs)
        metric = (metric / self._with_products(bend)).T.contiguous()
        points = metric @ self._with_products(_asinh((self.inducing.T - centre) * bend))
        # 1 + d^2 / 4 for a row at a and a point at p is (-p / 2, 1 / 4, 1 + p^2 / 4).(a, a^2, 1).
        length = points.square().sum(dim=0, keepdim=True)
        places = torch.cat([points / -2, torch.full_like(length, 0.25), 1 + length / 4]).T
        places = places.contiguous()
        seen = x.new_ones(self.inputs + 2, len(x))
        place = seen[: self.inputs]
        torch.mm(metric, self._with_products(_asinh((columns - centre) * bend)), out=place)
        torch.sum(place.square(), dim=0, out=seen[self.inputs])
        # The kernel is the inverse square of what is linear in this.
        seen.mul_(self._height(x, hyper).rsqrt())
        # Memory that is used again stays in the cache.
        at = x.new_empty(points.shape[1], min(len(x), _BLOCK_ROWS))
        blocks = (torch.split(part, _BLOCK_ROWS, dim=1) for part in (seen, answer))
        for rows, result in zip(*blocks, strict=True):
            near = at[:, : rows.shape[1]]
            result.addmm_(heights, torch.mm(places, rows, out=near).pow_(-2))
        return answer.T

    def _with_products(self, columns: Tensor) -> Tensor:
        """Put products of inputs below them; shape ``(inputs, n)``."""
        products = columns.index_select(0, self.rows).mul_(columns.index_select(0, self.cols))
        return torch.cat([columns, products])

    def maximise_evidence(self, x: Tensor, y: Tensor) -> None:
        """Set inducing points and hyperparameters from data with Gaussian noise.

        Parameters
        ----------
        x
            Inputs in random order, shape ``(n, inputs)``; the first rows become inducing points.
        y
            Targets of unit scale and any mean, shape ``(n,)``.
        """
        points, width = self.inducing.shape
        repeats = -(-points // x.shape[0])
        self.inducing.copy_(x.repeat(repeats, 1)[:points])
        ends = self.amplitudes + width, self.amplitudes + 2 * width
        self.hyper[ends[0] : ends[1]] = x.median(dim=0).values
        y = y - y.mean()
        start = torch.cat([self.hyper, torch.tensor([math.log(0.5)]).to(x)])
        diagonal = torch.zeros(len(self.hyper) - ends[1], dtype=torch.bool).view(-1, width)
        diagonal[range(width), range(width)] = True
        polynomial = torch.zeros(len(start), dtype=torch.bool, device=x.device)
        polynomial[: self.polynomials] = True
        polynomial[2], polynomial[-1] = False, True
        separate = polynomial.clone()
        separate[2 : ends[1]] = True
        separate[ends[1] : -1] = diagonal.flatten().to(x.device)
        none = start.clone()
        none[2] = _NO_KERNEL
        best, score = self._ascend(x, y, none, polynomial)
        stages = [separate] if width == 1 else [separate, torch.ones_like(separate)]
        for free in stages:
            begun = best.clone()
            if begun[2] == _NO_KERNEL:
                begun[2] = start[2]
            found, reached = self._ascend(x, y, begun, free)
            # One nat per hyperparameter (Akaike): what does not pay for itself is not used.
            if reached > score:
                best, score = found, reached
        if not math.isfinite(score):
            raise ModelError("kernel", "the evidence is not finite", "look for constant columns")
        self.learned.fill_(True)
        self.hyper.copy_(best[:-1])
        self.whitening.copy_(self._whiten(best[:-1]))

    def _ascend(self, x: Tensor, y: Tensor, start: Tensor, free: Tensor) -> tuple[Tensor, float]:
        """Maximise the bound over some hyperparameters; the bound less their number.

        The search sees the first rows, the verdict all of them.
        """
        every_x, every_y = x, y
        x, y = x[:_EVIDENCE_ROWS], y[:_EVIDENCE_ROWS]
        y = y - y.mean()
        moved = start[free].clone().requires_grad_()
        optimiser = torch.optim.LBFGS(
            [moved], max_iter=_EVIDENCE_STEPS, line_search_fn="strong_wolfe", history_size=20
        )

        def bound(values: Tensor) -> Tensor:
            every = start.clone()
            every[free] = values
            return self._bound(x, y, every[:-1], every[-1])

        def closure() -> Tensor:
            optimiser.zero_grad()
            # A weak pull keeps what the data do not determine in the range of the data.
            pull = _PULL * ((moved - start[free]) ** 2).sum()
            loss = pull - bound(moved) / len(y)
            torch.autograd.backward(loss)
            return loss

        with torch.enable_grad():
            optimiser.step(closure)  # type: ignore[no-untyped-call]
        result = start.clone()
        result[free] = moved.detach()
        found = float(self._bound(every_x, every_y, result[:-1], result[-1]))
        return result, found - int(free.sum())

    def _bound(self, x: Tensor, y: Tensor, hyper: Tensor, log_noise: Tensor) -> Tensor:
        noise = (2 * log_noise).exp() + 1e-8
        if float(hyper[2].detach()) == _NO_KERNEL:
            features = self._polynomial(x, hyper)
            kernel = features[:, :0]
        else:
            features = self._features(x, hyper, self._whiten(hyper))
            kernel = features[:, -self.inducing.shape[0] :]
        # What is left without its mean is free of the constant, which belongs to the mechanism.
        features = features - features.mean(dim=0)
        inner = features.T @ features / noise + torch.eye(features.shape[1]).to(features)
        factor = torch.linalg.cholesky(inner)
        projected = features.T @ y / noise
        half = torch.linalg.solve_triangular(factor, projected[:, None], upper=False)
        fit = (y @ y) / noise - (half**2).sum()
        volume = 2 * factor.diagonal().log().sum() + len(y) * (2 * math.pi * noise).log()
        whole = (2 * hyper[2]).exp() * self._height(x, hyper).square().sum()
        lost = whole - (kernel**2).sum()
        bound: Tensor = -0.5 * (fit + volume + lost.clamp_min(0.0) / noise)
        return bound
