"""Decoder from explicit physical parents to spectra, with nuisance modes and a learned residual.

Belongs here: the model of a noise-free spectrum and its derivatives.
Does not belong here: inference.
"""

import math
from typing import Final

import torch
from torch import Tensor

from acie_pipelines.models.parameters import PARAMETERS, STEPS, constrain
from acie_pipelines.models.residual import LearnedResidual
from acie_pipelines.models.simulated import render_in_blocks
from acie_pipelines.simulation.presets import preset
from acie_pipelines.simulation.spectrum import SpectrumRenderer

__all__ = ["SpectralDecoder"]

_KNEE: Final = 3.0


class SpectralDecoder:
    """Spectra from parameters: physics of stars, gas and dust, times modes and a learned residual.

    Parameters
    ----------
    preset_name
        Survey, in `acie_pipelines.simulation.presets`.
    modes
        Number of smooth multiplicative modes: cosines in log wavelength.
    mode_rms
        Size of the changes that the modes are expected to make, as a fraction of the flux; what a
        misspecified continuum or calibration needs.
    residual
        What real galaxies taught about features at rest; its latents follow the smooth modes.
    """

    def __init__(
        self,
        preset_name: str = "sdss",
        *,
        modes: int = 0,
        mode_rms: float = 0.0,
        residual: LearnedResidual | None = None,
    ) -> None:
        self.preset = preset(preset_name)
        self.smooth_modes, self.mode_rms, self.residual = modes, mode_rms, residual
        self.modes = modes + (residual.rank if residual is not None else 0)
        self.renderer = SpectrumRenderer(self.preset)
        pixels = self.preset.pixels
        k = torch.arange(modes, dtype=torch.float64)
        amplitude = 1 / (1 + (k / _KNEE) ** 2)
        amplitude = amplitude * mode_rms / amplitude.square().sum().sqrt().clamp_min(1e-30)
        position = (torch.arange(pixels, dtype=torch.float64) + 0.5) / pixels
        waves = math.sqrt(2) * torch.cos(math.pi * (k[:, None] + 1) * position)
        self.basis = (amplitude[:, None] * waves).to(self.renderer.dtype)

    def render(self, parameters: Tensor, amplitudes: Tensor) -> Tensor:
        """Noise-free flux density.

        Parameters
        ----------
        parameters
            Unconstrained, shape ``(n, 8)``.
        amplitudes
            Of the modes, standard normal a priori, shape ``(n, modes)``.

        Returns
        -------
        Tensor
            [1e-17 erg/s/cm2/Angstrom], shape ``(n, pixels)``.
        """
        values = constrain(parameters)
        flux = render_in_blocks(self.renderer, values)
        latents = amplitudes.to(flux.dtype)
        log_factor = latents[:, : self.smooth_modes] @ self.basis
        if self.residual is not None:
            mean, components = self.residual.observed(self.preset, values["redshift"])
            log_factor = (
                log_factor + mean + (latents[:, self.smooth_modes :, None] * components).sum(dim=1)
            )
        return flux * torch.exp(log_factor)

    def linearise(self, parameters: Tensor, amplitudes: Tensor) -> tuple[Tensor, Tensor]:
        """Flux and its derivative by parameters and modes.

        Returns
        -------
        tuple[Tensor, Tensor]
            Shapes ``(n, pixels)`` and ``(n, 8 + modes, pixels)``, by forward differences.
        """
        flux = self.render(parameters, amplitudes)
        columns = []
        for k in range(len(PARAMETERS)):
            shifted = parameters.clone()
            shifted[:, k] += STEPS[k]
            columns.append((self.render(shifted, amplitudes) - flux) / STEPS[k])
        columns += list((flux[:, None] * self.basis).unbind(dim=1))
        if self.residual is not None:
            redshift = constrain(parameters)["redshift"]
            _, components = self.residual.observed(self.preset, redshift)
            columns += list((flux[:, None] * components).unbind(dim=1))
        return flux, torch.stack(columns, dim=1)
