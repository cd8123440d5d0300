"""Surveys that spectra can be simulated for, and departures from the physics of the model.

Belongs here: wavelength grids, resolution, noise level, sizes of latent states, misspecification.
Does not belong here: how a spectrum is made.
"""

import math
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.errors import ConfigurationError

__all__ = ["DEPARTURES", "PRESETS", "Departure", "Preset", "departure", "preset"]


@dataclass(frozen=True)
class Preset:
    """A survey.

    Attributes
    ----------
    name
        Key in `PRESETS`.
    lowest_angstrom, highest_angstrom
        Outer edges of the first and last pixel, observed wavelength in vacuum.
    pixels
        Number of pixels, equal in log wavelength.
    resolving_power
        Wavelength over the full width at half maximum of the line-spread function.
    signal_to_noise
        Mean flux over the noise of a pixel that has the mean flux.
    continuum_modes
        Nuisance latents: standard normal amplitudes of smooth changes of the stellar continuum.
    continuum_rms
        Size of those changes, as a fraction of the continuum.
    """

    name: str
    lowest_angstrom: float
    highest_angstrom: float
    pixels: int
    resolving_power: float
    signal_to_noise: float
    continuum_modes: int = 0
    continuum_rms: float = 0.0

    @property
    def log_step(self) -> float:
        """Width of a pixel in natural log wavelength."""
        return math.log(self.highest_angstrom / self.lowest_angstrom) / self.pixels

    @property
    def wavelength_angstrom(self) -> NDArray[np.float64]:
        """Centres of the pixels in log wavelength, shape ``(pixels,)``."""
        steps = (np.arange(self.pixels) + 0.5) * self.log_step
        centres: NDArray[np.float64] = self.lowest_angstrom * np.exp(steps)
        return centres

    @property
    def pixel_width_angstrom(self) -> NDArray[np.float64]:
        """Widths of the pixels, shape ``(pixels,)``."""
        edges = self.lowest_angstrom * np.exp(np.arange(self.pixels + 1) * self.log_step)
        return np.diff(edges)


@dataclass(frozen=True)
class Departure:
    """How the true galaxies differ from what a model of them may assume.

    Attributes
    ----------
    name
        Key in `DEPARTURES`.
    dust_slope
        Power of wavelength that multiplies the attenuation curve.
    line_spread
        Width of the line-spread function over the preset's.
    unseen_line
        Luminosity of a line the model does not know over that of H alpha.
    """

    name: str
    dust_slope: float = 0.0
    line_spread: float = 1.0
    unseen_line: float = 0.0


PRESETS: Final = MappingProxyType(
    {
        each.name: each
        for each in (
            Preset("sdss", 3800.0, 9200.0, 1000, 2000.0, 20.0),
            # The sampling of SDSS, 10^-4 in decimal log wavelength.
            Preset("sdss_full", 3800.0, 3800.0 * 10**0.384, 3840, 2000.0, 20.0),
            # 13 properties and 1987 modes are a latent state of 2000 dimensions.
            Preset("seed", 3600.0, 9800.0, 6000, 3000.0, 20.0, 1987, 0.03),
        )
    }
)

DEPARTURES: Final = MappingProxyType(
    {
        each.name: each
        for each in (
            Departure("none"),
            # The curve changes by 10 % from 5500 to 4003 Angstrom.
            Departure("dust_slope", dust_slope=-0.3),
            Departure("line_spread", line_spread=1.1),
            Departure("unseen_line", unseen_line=0.1),
            Departure("all", dust_slope=-0.3, line_spread=1.1, unseen_line=0.1),
        )
    }
)


def preset(name: str) -> Preset:
    """Find a preset by name.

    Raises
    ------
    ConfigurationError
        If there is none.
    """
    if name not in PRESETS:
        raise ConfigurationError(f"preset {name}", "is unknown", f"choose one of {list(PRESETS)}")
    return PRESETS[name]


def departure(name: str) -> Departure:
    """Find a departure by name.

    Raises
    ------
    ConfigurationError
        If there is none.
    """
    if name not in DEPARTURES:
        raise ConfigurationError(
            f"departure {name}", "is unknown", f"choose one of {list(DEPARTURES)}"
        )
    return DEPARTURES[name]
