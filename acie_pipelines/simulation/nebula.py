"""Emission lines of gas ionised by young stars.

Belongs here: line luminosities. Does not belong here: dust, profiles or grids.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

from acie_pipelines.physics.constants import (
    H_ALPHA_H_BETA_CASE_B,
    H_GAMMA_H_BETA_CASE_B,
    LINE_WAVELENGTHS_ANGSTROM,
    N_II_6584_6548_RATIO,
    O_II_3726_WAVELENGTH_ANGSTROM,
    O_III_5007_4959_RATIO,
)

__all__ = ["EMISSION_LINES_ANGSTROM", "UNSEEN_LINE", "line_luminosities"]

_H_DELTA_H_BETA: Final = 0.259  # Osterbrock & Ferland 2006, table 4.4, 10^4 K, 10^2 cm^-3
_H_EPSILON_H_BETA: Final = 0.159  # as above
# Low-density limits: Osterbrock & Ferland 2006, section 5.6.
_O_II_3729_3726: Final = 1.50
_S_II_6717_6731: Final = 1.44

EMISSION_LINES_ANGSTROM: Final = MappingProxyType(
    {
        "o_ii_3726": O_II_3726_WAVELENGTH_ANGSTROM,
        "h_epsilon": 3971.198,
        "h_delta": 4102.892,
        **LINE_WAVELENGTHS_ANGSTROM,
    }
)
"""Rest wavelengths in vacuum [Angstrom]."""

UNSEEN_LINE: Final = ("o_i_6300", 6302.046)
"""A line, name and vacuum wavelength, that only a departure from the model emits."""

_LOG_SUN_ERG_S: Final = math.log10(3.828e33)  # IAU 2015 Resolution B3
_LOG_H_ALPHA_PER_SFR: Final = 41.27
_SOLAR: Final = 8.69

# Logarithms of line ratios as polynomials of 12 + log(O/H) - 8.69: Curti et al. 2020, MNRAS 491,
# 944, doi:10.1093/mnras/stz2910, table 2: [O II] 3726+3729 / H beta, [O III] 5007 / H beta,
# [N II] 6584 / H alpha, [S II] 6717+6731 / H alpha.
_R2: Final = (0.435, -1.362, -5.655, -4.851, -0.478, 0.736)
_R3: Final = (-0.277, -3.549, -3.593, -0.981)
_N2: Final = (-0.489, 1.513, -2.554, -5.293, -2.867)
_S2: Final = (-0.442, -0.360, -6.271, -8.339, -3.559)
# The calibrations hold from 7.6 to 8.85 and are followed a little beyond.
_RANGE: Final = (-1.09, 0.25)
# Change of each ratio with the ionisation parameter: signs and sizes as in the grids reviewed by
# Kewley et al. 2019, ARA&A 57, 511, doi:10.1146/annurev-astro-081817-051832; by hand.
_IONISATION: Final = MappingProxyType({"R2": -0.3, "R3": 0.7, "N2": -0.4, "S2": -0.4})


def _ratio(coefficients: tuple[float, ...], x: Tensor, shift: Tensor) -> Tensor:
    value = torch.zeros_like(x)
    for coefficient in reversed(coefficients):
        value = value * x + coefficient
    return 10 ** (value + shift)


def line_luminosities(
    parameters: Mapping[str, Tensor], unseen_over_h_alpha: float = 0.0
) -> dict[str, Tensor]:
    """Intrinsic luminosity of every line [Lsun], before dust.

    Parameters
    ----------
    parameters
        ``sfr``, ``metallicity`` and ``ionisation``, in the scale of the galaxy graph, ``(n,)``.
    unseen_over_h_alpha
        Luminosity of `UNSEEN_LINE` over that of H alpha; the line is left out if it is zero.

    Notes
    -----
    log SFR = log L(H alpha) - 41.27 with L in erg/s: Kennicutt & Evans 2012, ARA&A 50, 531,
    doi:10.1146/annurev-astro-081811-125610, table 1.
    """
    x = (parameters["metallicity"] - _SOLAR).clamp(*_RANGE)
    shift = {name: slope * parameters["ionisation"] for name, slope in _IONISATION.items()}
    h_alpha = 10 ** (parameters["sfr"] + (_LOG_H_ALPHA_PER_SFR - _LOG_SUN_ERG_S))
    h_beta = h_alpha / H_ALPHA_H_BETA_CASE_B
    o_ii = h_beta * _ratio(_R2, x, shift["R2"])
    o_iii = h_beta * _ratio(_R3, x, shift["R3"])
    n_ii = h_alpha * _ratio(_N2, x, shift["N2"])
    s_ii = h_alpha * _ratio(_S2, x, shift["S2"])
    lines = {
        "o_ii_3726": o_ii / (1 + _O_II_3729_3726),
        "o_ii_3729": o_ii * _O_II_3729_3726 / (1 + _O_II_3729_3726),
        "h_epsilon": h_beta * _H_EPSILON_H_BETA,
        "h_delta": h_beta * _H_DELTA_H_BETA,
        "h_gamma": h_beta * H_GAMMA_H_BETA_CASE_B,
        "h_beta": h_beta,
        "o_iii_4959": o_iii / O_III_5007_4959_RATIO,
        "o_iii_5007": o_iii,
        "n_ii_6548": n_ii / N_II_6584_6548_RATIO,
        "n_ii_6584": n_ii,
        "h_alpha": h_alpha,
        "s_ii_6717": s_ii * _S_II_6717_6731 / (1 + _S_II_6717_6731),
        "s_ii_6731": s_ii / (1 + _S_II_6717_6731),
    }
    lines = {name: lines[name] for name in EMISSION_LINES_ANGSTROM}
    if unseen_over_h_alpha:
        lines[UNSEEN_LINE[0]] = h_alpha * unseen_over_h_alpha
    return lines
