"""Physical parameters of a spectrum on the whole real line.

Belongs here: the order, the scale and its inverse. Does not belong here: what they do to light.
"""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from acie_pipelines.simulation.light import PARAMETERS

__all__ = ["PARAMETERS", "STEPS", "constrain", "log_volume", "unconstrain"]

_REDSHIFT: Final = PARAMETERS.index("redshift")
_ATTENUATION: Final = PARAMETERS.index("attenuation")
_SOFTENING: Final = 0.05

STEPS: Final = (1e-4, 2e-3, 5e-3, 5e-3, 5e-3, 5e-3, 1e-2, 2e-2)
"""Steps of finite differences on the unconstrained scale, in the order of `PARAMETERS`: a fraction
of the smallest posterior width at a signal-to-noise ratio of 20, so that the truncation error is
small, and large enough for pixels in float32."""


def unconstrain(values: Mapping[str, Tensor]) -> Tensor:
    """Stack the parameters of a batch on the whole real line.

    Redshift becomes its natural logarithm. Attenuation stays as it is where it is well measured and
    bends into a logarithm below 0.05 mag (inverse softplus).

    Parameters
    ----------
    values
        `PARAMETERS` in the scale of the galaxy graph, each of one shape; others are ignored.

    Returns
    -------
    Tensor
        Float64, shape ``(..., 8)``.
    """
    stacked = torch.stack([values[name].to(torch.float64) for name in PARAMETERS], dim=-1)
    stacked[..., _REDSHIFT] = torch.log(stacked[..., _REDSHIFT])
    attenuation = stacked[..., _ATTENUATION]
    bent = torch.log(-torch.expm1(-attenuation / _SOFTENING))
    stacked[..., _ATTENUATION] = attenuation + _SOFTENING * bent
    return stacked


def constrain(stacked: Tensor) -> dict[str, Tensor]:
    """Name the parameters of a batch; inverse of `unconstrain`."""
    columns = list(stacked.to(torch.float64).unbind(dim=-1))
    columns[_REDSHIFT] = torch.exp(columns[_REDSHIFT])
    scaled = columns[_ATTENUATION] / _SOFTENING
    columns[_ATTENUATION] = _SOFTENING * torch.logaddexp(scaled, torch.zeros_like(scaled))
    return dict(zip(PARAMETERS, columns, strict=True))


def log_volume(stacked: Tensor) -> Tensor:
    """Log of the volume of parameters per volume on the unconstrained scale, shape ``(...)``."""
    bend = torch.nn.functional.logsigmoid(stacked[..., _ATTENUATION] / _SOFTENING)
    return stacked[..., _REDSHIFT] + bend
