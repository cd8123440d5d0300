"""Broad-band fluxes of simulated galaxies.

Belongs here: bands and the light in them. Does not belong here: the light itself, spectra, images.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

from acie_pipelines.physics.constants import SPEED_OF_LIGHT_KM_S
from acie_pipelines.simulation.dust import dust_emission
from acie_pipelines.simulation.light import PARAMETERS, GalaxyLight, checked_parameters
from acie_pipelines.simulation.presets import DEPARTURES, Departure

__all__ = ["BANDS_ANGSTROM", "PHOTOMETRY_UNIT", "PhotometryRenderer"]

PHOTOMETRY_UNIT: Final = "uJy"
"""Unit of band fluxes; the AB magnitude is 23.9 - 2.5 log10(flux)."""


def _around(centre: float, width: float) -> tuple[float, float]:
    return centre - width / 2, centre + width / 2


BANDS_ANGSTROM: Final = MappingProxyType(
    {
        # Effective wavelength and full width of SDSS: Fukugita et al. 1996, AJ 111, 1748.
        "u": _around(3557.0, 599.0),
        "g": _around(4825.0, 1379.0),
        "r": _around(6261.0, 1382.0),
        "i": _around(7672.0, 1535.0),
        "z": _around(9097.0, 1370.0),
        # WISE: Jarrett et al. 2011, ApJ 735, 112, doi:10.1088/0004-637X/735/2/112, table 1.
        "w1": _around(33526.0, 6626.0),
        "w2": _around(46028.0, 10423.0),
        # Herschel PACS: Poglitsch et al. 2010, A&A 518, L2, doi:10.1051/0004-6361/201014535.
        "pacs_100": (850000.0, 1250000.0),
        "pacs_160": (1250000.0, 2100000.0),
    }
)
"""Edges of top-hat bands in observed wavelength. Real filters differ in shape, so colours differ
from catalogued ones by some hundredths of a magnitude."""

_NODES: Final = 32
_SPEED_ANGSTROM_S: Final = SPEED_OF_LIGHT_KM_S * 1e13
# 1e-17 erg/s/cm2/Hz in microjansky.
_MICROJANSKY: Final = 1e12


class PhotometryRenderer:
    """Differentiable map from galaxy properties to band fluxes.

    Parameters
    ----------
    departure
        Physics that differ from the model's.
    dtype
        Of stellar light inside a band; sums are float64.
    device
        Of the parameters.

    Notes
    -----
    A band measures photons: f_nu = integral(f_lambda lambda dlambda) / (c integral(dlambda /
    lambda)). Emission lines count with their whole flux, at the velocity width of the galaxy;
    stellar absorption lines and continuum modes are left out, below one per cent of a band. What
    dust absorbs is emitted in the far infrared.
    """

    def __init__(
        self,
        departure: Departure = DEPARTURES["none"],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        self.light, self.dtype = GalaxyLight(departure, device), dtype
        bands = list(BANDS_ANGSTROM.values())
        edges = torch.log(torch.tensor(bands, dtype=torch.float64, device=device))
        self._edges = edges
        offsets = (torch.arange(_NODES, dtype=torch.float64, device=device) + 0.5) / _NODES
        self._nodes = edges[:, :1] + (edges[:, 1:] - edges[:, :1]) * offsets

    def __call__(self, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Flux of every band.

        Parameters
        ----------
        parameters
            `acie_pipelines.simulation.light.PARAMETERS` in the scale of the galaxy graph, ``(n,)``.

        Returns
        -------
        dict[str, Tensor]
            Band to flux [uJy], float64, shape ``(n,)``.

        Raises
        ------
        ModelError
            If a parameter is missing or has the wrong shape.
        """
        checked = checked_parameters(parameters, dict.fromkeys(PARAMETERS, ()))
        per_band = self._continuum(checked) + self._lines(checked)
        return dict(zip(BANDS_ANGSTROM, per_band.unbind(dim=1), strict=True))

    def _continuum(self, parameters: Mapping[str, Tensor]) -> Tensor:
        observed = torch.exp(self._nodes.reshape(1, -1))
        stretch = 1 + parameters["redshift"][:, None]
        rest = (observed / stretch).to(self.dtype)
        flux = self.light.continuum(rest, parameters).to(torch.float64)
        emitted = self.light.absorbed_luminosity(parameters, self.dtype)
        dilution = (emitted * self.light.dilution(parameters["redshift"]))[:, None] / stretch
        flux = flux + dilution * dust_emission(rest * 1e-4) * 1e-4
        photons = (flux * observed**2).reshape(-1, len(BANDS_ANGSTROM), _NODES)
        return photons.mean(dim=2) * (_MICROJANSKY / _SPEED_ANGSTROM_S)

    def _lines(self, parameters: Mapping[str, Tensor]) -> Tensor:
        stretch = 1 + parameters["redshift"][:, None]
        observed = self.light.line_wavelengths * stretch
        sigma = 10 ** parameters["velocity_dispersion"][:, None, None] / SPEED_OF_LIGHT_KM_S
        # Galaxies by lines by bands.
        distance = (self._edges.T[:, None, None] - torch.log(observed)[:, :, None]) / sigma
        below = torch.erf(distance / math.sqrt(2))
        inside = 0.5 * (below[1] - below[0])
        width = self._edges[:, 1] - self._edges[:, 0]
        photons = self.light.line_fluxes(parameters) * observed
        total = (photons[:, :, None] * inside).sum(dim=1)
        return total / width * (_MICROJANSKY / _SPEED_ANGSTROM_S)
