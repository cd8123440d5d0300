"""Laws for models that decode spectra without any physics of their own.

Belongs here: line ratios measured on decoded pixels, differentiable. Does not belong here: laws of
line fluxes that are known exactly (`acie_pipelines.physics.layers`).
"""

import math
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from acie_pipelines.physics.constants import LINE_WAVELENGTHS_ANGSTROM, O_III_5007_4959_RATIO
from acie_pipelines.simulation.presets import Preset

__all__ = ["LogFluxLaws", "line_over_continuum"]

_HALF_WIDTH: Final = 2
_SIDE: Final = (4, 6)


def line_over_continuum(
    flux: Tensor, preset: Preset, redshift: Tensor, wavelength_angstrom: float
) -> Tensor:
    """Light above a straight continuum within two pixels of a line, in pixels of continuum.

    Parameters
    ----------
    flux
        Positive, shape ``(n, pixels)``.
    preset, redshift
        Grid, and redshifts of shape ``(n,)``.
    wavelength_angstrom
        Of the line at rest, in vacuum.
    """
    observed = math.log(wavelength_angstrom) + torch.log1p(redshift.double())
    place = (observed - math.log(preset.lowest_angstrom)) / preset.log_step
    margin = _SIDE[1] + 1
    middle = place.long().clamp(margin, preset.pixels - margin - 1)[:, None]

    def mean(first: int, last: int) -> Tensor:
        return flux.gather(1, middle + torch.arange(first, last + 1)).mean(dim=1)

    continuum = 0.5 * (mean(-_SIDE[1], -_SIDE[0]) + mean(*_SIDE))
    width = 2 * _HALF_WIDTH + 1
    return width * (mean(-_HALF_WIDTH, _HALF_WIDTH) / continuum - 1)


@dataclass(frozen=True)
class LogFluxLaws:
    """Residual of the [O III] doublet in decoded log flux.

    Attributes
    ----------
    preset
        Grid.
    mean, scale
        Log flux is ``mean + scale x decoded``; shapes ``(pixels,)`` and ``()``.
    redshift_column
        Of the parents.
    redshift_centre, redshift_spread
        Redshift is ``centre + spread x parent``.

    Notes
    -----
    The ratio of two faint lines is noise, so the law is written as a difference: strength of 5007
    minus 2.98 times that of 4959, in pixels of continuum.
    """

    preset: Preset
    mean: Tensor
    scale: Tensor
    redshift_column: int
    redshift_centre: float
    redshift_spread: float

    def __call__(self, decoded: Tensor, parents: Tensor) -> dict[str, Tensor]:
        """Residuals, shape ``(n,)``."""
        flux = torch.exp(self.mean + self.scale * decoded)
        redshift = self.redshift_centre + self.redshift_spread * parents[:, self.redshift_column]
        strong, weak = (
            line_over_continuum(flux, self.preset, redshift, LINE_WAVELENGTHS_ANGSTROM[name])
            for name in ("o_iii_5007", "o_iii_4959")
        )
        return {"[O III] doublet": strong - O_III_5007_4959_RATIO * weak}
