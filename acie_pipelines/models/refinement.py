"""From an amortised guess to the posterior of a galaxy's exogenous noise.

Belongs here: the mode, its curvature, the mixture that they make. Does not belong here: the network
that guesses, the decoder, or the exact posterior (`acie_pipelines.models.importance`).

The spectrum is linearised about the present parameters, nuisance modes are marginalised in closed
form, and the mode is then sought in the noise of the structural causal model, where the prior is
standard normal, once for each star formation state. That inner problem needs no spectrum. A step
that does not raise the posterior is damped (Levenberg-Marquardt).
"""

from dataclasses import dataclass, fields
from typing import Final

import torch
from torch import Tensor

from acie_pipelines.models.decoder import SpectralDecoder
from acie_pipelines.models.latents import LATENTS, light_and_prior, linearise, to_coordinates
from acie_pipelines.models.linear_algebra import cholesky, inverse, solve
from acie_pipelines.models.parameters import PARAMETERS
from acie_pipelines.simulation.galaxy import QUENCHED, STAR_FORMING

__all__ = ["STATES", "LaplacePosterior", "chi_square", "refine"]

STATES: Final = (STAR_FORMING, QUENCHED)
"""Star formation states, in the order of `LaplacePosterior.mean`."""

_SIZE: Final = len(PARAMETERS)
_INNER_STEPS: Final = 12
_LARGEST_STEP: Final = 1.0
_FIRST_DAMPING: Final = 1e-2
# A gain in log posterior that is no longer worth a step, and a damping at which none will come.
_SETTLED: Final = 0.02
_HOPELESS: Final = 1e6
# A guess further out than this is none.
_LARGEST_GUESS: Final = 50.0
# Beyond this a number is of no use, and its square is none.
_LARGEST: Final = 1e100
# Degrees of freedom of the tails, which a posterior that is not normal needs.
_FREEDOM: Final = 6
# Share of draws of a state whatever its evidence.
_LEAST_SHARE: Final = 0.02


