"""Bulge, disc and arms behind a galaxy stamp.

Belongs here: the renderer in unconstrained coordinates, and the fit of its parameters to a stamp.
Does not belong here: interventions (`acie_pipelines.models.image_counterfactual`) or the light
profiles themselves (`acie_pipelines.simulation.stamps`).
"""

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from acie_pipelines.errors import ModelError
from acie_pipelines.simulation.stamps import (
    STAMP_PIXELS,
    StampRenderer,
    effective_radius_pixels,
)

__all__ = [
    "ARM_LATENTS",
    "LATENTS",
    "RADIUS",
    "Fit",
    "StampDecoder",
    "border_noise",
    "light_and_residual",
    "linear_fit",
]

LATENTS: Final = (
    "ln_radius",
    "inclination_logit",
    "position_angle",
    "arm_phase",
    "arm_pitch_logit",
    "bulge_logit",
)
"""Columns of the latent state: pixels for the radius, turns for angles, logits of the renderer's
quantiles for the rest."""

RADIUS, _INCLINATION, _ANGLE, _PHASE, _PITCH, _BULGE = range(len(LATENTS))
ARM_LATENTS: Final = (_PHASE, _PITCH)
"""Columns that the stamp of an elliptical says nothing about."""

# The logit of a uniform quantile is standard logistic, of variance pi^2/3.
_LOGIT_PRECISION: Final = 3 / math.pi**2
_PRIOR_MEAN: Final = torch.tensor([math.log(8.0), 0.0, 0.0, 0.0, 0.0, 0.0])
# Angles are free in the cost ...
_PRIOR_PRECISION: Final = torch.tensor(
    [1.0, _LOGIT_PRECISION, 0.0, 0.0, _LOGIT_PRECISION, _LOGIT_PRECISION]
)
# ... and cannot be more uncertain than uniform: over half a turn and over a whole one.
_ANGLE_PRECISION: Final = torch.tensor([0.0, 0.0, 48.0, 12.0, 0.0, 0.0])
_STEPS: Final = torch.tensor([0.01, 0.02, 0.003, 0.003, 0.02, 0.02])
_LARGEST_MOVE: Final = torch.tensor([0.3, 1.0, 0.05, 0.05, 1.0, 1.0])
_LARGEST: Final = torch.tensor([math.log(60.0), 6.0, math.inf, math.inf, 6.0, 8.0])
_SMALLEST: Final = torch.tensor([math.log(0.5), -6.0, -math.inf, -math.inf, -6.0, -8.0])

_REFERENCE_REDSHIFT: Final = 0.1
_REFERENCE_MASS: Final = 10.5
_ROUNDS: Final = 3
_ITERATIONS: Final = 8
_FIRST_STRUCTURE: Final = 0.1
_OUTLIER_SIGMAS: Final = 4.0
_BORDER_PIXELS: Final = 4
_PHASES: Final = 8
_PITCHES: Final = (-1.5, 0.0, 1.5)
_MAD_OF_NORMAL: Final = 0.6745


def _border(stamps: Tensor) -> Tensor:
    """Pixels of the outer frame, shape ``(..., m)``."""
    inside = slice(_BORDER_PIXELS, -_BORDER_PIXELS)
    frame = torch.ones(stamps.shape[-2:], dtype=torch.bool)
    frame[inside, inside] = False
    return stamps[..., frame]


def border_noise(stamps: Tensor) -> Tensor:
    """Noise per pixel from the scatter of the frame, where there is little galaxy.

    Parameters
    ----------
    stamps
        Shape ``(n, bands, 88, 88)``.

    Returns
    -------
    Tensor
        One standard deviation per galaxy and band, from the median absolute deviation, shape
        ``(n, bands)``; at least one unit, the step of display values.
    """
    border = _border(stamps.float())
    middle = border.median(dim=-1, keepdim=True).values
    return ((border - middle).abs().median(dim=-1).values / _MAD_OF_NORMAL).clamp_min(1.0)


