"""Residuals of physical laws, differentiable, for losses and reports.

Belongs here: one function per law; each is zero for what obeys the law and dimensionless. Does not
belong here: scaling relations, which scatter, or tests on noisy catalogues
(`acie_pipelines.physics.residuals`).
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from acie_pipelines.physics.constants import (
    H_ALPHA_H_BETA_CASE_B,
    H_GAMMA_H_BETA_CASE_B,
    LINE_WAVELENGTHS_ANGSTROM,
)

__all__ = [
    "balmer_residual",
    "doublet_residual",
    "energy_residual",
    "formed_mass_residual",
    "negative_flux",
    "physics_penalty",
    "redshift_residual",
    "stamp_flux_residual",
]


def doublet_residual(strong: Tensor, weak: Tensor, ratio: float) -> Tensor:
    """Deviation of two lines from one upper level from their ratio.

    Parameters
    ----------
    strong, weak
        Line fluxes before dust in one unit, positive; dust of 4 mag changes [O III] by 6 %.
    ratio
        Flux of the strong over the weak line, from `acie_pipelines.physics.constants`.
    """
    return strong / (ratio * weak) - 1


def balmer_residual(h_alpha: Tensor, h_beta: Tensor, h_gamma: Tensor) -> Tensor:
    """Deviation of H gamma / H beta from Case B under the reddening that H alpha / H beta shows.

    Parameters
    ----------
    h_alpha, h_beta, h_gamma
        Observed line fluxes in one unit, positive.

    Notes
    -----
    Case B ratios as in `acie_pipelines.physics.constants`; the curve of Calzetti et al. 2000, ApJ
    533, 682, equation 4, in front of all three.
    """
    from acie_pipelines.simulation.dust import calzetti_curve

    names = ("h_alpha", "h_beta", "h_gamma")
    micron = torch.tensor([LINE_WAVELENGTHS_ANGSTROM[n] for n in names], dtype=torch.float64) * 1e-4
    alpha, beta, gamma = calzetti_curve(micron).to(h_alpha).unbind()
    e_b_v = 2.5 * torch.log10(h_alpha / h_beta / H_ALPHA_H_BETA_CASE_B) / (beta - alpha)
    expected = H_GAMMA_H_BETA_CASE_B * 10 ** (-0.4 * e_b_v * (gamma - beta))
    return h_gamma / h_beta / expected - 1


def energy_residual(absorbed: Tensor, emitted: Tensor) -> Tensor:
    """Deviation of the luminosity that dust emits from that which it absorbs, in one unit."""
    return emitted / absorbed - 1


def formed_mass_residual(
    log_mass: Tensor, time_gyr: Tensor, sfr: Tensor, return_fraction: float
) -> Tensor:
    """Deviation of stellar mass from M = (1 - R) times the integral of SFR over time.

    Parameters
    ----------
    log_mass
        Log of stellar mass [Msun], shape ``(n,)``.
    time_gyr
        Times [Gyr], shape ``(m,)``, rising.
    sfr
        Star formation history [Msun/yr], shape ``(n, m)``.
    return_fraction
        Mass returned by a generation of stars.
    """
    formed = torch.trapezoid(sfr, time_gyr, dim=1) * 1e9 * (1 - return_fraction)
    return formed / 10**log_mass - 1


def redshift_residual(
    flux: Tensor, luminosity: Tensor, redshift: Tensor, distance_mpc: Tensor
) -> Tensor:
    """Deviation from f(lambda_obs) = L(lambda_rest) / (4 pi d_L^2 (1 + z)).

    Parameters
    ----------
    flux
        [1e-17 erg/s/cm2/Angstrom] at observed wavelengths, shape ``(n, m)``.
    luminosity
        [Lsun/Angstrom] at the same wavelengths over ``1 + redshift``, shape ``(n, m)``.
    redshift, distance_mpc
        Redshift and luminosity distance [Mpc], shape ``(n,)``.
    """
    # IAU 2015 Resolutions B2 and B3: parsec and solar luminosity.
    per_lsun = 3.828e33 / (3.0856775814913673e24**2) * 1e17
    dilution = per_lsun / (4 * math.pi * distance_mpc**2 * (1 + redshift))
    return flux / (luminosity * dilution[:, None]) - 1


def negative_flux(flux: Tensor) -> Tensor:
    """Flux below zero over the mean absolute flux of the spectrum, shape as ``flux``."""
    return torch.relu(-flux) / flux.abs().mean(dim=-1, keepdim=True)


def stamp_flux_residual(sharp: Tensor, blurred: Tensor) -> Tensor:
    """Deviation of an image's flux from its flux before the point-spread function.

    Parameters
    ----------
    sharp, blurred
        Flux per pixel, shape ``(n, height, width)``.
    """
    return blurred.sum(dim=(1, 2)) / sharp.sum(dim=(1, 2)) - 1


def physics_penalty(
    residuals: Mapping[str, Tensor], weights: Mapping[str, float]
) -> tuple[Tensor, dict[str, float]]:
    """Sum of weighted mean squared residuals, to be added to a loss.

    Parameters
    ----------
    residuals
        Law to residual, any shape.
    weights
        Law to factor; a law without one is reported and not penalised.

    Returns
    -------
    tuple[Tensor, dict[str, float]]
        The penalty and the root mean square of each law.
    """
    squares = {law: residual.square().mean() for law, residual in residuals.items()}
    penalty = torch.stack([weights.get(law, 0.0) * s for law, s in squares.items()]).sum()
    return penalty, {law: math.sqrt(s.item()) for law, s in squares.items()}
