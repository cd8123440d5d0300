"""Fine-tuning of the amortised posterior on real spectra, without labels.

Belongs here: exact posteriors of real galaxies as labels, the training on them, its judgement by
galaxies held out. Does not belong here: the first training
(`acie_pipelines.models.posterior_training`), the residual (`acie_pipelines.models.adaptation`),
files.

It is the wake phase of reweighted wake-sleep (Bornschein and Bengio 2015, arXiv:1406.2751; Le et
al. 2020, arXiv:1805.10469): the network maximises E[log q(theta | x)] over draws of each real
galaxy's exact posterior under the adapted decoder. A third of every batch is the sleep phase:
simulated galaxies with the modes and the residual of real ones. A third is simulated as ever, so
that the network does not forget.

The judge is E[log q(theta | x)] over exact draws of galaxies held out. Up to a constant of each
galaxy it is minus the divergence of q from its exact posterior, and minus an upper bound of its
evidence (Blessing et al. 2024, arXiv:2406.07423). The lower bound
(`acie_pipelines.models.evidence`) is reported and does not decide: it punishes a q that is as wide
as the network errs, because most of its draws fit badly. Nor is it part of the loss: with noise
tempered by the misfit, it raised the density of the truth at no weight that was tried.

Labels allow for modes and a residual. Where a survey needs neither, the network becomes less sure
than it could be, and the judge, which is made of such labels, does not see it.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Final

import torch
from torch import Tensor

from acie_pipelines.errors import ModelError
from acie_pipelines.models.counterfactual import SpectralEngine
from acie_pipelines.models.decoder import SpectralDecoder
from acie_pipelines.models.evidence import evidence_bound
from acie_pipelines.models.importance import exact_draws
from acie_pipelines.models.mode_search import largest_chi_square
from acie_pipelines.models.parameters import PARAMETERS, constrain, unconstrain
from acie_pipelines.models.posterior import AmortisedPosterior
from acie_pipelines.models.posterior_training import LabelledSpectra
from acie_pipelines.models.query import GridSpectrum
from acie_pipelines.models.refinement import refine
from acie_pipelines.models.simulated import simulate_spectra

__all__ = ["ExactLabels", "FineTuning", "Schedule", "exact_labels", "fine_tune", "fine_tune_on"]

_DRAWS: Final = 32
_FEWEST_GALAXIES: Final = 4
# One galaxy of so many judges and does not teach. Where that makes few judges, every galaxy is one
# in turn.
_FOLDS: Final = 5
_FEW_JUDGES: Final = 5
_ANCHOR_SEED: Final = 9_900
# Noise added to real spectra, in units of theirs: enough that no pixel is learned by heart.
_EXTRA_NOISE: Final = 0.5
_MISSING_SHARE: Final = 0.02
_GRADIENT_NORM: Final = 5.0
_WEIGHT_DECAY: Final = 1e-4
_AVERAGE: Final = 0.99
_TOLD: Final = 100

Progress = Callable[[str], None]


@dataclass(frozen=True)
class ExactLabels:
    """Real spectra with draws of their exact posteriors.

    Attributes
    ----------
    flux, ivar
        As observed, shape ``(n, pixels)``.
    parameters
        Unconstrained draws, float64, shape ``(draws, n, 8)``.
    amplitudes
        Of the decoder's modes, shape ``(draws, n, modes)``.
    noise_scale
        Factor of the noise with which the best fit is explained, shape ``(n,)``.
    reliable
        Whether the draws are worth anything; those of other galaxies teach nothing, shape ``(n,)``.
    """

    flux: Tensor
    ivar: Tensor
    parameters: Tensor
    amplitudes: Tensor
    noise_scale: Tensor
    reliable: Tensor


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to fine-tune.

    Attributes
    ----------
    steps
        Optimiser steps; the learning rate falls to zero along half a cosine.
    share
        Spectra per step that are real, simulated as if real, and simulated: of each as many.
    learning_rate
        Its largest value.
    simulated
        Simulated galaxies.
    """

    steps: int = 500
    share: int = 43
    learning_rate: float = 2e-4
    simulated: int = 5_000


@dataclass(frozen=True)
class FineTuning:
    """A network that was fine-tuned, or the old one if that did not help.

    Attributes
    ----------
    posterior
        The better network.
    taught, held_out, unreliable
        Numbers of galaxies that taught, that judged, and that were left out.
    before, after
        Mean log density of exact draws of galaxies, by networks that these did not teach [nats].
    gain_error
        Standard error of their difference.
    bound_before, bound_after
        Median evidence lower bound of these galaxies [nats], up to a constant.
    """

    posterior: AmortisedPosterior
    taught: int
    held_out: int
    unreliable: int
    before: float
    after: float
    gain_error: float
    bound_before: float
    bound_after: float

    @property
    def kept(self) -> bool:
        """Whether galaxies that it had not seen gained more than the error of the gain."""
        return self.after - self.before > self.gain_error

    def summary(self) -> dict[str, float]:
        """Everything but the network, as JSON values."""
        numbers = {each.name: getattr(self, each.name) for each in fields(self)[1:]}
        return {"kept": self.kept, **numbers}


