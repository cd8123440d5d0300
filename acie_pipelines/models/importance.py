"""Draws of a galaxy's exact posterior, from an approximation of it.

Belongs here: proposals weighted by the posterior, the smoothing of weights and its diagnostic.
Does not belong here: the search for the mode (`acie_pipelines.models.refinement`), or what is done
with the draws.

The largest weights are replaced by quantiles of a generalised Pareto distribution fitted to them,
whose shape says whether weights can be trusted (Vehtari et al. 2024, arXiv:1507.02646). Galaxies
that are poorly sampled get more proposals, with the moments of what has been drawn so far; the
draws of all rounds count as one sample from the mixture of their proposals (Cappe et al. 2004,
Journal of Computational and Graphical Statistics 13, 907).
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Final

import torch
from torch import Tensor

from acie_pipelines.models.decoder import SpectralDecoder
from acie_pipelines.models.latents import LATENTS, galaxies
from acie_pipelines.models.linear_algebra import cholesky
from acie_pipelines.models.parameters import PARAMETERS
from acie_pipelines.models.refinement import STATES, LaplacePosterior, chi_square

__all__ = ["ExactDraws", "exact_draws", "smooth_weights"]

# Pareto shape above which weights cannot be trusted (Vehtari et al. 2024, section 3).
_LARGEST_SHAPE: Final = 0.7

_LEAST_EFFECTIVE: Final = 20.0
_PROPOSALS_PER_DRAW: Final = 4
_ROUNDS: Final = 3
# Independent draws for one asked for with which a galaxy is done.
_ENOUGH: Final = 1.5
# Draws that the approximation counts for when moments are taken.
_PRIOR_DRAWS: Final = 2.0 * len(LATENTS)
_FEWEST_TAIL: Final = 5


@dataclass(frozen=True)
class ExactDraws:
    """Equally probable draws.

    Attributes
    ----------
    coordinates, state
        As of `acie_pipelines.models.latents.galaxies`, shapes ``(draws, n, 11)``, ``(draws, n)``.
    amplitudes
        Of the nuisance modes, shape ``(draws, n, modes)``.
    effective
        Independent draws that the weighted proposals are worth (Kish); 0 where none of them is
        possible, shape ``(n,)``.
    shape
        Of the Pareto distribution of their largest weights, shape ``(n,)``.
    """

    coordinates: Tensor
    state: Tensor
    amplitudes: Tensor
    effective: Tensor
    shape: Tensor

    @property
    def trusted(self) -> Tensor:
        """Whether there are enough of them, and weights that can be trusted, shape ``(n,)``."""
        return (self.effective >= _LEAST_EFFECTIVE) & (self.shape <= _LARGEST_SHAPE)


@dataclass(frozen=True)
class _Proposed:
    """Proposals for some galaxies, those of all rounds along the first axis."""

    coordinates: Tensor
    state: Tensor
    amplitudes: Tensor
    target: Tensor

    def rows(self, chosen: Tensor) -> "_Proposed":
        return _Proposed(*(getattr(self, each.name)[:, chosen] for each in fields(self)))

    def joined(self, other: "_Proposed") -> "_Proposed":
        return _Proposed(
            *(torch.cat([getattr(s, each.name) for s in (self, other)]) for each in fields(self))
        )

    def log_ratio(self, proposals: Sequence[LaplacePosterior]) -> Tensor:
        """Posterior over the mixture of what proposed, each the same number of times."""
        density = [p.log_prob(self.coordinates, self.state, self.amplitudes) for p in proposals]
        return self.target - torch.stack(density).logsumexp(dim=0)


def exact_draws(
    decoder: SpectralDecoder,
    flux: Tensor,
    ivar: Tensor,
    fit: LaplacePosterior,
    draws: int,
    *,
    seed: int,
) -> ExactDraws:
    """Draw from a posterior by its approximation.

    Parameters
    ----------
    decoder, flux, ivar
        As given to `acie_pipelines.models.refinement.refine`.
    fit
        What it found.
    draws
        Per galaxy.
    seed
        Of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    count = _PROPOSALS_PER_DRAW * draws
    proposals = [fit]
    proposed = _propose(decoder, flux, ivar, fit, count, seed)
    log_weight, effective, shape = smooth_weights(proposed.log_ratio(proposals))
    found = _resampled(proposed, log_weight, draws, generator)
    rows = torch.arange(len(flux))
    for turn in range(_ROUNDS):
        poor = torch.nonzero((effective[rows] < _ENOUGH * draws) | (shape[rows] > _LARGEST_SHAPE))
        if not poor.numel():
            break
        poor = poor[:, 0]
        rows, proposed = rows[poor], proposed.rows(poor)
        proposals = [each.rows(poor) for each in proposals]
        adapted = _adapted(proposals[0], proposed, torch.exp(log_weight[:, poor]))
        proposals.append(adapted)
        more = _propose(decoder, flux[rows], ivar[rows], adapted, count, seed + turn + 1)
        proposed = proposed.joined(more)
        log_weight, worth, tail = smooth_weights(proposed.log_ratio(proposals))
        effective, shape = effective.index_copy(0, rows, worth), shape.index_copy(0, rows, tail)
        better = _resampled(proposed, log_weight, draws, generator)
        found = [old.index_copy(1, rows, new) for old, new in zip(found, better, strict=True)]
    coordinates, state, amplitudes = found
    return ExactDraws(coordinates, state, amplitudes, effective, shape)


