"""One question to one observed galaxy, and all that belongs to its answer.

Belongs here: from an observed spectrum and interventions as text to the result. Does not belong
here: files (`acie_pipelines.observations.spectra`, `acie_pipelines.models.query_file`), pictures,
or the engine (`acie_pipelines.models.counterfactual`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acie_pipelines.causal.graph import CausalGraph, Node
from acie_pipelines.causal.identification import Identification
from acie_pipelines.causal.interventions import Intervention
from acie_pipelines.causal.queries import parse_interventions
from acie_pipelines.errors import ConfigurationError, ObservationError
from acie_pipelines.models.counterfactual import SpectralEngine, SpectralPosterior
from acie_pipelines.models.intervals import central_interval, check_draws
from acie_pipelines.models.mode_search import largest_chi_square
from acie_pipelines.models.parameters import PARAMETERS
from acie_pipelines.models.spectral_laws import law_residuals
from acie_pipelines.models.support import LEAST_SUPPORT, intervene
from acie_pipelines.observations.line_spread import FWHM_PER_SIGMA
from acie_pipelines.observations.resampling import resample, smoothing
from acie_pipelines.observations.spectra import Arm, ObservedSpectrum
from acie_pipelines.simulation.galaxy import galaxy_graph
from acie_pipelines.simulation.mechanisms import CONTINUOUS
from acie_pipelines.simulation.presets import Preset

__all__ = ["Band", "CounterfactualResult", "GridSpectrum", "answer", "on_grid", "spectrum_graph"]

SPECTRUM: Final = "spectrum"
TOLERANCE: Final = 0.05
"""Of `CounterfactualResult.confidence`, as a fraction of the flux."""

_SHARE: Final = 0.9
_LARGEST_CHI_SQUARE: Final = 1.3
# A confidence below this means that different galaxies explain the spectrum.
_OPEN: Final = 0.8
_LEAST_SEEN: Final = 0.5
_FAR: Final = 1e6


@cache
def spectrum_graph() -> CausalGraph:
    """Graph of the galaxy with its spectrum as the last effect."""
    light = Node(SPECTRUM, "", False, (0.0, math.inf), PARAMETERS, description="Its light")
    return CausalGraph((*galaxy_graph().nodes.values(), light))


@dataclass(frozen=True)
class Band:
    """Median and central 90 % interval of draws, each of one shape, float32."""

    median: NDArray[np.float32]
    low: NDArray[np.float32]
    high: NDArray[np.float32]

    @classmethod
    def of(cls, draws: Tensor) -> "Band":
        """Summarise draws along their first axis."""
        low, high = central_interval(draws, _SHARE)
        median = draws.quantile(0.5, dim=0)
        return cls(*(each.float().numpy() for each in (median, low, high)))


@dataclass(frozen=True)
class GridSpectrum:
    """An observation on the grid of a model.

    Attributes
    ----------
    name, survey, redshift
        As of `acie_pipelines.observations.spectra.ObservedSpectrum`.
    flux, ivar
        Shape ``(1, pixels)``, float32; zero inverse variance marks a missing pixel.
    notes
        How it was brought there, one sentence each.
    """

    name: str
    survey: str
    redshift: float | None
    flux: Tensor
    ivar: Tensor
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CounterfactualResult:
    """What was asked, what was found, and how far it can be believed.

    Attributes
    ----------
    observation, survey
        Where the spectrum came from.
    question
        Interventions as asked.
    model, seed, draws
        Version of the model, seed and number of posterior draws.
    wavelength_angstrom
        Centres of pixels, in vacuum, as observed, shape ``(pixels,)``.
    observed
        Flux [1e-17 erg/s/cm2/Angstrom] and inverse variance, shape ``(2, pixels)``.
    factual, counterfactual, difference
        Spectra without noise, shape ``(pixels,)``; the difference is taken draw by draw.
    before, after
        Node to draws of its value, in the node's scale, shape ``(draws,)``.
    laws
        Law to root mean square residuals of the factual and of the counterfactual draws.
    support
        Intervened node to the probability of a value at least as odd among galaxies with the same
        causes; see `acie_pipelines.models.support`.
    identification
        Of the effect of each intervened node on the spectrum.
    confidence
        Posterior probability that the counterfactual flux in a pixel is within 5 % of the answer,
        the median; the mean over pixels.
    chi_square
        Of the best fit per seen pixel, with the noise as stated.
    effective_draws
        Independent draws that the weighted ones are worth.
    reliable
        Whether fit and draws allow trust in the intervals.
    notes
        How the spectrum was prepared, one sentence each.
    warnings
        What a reader has to know, one sentence each.
    """

    observation: str
    survey: str
    question: str
    model: str
    seed: int
    draws: int
    wavelength_angstrom: NDArray[np.float64]
    observed: NDArray[np.float32]
    factual: Band
    counterfactual: Band
    difference: Band
    before: Mapping[str, NDArray[np.float32]]
    after: Mapping[str, NDArray[np.float32]]
    laws: Mapping[str, tuple[float, float]]
    support: Mapping[str, float]
    identification: tuple[Identification, ...]
    confidence: float
    chi_square: float
    effective_draws: float
    reliable: bool
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def on_grid(observed: ObservedSpectrum, preset: Preset) -> GridSpectrum:
    """Resample an observation, smoothed to the model's resolution where it is sharper.

    Raises
    ------
    ObservationError
        If the redshift lies outside the galaxies that the model was made for, or less than half of
        the model's pixels are seen.
    """
    low, high = _redshift_range()
    if observed.redshift is not None and not low < observed.redshift < high:
        raise ObservationError(
            observed.name,
            f"has redshift {observed.redshift:.4f}, the model knows {low:g} to {high:g}",
            "ask about a galaxy in that range",
        )
    edges = preset.lowest_angstrom * np.exp(np.arange(preset.pixels + 1) * preset.log_step)
    flux, ivar = resample(observed.arms, edges, resolving_power=preset.resolving_power)
    seen = float((ivar > 0).mean())
    if seen < _LEAST_SEEN:
        raise ObservationError(
            observed.name,
            f"covers {seen:.0%} of {preset.lowest_angstrom:g}-{preset.highest_angstrom:g} Angstrom",
            "give a spectrum that covers at least half of it",
        )
    return GridSpectrum(
        observed.name,
        observed.survey,
        observed.redshift,
        torch.from_numpy(flux).float()[None],
        torch.from_numpy(ivar).float()[None],
        _preparation(observed.arms, preset),
    )


def _preparation(arms: Sequence[Arm], preset: Preset) -> tuple[str, ...]:
    """Say how samples within the model's grid were brought to its resolution."""
    power, left_out = [], []
    for arm in arms:
        if arm.spread_angstrom is None:
            continue
        wave = arm.wavelength_angstrom
        used = (arm.ivar > 0) & (wave > preset.lowest_angstrom) & (wave < preset.highest_angstrom)
        power.append(wave[used] / (FWHM_PER_SIGMA * arm.spread_angstrom[used]))
        left_out.append(np.isnan(smoothing(arm, preset.resolving_power))[used])
    if not power:
        return ()
    stated = np.concatenate(power)
    notes = [
        f"{len(arms)} arms of resolving power {np.nanmin(stated):.0f} to {np.nanmax(stated):.0f} "
        f"were smoothed to {preset.resolving_power:.0f}; stated errors allow for what neighbouring "
        "pixels then share"
    ]
    share = float(np.concatenate(left_out).mean())
    if share:
        notes.append(f"{share:.1%} of the samples are coarser than the model and were left out")
    return tuple(notes)