def fine_tune_on(
    engine: SpectralEngine,
    spectra: Sequence[GridSpectrum],
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> FineTuning:
    """Label real spectra by their exact posteriors and fine-tune on them.

    Parameters
    ----------
    engine
        Adapted to the survey.
    spectra
        Galaxies with known redshifts.
    seed
        Of draws, batches and noise.
    progress
        Called with one line of text.

    Raises
    ------
    ModelError
        See `fine_tune`.
    """
    tell = progress or (lambda _: None)
    tell(f"drawing from the exact posteriors of {len(spectra)} galaxies")
    flux, ivar = (torch.cat([getattr(s, n) for s in spectra]) for n in ("flux", "ivar"))
    redshift = torch.tensor([s.redshift for s in spectra], dtype=torch.float64)
    labels = exact_labels(engine, flux, ivar, redshift, seed=seed)
    return fine_tune(engine, labels, seed=seed, progress=progress)


@torch.no_grad()
def exact_labels(
    engine: SpectralEngine, flux: Tensor, ivar: Tensor, redshift: Tensor, *, seed: int
) -> ExactLabels:
    """Draw from the exact posteriors of real galaxies.

    As in an answer, noise is larger by the square root of a chi-square that it does not explain.

    Parameters
    ----------
    engine
        Adapted to the survey.
    flux, ivar
        Shape ``(n, pixels)``.
    redshift
        As the survey states it, shape ``(n,)``.
    seed
        Of starts and draws.
    """
    fit = engine.fit(flux, ivar, seed=seed, redshift=redshift)
    scale = torch.ones_like(fit.chi_square)
    odd = torch.nonzero(~(fit.chi_square <= largest_chi_square(ivar)))[:, 0]
    softer = ivar
    if odd.numel():
        scale[odd] = fit.chi_square[odd].sqrt()
        softer = ivar / scale.square()[:, None].to(ivar.dtype)
        again = refine(
            engine.decoder,
            flux[odd],
            softer[odd],
            fit.parameters[odd],
            steps=engine.refinement_steps,
        )
        fit = fit.replaced(odd, again)
    found = exact_draws(engine.decoder, flux, softer, fit, _DRAWS, seed=seed)
    return ExactLabels(
        flux=flux,
        ivar=ivar,
        parameters=found.coordinates[..., : len(PARAMETERS)],
        amplitudes=found.amplitudes,
        noise_scale=scale,
        reliable=found.trusted & (fit.chi_square < largest_chi_square(softer)),
    )


def fine_tune(
    engine: SpectralEngine,
    labels: ExactLabels,
    *,
    schedule: Schedule | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> FineTuning:
    """Train the network of an engine on exact draws, and keep it if galaxies held out gain.

    The gain has to exceed its standard error.

    Parameters
    ----------
    engine
        Its decoder made the labels.
    labels
        From `exact_labels`.
    schedule
        Length and speed.
    seed
        Of batches and noise.
    progress
        Called with one line of text.

    Raises
    ------
    ModelError
        If fewer than four galaxies have a posterior that was sampled well.
    """
    usable = torch.nonzero(labels.reliable)[:, 0]
    if len(usable) < _FEWEST_GALAXIES:
        raise ModelError(
            "fine-tuning",
            f"has {len(usable)} of {len(labels.reliable)} galaxies whose posterior is well sampled",
            f"give spectra of at least {_FEWEST_GALAXIES} such galaxies, or leave out --fine-tune",
        )
    old, tell = engine.posterior, progress or (lambda _: None)
    chosen = schedule or Schedule()
    folds = torch.arange(len(usable)) % _FOLDS
    enough = int((folds == 0).sum()) >= _FEW_JUDGES
    judged = range(1 if enough else min(_FOLDS, len(usable)))
    found = []
    for fold in judged:
        train, test = usable[folds != fold], usable[folds == fold]
        tell(f"{len(train)} galaxies teach, {len(test)} judge")
        new = _trained(engine, labels, train, chosen, seed, tell)
        found.append([_judged(each, engine.decoder, labels, test, seed) for each in (old, new)])
    before, after = (torch.cat([each[k] for each in found], dim=1) for k in (0, 1))
    gain = after[0] - before[0]
    result = FineTuning(
        posterior=new,
        taught=len(train),
        held_out=before.shape[1],
        unreliable=len(labels.reliable) - len(usable),
        before=float(before[0].mean()),
        after=float(after[0].mean()),
        gain_error=float(gain.std()) / math.sqrt(len(gain)),
        bound_before=float(before[1].median()),
        bound_after=float(after[1].median()),
    )
    if not result.kept:
        return replace(result, posterior=old)
    if len(judged) == 1:
        return result
    tell(f"{len(usable)} galaxies teach")
    everything = _trained(engine, labels, usable, chosen, seed, tell)
    return replace(result, posterior=everything, taught=len(usable))


@torch.no_grad()
def _judged(
    posterior: AmortisedPosterior,
    decoder: SpectralDecoder,
    labels: ExactLabels,
    rows: Tensor,
    seed: int,
) -> Tensor:
    """Mean log density of exact draws and evidence bound of some galaxies, shape ``(2, n)``."""
    flux, ivar = labels.flux[rows], labels.ivar[rows]
    context = posterior.context(flux, ivar)
    drawn = labels.parameters[:, rows]
    density = torch.stack([posterior.log_prob(each, context) for each in drawn]).mean(dim=0)
    scale = labels.noise_scale[rows]
    bound = evidence_bound(posterior, decoder, flux, ivar, scale, seed=seed)
    return torch.stack([density, bound])


def _trained(
    engine: SpectralEngine,
    labels: ExactLabels,
    rows: Tensor,
    schedule: Schedule,
    seed: int,
    tell: Progress,
) -> AmortisedPosterior:
    """Averaged weights after the last step."""
    model = copy.deepcopy(engine.posterior).train()
    average = copy.deepcopy(model).eval()
    tell(f"simulating {schedule.simulated} galaxies")
    sky = simulate_spectra(
        schedule.simulated, seed=_ANCHOR_SEED + seed, preset_name=engine.decoder.preset.name
    )
    simulated = LabelledSpectra(unconstrain(sky.values), sky.clean, sky.sigma)
    optimiser = torch.optim.AdamW(
        model.parameters(), schedule.learning_rate, weight_decay=_WEIGHT_DECAY
    )
    generator = torch.Generator().manual_seed(seed)
    for step in range(schedule.steps):
        slower = 0.5 * (1 + math.cos(math.pi * step / schedule.steps))
        for group in optimiser.param_groups:
            group["lr"] = schedule.learning_rate * slower
        parts = [
            _real(labels, rows, schedule.share, generator),
            _as_if_real(engine.decoder, labels, rows, simulated, schedule.share, generator),
            _simulated(simulated, schedule.share, generator),
        ]
        parameters, flux, ivar = (torch.cat(each) for each in zip(*parts, strict=True))
        loss = -model.log_prob(parameters, model.context(flux, ivar)).mean()
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), _GRADIENT_NORM)
        optimiser.step()
        # A short memory at first, or the old weights would stay in it.
        decay = min(_AVERAGE, (1 + step) / (10 + step))
        with torch.no_grad():
            for kept, new in zip(average.parameters(), model.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)
        if (step + 1) % _TOLD == 0:
            tell(f"step {step + 1} of {schedule.steps}: loss {float(loss.detach()):.2f} nats")
    return average