def _propose(
    decoder: SpectralDecoder,
    flux: Tensor,
    ivar: Tensor,
    proposal: LaplacePosterior,
    count: int,
    seed: int,
) -> _Proposed:
    coordinates, state, amplitudes = proposal.sample(count, seed=seed)
    _, log_prior = galaxies(coordinates.reshape(-1, len(LATENTS)), state.flatten())
    light = coordinates[..., : len(PARAMETERS)]
    misfit = [
        chi_square(decoder, flux, ivar, light[k], amplitudes[k]) + amplitudes[k].square().sum(dim=1)
        for k in range(count)
    ]
    target = log_prior.reshape(count, -1) - 0.5 * torch.stack(misfit)
    # Outside the support of a mechanism, such as an age above that of the universe.
    target = target.nan_to_num(nan=-torch.inf, posinf=-torch.inf)
    return _Proposed(coordinates, state, amplitudes, target)


def _adapted(first: LaplacePosterior, proposed: _Proposed, weights: Tensor) -> LaplacePosterior:
    """Proposal with the moments of weighted draws, drawn towards the first one where they are few.

    Parameters
    ----------
    first
        The approximation that the search for the mode gave.
    proposed
        Draws of all rounds.
    weights
        Theirs, normalised.
    """
    means, factors, shares = [], [], []
    for k, value in enumerate(STATES):
        weight = weights * (proposed.state == value)
        share = weight.sum(dim=0)
        worth = share.square() / weight.square().sum(dim=0).clamp_min(1e-300)
        weight = weight / share.clamp_min(1e-300)
        trust = (worth / (worth + _PRIOR_DRAWS))[:, None]
        mean = torch.einsum("dn,dni->ni", weight, proposed.coordinates)
        mean = torch.lerp(first.mean[k], mean, trust)
        away = proposed.coordinates - mean
        covariance = torch.einsum("dn,dni,dnj->nij", weight, away, away)
        narrow = torch.cholesky_inverse(first.factor[k])
        covariance = torch.lerp(narrow, covariance, trust[..., None])
        means.append(mean)
        factors.append(cholesky(torch.cholesky_inverse(cholesky(covariance))))
        shares.append(share)
    return replace(
        first,
        mean=torch.stack(means),
        factor=torch.stack(factors),
        log_weight=torch.log_softmax(torch.log(torch.stack(shares)), dim=0),
    )


def _resampled(
    proposed: _Proposed, log_weight: Tensor, draws: int, generator: torch.Generator
) -> list[Tensor]:
    """Coordinates, states and modes, as often as the weights say (systematic resampling)."""
    weights = torch.exp(log_weight)
    start = torch.rand(1, weights.shape[1], generator=generator, dtype=weights.dtype)
    points = (torch.arange(draws, dtype=weights.dtype)[:, None] + start) / draws
    cumulative = weights.cumsum(dim=0).T.contiguous()
    chosen = torch.searchsorted(cumulative, points.T.contiguous()).clamp_max(len(weights) - 1).T
    column = torch.arange(weights.shape[1])
    return [
        each[chosen, column] for each in (proposed.coordinates, proposed.state, proposed.amplitudes)
    ]


def smooth_weights(log_ratio: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pareto-smoothed importance weights.

    Parameters
    ----------
    log_ratio
        Log of target over proposal up to a constant of each column, shape ``(draws, n)``; minus
        infinity where the target is zero.

    Returns
    -------
    tuple[Tensor, Tensor, Tensor]
        Normalised log weights, shape ``(draws, n)``, equal where no draw is possible; effective
        draws (Kish), 0 there; and the shape of the tail, infinite there, both ``(n,)``.
    """
    count = len(log_ratio)
    tail = max(_FEWEST_TAIL, min(count // 5, int(3 * count**0.5)))
    top = log_ratio.amax(dim=0)
    possible = top.isfinite()
    scaled = torch.where(possible, log_ratio - torch.where(possible, top, 0.0), 0.0)
    ordered, order = scaled.sort(dim=0)
    threshold = torch.exp(ordered[-tail - 1])
    excess = (torch.exp(ordered[-tail:]) - threshold).clamp_min(1e-300)
    shape, scale = _fit_pareto(excess)
    position = (torch.arange(tail, dtype=scaled.dtype)[:, None] + 0.5) / tail
    quantile = scale * torch.expm1(-shape * torch.log1p(-position)) / shape
    smoothed = torch.log((threshold + quantile).clamp_max(1.0))
    # Without a spread there is no tail to smooth.
    smoothed = torch.where(shape.isfinite() & (excess[-1] > 1e-12), smoothed, ordered[-tail:])
    log_weight = torch.log_softmax(scaled.scatter(0, order[-tail:], smoothed), dim=0)
    effective = 1 / torch.exp(2 * log_weight).sum(dim=0)
    return (
        log_weight,
        torch.where(possible, effective, torch.zeros_like(effective)),
        torch.where(possible, shape.nan_to_num(nan=0.0), torch.inf),
    )


def _fit_pareto(excess: Tensor) -> tuple[Tensor, Tensor]:
    """Shape and scale of generalised Pareto distributions, shapes ``(n,)``.

    The estimator of Zhang and Stephens 2009, Technometrics 51, 316, with the weak prior on the
    shape of Vehtari et al. 2024, appendix G.

    Parameters
    ----------
    excess
        Ascending along the first axis, positive, shape ``(tail, n)``.
    """
    count = len(excess)
    nodes = 30 + int(count**0.5)
    grid = 1 - torch.sqrt(nodes / (torch.arange(nodes, dtype=excess.dtype) + 0.5))
    quartile = excess[int(count / 4 + 0.5) - 1]
    b = grid[:, None] / (3 * quartile) + 1 / excess[-1]
    k = torch.log1p(-b[:, None] * excess).mean(dim=1)
    likelihood = count * (torch.log(-b / k) - k - 1)
    b = (torch.softmax(likelihood, dim=0) * b).sum(dim=0)
    k = torch.log1p(-b * excess).mean(dim=0)
    return (count * k + 5.0) / (count + 10.0), -k / b