@dataclass(frozen=True)
class LaplacePosterior:
    """A normal approximation per star formation state, with the tails of a Student distribution.

    Attributes
    ----------
    mean
        Mode for each state, in the coordinates of `acie_pipelines.models.latents.galaxies`, shape
        ``(2, n, 11)``.
    factor
        Lower Cholesky factor of its precision, shape ``(2, n, 11, 11)``.
    log_weight
        Log probability of each state, shape ``(2, n)``.
    parameters, amplitudes
        Where the spectrum was linearised: the mode, shapes ``(n, 8)`` and ``(n, modes)``.
    coupling
        Change of the modes' mean with the parameters, shape ``(n, modes, 8)``.
    mode_factor
        Lower Cholesky factor of the modes' precision, shape ``(n, modes, modes)``.
    chi_square
        Of the fit, per seen pixel, shape ``(n,)``.
    log_posterior
        Of the mode, up to a constant of each spectrum, shape ``(n,)``.
    """

    mean: Tensor
    factor: Tensor
    log_weight: Tensor
    parameters: Tensor
    amplitudes: Tensor
    coupling: Tensor
    mode_factor: Tensor
    chi_square: Tensor
    log_posterior: Tensor

    def sample(self, draws: int, *, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draw coordinates, state and modes.

        Returns
        -------
        tuple[Tensor, Tensor, Tensor]
            Shapes ``(draws, n, 11)``, ``(draws, n)`` and ``(draws, n, modes)``.
        """
        generator = torch.Generator().manual_seed(seed)
        count = self.mean.shape[1]
        quenched = torch.rand(draws, count, generator=generator, dtype=torch.float64)
        state = (quenched < torch.exp(self._log_share()[1])).double()
        eps = torch.randn(draws, count, len(LATENTS), generator=generator, dtype=torch.float64)
        square = torch.randn(draws, count, _FREEDOM, generator=generator, dtype=torch.float64)
        eps = eps * torch.rsqrt(square.square().mean(dim=-1, keepdim=True))
        coordinates = torch.zeros_like(eps)
        for k, value in enumerate(STATES):
            moved = self.mean[k] + _solve_upper(self.factor[k], eps)
            coordinates = torch.where((state == value)[..., None], moved, coordinates)
        modes = self.amplitudes.shape[1]
        eps = torch.randn(draws, count, modes, generator=generator, dtype=torch.float64)
        return (
            coordinates,
            state,
            self._mode_mean(coordinates) + _solve_upper(self.mode_factor, eps),
        )

    def _log_share(self) -> Tensor:
        """Log probability with which each state is drawn, shape ``(2, n)``."""
        share = torch.exp(self.log_weight)
        return torch.log((1 - 2 * _LEAST_SHARE) * share + _LEAST_SHARE)

    def _mode_mean(self, coordinates: Tensor) -> Tensor:
        away = coordinates[..., :_SIZE] - self.parameters
        return self.amplitudes + torch.einsum("nmk,dnk->dnm", self.coupling, away)

    def log_prob(self, coordinates: Tensor, state: Tensor, amplitudes: Tensor) -> Tensor:
        """Log density of draws up to a constant of each galaxy, shape ``(draws, n)``."""
        total = torch.zeros_like(state)
        share = self._log_share()
        power = 0.5 * (_FREEDOM + len(LATENTS))
        for k, value in enumerate(STATES):
            white = torch.einsum("nji,dnj->dni", self.factor[k], coordinates - self.mean[k])
            log_det = torch.diagonal(self.factor[k], dim1=-2, dim2=-1).log().sum(-1)
            density = share[k] + log_det
            density = density - power * torch.log1p(white.square().sum(-1) / _FREEDOM)
            total = torch.where(state == value, density, total)
        white = torch.einsum(
            "nji,dnj->dni", self.mode_factor, amplitudes - self._mode_mean(coordinates)
        )
        return total - 0.5 * white.square().sum(-1)

    def rows(self, chosen: Tensor) -> "LaplacePosterior":
        """Fits of some galaxies, by their numbers."""
        return LaplacePosterior(
            **{
                each.name: getattr(self, each.name).index_select(_row_axis(each.name), chosen)
                for each in fields(self)
            }
        )

    def replaced(self, chosen: Tensor, other: "LaplacePosterior") -> "LaplacePosterior":
        """Take some galaxies from another fit.

        Parameters
        ----------
        chosen
            Numbers of the galaxies, in the order of ``other``.
        other
            Fit of those galaxies.
        """
        changed = {}
        for each in fields(self):
            axis = _row_axis(each.name)
            changed[each.name] = getattr(self, each.name).index_copy(
                axis, chosen, getattr(other, each.name)
            )
        return LaplacePosterior(**changed)


def _row_axis(name: str) -> int:
    """Axis of a field of `LaplacePosterior` along which galaxies lie."""
    return 1 if name in ("mean", "factor", "log_weight") else 0


def _solve_upper(factor: Tensor, eps: Tensor) -> Tensor:
    """Turn white noise into noise with the precision that a lower Cholesky factor squares to."""
    solved: Tensor = torch.linalg.solve_triangular(factor.mT, eps[..., None], upper=True)
    return solved.squeeze(-1)


@dataclass
class _Quadratic:
    """Log likelihood of the parameters about where the spectrum was linearised."""

    precision: Tensor
    gradient: Tensor
    coupling: Tensor
    shift: Tensor
    mode_factor: Tensor


def _quadratic(
    decoder: SpectralDecoder, flux: Tensor, ivar: Tensor, parameters: Tensor, amplitudes: Tensor
) -> _Quadratic:
    model, derivative = decoder.linearise(parameters, amplitudes)
    weighted = (derivative * ivar[:, None]).double()
    hessian = weighted @ derivative.double().mT
    slope = (weighted @ (flux - model).double()[..., None]).squeeze(-1)
    # A guess whose spectrum is no number says nothing: the prior decides where to go from there.
    known = (hessian.abs() < _LARGEST).all(dim=2).all(dim=1) & (slope.abs() < _LARGEST).all(dim=1)
    hessian = torch.where(known[:, None, None], hessian, 0.0)
    slope = torch.where(known[:, None], slope, 0.0)
    light, modes = slice(None, _SIZE), slice(_SIZE, None)
    inner = hessian[:, modes, modes] + torch.eye(decoder.modes, dtype=torch.float64)
    inner_slope = slope[:, modes] - amplitudes
    coupling = -solve(inner, hessian[:, modes, light])
    shift = solve(inner, inner_slope[..., None]).squeeze(-1)
    return _Quadratic(
        precision=hessian[:, light, light] + hessian[:, light, modes] @ coupling,
        gradient=slope[:, light] - (hessian[:, light, modes] @ shift[..., None]).squeeze(-1),
        coupling=coupling,
        shift=shift,
        mode_factor=cholesky(inner),
    )


def _inner_mode(
    state: float, start: Tensor, parameters: Tensor, quadratic: _Quadratic, damping: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mode of the noise for one state.

    Returns
    -------
    tuple[Tensor, Tensor, Tensor, Tensor]
        Noise, precision there, negative log posterior, and parameters.
    """
    scaled = torch.diagonal(quadratic.precision, dim1=-2, dim2=-1) * damping[:, None]
    precision = quadratic.precision + torch.diag_embed(scaled)
    identity = torch.eye(len(LATENTS), dtype=torch.float64)

    def cost(found: Tensor, noise: Tensor, matrix: Tensor) -> Tensor:
        away = found[:, :_SIZE] - parameters
        curved = 0.5 * (away[:, None] @ matrix @ away[..., None]).flatten()
        fit = curved - (quadratic.gradient * away).sum(dim=1)
        return fit + 0.5 * noise.square().sum(dim=1) - found[:, _SIZE]

    noise = start
    trust = torch.full_like(damping, 1e-3)
    found, derivative = linearise(noise, state)
    present = cost(found, noise, precision)
    for _ in range(_INNER_STEPS):
        away = found[:, :_SIZE] - parameters
        light = derivative[:, :_SIZE]
        pull = (precision @ away[..., None]).squeeze(-1) - quadratic.gradient
        slope = noise + (light.mT @ pull[..., None]).squeeze(-1) - derivative[:, _SIZE]
        curvature = identity + light.mT @ precision @ light
        extra = torch.diag_embed(torch.diagonal(curvature, dim1=-2, dim2=-1) * trust[:, None])
        step = -solve(curvature + extra, slope[..., None]).squeeze(-1)
        trial = noise + step.clamp(-_LARGEST_STEP, _LARGEST_STEP)
        tried, tried_derivative = linearise(trial, state)
        value = cost(tried, trial, precision)
        better = value < present
        noise = torch.where(better[:, None], trial, noise)
        found = torch.where(better[:, None], tried, found)
        derivative = torch.where(better[:, None, None], tried_derivative, derivative)
        present = torch.where(better, value, present)
        trust = torch.where(better, trust * 0.2, trust * 10).clamp(1e-9, 1e9)
    light = derivative[:, :_SIZE]
    curvature = identity + light.mT @ quadratic.precision @ light
    return noise, curvature, cost(found, noise, quadratic.precision), found[:, :_SIZE]


@dataclass
class _Fit:
    """Where the search for the mode stands; galaxies along the first axis but of ``noise``."""

    parameters: Tensor
    amplitudes: Tensor
    noise: Tensor
    damping: Tensor
    objective: Tensor

    @classmethod
    def start(
        cls, decoder: SpectralDecoder, flux: Tensor, ivar: Tensor, parameters: Tensor
    ) -> "_Fit":
        count = len(parameters)
        amplitudes = parameters.new_zeros(count, decoder.modes)
        typical = light_and_prior(parameters.new_zeros(1, len(LATENTS)), STAR_FORMING)[:, :_SIZE]
        known = (parameters.abs() < _LARGEST_GUESS).all(dim=1, keepdim=True)
        parameters = torch.where(known, parameters, typical)
        return cls(
            parameters,
            amplitudes,
            parameters.new_zeros(len(STATES), count, len(LATENTS)),
            torch.full_like(parameters[:, 0], _FIRST_DAMPING),
            torch.full_like(parameters[:, 0], torch.inf),
        )

    def rows(self, chosen: Tensor) -> "_Fit":
        return _Fit(
            self.parameters[chosen],
            self.amplitudes[chosen],
            self.noise[:, chosen],
            self.damping[chosen],
            self.objective[chosen],
        )

    def store(self, chosen: Tensor, part: "_Fit") -> None:
        self.parameters = self.parameters.index_copy(0, chosen, part.parameters)
        self.amplitudes = self.amplitudes.index_copy(0, chosen, part.amplitudes)
        self.noise = self.noise.index_copy(1, chosen, part.noise)
        self.damping = self.damping.index_copy(0, chosen, part.damping)
        self.objective = self.objective.index_copy(0, chosen, part.objective)

    def advance(self, decoder: SpectralDecoder, flux: Tensor, ivar: Tensor) -> Tensor:
        """Take one damped step; say which galaxies may still move."""
        quadratic = _quadratic(decoder, flux, ivar, self.parameters, self.amplitudes)
        modes = [
            _inner_mode(state, self.noise[k], self.parameters, quadratic, self.damping)
            for k, state in enumerate(STATES)
        ]
        quenched = modes[1][2] < modes[0][2]
        light = torch.where(quenched[:, None], modes[1][3], modes[0][3])
        latents = torch.where(quenched[:, None], modes[1][0], modes[0][0])
        log_prior = torch.where(
            quenched,
            light_and_prior(latents, QUENCHED)[:, _SIZE],
            light_and_prior(latents, STAR_FORMING)[:, _SIZE],
        )
        moved = (quadratic.coupling @ (light - self.parameters)[..., None]).squeeze(-1)
        amplitudes = self.amplitudes + quadratic.shift + moved
        prior = latents.square().sum(1) + amplitudes.square().sum(1) - 2 * log_prior
        value = 0.5 * (chi_square(decoder, flux, ivar, light, amplitudes) + prior)
        better = value < self.objective
        gain = self.objective - value
        self.objective = torch.where(better, value, self.objective)
        self.parameters = torch.where(better[:, None], light, self.parameters)
        self.amplitudes = torch.where(better[:, None], amplitudes, self.amplitudes)
        self.noise = torch.where(better[:, None], torch.stack([m[0] for m in modes]), self.noise)
        settled = (gain.abs() < _SETTLED) | (self.damping > _HOPELESS)
        self.damping = torch.where(better, self.damping * 0.1, self.damping * 30).clamp_min(1e-6)
        return ~settled


def chi_square(
    decoder: SpectralDecoder, flux: Tensor, ivar: Tensor, parameters: Tensor, amplitudes: Tensor
) -> Tensor:
    """Misfit of the decoder at these parameters and modes, shape ``(n,)``."""
    model = decoder.render(parameters, amplitudes)
    return (ivar * (flux - model).square()).sum(dim=1, dtype=torch.float64)


def refine(
    decoder: SpectralDecoder, flux: Tensor, ivar: Tensor, parameters: Tensor, *, steps: int
) -> LaplacePosterior:
    """Find the posterior mode and the curvature about it.

    Parameters
    ----------
    decoder
        Model of the spectrum.
    flux, ivar
        Shape ``(n, pixels)``; a pixel with zero inverse variance is missing.
    parameters
        Unconstrained guess, shape ``(n, 8)``.
    steps
        Largest number of linearisations of each spectrum; fewer once its posterior no longer rises.
    """
    fit = _Fit.start(decoder, flux, ivar, parameters)
    active = torch.arange(len(parameters))
    for _ in range(steps):
        part = fit.rows(active)
        moving = part.advance(decoder, flux[active], ivar[active])
        fit.store(active, part)
        active = active[moving]
        if not active.numel():
            break
    quadratic = _quadratic(decoder, flux, ivar, fit.parameters, fit.amplitudes)
    parameters, amplitudes, noise = fit.parameters, fit.amplitudes, fit.noise
    none = torch.zeros_like(fit.damping)
    last = [
        _inner_mode(state, noise[k], parameters, quadratic, none) for k, state in enumerate(STATES)
    ]
    placed = [to_coordinates(last[k][0], state) for k, state in enumerate(STATES)]
    factor = torch.stack(
        [_factor(mode[1], turn) for mode, (_, turn) in zip(last, placed, strict=True)]
    )
    half_log_det = [cholesky(m[1]).diagonal(dim1=-2, dim2=-1).log().sum(-1) for m in last]
    evidence = torch.stack([-m[2] - half for m, half in zip(last, half_log_det, strict=True)])
    log_weight = torch.log_softmax(evidence.nan_to_num(nan=-_LARGEST, neginf=-_LARGEST), dim=0)
    seen = (ivar > 0).sum(dim=1).clamp_min(1)
    return LaplacePosterior(
        mean=torch.stack([place for place, _ in placed]),
        factor=factor,
        log_weight=log_weight,
        parameters=parameters,
        amplitudes=amplitudes + quadratic.shift,
        coupling=quadratic.coupling,
        mode_factor=quadratic.mode_factor,
        chi_square=chi_square(decoder, flux, ivar, parameters, amplitudes) / seen,
        log_posterior=-fit.objective,
    )


def _factor(precision: Tensor, turn: Tensor) -> Tensor:
    """Cholesky factor of the precision in coordinates that are ``turn`` times the noise."""
    back = inverse(turn)
    return cholesky(back.mT @ precision @ back)