@dataclass(frozen=True)
class Fit:
    """Most probable parameters of stamps, with their uncertainty.

    Attributes
    ----------
    latent
        Columns of `LATENTS`, shape ``(n, 6)``.
    covariance
        Of the latents, flux and sky marginalised, shape ``(n, 6, 6)``.
    structure
        Scatter of the light about the smooth model, relative to it, shape ``(n,)``; zero where
        noise explains the residual.
    weight
        Of each pixel, the inverse variance less what outliers lose, shape ``(n, 88, 88)``.
    """

    latent: Tensor
    covariance: Tensor
    structure: Tensor
    weight: Tensor


class StampDecoder:
    """Renderer and its inverse.

    Notes
    -----
    The fit is Levenberg-Marquardt (Marquardt 1963, doi:10.1137/0111030) on finite differences.
    Between rounds, pixels are weighted again: by noise and the scatter of structure that a smooth
    model cannot follow, and by Cauchy weights, so that neighbouring stars do not count.
    """

    def __init__(self) -> None:
        self._renderer = StampRenderer()
        reference = torch.tensor(_REFERENCE_REDSHIFT, dtype=torch.float64)
        kpc = torch.zeros_like(reference)  # logarithm of one
        self._log_kpc_per_pixel = -math.log10(float(effective_radius_pixels(reference, kpc)))

    def unit_stamps(self, latent: Tensor, morphology: Tensor) -> Tensor:
        """Light of galaxies of unit flux.

        Parameters
        ----------
        latent
            Columns of `LATENTS`, shape ``(n, 6)``.
        morphology
            0 spiral, 1 elliptical, shape ``(n,)``.

        Returns
        -------
        Tensor
            Each stamp sums to one, float32, shape ``(n, 88, 88)``.
        """
        state = latent.double()
        ones = torch.ones(len(state), dtype=torch.float64)
        parameters = {
            "redshift": _REFERENCE_REDSHIFT * ones,
            "stellar_mass": _REFERENCE_MASS * ones,
            "size": state[:, RADIUS] / math.log(10) + self._log_kpc_per_pixel,
            "star_formation_state": morphology.double(),
            "inclination": torch.sigmoid(state[:, _INCLINATION]),
            "position_angle": state[:, _ANGLE],
            "arm_phase": state[:, _PHASE],
            "arm_pitch": torch.sigmoid(state[:, _PITCH]),
            "bulge": torch.sigmoid(state[:, _BULGE]),
        }
        return self._renderer(parameters, ones)

    def fit(self, stamps: Tensor, morphology: Tensor, noise: Tensor) -> Fit:
        """Fit one band.

        Parameters
        ----------
        stamps
            Shape ``(n, 88, 88)``.
        morphology
            0 spiral, 1 elliptical, shape ``(n,)``.
        noise
            Standard deviation per pixel, shape ``(n,)``.

        Raises
        ------
        ModelError
            If a stamp holds no light above its frame.
        """
        latent = self._start(stamps, morphology)
        variance = (noise**2)[:, None, None]
        structure = torch.full_like(noise, _FIRST_STRUCTURE)
        robust = torch.ones_like(stamps)
        weight = robust / variance
        for _ in range(_ROUNDS):
            unit = self.unit_stamps(latent, morphology)
            model, residual = light_and_residual(stamps, unit, weight)
            spread = variance + (structure[:, None, None] * model) ** 2
            robust = 1 / (1 + residual**2 / (spread * _OUTLIER_SIGMAS**2))
            weight = robust / spread
            latent = self._descend(stamps, morphology, latent, weight)
            unit = self.unit_stamps(latent, morphology)
            model, residual = light_and_residual(stamps, unit, weight)
            structure = _structure(model, residual, variance, robust)
        _, jacobian = self._jacobian(stamps, morphology, latent, weight)
        return Fit(latent, _marginal_covariance(jacobian, weight), structure, weight)

    def _start(self, stamps: Tensor, morphology: Tensor) -> Tensor:
        """Half-light radius and moments, then the best arms of a coarse grid."""
        light = stamps - _border(stamps).median(dim=-1).values[:, None, None]
        flux = light.sum(dim=(1, 2))
        if (flux <= 0).any():
            raise ModelError(
                f"stamp {int((flux <= 0).nonzero()[0])}",
                "holds no light above its frame",
                "give stamps centred on a galaxy",
            )
        position = torch.arange(STAMP_PIXELS) - (STAMP_PIXELS - 1) / 2
        y, x = position[:, None], position[None, :]
        distance = torch.sqrt(x**2 + y**2)
        order = distance.flatten().argsort()
        growth = light.flatten(1)[:, order].cumsum(dim=1) / flux[:, None]
        half = distance.flatten()[order][(growth > 0.5).int().argmax(dim=1)].clamp(1.0, 35.0)
        inside = light.clamp_min(0) * (distance < 2.5 * half[:, None, None])
        total = inside.sum(dim=(1, 2))
        xx, yy, xy = ((inside * m).sum(dim=(1, 2)) / total for m in (x * x, y * y, x * y))
        angle = 0.5 * torch.atan2(2 * xy, xx - yy)
        root = torch.sqrt((xx - yy) ** 2 + 4 * xy**2)
        flattening = torch.sqrt(((xx + yy - root) / (xx + yy + root)).clamp(0.02, 0.98))
        latent = torch.zeros(len(stamps), len(LATENTS))
        # Seen at an angle, the circle that holds half of the light is smaller than the disc's.
        latent[:, RADIUS] = (half / flattening.sqrt()).log()
        latent[:, _INCLINATION] = torch.logit(flattening)
        latent[:, _ANGLE] = angle / (2 * math.pi)
        best = torch.full_like(flux, math.inf)
        found = latent
        for pitch in _PITCHES:
            for k in range(_PHASES):
                trial = latent.clone()
                trial[:, _PHASE], trial[:, _PITCH] = k / _PHASES, pitch
                unit = self.unit_stamps(trial, morphology)
                _, residual = light_and_residual(stamps, unit, torch.ones_like(stamps))
                cost = (residual**2).sum(dim=(1, 2))
                found = torch.where((cost < best)[:, None], trial, found)
                best = torch.minimum(cost, best)
        return found

    def _descend(
        self, stamps: Tensor, morphology: Tensor, latent: Tensor, weight: Tensor
    ) -> Tensor:
        damping = torch.full((len(latent),), 1e-2)
        cost = self._cost(stamps, morphology, latent, weight)
        for _ in range(_ITERATIONS):
            residual, jacobian = self._jacobian(stamps, morphology, latent, weight)
            weighted = jacobian * weight.flatten(1)[:, None, :]
            normal = weighted @ jacobian.transpose(1, 2)
            normal = normal + torch.diag(_with_light(_PRIOR_PRECISION))
            pull = torch.einsum("nkp,np->nk", weighted, residual)
            pull = pull - _with_light(_PRIOR_PRECISION * (latent - _PRIOR_MEAN))
            # Columns differ by many decades: solve with a unit diagonal.
            scale = normal.diagonal(dim1=1, dim2=2).clamp_min(1e-30).rsqrt()
            scaled = normal * scale[:, :, None] * scale[:, None, :]
            damped = scaled + torch.diag_embed(damping[:, None].expand_as(scale))
            move = (scale * torch.linalg.solve(damped, scale * pull))[:, : len(LATENTS)]
            trial = latent + move.clamp(-_LARGEST_MOVE, _LARGEST_MOVE)
            trial = trial.clamp(_SMALLEST, _LARGEST)
            trial_cost = self._cost(stamps, morphology, trial, weight)
            better = trial_cost < cost
            latent = torch.where(better[:, None], trial, latent)
            cost = torch.where(better, trial_cost, cost)
            damping = torch.where(better, damping / 4, damping * 5).clamp(1e-6, 1e6)
        return latent

    def _cost(self, stamps: Tensor, morphology: Tensor, latent: Tensor, weight: Tensor) -> Tensor:
        unit = self.unit_stamps(latent, morphology)
        _, residual = light_and_residual(stamps, unit, weight)
        prior = (_PRIOR_PRECISION * (latent - _PRIOR_MEAN) ** 2).sum(dim=1)
        return (weight * residual**2).sum(dim=(1, 2)) + prior

    def _jacobian(
        self, stamps: Tensor, morphology: Tensor, latent: Tensor, weight: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Residual ``(n, p)``, and derivatives by latents, flux and sky, ``(n, 8, p)``."""
        unit = self.unit_stamps(latent, morphology)
        flux, sky = linear_fit(stamps, unit, weight)
        columns = []
        for k in range(len(LATENTS)):
            moved = latent.clone()
            moved[:, k] += _STEPS[k]
            slope = (self.unit_stamps(moved, morphology) - unit) / _STEPS[k]
            columns.append((flux[:, None, None] * slope).flatten(1))
        columns += [unit.flatten(1), torch.ones_like(unit).flatten(1)]
        residual = stamps - flux[:, None, None] * unit - sky[:, None, None]
        return residual.flatten(1), torch.stack(columns, dim=1)


def linear_fit(stamps: Tensor, unit: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted least squares for the flux of a unit stamp and the level of the sky.

    Parameters
    ----------
    stamps, unit, weight
        Shape ``(..., 88, 88)``.

    Returns
    -------
    tuple[Tensor, Tensor]
        Flux and sky, shape ``(...)``.
    """
    total = weight.sum(dim=(-2, -1))
    mean_unit = (weight * unit).sum(dim=(-2, -1)) / total
    mean_stamp = (weight * stamps).sum(dim=(-2, -1)) / total
    centred = unit - mean_unit[..., None, None]
    covariance = (weight * centred * stamps).sum(dim=(-2, -1))
    flux = covariance / (weight * centred**2).sum(dim=(-2, -1))
    return flux, mean_stamp - flux * mean_unit


def light_and_residual(stamps: Tensor, unit: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Split stamps into the model's light and what it leaves over the sky.

    Parameters
    ----------
    stamps, unit, weight
        Shape ``(..., 88, 88)``.
    """
    flux, sky = linear_fit(stamps, unit, weight)
    light = flux[..., None, None] * unit
    return light, stamps - light - sky[..., None, None]


def _structure(model: Tensor, residual: Tensor, variance: Tensor, robust: Tensor) -> Tensor:
    """Relative scatter beyond the noise, where light exceeds it."""
    bright = robust * (model > 3 * variance.sqrt())
    excess = (bright * (residual**2 - variance)).sum(dim=(1, 2))
    light = (bright * model**2).sum(dim=(1, 2))
    # Noise alone leaves an excess of about this much by chance.
    chance = variance[:, 0, 0] * torch.sqrt(2 * (bright**2).sum(dim=(1, 2)))
    found = torch.where(excess > 3 * chance, excess / light.clamp_min(1e-12), 0.0)
    return found.sqrt()


def _marginal_covariance(jacobian: Tensor, weight: Tensor) -> Tensor:
    """Laplace approximation; flux and sky are integrated out."""
    precision = (jacobian * weight.flatten(1)[:, None, :]) @ jacobian.transpose(1, 2)
    precision = precision + torch.diag(_with_light(_PRIOR_PRECISION + _ANGLE_PRECISION))
    scale = precision.diagonal(dim1=1, dim2=2).clamp_min(1e-30).rsqrt().double()
    scaled = precision.double() * scale[:, :, None] * scale[:, None, :]
    inverse = torch.linalg.inv(scaled + 1e-9 * torch.eye(len(scale[0]), dtype=torch.float64))
    covariance: Tensor = inverse * scale[:, :, None] * scale[:, None, :]
    return covariance[:, : len(LATENTS), : len(LATENTS)].float()


def _with_light(columns: Tensor) -> Tensor:
    """Append zeros for flux and sky, which have no prior."""
    return torch.nn.functional.pad(columns, (0, 2))
