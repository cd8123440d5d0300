"""Lower bound of the evidence of spectra under a decoder, by an amortised posterior.

Belongs here: what a spectrum's light says about parameters with all else marginalised, and the
bound. Does not belong here: training, or draws of the exact posterior
(`acie_pipelines.models.importance`).

The bound is E_q[log p(x | theta) + log p(theta) - log q(theta | x)] (Kingma and Welling 2014,
arXiv:1312.6114). No label enters, so that it can judge a network on real spectra.
"""

from typing import Final

import torch
from torch import Tensor

from acie_pipelines.models.decoder import SpectralDecoder
from acie_pipelines.models.latents import UNSEEN, galaxies
from acie_pipelines.models.linear_algebra import cholesky
from acie_pipelines.models.parameters import PARAMETERS, constrain
from acie_pipelines.models.posterior import AmortisedPosterior
from acie_pipelines.models.refinement import STATES

__all__ = ["evidence_bound", "light_log_likelihood", "light_log_prior"]

_DRAWS: Final = 16
_CANDIDATES: Final = 16
_STEPS: Final = 6
# A draw that no galaxy can be costs this much [nats], and not everything; one further out than
# this has no spectrum.
_LEAST: Final = -1e6
_LARGEST: Final = 50.0


@torch.no_grad()
def evidence_bound(
    posterior: AmortisedPosterior,
    decoder: SpectralDecoder,
    flux: Tensor,
    ivar: Tensor,
    noise_scale: Tensor,
    *,
    seed: int,
) -> Tensor:
    """Bound of the log evidence of each spectrum [nats], up to a constant of it, shape ``(n,)``.

    Parameters
    ----------
    posterior
        The network; it sees the inverse variance as stated.
    decoder
        Model of the spectrum.
    flux, ivar
        Shape ``(n, pixels)``; a pixel with zero inverse variance is missing.
    noise_scale
        Factor of the noise that the likelihood assumes, shape ``(n,)``.
    seed
        Of the draws.
    """
    drawn = posterior.sample(flux, ivar, _DRAWS, seed=seed)
    context = posterior.context(flux, ivar)
    softer = ivar / noise_scale.square()[:, None].to(ivar.dtype)
    total = torch.zeros(len(flux), dtype=torch.float64)
    for k, parameters in enumerate(drawn):
        possible = (parameters.abs() < _LARGEST).all(dim=1)
        parameters = torch.where(possible[:, None], parameters, 0.0)
        fit = light_log_likelihood(decoder, flux, softer, parameters)
        prior = light_log_prior(parameters, seed=seed + k)
        gain = (fit + prior).nan_to_num(nan=_LEAST, posinf=_LEAST).clamp_min(_LEAST)
        bound = gain - posterior.log_prob(parameters, context)
        total += torch.where(possible, bound, _LEAST)
    return total / _DRAWS


@torch.no_grad()
def light_log_likelihood(
    decoder: SpectralDecoder, flux: Tensor, ivar: Tensor, parameters: Tensor
) -> Tensor:
    """Log likelihood of parameters, shape ``(n,)``, up to a constant of each spectrum.

    The modes are marginalised about their mode (Laplace), which damped Gauss-Newton steps find.

    Parameters
    ----------
    decoder, flux, ivar
        See `evidence_bound`.
    parameters
        Unconstrained, shape ``(n, 8)``.
    """
    count = len(parameters)
    bare = decoder.render(parameters, parameters.new_zeros(count, decoder.modes))
    basis = decoder.basis.expand(count, -1, -1)
    if decoder.residual is not None:
        _, components = decoder.residual.observed(decoder.preset, constrain(parameters)["redshift"])
        basis = torch.cat([basis, components.to(basis.dtype)], dim=1)
    amplitudes = parameters.new_zeros(count, decoder.modes)
    identity = torch.eye(decoder.modes, dtype=torch.float64)

    def look(where: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        model = bare * torch.exp(torch.einsum("nm,nmp->np", where.to(basis.dtype), basis))
        weighted = ivar * model
        away = flux - model
        cost = 0.5 * ((ivar * away.square()).sum(1, dtype=torch.float64) + where.square().sum(1))
        slope = torch.einsum("nmp,np->nm", basis, weighted * away).double() - where
        curve = torch.einsum("nmp,np,nkp->nmk", basis, weighted * model, basis).double()
        return cost, slope, curve + identity

    cost, slope, curve = look(amplitudes)
    damping = torch.full_like(cost, 1e-3)
    for _ in range(_STEPS):
        extra = torch.diag_embed(torch.diagonal(curve, dim1=-2, dim2=-1) * damping[:, None])
        step = torch.cholesky_solve(slope[..., None], cholesky(curve + extra)).squeeze(-1)
        tried = amplitudes + step
        new_cost, new_slope, new_curve = look(tried)
        better = new_cost < cost
        amplitudes = torch.where(better[:, None], tried, amplitudes)
        cost = torch.where(better, new_cost, cost)
        slope = torch.where(better[:, None], new_slope, slope)
        curve = torch.where(better[:, None, None], new_curve, curve)
        damping = torch.where(better, damping * 0.1, damping * 30)
    half_log_det = cholesky(curve).diagonal(dim1=-2, dim2=-1).log().sum(-1)
    return -cost - half_log_det


@torch.no_grad()
def light_log_prior(parameters: Tensor, *, seed: int) -> Tensor:
    """Log prior density of the parameters of light up to a constant, shape ``(n,)``.

    What light does not show is averaged out: noise drawn from its prior, and both star formation
    states.

    Parameters
    ----------
    parameters
        Unconstrained, shape ``(n, 8)``.
    seed
        Of that noise.
    """
    generator = torch.Generator().manual_seed(seed)
    count = len(parameters)
    shape = (_CANDIDATES, count, len(UNSEEN))
    unseen = torch.randn(shape, generator=generator, dtype=torch.float64)
    light = parameters.expand(_CANDIDATES, count, len(PARAMETERS))
    coordinates = torch.cat([light, unseen], dim=-1).flatten(0, 1)
    density = []
    for state in STATES:
        _, found = galaxies(coordinates, torch.full_like(coordinates[:, 0], state))
        density.append(found.reshape(_CANDIDATES, count) + 0.5 * unseen.square().sum(-1))
    log_density = torch.cat(density).nan_to_num(nan=-torch.inf, posinf=-torch.inf)
    return log_density.logsumexp(dim=0)
