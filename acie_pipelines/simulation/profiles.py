"""Gaussian lines integrated over pixels.

Belongs here: the placing of many narrow profiles on a grid. Does not belong here: which lines.
"""

import math
from typing import Final

import torch
from torch import Tensor

from acie_pipelines.simulation.presets import Preset

__all__ = ["add_profiles"]

_REACH_SIGMAS: Final = 6.0


def add_profiles(
    preset: Preset, centre: Tensor, sigma: Tensor, weight: Tensor, dtype: torch.dtype
) -> Tensor:
    """Sum Gaussians over the pixels they fall on.

    Parameters
    ----------
    preset
        Grid, uniform in log wavelength.
    centre
        Natural log of observed wavelength, float64, shape ``(n, lines)``.
    sigma
        In natural log wavelength, same shape.
    weight
        Integral of each line, same shape.
    dtype
        Of the result.

    Returns
    -------
    Tensor
        Integral over each pixel, shape ``(n, pixels)``: summed over a line that lies inside the
        grid it is the line's weight but for the 2e-9 beyond 6 sigma of the widest line of the
        batch.
    """
    step = preset.log_step
    # Pixel i reaches from i to i + 1 on this scale.
    position = (centre - math.log(preset.lowest_angstrom)) / step
    width = sigma / step
    reach = math.ceil(_REACH_SIGMAS * float(width.detach().max())) + 1
    first = torch.floor(position.detach()) - reach
    offset = torch.arange(2 * reach + 2, dtype=torch.float64, device=centre.device)
    edge = ((first - position)[..., None] + offset).to(dtype)
    cumulative = torch.erf(edge / (math.sqrt(2) * width[..., None].to(dtype)))
    inside = 0.5 * weight[..., None].to(dtype) * torch.diff(cumulative, dim=-1)
    # What falls off the grid lands in two bins beside it.
    index = (first[..., None] + offset[:-1] + 1).clamp(0, preset.pixels + 1).long()
    count = centre.shape[0]
    total = torch.zeros(count, preset.pixels + 2, dtype=dtype, device=centre.device)
    total = total.scatter_add(1, index.reshape(count, -1), inside.reshape(count, -1))
    return total[:, 1:-1]
