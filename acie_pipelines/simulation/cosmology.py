"""Distances and ages in a flat universe of matter and a cosmological constant.

Belongs here: functions of redshift alone. Does not belong here: anything about a galaxy.
"""

import math
from typing import Final

import numpy as np
import torch
from torch import Tensor

from acie_pipelines.physics.constants import SPEED_OF_LIGHT_KM_S

__all__ = ["H0_KM_S_MPC", "OMEGA_M", "age_of_universe_gyr", "luminosity_distance_mpc"]

H0_KM_S_MPC: Final = 70.0
"""Hubble constant; with `OMEGA_M` the convention of Popesso et al. 2023 and van der Wel 2014."""

OMEGA_M: Final = 0.3
"""Matter density parameter at redshift 0."""

_MPC_KM: Final = 3.0856775814913673e19  # IAU 2015 Resolution B2
_GYR_S: Final = 1e9 * 365.25 * 86400.0
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)


def luminosity_distance_mpc(redshift: Tensor) -> Tensor:
    """Luminosity distance [Mpc].

    Parameters
    ----------
    redshift
        Any shape; Gauss-Legendre quadrature of 24 points is exact to 1e-10 below redshift 5.
    """
    nodes = torch.as_tensor(0.5 * (_NODES + 1), dtype=redshift.dtype, device=redshift.device)
    weights = torch.as_tensor(0.5 * _WEIGHTS, dtype=redshift.dtype, device=redshift.device)
    stretch = 1 + redshift[..., None] * nodes
    inverse_e = torch.rsqrt(OMEGA_M * stretch**3 + (1 - OMEGA_M))
    comoving = SPEED_OF_LIGHT_KM_S / H0_KM_S_MPC * redshift * (inverse_e * weights).sum(-1)
    return (1 + redshift) * comoving


def age_of_universe_gyr(redshift: Tensor) -> Tensor:
    """Age of the universe at a redshift [Gyr], in closed form."""
    hubble_time = _MPC_KM / H0_KM_S_MPC / _GYR_S
    argument = math.sqrt((1 - OMEGA_M) / OMEGA_M) * (1 + redshift) ** -1.5
    return hubble_time * 2 / (3 * math.sqrt(1 - OMEGA_M)) * torch.asinh(argument)
