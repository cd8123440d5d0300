"""Spectra of galaxies from their properties.

Belongs here: the light of stars and gas through dust, redshift, velocities and instrument.
Does not belong here: what stars, gas and dust emit or absorb, survey presets, files.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from acie_pipelines.physics.constants import SPEED_OF_LIGHT_KM_S
from acie_pipelines.simulation.light import PARAMETERS, GalaxyLight, checked_parameters
from acie_pipelines.simulation.presets import DEPARTURES, Departure, Preset
from acie_pipelines.simulation.profiles import add_profiles
from acie_pipelines.simulation.stars import ABSORPTION_LINES, absorption_widths
from acie_pipelines.simulation.streams import uniforms

__all__ = ["FLUX_UNIT", "LINE_FLUX_UNIT", "RenderedSpectra", "SpectrumRenderer"]

FLUX_UNIT: Final = "1e-17 erg / (s cm2 Angstrom)"
"""Unit of flux densities."""

LINE_FLUX_UNIT: Final = "1e-17 erg / (s cm2)"
"""Unit of line fluxes."""

_MODES: Final = "continuum_modes"
_MODE_STREAM: Final = 2
_NOISE_STREAM: Final = 3
_MODE_KNEE: Final = 20.0
_FWHM_PER_SIGMA: Final = math.sqrt(8 * math.log(2))
# Sky and read-out noise over that of the mean flux, in variance.
_SKY_VARIANCE: Final = 1.0


@dataclass(frozen=True)
class RenderedSpectra:
    """A batch of noise-free spectra and what is true of them.

    Attributes
    ----------
    flux
        Flux density [1e-17 erg/s/cm2/Angstrom], mean over each pixel, shape ``(n, pixels)``.
    line_fluxes
        Line name to observed flux behind dust [1e-17 erg/s/cm2], shape ``(n,)``; wherever the line
        falls, and without the stellar absorption beneath it.
    absorbed_luminosity
        What dust takes from stars and lines, and so re-emits [Lsun], shape ``(n,)``.
    """

    flux: Tensor
    line_fluxes: dict[str, Tensor]
    absorbed_luminosity: Tensor


class SpectrumRenderer:
    """Differentiable map from galaxy properties to spectra.

    Parameters
    ----------
    preset
        Survey.
    departure
        Physics or instrument that differ from the model's.
    dtype
        Of pixels; scalars are computed in float64.
    device
        Of parameters and pixels.

    Notes
    -----
    Lines are Gaussians in log wavelength, integrated over each pixel, so that the sum of flux times
    pixel width is the line flux. Velocity dispersion and line-spread function widen emission and
    absorption lines; the continuum is smooth on their scale. Modes multiply the
    stellar continuum and leave the lines alone.
    """

    def __init__(
        self,
        preset: Preset,
        departure: Departure = DEPARTURES["none"],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.preset, self.departure, self.dtype = preset, departure, dtype
        self.wavelength = torch.from_numpy(preset.wavelength_angstrom).to(device)
        self._log_wavelength = torch.log(self.wavelength)
        self._pixel_width = torch.from_numpy(preset.pixel_width_angstrom).to(device, dtype)
        self._lsf_km_s = (
            departure.line_spread * SPEED_OF_LIGHT_KM_S / (preset.resolving_power * _FWHM_PER_SIGMA)
        )
        self.light = GalaxyLight(departure, device)
        _, wavelengths, sigmas = zip(*ABSORPTION_LINES, strict=True)
        self._absorption_wavelengths = torch.tensor(wavelengths, dtype=torch.float64, device=device)
        intrinsic = torch.tensor(sigmas, dtype=torch.float64, device=device)
        self._absorption_km_s = SPEED_OF_LIGHT_KM_S * intrinsic / self._absorption_wavelengths
        self._basis = self._mode_basis().to(device)

    def _mode_basis(self) -> Tensor:
        """Cosines times the amplitudes of a smooth Gaussian process, ``(modes, pixels)``."""
        count, pixels = self.preset.continuum_modes, self.preset.pixels
        k = torch.arange(1, count + 1, dtype=torch.float64)
        amplitude = 1 / (1 + (k / _MODE_KNEE) ** 2)
        amplitude = amplitude * self.preset.continuum_rms / amplitude.square().sum().sqrt()
        position = (torch.arange(pixels, dtype=torch.float64) + 0.5) / pixels
        waves = math.sqrt(2) * torch.cos(math.pi * k[:, None] * position)
        return (amplitude[:, None] * waves).to(self.dtype)

    def draw_modes(self, count: int, *, seed: int, start: int = 0) -> dict[str, Tensor]:
        """Exogenous nuisance latents of galaxies ``start`` to ``start + count`` of a seed.

        Returns
        -------
        dict[str, Tensor]
            ``continuum_modes``, standard normal, shape ``(count, modes)``; empty if the preset has
            none.
        """
        modes = self.preset.continuum_modes
        if not modes:
            return {}
        return {
            _MODES: torch.special.ndtri(uniforms(seed, _MODE_STREAM, start, start + count, modes))
        }

    def __call__(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Flux density; see `RenderedSpectra.flux`."""
        checked = self._checked(parameters)
        return self._flux(checked, self.light.line_fluxes(checked))

    def without_lines(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Flux density of the stars alone, behind dust and with their absorption lines."""
        checked = self._checked(parameters)
        count = len(checked["redshift"])
        none = checked["redshift"].new_zeros(count, len(self.light.lines))
        return self._flux(checked, none)

    def render(self, parameters: Mapping[str, Tensor]) -> RenderedSpectra:
        """Spectra with the truth about their lines and energy.

        Parameters
        ----------
        parameters
            `PARAMETERS` in the scale of the galaxy graph, shape ``(n,)``, and ``continuum_modes``
            of shape ``(n, modes)`` if the preset has any. Others are ignored.

        Raises
        ------
        ModelError
            If a parameter is missing or has the wrong shape.
        """
        checked = self._checked(parameters)
        fluxes = self.light.line_fluxes(checked)
        return RenderedSpectra(
            flux=self._flux(checked, fluxes),
            line_fluxes=dict(zip(self.light.lines, fluxes.unbind(dim=1), strict=True)),
            absorbed_luminosity=self.light.absorbed_luminosity(checked, self.dtype),
        )

    def _checked(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        wanted: dict[str, tuple[int, ...]] = dict.fromkeys(PARAMETERS, ())
        if self.preset.continuum_modes:
            wanted[_MODES] = (self.preset.continuum_modes,)
        return checked_parameters(parameters, wanted)

    def _flux(self, parameters: Mapping[str, Tensor], line_fluxes: Tensor) -> Tensor:
        shift = torch.log1p(parameters["redshift"])[:, None]
        rest = torch.exp((self._log_wavelength - shift).to(self.dtype))
        flux = self.light.continuum(rest, parameters)
        log_factor = -self._absorption(parameters, shift)
        if self.preset.continuum_modes:
            log_factor = log_factor + parameters[_MODES].to(self.dtype) @ self._basis
        flux = flux * torch.exp(log_factor)
        sigma = torch.sqrt(10 ** (2 * parameters["velocity_dispersion"]) + self._lsf_km_s**2)
        lines = add_profiles(
            self.preset,
            torch.log(self.light.line_wavelengths) + shift,
            (sigma / SPEED_OF_LIGHT_KM_S)[:, None].expand_as(line_fluxes),
            line_fluxes,
            self.dtype,
        )
        return flux + lines / self._pixel_width

    def _absorption(self, parameters: Mapping[str, Tensor], shift: Tensor) -> Tensor:
        """Optical depth of stellar absorption lines, shape ``(n, pixels)``."""
        velocity = 10 ** (2 * parameters["velocity_dispersion"])[:, None]
        sigma = torch.sqrt(velocity + self._lsf_km_s**2 + self._absorption_km_s**2)
        depths = absorption_widths(parameters) / self._absorption_wavelengths
        profiles = add_profiles(
            self.preset,
            torch.log(self._absorption_wavelengths) + shift,
            sigma / SPEED_OF_LIGHT_KM_S,
            depths,
            self.dtype,
        )
        return profiles / self.preset.log_step

    def noise_sigma(self, flux: Tensor) -> Tensor:
        """Known noise of each pixel, in the unit of flux.

        Photon noise of the galaxy and a flat sky of the same variance at the mean flux, scaled so
        that a pixel with the mean flux has the preset's signal-to-noise ratio.
        """
        mean = flux.mean(dim=1, keepdim=True)
        variance = (flux / mean + _SKY_VARIANCE) / (1 + _SKY_VARIANCE)
        return mean / self.preset.signal_to_noise * torch.sqrt(variance)

    def draw_pixel_noise(self, count: int, *, seed: int, start: int = 0) -> Tensor:
        """Exogenous noise of pixels in units of its sigma, shape ``(count, pixels)``."""
        table = uniforms(seed, _NOISE_STREAM, start, start + count, self.preset.pixels)
        noise: Tensor = torch.special.ndtri(table).to(self.dtype)
        return noise
