"""Residuals of physical laws in the spectra that an engine answers with.

Belongs here: which law applies to a rendered spectrum. Does not belong here: the laws themselves
(`acie_pipelines.physics.layers`).

What multiplies the spectrum - nuisance modes, learned and unknown features - multiplies its lines
too and may break the ratios between them, so the laws are tested with it.
"""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from acie_pipelines.models.decoder import SpectralDecoder
from acie_pipelines.physics.constants import N_II_6584_6548_RATIO, O_III_5007_4959_RATIO
from acie_pipelines.physics.layers import (
    balmer_residual,
    doublet_residual,
    energy_residual,
    negative_flux,
)
from acie_pipelines.simulation.dust import dust_emission
from acie_pipelines.simulation.nebula import line_luminosities

__all__ = ["law_residuals"]

_DUST_MICRON: Final = (1.0, 3000.0)
_DUST_NODES: Final = 4096


@torch.no_grad()
def law_residuals(
    decoder: SpectralDecoder, values: Mapping[str, Tensor], flux: Tensor
) -> dict[str, Tensor]:
    """Residual of each law for draws of galaxies.

    Parameters
    ----------
    decoder
        Made the spectra.
    values
        Every node, shape ``(draws,)``.
    flux
        The spectra with all that multiplies them, shape ``(draws, pixels)``.

    Returns
    -------
    dict[str, Tensor]
        Law to residuals, each zero where it holds, shape ``(draws,)``, and for ``non-negative
        flux`` ``(draws, pixels)``.
    """
    rendered = decoder.renderer.render(values)
    factor = flux / rendered.flux
    intrinsic = line_luminosities(values)
    multiplied = {
        name: _at(decoder, factor, wavelength * (1 + values["redshift"]))
        for name, wavelength in decoder.renderer.light.lines.items()
    }

    def doublet(strong: str, weak: str, ratio: float) -> Tensor:
        lines = [intrinsic[name] * multiplied[name] for name in (strong, weak)]
        return doublet_residual(lines[0], lines[1], ratio)

    balmer = (rendered.line_fluxes[n] * multiplied[n] for n in ("h_alpha", "h_beta", "h_gamma"))
    absorbed = rendered.absorbed_luminosity
    return {
        "[O III] doublet": doublet("o_iii_5007", "o_iii_4959", O_III_5007_4959_RATIO),
        "[N II] doublet": doublet("n_ii_6584", "n_ii_6548", N_II_6584_6548_RATIO),
        "Balmer decrement": balmer_residual(*balmer),
        "energy balance of dust": energy_residual(absorbed, absorbed * _emitted_share()),
        "non-negative flux": negative_flux(flux),
    }


def _at(decoder: SpectralDecoder, factor: Tensor, wavelength: Tensor) -> Tensor:
    """Factor at the pixel of a wavelength, 1 outside the grid, shape ``(draws,)``."""
    preset = decoder.preset
    place = torch.log(wavelength / preset.lowest_angstrom) / preset.log_step
    inside = (place >= 0) & (place < preset.pixels)
    pixel = place.long().clamp(0, preset.pixels - 1)
    found = factor.gather(1, pixel[:, None])[:, 0].to(wavelength.dtype)
    return torch.where(inside, found, torch.ones_like(found))


def _emitted_share() -> float:
    """Integral of the dust's emission over all wavelengths, over what it absorbed."""
    low, high = (torch.log(torch.tensor(edge, dtype=torch.float64)) for edge in _DUST_MICRON)
    log_micron = torch.linspace(float(low), float(high), _DUST_NODES, dtype=torch.float64)
    micron = torch.exp(log_micron)
    return float(torch.trapezoid(dust_emission(micron) * micron, log_micron))
