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
    width = (sigma / step)[..., None].to(dtype)
    weight = weight[..., None].to(dtype)

    def between(edges: Tensor) -> Tensor:
        cumulative = torch.erf(edges.to(dtype) / (math.sqrt(2) * width))
        return 0.5 * weight * torch.diff(cumulative, dim=-1)

    # In this order the minimum bounds NaN too.
    widest = min(float(preset.pixels), float(width.detach().max()))
    reach = math.ceil(_REACH_SIGMAS * widest) + 1
    if 2 * reach >= preset.pixels:
        # Memory must not grow with absurd widths, which an untrained network proposes.
        every = torch.arange(preset.pixels + 1, dtype=torch.float64, device=centre.device)
        return between(every - position[..., None]).sum(dim=1)
    first = torch.floor(position.detach()) - reach
    offset = torch.arange(2 * reach + 2, dtype=torch.float64, device=centre.device)
    inside = between((first - position)[..., None] + offset)
    # What falls off the grid lands in two bins beside it.
    index = (first[..., None] + offset[:-1] + 1).clamp(0, preset.pixels + 1).long()
    count = centre.shape[0]
    total = torch.zeros(count, preset.pixels + 2, dtype=dtype, device=centre.device)
    total = total.scatter_add(1, index.reshape(count, -1), inside.reshape(count, -1))
    return total[:, 1:-1]