def _redshift_range() -> tuple[float, float]:
    far = torch.tensor([-_FAR, _FAR], dtype=torch.float64)
    low, high = CONTINUOUS["redshift"].value(far, {"redshift": far}).tolist()
    return float(low), float(high)


def questions(text: str) -> tuple[Intervention, ...]:
    """Read interventions and refuse those that no light can show.

    Raises
    ------
    ConfigurationError
        If a term cannot be read, has the wrong unit or an impossible value, or names a node that is
        unknown, named twice, or no cause of the spectrum.
    """
    do = parse_interventions(text, galaxy_graph())
    names = [each.node for each in do]
    causes = spectrum_graph().ancestors(SPECTRUM)
    for name in names:
        if name not in causes:
            raise ConfigurationError(
                f"intervention on {name}",
                "is no cause of the spectrum: the answer would be the factual spectrum",
                f"choose one of {[n for n in galaxy_graph().nodes if n in causes]}",
            )
        if names.count(name) > 1:
            raise ConfigurationError(
                f"intervention on {name}", "is asked for twice", "merge the two into one"
            )
    return do


def answer(
    engine: SpectralEngine,
    spectrum: GridSpectrum,
    question: str,
    *,
    model: str,
    draws: int = 200,
    seed: int = 0,
) -> CounterfactualResult:
    """Abduct, intervene, predict.

    Parameters
    ----------
    engine
        On the grid of the spectrum.
    spectrum
        From `on_grid`.
    question
        Interventions as text, see `acie_pipelines.causal.queries.parse_interventions`.
    model
        Version of the engine, for the record.
    draws, seed
        Of the posterior.

    Raises
    ------
    ConfigurationError
        If the question makes no sense, or there are too few draws for 90 % intervals.

    Notes
    -----
    Where the best fit is worse than noise explains, the noise is taken to be larger by the square
    root of its chi-square per pixel (Birge 1932, Physical Review 40, 207), so that what the model
    does not know widens the intervals.
    """
    check_draws(draws, _SHARE)
    do = questions(question)
    posterior, chi_square, warnings = _abduct(engine, spectrum, draws, seed)
    found = intervene(engine, galaxy_graph(), posterior, do, seed=seed)
    for name in found.outside:
        warnings.append(
            f"{name} is set outside the galaxies that the model knows (support "
            f"{found.support[name]:.2g} < {LEAST_SUPPORT:g}): mechanisms are extrapolated and "
            "intervals are wider"
        )
    factual = engine.render(posterior, posterior.values)[:, 0]
    changed = engine.render(posterior, found.values)[:, 0]
    before = {name: values[:, 0] for name, values in posterior.values.items()}
    after = {name: values[:, 0] for name, values in found.values.items()}
    counterfactual = Band.of(changed)
    confidence = _confidence(changed)
    if confidence < _OPEN:
        warnings.append(
            f"the spectrum leaves the answer open: only {confidence:.0%} of what its galaxy may "
            f"have been is within {TOLERANCE:.0%} of the median; look at the intervals"
        )
    return CounterfactualResult(
        observation=spectrum.name,
        survey=spectrum.survey,
        question=question,
        model=model,
        seed=seed,
        draws=draws,
        wavelength_angstrom=engine.decoder.preset.wavelength_angstrom,
        observed=torch.cat([spectrum.flux, spectrum.ivar]).numpy(),
        factual=Band.of(factual),
        counterfactual=counterfactual,
        difference=Band.of(changed - factual),
        before={name: values.float().numpy() for name, values in before.items()},
        after={name: values.float().numpy() for name, values in after.items()},
        laws=_laws(engine, (before, factual), (after, changed)),
        support=found.support,
        identification=tuple(spectrum_graph().identify(each.node, SPECTRUM) for each in do),
        confidence=confidence,
        chi_square=chi_square,
        effective_draws=float(posterior.effective_draws[0]),
        reliable=bool(posterior.reliable[0]) and chi_square <= _LARGEST_CHI_SQUARE,
        notes=spectrum.notes + _of_mechanisms(engine, do),
        warnings=tuple(warnings),
    )


