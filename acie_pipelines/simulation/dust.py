"""Attenuation by dust and the light it re-emits.

Belongs here: laws of dust. Does not belong here: how much of it a galaxy has.
"""

import math
from typing import Final

import torch
from torch import Tensor

__all__ = [
    "DUST_TEMPERATURE_K",
    "R_V",
    "STARS_OVER_GAS_REDDENING",
    "calzetti_curve",
    "dust_emission",
    "transmission",
]

R_V: Final = 4.05
"""A_V over E(B-V) of the stars: Calzetti et al. 2000, ApJ 533, 682, doi:10.1086/308692,
equation 5."""

STARS_OVER_GAS_REDDENING: Final = 0.44
"""E(B-V) of the stars over that of the gas: Calzetti et al. 2000, equation 3."""

DUST_TEMPERATURE_K: Final = 25.0
"""Of the emitting dust, by hand; with `_EMISSIVITY` typical of nearby discs."""

_EMISSIVITY: Final = 1.8
_H_C_OVER_K_MICRON_K: Final = 14387.769  # second radiation constant, CODATA 2018
_V_BAND_MICRON: Final = 0.55


def calzetti_curve(wavelength_micron: Tensor, slope: float = 0.0) -> Tensor:
    """Attenuation over the reddening of the stars, A(wavelength) / E(B-V).

    Parameters
    ----------
    wavelength_micron
        Rest wavelength [micron]. The curve is published for 0.12 to 2.2 micron; its branches are
        followed to the Lyman limit and to 3.1 micron, where it becomes zero and stays so.
    slope
        Power of wavelength, 1 at 0.55 micron, that multiplies the curve.

    Notes
    -----
    Calzetti et al. 2000, equation 4. The branches differ by 0.7 per cent at 0.63 micron.
    """
    x = 1.0 / wavelength_micron
    blue = (R_V - 2.659 * 2.156) + x * (2.659 * 1.509 + x * (-2.659 * 0.198 + x * (2.659 * 0.011)))
    red = (R_V - 2.659 * 1.857) + x * (2.659 * 1.040)
    curve = torch.where(wavelength_micron < 0.63, blue, red).clamp_min(0.0)
    if slope:
        curve = curve * (wavelength_micron / _V_BAND_MICRON) ** slope
    return curve


def transmission(curve: Tensor, reddening: Tensor) -> Tensor:
    """Fraction of light that leaves the galaxy."""
    return torch.exp(curve * (-0.4 * math.log(10) * reddening))


def dust_emission(wavelength_micron: Tensor) -> Tensor:
    """Rest-frame emission of dust over its total [1/micron]; a modified black body.

    Notes
    -----
    Optically thin, emissivity proportional to frequency^1.8. The integral over all wavelengths is
    1 because that of x^(3+b) / (e^x - 1) is Gamma(4+b) zeta(4+b).
    """
    power = 4.0 + _EMISSIVITY
    zeta = float(torch.special.zeta(torch.tensor(power, dtype=torch.float64), 1.0))
    norm = math.gamma(power) * zeta
    x = _H_C_OVER_K_MICRON_K / (wavelength_micron * DUST_TEMPERATURE_K)
    # x^(3+b) / (e^x - 1) in a form that underflows at short wavelengths instead of overflowing.
    return x**power * torch.exp(-x) / (-torch.expm1(-x)) / (norm * wavelength_micron)
