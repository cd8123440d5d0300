"""Features of a spectrum that its decoder does not know.

Belongs here: telling them from noise. Does not belong here: the decoder, or smooth misfits.
"""

from typing import Final

import torch
from torch import Tensor

__all__ = ["exogenous_residual"]

_WIDTH_PIXELS: Final = 1.0
_REACH: Final = 3
_SIGNIFICANCE: Final = 5.0
_LARGEST_SHARE: Final = 0.05


def exogenous_residual(
    flux: Tensor, ivar: Tensor, model: Tensor, where: Tensor | None = None
) -> Tensor:
    """Residual of line-like features over the model, zero elsewhere.

    Residuals are smoothed to the width of a line; what stands out at 5 sigma is kept with its
    surroundings. A spectrum that stands out in more than 5 % of its pixels has no features but a
    bad fit, and keeps nothing.

    Parameters
    ----------
    flux, ivar, model
        Shape ``(n, pixels)``.
    where
        Pixels that are known to be features; found if left out.
    """
    away = flux - model
    if where is None:
        offset = torch.arange(-_REACH, _REACH + 1, dtype=flux.dtype)
        kernel = torch.exp(-0.5 * (offset / _WIDTH_PIXELS) ** 2)[None, None]
        signal = _convolve(away * ivar, kernel)
        variance = _convolve(ivar, kernel.square())
        stands_out = signal.abs() > _SIGNIFICANCE * torch.sqrt(variance)
        stands_out &= variance > 0
        box = torch.ones(1, 1, 2 * _REACH + 1, dtype=flux.dtype)
        where = _convolve(stands_out.to(flux.dtype), box) > 0
        where &= where.to(flux.dtype).mean(dim=1, keepdim=True) <= _LARGEST_SHARE
    ratio = away / model
    return torch.where(where, ratio, torch.zeros_like(ratio))


def _convolve(signal: Tensor, kernel: Tensor) -> Tensor:
    return torch.nn.functional.conv1d(signal[:, None], kernel, padding=kernel.shape[-1] // 2)[:, 0]