def _of_mechanisms(engine: SpectralEngine, do: Sequence[Intervention]) -> tuple[str, ...]:
    """Say whose error is not in the intervals."""
    reached = galaxy_graph().descendants(*(each.node for each in do))
    known = sorted(engine.mechanisms.taken_as_known & reached)
    if not known:
        return ()
    return (f"intervals hold no error of the learned mechanism of {', '.join(known)}",)


def _abduct(
    engine: SpectralEngine, spectrum: GridSpectrum, draws: int, seed: int
) -> tuple[SpectralPosterior, float, list[str]]:
    """Posterior, chi-square with the noise as stated, and warnings."""
    warnings = []
    known = spectrum.redshift
    redshift = None if known is None else torch.tensor([known], dtype=torch.float64)
    ivar = spectrum.ivar
    posterior = engine.abduct(spectrum.flux, ivar, draws=draws, seed=seed, redshift=redshift)
    chi_square = float(posterior.chi_square[0])
    if chi_square > float(largest_chi_square(ivar)[0]):
        posterior = engine.abduct(
            spectrum.flux, ivar / chi_square, draws=draws, seed=seed, redshift=redshift
        )
        warnings.append(
            f"the best fit has chi-square {chi_square:.2f} per pixel: noise is taken to be "
            f"{math.sqrt(chi_square):.2f} times as large"
        )
    if not bool(posterior.reliable[0]):
        warnings.append("the posterior is poorly sampled: intervals are rough")
    return posterior, chi_square, warnings


def _confidence(flux: Tensor) -> float:
    middle = flux.median(dim=0).values
    return float(((flux / middle - 1).abs() <= TOLERANCE).double().mean())


def _laws(
    engine: SpectralEngine, *states: tuple[Mapping[str, Tensor], Tensor]
) -> dict[str, tuple[float, float]]:
    first, second = (law_residuals(engine.decoder, values, flux) for values, flux in states)
    return {law: (_rms(first[law]), _rms(second[law])) for law in first}


def _rms(residual: Tensor) -> float:
    return float(residual.double().square().mean().sqrt())
