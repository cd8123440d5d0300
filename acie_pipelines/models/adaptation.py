"""Adaptation of an engine to the spectra of a real survey, without labels, and how well it works.

Belongs here: learning the residual from observed galaxies, goodness of fit and predictive checks on
galaxies held out. Does not belong here: the residual itself (`acie_pipelines.models.residual`).

Physics and residual are fitted in turns: physical parameters given the residual, then the residual
given what the physics leaves.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from acie_pipelines.errors import ModelError
from acie_pipelines.models.counterfactual import SpectralEngine
from acie_pipelines.models.decoder import SpectralDecoder
from acie_pipelines.models.importance import exact_draws
from acie_pipelines.models.intervals import central_interval
from acie_pipelines.models.parameters import constrain
from acie_pipelines.models.posterior import AmortisedPosterior
from acie_pipelines.models.query import GridSpectrum
from acie_pipelines.models.refinement import LaplacePosterior, refine
from acie_pipelines.models.residual import LearnedResidual, fit_residual

__all__ = ["Adaptation", "HeldOutFit", "adapt", "adapted", "learn_residual"]

RANK: Final = 3
"""Components of the residual."""

LARGEST_NORM: Final = 0.1
"""Bound of its spectral norm: a latent of one changes the flux by at most 10 %."""

_ROUNDS: Final = 2
_STEPS: Final = 20
_FOLDS: Final = 5
# A survey's calibration and the shapes of real continua differ smoothly from the model.
_MODES: Final = 8
_MODE_RMS: Final = 0.1
# Below this share of the fit a pixel is no light of the galaxy, and has no logarithm.
_LEAST_SHARE: Final = 0.2
_HIDDEN_BLOCK: Final = 20
_DRAWS: Final = 100
_SHARE: Final = 0.9
_WINDOW_ANGSTROM: Final = 100.0
_WORST: Final = 3

Progress = Callable[[str], None]


@dataclass(frozen=True)
class HeldOutFit:
    """How a galaxy that taught nothing is fitted.

    Attributes
    ----------
    name, redshift
        Of the galaxy.
    before, after
        Chi-square per pixel of the physics with smooth modes, and with the residual too.
    coverage
        Share of pixels hidden from the fit that lie in their 90 % predictive intervals, noise
        included, which is scaled to the chi-square of the pixels that were not hidden.
    worst
        Rest wavelengths [Angstrom] where windows of 100 Angstrom with the largest chi-square per
        pixel start, and those values.
    """

    name: str
    redshift: float
    before: float
    after: float
    coverage: float
    worst: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Adaptation:
    """A residual learned from all galaxies, and its test on each by the others.

    Attributes
    ----------
    residual
        Learned from all.
    fits
        Cross-validated, one per galaxy.
    """

    residual: LearnedResidual
    fits: tuple[HeldOutFit, ...]


def adapted(
    engine: SpectralEngine,
    residual: LearnedResidual | None,
    network: AmortisedPosterior | None = None,
) -> SpectralEngine:
    """Give an engine smooth modes, a learned residual and a fine-tuned network for real spectra."""
    decoder = SpectralDecoder(
        engine.decoder.preset.name, modes=_MODES, mode_rms=_MODE_RMS, residual=residual
    )
    return SpectralEngine(
        engine.posterior if network is None else network,
        decoder,
        engine.mechanisms,
        refinement_steps=engine.refinement_steps,
    )


def adapt(
    engine: SpectralEngine,
    spectra: Sequence[GridSpectrum],
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> Adaptation:
    """Learn a residual from real spectra and test it by five-fold cross-validation.

    Parameters
    ----------
    engine
        Its posterior gives the starts of the fits.
    spectra
        Galaxies with known redshifts.
    seed
        Of starts, components and hidden pixels.
    progress
        Called with one line of text.

    Raises
    ------
    ModelError
        If a redshift is unknown, or there are too few galaxies to hold any out.
    """
    unknown = [each.name for each in spectra if each.redshift is None]
    if unknown:
        raise ModelError(unknown[0], "states no redshift", "leave it out of the adaptation")
    if len(spectra) < RANK + 3:
        raise ModelError(
            "adaptation", f"has {len(spectra)} galaxies", f"give at least {RANK + 3} spectra"
        )
    tell = progress or (lambda _: None)
    flux, ivar = (torch.cat([getattr(s, n) for s in spectra]) for n in ("flux", "ivar"))
    redshift = torch.tensor([s.redshift for s in spectra], dtype=torch.float64)
    physics = adapted(engine, None)
    tell(f"fitting {len(spectra)} galaxies with physics and smooth modes")
    start = physics.fit(flux, ivar, seed=seed, redshift=redshift)
    count = min(_FOLDS, len(spectra))
    folds = torch.arange(len(spectra)) % count
    fits: dict[int, HeldOutFit] = {}
    for fold in range(count):
        train, test = (torch.nonzero(mask)[:, 0] for mask in (folds != fold, folds == fold))
        residual = learn_residual(
            physics.decoder, flux[train], ivar[train], redshift[train], start.rows(train), seed=seed
        )
        softer = adapted(engine, residual).decoder
        found = refine(softer, flux[test], ivar[test], start.parameters[test], steps=_STEPS)
        coverage = _hidden_coverage(softer, flux[test], ivar[test], found, seed)
        worst = _worst(softer, flux[test], ivar[test], found)
        for k, row in enumerate(test.tolist()):
            fits[row] = HeldOutFit(
                spectra[row].name,
                float(redshift[row]),
                float(start.chi_square[row]),
                float(found.chi_square[k]),
                float(coverage[k]),
                worst[k],
            )
            tell(
                f"{fits[row].name}: chi-square per pixel {fits[row].before:.2f} without, "
                f"{fits[row].after:.2f} with what the other galaxies taught"
            )
    residual = learn_residual(physics.decoder, flux, ivar, redshift, start, seed=seed)
    return Adaptation(residual, tuple(fits[row] for row in range(len(spectra))))


@torch.no_grad()
def learn_residual(
    physics: SpectralDecoder,
    flux: Tensor,
    ivar: Tensor,
    redshift: Tensor,
    start: LaplacePosterior,
    *,
    seed: int,
) -> LearnedResidual:
    """Learn from galaxies whose physics has been fitted.

    Parameters
    ----------
    physics
        Decoder without residual.
    flux, ivar, redshift
        Shapes ``(n, pixels)``, the same, and ``(n,)``.
    start
        Fit of ``physics``.
    seed
        Of the components' start.
    """
    parameters, amplitudes = start.parameters, start.amplitudes
    residual: LearnedResidual | None = None
    for turn in range(_ROUNDS):
        light = physics.render(parameters, amplitudes)
        usable = (ivar > 0) & (flux > _LEAST_SHARE * light)
        log_ratio = torch.where(usable, torch.log(flux.clamp_min(1e-30) / light), 0.0)
        weight = torch.where(usable, ivar * light.square(), 0.0)
        residual = fit_residual(
            log_ratio,
            weight,
            physics.preset,
            redshift,
            rank=RANK,
            largest_norm=LARGEST_NORM,
            seed=seed,
        )
        if turn + 1 < _ROUNDS:
            softer = SpectralDecoder(
                physics.preset.name,
                modes=physics.smooth_modes,
                mode_rms=physics.mode_rms,
                residual=residual,
            )
            fit = refine(softer, flux, ivar, parameters, steps=_STEPS)
            parameters = fit.parameters
            amplitudes = fit.amplitudes[:, : physics.smooth_modes]
    if residual is None:
        raise ModelError("adaptation", "took no turn", "run it again")
    return residual


@torch.no_grad()
def _hidden_coverage(
    decoder: SpectralDecoder, flux: Tensor, ivar: Tensor, fit: LaplacePosterior, seed: int
) -> Tensor:
    """Coverage of every fifth block of pixels by a fit that has not seen them, shape ``(n,)``.

    As in an answer, noise is larger by the square root of a chi-square above one, here of the
    pixels that the fit has seen.
    """
    block = torch.arange(flux.shape[1]) // _HIDDEN_BLOCK
    hidden = (block % _FOLDS == seed % _FOLDS).expand_as(flux) & (ivar > 0)
    blind = refine(decoder, flux, ivar * ~hidden, fit.parameters, steps=_STEPS)
    ivar = ivar / blind.chi_square.clamp_min(1.0)[:, None].to(ivar.dtype)
    blind = refine(decoder, flux, ivar * ~hidden, blind.parameters, steps=_STEPS)
    found = exact_draws(decoder, flux, ivar * ~hidden, blind, _DRAWS, seed=seed)
    light = found.coordinates[..., : blind.parameters.shape[1]]
    pairs = zip(light, found.amplitudes, strict=True)
    drawn = torch.stack([decoder.render(p, a) for p, a in pairs])
    generator = torch.Generator().manual_seed(seed)
    sigma = ivar.clamp_min(1e-30).rsqrt()
    drawn = drawn + sigma * torch.randn(drawn.shape, generator=generator)
    low, high = central_interval(drawn, _SHARE)
    inside = hidden & (flux >= low) & (flux <= high)
    share: Tensor = inside.sum(dim=1) / hidden.sum(dim=1).clamp_min(1)
    return share


@torch.no_grad()
def _worst(
    decoder: SpectralDecoder, flux: Tensor, ivar: Tensor, fit: LaplacePosterior
) -> list[tuple[tuple[float, float], ...]]:
    """Windows at rest with the largest chi-square per pixel, for each galaxy."""
    model = decoder.render(fit.parameters, fit.amplitudes)
    misfit = (ivar * (flux - model).square()).double()
    stretch = 1 + constrain(fit.parameters)["redshift"]
    wavelength = torch.from_numpy(decoder.preset.wavelength_angstrom)
    found = []
    for k in range(len(flux)):
        window = (wavelength / stretch[k] / _WINDOW_ANGSTROM).long()
        seen = (ivar[k] > 0).double()
        count = torch.bincount(window, seen)
        mean = torch.bincount(window, misfit[k]) / count.clamp_min(1)
        worst = mean.topk(_WORST).indices.tolist()
        found.append(tuple((_WINDOW_ANGSTROM * w, float(mean[w])) for w in worst))
    return found
