"""The light of a galaxy, before any instrument.

Belongs here: stars and gas behind dust, distance, energy. Does not belong here: pixels, bands,
absorption lines or velocities.
"""

import math
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from acie_pipelines.errors import ModelError
from acie_pipelines.simulation.cosmology import luminosity_distance_mpc
from acie_pipelines.simulation.dust import (
    R_V,
    STARS_OVER_GAS_REDDENING,
    calzetti_curve,
    transmission,
)
from acie_pipelines.simulation.nebula import (
    EMISSION_LINES_ANGSTROM,
    UNSEEN_LINE,
    line_luminosities,
)
from acie_pipelines.simulation.presets import Departure
from acie_pipelines.simulation.stars import stellar_luminosity

__all__ = ["PARAMETERS", "GalaxyLight", "checked_parameters"]

PARAMETERS: Final = (
    "redshift",
    "stellar_mass",
    "sfr",
    "metallicity",
    "attenuation",
    "age",
    "velocity_dispersion",
    "ionisation",
)
"""Nodes of the galaxy graph that light depends on."""

_SUN_OVER_MPC2: Final = 3.828e33 / (3.0856775814913673e24**2) * 1e17
# Dust absorbs between these; the curve is zero beyond.
_ENERGY_RANGE_ANGSTROM: Final = (912.0, 31500.0)
_ENERGY_NODES: Final = 512


def checked_parameters(
    given: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]]
) -> dict[str, Tensor]:
    """Take the wanted parameters in float64.

    Parameters
    ----------
    given
        Any mapping that holds them.
    wanted
        Name to shape of one galaxy's value.

    Raises
    ------
    ModelError
        If one is missing or has the wrong shape.
    """
    missing = [name for name in wanted if name not in given]
    if missing:
        raise ModelError("galaxies", f"lack parameters {missing}", "give all of them")
    checked = {name: given[name].to(torch.float64) for name in wanted}
    count = next(iter(checked.values())).shape[:1]
    wrong = [name for name, shape in wanted.items() if checked[name].shape != (*count, *shape)]
    if wrong:
        raise ModelError("galaxies", f"have misshapen parameters {wrong}", "give one per galaxy")
    return checked


class GalaxyLight:
    """Stars, lines and what dust takes from them.

    Parameters
    ----------
    departure
        Physics that differ from the model's.
    device
        Of the parameters.

    Notes
    -----
    Dust in front of the gas reddens 1 / 0.44 times as much as that in front of the stars (Calzetti
    et al. 2000).
    """

    def __init__(self, departure: Departure, device: torch.device | str = "cpu") -> None:
        self.departure = departure
        self.lines = dict(EMISSION_LINES_ANGSTROM)
        if departure.unseen_line:
            self.lines[UNSEEN_LINE[0]] = UNSEEN_LINE[1]
        self.line_wavelengths = torch.tensor(
            list(self.lines.values()), dtype=torch.float64, device=device
        )
        low, high = (math.log(edge) for edge in _ENERGY_RANGE_ANGSTROM)
        self._energy_step = (high - low) / _ENERGY_NODES
        middles = torch.arange(_ENERGY_NODES, dtype=torch.float64, device=device) + 0.5
        self._energy_nodes = torch.exp(low + self._energy_step * middles)

    def dilution(self, redshift: Tensor) -> Tensor:
        """Observed flux over luminosity [1e-17 erg/s/cm2 per Lsun], shape ``(n,)``."""
        return _SUN_OVER_MPC2 / (4 * math.pi * luminosity_distance_mpc(redshift) ** 2)

    def continuum(self, rest: Tensor, parameters: Mapping[str, Tensor]) -> Tensor:
        """Observed flux density of stars behind dust [1e-17 erg/s/cm2/Angstrom].

        Parameters
        ----------
        rest
            Rest wavelength [Angstrom], shape ``(n, m)``; its dtype is that of the result.
        parameters
            `PARAMETERS`, float64, shape ``(n,)``.
        """
        reddening = (parameters["attenuation"][:, None] / R_V).to(rest.dtype)
        curve = calzetti_curve(rest * 1e-4, self.departure.dust_slope)
        flux = stellar_luminosity(rest, parameters) * transmission(curve, reddening)
        dilution = self.dilution(parameters["redshift"]) / (1 + parameters["redshift"])
        return flux * dilution[:, None].to(rest.dtype)

    def _line_transmission(self, parameters: Mapping[str, Tensor]) -> Tensor:
        reddening = parameters["attenuation"][:, None] / (R_V * STARS_OVER_GAS_REDDENING)
        curve = calzetti_curve(self.line_wavelengths * 1e-4, self.departure.dust_slope)
        return transmission(curve, reddening)

    def _luminosities(self, parameters: Mapping[str, Tensor]) -> Tensor:
        found = line_luminosities(parameters, self.departure.unseen_line)
        return torch.stack([found[name] for name in self.lines], dim=1)

    def line_fluxes(self, parameters: Mapping[str, Tensor]) -> Tensor:
        """Observed line fluxes [1e-17 erg/s/cm2], shape ``(n, lines)``, float64."""
        emerging = self._luminosities(parameters) * self._line_transmission(parameters)
        return emerging * self.dilution(parameters["redshift"])[:, None]

    def absorbed_luminosity(
        self, parameters: Mapping[str, Tensor], dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Luminosity that dust absorbs and re-emits [Lsun], shape ``(n,)``, float64.

        Integrated from the Lyman limit to the end of the curve. Absorption lines and continuum
        modes, which only redistribute about one per cent of the light, are left out.

        Parameters
        ----------
        parameters
            `PARAMETERS`, float64, shape ``(n,)``.
        dtype
            Of the integrand.
        """
        wavelength = self._energy_nodes.to(dtype)
        curve = calzetti_curve(wavelength * 1e-4, self.departure.dust_slope)
        reddening = (parameters["attenuation"][:, None] / R_V).to(dtype)
        lost = stellar_luminosity(wavelength, parameters) * (1 - transmission(curve, reddening))
        continuum = (lost * wavelength).sum(dim=1, dtype=torch.float64) * self._energy_step
        lines = self._luminosities(parameters) * (1 - self._line_transmission(parameters))
        total: Tensor = continuum + lines.sum(dim=1)
        return total
