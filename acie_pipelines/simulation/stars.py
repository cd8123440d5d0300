"""Light of the stars of a galaxy, as a smooth function of mass, age, metallicity and SFR.

Belongs here: the stellar continuum and its absorption lines. Does not belong here: dust, gas,
velocities or grids.

This is no stellar population synthesis. The spectrum has the features by which age and metallicity
are read from galaxies - colour, mass-to-light ratio, 4000 Angstrom and Balmer breaks, Balmer and
metal absorption - and each moves in the known direction by about the known amount, so that an
inference meets the true degeneracies. The numbers are by hand unless a source is named.
"""

import math
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

__all__ = ["ABSORPTION_LINES", "absorption_widths", "stellar_luminosity"]

_SOLAR: Final = 8.69
_PIVOT_ANGSTROM: Final = 5500.0
_C2_OVER_PIVOT_K: Final = 1.4387769e8 / _PIVOT_ANGSTROM  # second radiation constant, CODATA 2018
# A star of one solar V luminosity at 5500 Angstrom, from M_V(AB) = 4.80 of the Sun: Willmer 2018,
# ApJS 236, 47, doi:10.3847/1538-4365/aabfdf, table 3.
_SUN_V_LSUN_PER_ANGSTROM: Final = 5.17e29 / 3.828e33
# nu L_nu at 2300 Angstrom of 1 Msun/yr: Kennicutt & Evans 2012, table 1 (near-ultraviolet).
_LOG_NUV_ERG_S: Final = 43.17
_NUV_ANGSTROM: Final = 2300.0
_LOG_SUN_ERG_S: Final = math.log10(3.828e33)

ABSORPTION_LINES: Final = (
    # name, vacuum wavelength [Angstrom], intrinsic sigma [Angstrom]
    ("ca_ii_k", 3934.78, 7.0),
    ("ca_ii_h", 3969.59, 7.0),
    ("g_band", 4305.61, 8.0),
    ("mg_b", 5176.63, 10.0),
    ("fe_5270", 5271.0, 7.0),
    ("na_d", 5894.57, 5.0),
    ("h_delta", 4102.892, 8.0),
    ("h_gamma", 4341.684, 8.0),
    ("h_beta", 4862.683, 8.0),
    ("h_alpha", 6564.614, 7.0),
)
"""Stellar absorption features: name, vacuum wavelength and width without velocities."""

# Equivalent widths [Angstrom] of old, solar-metallicity stars, and of A stars.
_METAL_WIDTHS: Final = (5.5, 5.0, 4.0, 4.0, 2.2, 2.5)
_BALMER_WIDTHS: Final = (7.0, 6.5, 6.0, 3.5)


def _young_share(age: Tensor) -> Tensor:
    """Share of main-sequence light at 5500 Angstrom; the rest comes from giants."""
    return 1 / (1 + (age / 3.0) ** 0.8)


def stellar_luminosity(wavelength: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
    """Luminosity density without dust [Lsun / Angstrom].

    Parameters
    ----------
    wavelength
        Rest wavelength [Angstrom], at least 912, shape ``(n, m)`` or ``(m,)``; its dtype is that
        of the result.
    parameters
        ``stellar_mass``, ``age``, ``metallicity`` and ``sfr`` in the scale of the galaxy graph,
        ``(n,)``. The metallicity of the stars is taken to be that of the gas.

    Returns
    -------
    Tensor
        Shape ``(n, m)``.
    """
    metals = parameters["metallicity"] - _SOLAR
    age = 10 ** parameters["age"]
    log_mass_to_light = 0.75 * parameters["age"] - 0.30 + 0.25 * metals
    share = _young_share(age)
    # Main-sequence life goes as M^-2.5 and temperature as M^0.5.
    turnoff = 6000.0 * (age / 10.0) ** -0.2
    giants = 4500.0 * 10 ** (-0.06 * metals)
    # Exponents of the Planck functions at 5500 Angstrom, where both are 1 before weighting.
    hot, cool = _C2_OVER_PIVOT_K / turnoff, _C2_OVER_PIVOT_K / giants
    break_4000 = 0.50 * age**0.8 / (age**0.8 + 1.5) * 10 ** (0.25 * metals)
    # Strongest in A stars; metals do not matter.
    balmer_break = 0.45 * share * torch.exp(-0.5 * ((parameters["age"] + 0.3) / 0.5) ** 2)
    log_young = parameters["sfr"] + (_LOG_NUV_ERG_S - _LOG_SUN_ERG_S - math.log10(_NUV_ANGSTROM))

    visual = _SUN_V_LSUN_PER_ANGSTROM * 10 ** (parameters["stellar_mass"] - log_mass_to_light)

    def column(scalar: Tensor) -> Tensor:
        return scalar[:, None].to(wavelength.dtype)

    # The powers -5 of the Planck function and -2 of unreddened constant star formation.
    x = _PIVOT_ANGSTROM / wavelength
    square = x * x
    bodies = column(visual * share * torch.expm1(hot)) / torch.expm1(column(hot) * x)
    bodies = bodies + column(visual * (1 - share) * torch.expm1(cool)) / torch.expm1(
        column(cool) * x
    )
    below_4000 = torch.sigmoid(200.0 - wavelength / 20.0)
    below_3700 = torch.sigmoid(148.0 - wavelength / 25.0)
    breaks = (1 - column(break_4000) * below_4000) * (1 - column(balmer_break) * below_3700)
    young = 10**log_young * (_NUV_ANGSTROM / _PIVOT_ANGSTROM) ** 2
    return square * (square * x * bodies * breaks + column(young))


def absorption_widths(parameters: Mapping[str, Tensor]) -> Tensor:
    """Equivalent widths of `ABSORPTION_LINES` [Angstrom], shape ``(n, lines)``.

    They are exact for shallow lines: the continuum is multiplied by exp(-depth).
    """
    age = 10 ** parameters["age"]
    metals = parameters["metallicity"] - _SOLAR
    # Light of young stars has no metal lines to speak of and shallow Balmer lines.
    specific = torch.sigmoid(2.0 * (parameters["sfr"] - parameters["stellar_mass"] + 9.8))
    old = (age / 10.0) ** 0.3 * 10 ** (0.4 * metals) * (1 - 0.7 * specific)
    balmer = 0.25 + torch.exp(-0.5 * ((parameters["age"] + 0.3) / 0.5) ** 2) * (1 - 0.5 * specific)
    metal_widths = old[:, None] * torch.tensor(_METAL_WIDTHS, dtype=old.dtype, device=old.device)
    balmer_widths = balmer[:, None] * torch.tensor(
        _BALMER_WIDTHS, dtype=old.dtype, device=old.device
    )
    return torch.cat([metal_widths, balmer_widths], dim=1)
