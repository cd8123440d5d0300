"""Laws of physics in answered spectra, measured on the pixels that a user gets.

Belongs here: lines and energy taken out of an answer's flux, against what its own properties say.
Does not belong here: the laws (`acie_pipelines.physics.layers`), limits or reports.

An engine that adds light which its properties do not explain, in a line or anywhere else, breaks
these laws even where its decoder obeys them.
"""

import math
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from acie_pipelines.physics.constants import (
    H_GAMMA_H_BETA_CASE_B,
    O_III_5007_4959_RATIO,
    SPEED_OF_LIGHT_KM_S,
)
from acie_pipelines.physics.layers import doublet_residual, energy_residual, negative_flux
from acie_pipelines.simulation.dust import (
    R_V,
    STARS_OVER_GAS_REDDENING,
    calzetti_curve,
    transmission,
)
from acie_pipelines.simulation.nebula import EMISSION_LINES_ANGSTROM
from acie_pipelines.simulation.spectrum import SpectrumRenderer

__all__ = ["answered_residuals"]

_WINDOW_KM_S: Final = 1200.0
# Weaker lines, and less dust, drown in the rounding of float32 pixels.
_LEAST_LINE_OVER_STARS: Final = 0.05
_LEAST_ATTENUATION: Final = 0.1
_NO_DUST: Final = 1e-9


def answered_residuals(
    renderer: SpectrumRenderer, values: Mapping[str, Tensor], flux: Tensor
) -> dict[str, float]:
    """Measure laws on answers.

    Parameters
    ----------
    renderer
        Of the engine's decoder.
    values
        Answered properties, float64, shape ``(n,)``.
    flux
        Answered flux densities, shape ``(n, pixels)``.

    Returns
    -------
    dict[str, float]
        Root mean square residual of ``doublet`` ([O III] 5007/4959, behind the answer's dust),
        ``balmer`` (H gamma / H beta of Case B behind it) and ``energy`` (starlight missing in the
        window over what the dust must absorb), and the largest ``negative_flux``. NaN where no
        answer has lines or dust enough.
    """
    lines_only = (flux - renderer.without_lines(values)).double()
    stars = flux.double() - (renderer(values) - renderer.without_lines(values)).double()
    line = {
        name: _line_flux(renderer, values, lines_only, stars, name)
        for name in ("o_iii_5007", "o_iii_4959", "h_gamma", "h_beta")
    }
    reddening = values["attenuation"] / R_V

    def through(name: str) -> Tensor:
        micron = torch.tensor(EMISSION_LINES_ANGSTROM[name] * 1e-4, dtype=torch.float64)
        return transmission(calzetti_curve(micron), reddening / STARS_OVER_GAS_REDDENING)

    free = {name: found / through(name) for name, found in line.items()}
    doublet = doublet_residual(free["o_iii_5007"], free["o_iii_4959"], O_III_5007_4959_RATIO)
    balmer = doublet_residual(free["h_gamma"], free["h_beta"], H_GAMMA_H_BETA_CASE_B)
    return {
        "doublet": _rms(doublet),
        "balmer": _rms(balmer),
        "energy": _rms(_energy(renderer, values, stars)),
        "negative_flux": float(negative_flux(flux).max()),
    }


def _rms(residual: Tensor) -> float:
    known = residual[residual.isfinite()]
    return float(known.square().mean().sqrt()) if known.numel() else math.nan


def _line_flux(
    renderer: SpectrumRenderer,
    values: Mapping[str, Tensor],
    lines: Tensor,
    stars: Tensor,
    name: str,
) -> Tensor:
    """Flux of one line, NaN where it is weak or falls off the grid."""
    centre = EMISSION_LINES_ANGSTROM[name] * (1 + values["redshift"])
    velocity = (renderer.wavelength / centre[:, None] - 1) * SPEED_OF_LIGHT_KM_S
    inside = velocity.abs() < _WINDOW_KM_S
    width = torch.from_numpy(renderer.preset.pixel_width_angstrom)
    found = (lines * inside * width).sum(dim=1)
    beneath = (stars * inside * width).sum(dim=1)
    whole = (centre * (1 - _WINDOW_KM_S / SPEED_OF_LIGHT_KM_S) > renderer.wavelength[0]) & (
        centre * (1 + _WINDOW_KM_S / SPEED_OF_LIGHT_KM_S) < renderer.wavelength[-1]
    )
    strong = whole & (found > _LEAST_LINE_OVER_STARS * beneath)
    return torch.where(strong, found, torch.nan)


def _energy(renderer: SpectrumRenderer, values: Mapping[str, Tensor], stars: Tensor) -> Tensor:
    """Starlight that is missing against what dust absorbs, NaN where there is little dust."""
    bare = dict(values) | {"attenuation": torch.full_like(values["attenuation"], _NO_DUST)}
    emitted = renderer.without_lines(bare).double()
    rest = renderer.wavelength / (1 + values["redshift"][:, None])
    left = transmission(calzetti_curve(rest * 1e-4), (values["attenuation"] / R_V)[:, None])
    width = torch.from_numpy(renderer.preset.pixel_width_angstrom)
    absorbed = (emitted * (1 - left) * width).sum(dim=1)
    missing = ((emitted - stars) * width).sum(dim=1)
    dusty = values["attenuation"] > _LEAST_ATTENUATION
    return torch.where(dusty, energy_residual(absorbed, missing), torch.nan)
