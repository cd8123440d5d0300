"""One monotone curve for all rows: rational-quadratic, linear outside [-5, 5].

Belongs here: the curve of Durkan et al. 2019, arXiv:1906.04032, where every row has the same knots.
Does not belong here: curves whose knots depend on a row's parents, which are zuko's
(`acie_pipelines.causal.mechanisms`), or what a curve is used for.

With shared knots a row only has to find its piece: evaluating and inverting the curve takes a few
passes over the rows, whatever the number of pieces. Free numbers have the meaning they have for
`zuko.transforms.MonotonicRQSTransform`.
"""

import math
from functools import cached_property
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import pad

__all__ = ["SharedSpline", "knots_of"]

_BOUND: Final = 5.0
_LOG_SMALLEST_SLOPE: Final = math.log(1e-3)


def knots_of(free: Tensor, pieces: int) -> Tensor:
    """Knots of the curve, differentiable in its free numbers.

    Parameters
    ----------
    free
        Unconstrained widths, heights and inner slopes, shape ``(3 pieces - 1,)``.
    pieces
        Number of pieces.

    Returns
    -------
    Tensor
        Places, values and slopes, shape ``(3, pieces + 1)``.
    """
    widths, heights, slopes = torch.split(free, [pieces, pieces, pieces - 1])
    ends = [_BOUND * (2 * pad(_shares(part).cumsum(0), (1, 0)) - 1) for part in (widths, heights)]
    slopes = slopes / (1 + (slopes / _LOG_SMALLEST_SLOPE).abs())
    return torch.stack([*ends, pad(slopes, (1, 1)).exp()])


def _shares(free: Tensor) -> Tensor:
    return torch.softmax(free / (1 + (2 * free / _LOG_SMALLEST_SLOPE).abs()), dim=0)


def _coefficients(ends: Tensor) -> Tensor:
    """Numbers that `_height` and `_log_slope` need, from the ends of a piece."""
    x0, y0, d0, x1, y1, d1 = ends
    width, height = x1 - x0, y1 - y0
    s = height / width
    c = d0 + d1 - 2 * s
    squared = s.square()
    bent = [squared * c, 2 * squared * (s - d0), squared * d0]
    return torch.stack([x0, width, y0, height * (s - d0), height * d0, s, c, *bent])


def _curve(x: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    x0, width, y0, a, b, s, c, e, f, g = coefficients
    t = (x - x0) / width
    below = s + c * t * (1 - t)
    slope = ((e * t + f) * t + g) / below.square()
    return y0 + t * (a * t + b) / below, slope.log()


class SharedSpline:
    """A curve ready to be used.

    Parameters
    ----------
    free, pieces
        As of `knots_of`.

    Notes
    -----
    In a piece, with t from 0 to 1, ``y = y0 + t (a t + b) / (s + c t (1 - t))``. The straight lines
    outside are two more pieces of that form, so that no row is a special case.
    """

    def __init__(self, free: Tensor, pieces: int) -> None:
        self._free, self._pieces = free.detach(), pieces
        knots = knots_of(self._free, pieces)
        # A straight line through (0, 0) and (1, 1).
        line = knots.new_tensor([0, 0, 1, 1, 1, 1])[:, None]
        self._ends = torch.cat([line, torch.cat([knots[:, :-1], knots[:, 1:]]), line], dim=1)
        # One row for each piece, so that what a row of `x` needs lies together.
        self._table = _coefficients(self._ends).T.contiguous()
        self._places, self._values = knots[0].contiguous(), knots[1].contiguous()

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Height of the curve at `x` and logarithm of its slope, each of shape ``(n,)``."""
        return _curve(x, self._table[torch.bucketize(x.contiguous(), self._places)].T)

    def inverse(self, y: Tensor) -> Tensor:
        """Undo the curve."""
        rows = self._table[torch.bucketize(y.contiguous(), self._values)].T
        x0, width, y0, a, b, s, c = rows[:7]
        above = y - y0
        a, b = a + above * c, b - above * c
        t = 2 * s * above / (b + (b.square() + 4 * a * s * above).sqrt())
        x: Tensor = x0 + t * width
        return x

    def traced(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Height and logarithm of the slope, and the ends of the pieces that they are from.

        All three take part in differentiation; `free_scores` turns derivatives by the ends, of
        shape ``(6, n)``, into those by the free numbers.
        """
        ends = self._ends[
            :, torch.bucketize(x.detach().contiguous(), self._places)
        ].requires_grad_()
        return *_curve(x, _coefficients(ends)), ends

    def free_scores(self, x: Tensor, by_ends: Tensor) -> Tensor:
        """Give derivatives of each row's score by free numbers, shape ``(3 pieces - 1, n)``."""
        piece = torch.bucketize(x.contiguous(), self._places) - 1
        inside = (piece >= 0) & (piece < self._pieces)
        piece = piece.clamp(0, self._pieces - 1).expand(3, 1, -1)
        low, high = (by_ends * inside).view(2, 3, 1, -1)
        by_knots = x.new_zeros(3, self._pieces + 1, len(x))
        by_knots.scatter_add_(1, piece, low).scatter_add_(1, piece + 1, high)
        return self._jacobian.T @ by_knots.flatten(0, 1)

    @cached_property
    def _jacobian(self) -> Tensor:
        """Derivatives of the knots by the free numbers."""
        found: Tensor = torch.func.jacrev(lambda free: knots_of(free, self._pieces))(self._free)
        return found.flatten(0, 1)