def _real(
    labels: ExactLabels, rows: Tensor, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Parameters, flux and inverse variance: real spectra with a draw of each as its label."""
    galaxy, draw = _chosen(labels, rows, count, generator)
    flux, ivar = labels.flux[galaxy], labels.ivar[galaxy]
    sigma = _EXTRA_NOISE * torch.where(ivar > 0, ivar.clamp_min(1e-30).rsqrt(), 0.0)
    return labels.parameters[draw, galaxy], *_noisy(flux, sigma, ivar, generator)


def _as_if_real(
    decoder: SpectralDecoder,
    labels: ExactLabels,
    rows: Tensor,
    simulated: LabelledSpectra,
    count: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor]:
    """Give simulated galaxies the modes and the residual of real ones."""
    galaxy, draw = _chosen(labels, rows, count, generator)
    amplitudes = labels.amplitudes[draw, galaxy].to(simulated.clean.dtype)
    part = simulated.rows(torch.randint(len(simulated), (count,), generator=generator))
    log_factor = amplitudes[:, : decoder.smooth_modes] @ decoder.basis
    if decoder.residual is not None:
        redshift = constrain(part.parameters)["redshift"]
        mean, components = decoder.residual.observed(decoder.preset, redshift)
        latents = amplitudes[:, decoder.smooth_modes :, None]
        log_factor = log_factor + mean + (latents * components).sum(dim=1)
    clean = part.clean * torch.exp(log_factor)
    return part.parameters, *_noisy(clean, part.sigma, part.sigma**-2, generator)


def _simulated(
    simulated: LabelledSpectra, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    part = simulated.rows(torch.randint(len(simulated), (count,), generator=generator))
    return part.parameters, *_noisy(part.clean, part.sigma, part.sigma**-2, generator)


def _chosen(
    labels: ExactLabels, rows: Tensor, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Numbers of galaxies and of their draws."""
    galaxy = rows[torch.randint(len(rows), (count,), generator=generator)]
    return galaxy, torch.randint(len(labels.parameters), (count,), generator=generator)


def _noisy(
    flux: Tensor, sigma: Tensor, ivar: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Add noise, and leave a few pixels out."""
    noise = torch.randn(flux.shape, generator=generator)
    seen = torch.rand(flux.shape, generator=generator) >= _MISSING_SHARE
    return (flux + sigma * noise) * seen, ivar * seen
