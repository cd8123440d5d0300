"""Search for the posterior mode of spectra, from a network's guess and from elsewhere.

Belongs here: where refinement starts, and when to start again. Does not belong here: refinement
itself (`acie_pipelines.models.refinement`), or draws.

A spectrum with few lines in sight may look right at a wrong redshift, and a network guesses badly
about galaxies of which it has seen few. What is left of either is a chi-square that is somewhat too
large.
"""

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from acie_pipelines.models.decoder import SpectralDecoder
from acie_pipelines.models.parameters import constrain, unconstrain
from acie_pipelines.models.posterior import AmortisedPosterior
from acie_pipelines.models.redshift import align_redshift
from acie_pipelines.models.refinement import LaplacePosterior, refine

__all__ = ["find_mode", "largest_chi_square"]

# Standard deviations of chi-square above which a better mode is looked for, and above which the
# noise as stated does not explain what is left.
_SUSPICIOUS: Final = 1.0
_UNEXPLAINED: Final = 4.0
_PEAKS: Final = 8
_RESTARTS: Final = 8
# Spectra, counted with their starts, in one refinement.
_TOGETHER: Final = 256
# Difference in log posterior of two searches that ended in one mode.
_SAME_MODE: Final = 0.5


@dataclass
class _HardSpectra:
    """Spectra that were fitted badly, and the best that has been found since."""

    decoder: SpectralDecoder
    flux: Tensor
    ivar: Tensor
    best: LaplacePosterior
    steps: int

    def search(self, starts: Tensor, rows: Tensor) -> Tensor:
        """Refine some of them from several starts and keep what is better.

        Parameters
        ----------
        starts
            Shape ``(starts, rows, 8)``.
        rows
            Numbers of the spectra.

        Returns
        -------
        Tensor
            Whether a start ended where an earlier one had, shape ``(rows,)``.
        """
        count = len(starts)
        flux, ivar = (each[rows].repeat(count, 1) for each in (self.flux, self.ivar))
        found = refine(self.decoder, flux, ivar, starts.flatten(0, 1), steps=self.steps)
        again = torch.zeros(len(rows), dtype=torch.bool)
        for numbers in torch.arange(count * len(rows)).view(count, -1):
            other = found.rows(numbers)
            away = other.log_posterior - self.best.log_posterior[rows]
            again |= away.abs() < _SAME_MODE
            better = torch.nonzero(away > 0)[:, 0]
            self.best = self.best.replaced(rows[better], other.rows(better))
        return again


def find_mode(
    posterior: AmortisedPosterior,
    decoder: SpectralDecoder,
    flux: Tensor,
    ivar: Tensor,
    *,
    steps: int,
    seed: int,
    redshift: Tensor | None = None,
) -> LaplacePosterior:
    """Refine the network's centre; what fits badly, from elsewhere too, and keep the best.

    Elsewhere are the other redshifts at which lines coincide, then draws of the network. What a
    draw finds again is the mode: a misfit that no other start will mend.

    Parameters
    ----------
    posterior
        The network.
    decoder, flux, ivar, steps
        See `acie_pipelines.models.refinement.refine`.
    seed
        Of the draws.
    redshift
        Where to start from if it is known, shape ``(n,)``.
    """
    start = _start(decoder, flux, ivar, posterior.centre(flux, ivar), redshift)
    fit = refine(decoder, flux, ivar, start, steps=steps)
    poor = torch.nonzero(~(fit.chi_square <= _likely_chi_square(ivar, _SUSPICIOUS)))[:, 0]
    if not poor.numel():
        return fit
    hard = _HardSpectra(decoder, flux[poor], ivar[poor], fit.rows(poor), steps)
    searching = torch.arange(len(poor))
    # Few spectra cost as much as many: their starts are refined side by side.
    together = max(1, _TOGETHER // len(poor))
    if redshift is None:
        others = align_redshift(
            decoder, hard.flux, hard.ivar, hard.best.parameters, peaks=1 + _PEAKS
        )
        for starts in torch.split(others[1:], together):
            hard.search(starts, searching)
    draws = posterior.sample(hard.flux, hard.ivar, _RESTARTS, seed=seed)
    # Most are found again by the first draw.
    for part in (draws[:1], *torch.split(draws[1:], together)):
        known = None if redshift is None else redshift[poor[searching]]
        fluxes, ivars = hard.flux[searching], hard.ivar[searching]
        starts = torch.stack(
            [_start(decoder, fluxes, ivars, draw, known) for draw in part[:, searching]]
        )
        searching = searching[~hard.search(starts, searching)]
        if not searching.numel():
            break
    return fit.replaced(poor, hard.best)


def _start(
    decoder: SpectralDecoder, flux: Tensor, ivar: Tensor, guess: Tensor, redshift: Tensor | None
) -> Tensor:
    """Move a guess to the known redshift, or to that by cross-correlation."""
    if redshift is None:
        return align_redshift(decoder, flux, ivar, guess)[0]
    values = constrain(guess)
    values["redshift"] = redshift.to(torch.float64)
    return unconstrain(values)


def largest_chi_square(ivar: Tensor) -> Tensor:
    """Chi-square per seen pixel above which the noise as stated explains no fit, shape ``(n,)``."""
    return _likely_chi_square(ivar, _UNEXPLAINED)


def _likely_chi_square(ivar: Tensor, deviations: float) -> Tensor:
    """Chi-square per seen pixel so many standard deviations above one, shape ``(n,)``."""
    seen = (ivar > 0).sum(dim=1, dtype=torch.float64).clamp_min(1)
    return 1 + deviations * torch.sqrt(2 / seen)
