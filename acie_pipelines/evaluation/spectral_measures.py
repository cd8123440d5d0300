"""How right counterfactual spectra are, measured against the truth.

Belongs here: errors, coverage, calibration, effectiveness and the limits that a model must keep.
Does not belong here: models, problems or printing.
"""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

from acie_pipelines.models.intervals import central_interval

__all__ = [
    "LIMITS",
    "MassRegressor",
    "coverage",
    "law_residuals",
    "p_values_of_ranks",
    "pixel_error",
    "rank_p_values",
    "ranks",
    "violations",
]

_RANK_BINS: Final = 10
_COMPONENTS: Final = 24
_RIDGE: Final = 1e-4
# Draws whose laws are checked: each costs an integral over the whole spectrum.
_LAW_GALAXIES: Final = 1_000
_ENERGY_LOG_ANGSTROM: Final = (math.log(912.0), math.log(31_500.0))
_ENERGY_NODES: Final = 4_001

LIMITS: Final = MappingProxyType(
    {
        "error": (0.0, 0.5),
        "composition": (0.0, 0.1),
        "effectiveness_dex": (0.0, 0.02),
        "coverage": (0.88, 0.92),
        "rank_p_value": (0.01, 1.0),
    }
)
"""Smallest and largest value of each measure of a model that may be used: typical error [sigma per
pixel], error of doing nothing [sigma per pixel], error of the recovered do-value [dex], share of
the truth inside 90 % intervals, smallest corrected p-value of the ranks."""


def pixel_error(answer: Tensor, truth: Tensor, sigma: Tensor) -> Tensor:
    """Root mean square over pixels of error over noise, shape ``(n,)``.

    Parameters
    ----------
    answer, truth, sigma
        Flux densities and the noise that a spectrum like the truth would have, ``(n, pixels)``.
    """
    return ((answer - truth) / sigma).square().mean(dim=1).sqrt()


def coverage(draws: Tensor, truth: Tensor, share: float = 0.9) -> float:
    """Share of the truth inside central intervals of the draws.

    Parameters
    ----------
    draws
        Shape ``(draws, ...)``.
    truth
        Shape ``(...)``.
    share
        Probability inside an interval.

    Raises
    ------
    ConfigurationError
        If there are too few draws; see `acie_pipelines.models.intervals.central_interval`.
    """
    low, high = central_interval(draws, share)
    return float(((truth >= low) & (truth <= high)).double().mean())


def ranks(draws: Tensor, truth: Tensor, *, seed: int = 0) -> Tensor:
    """Count draws below the truth, shape ``(n,)``; ties are broken at random.

    Parameters
    ----------
    draws
        Shape ``(draws, n)``.
    truth
        Shape ``(n,)``.
    seed
        Of the lots that break ties.
    """
    generator = torch.Generator().manual_seed(seed)
    lot = torch.rand(len(truth), generator=generator, dtype=torch.float64)
    tied = (draws == truth).sum(dim=0)
    return (draws < truth).sum(dim=0) + (lot * (tied + 1)).long()


def rank_p_values(draws: Mapping[str, Tensor], truth: Mapping[str, Tensor]) -> dict[str, float]:
    """Test whether the ranks of the truth among the draws are uniform.

    Parameters
    ----------
    draws
        Variable to draws, shape ``(draws, n)``, as many of each.
    truth
        Variable to true values, shape ``(n,)``.

    Returns
    -------
    dict[str, float]
        See `p_values_of_ranks`.
    """
    found = {name: ranks(values, truth[name]) for name, values in draws.items()}
    return p_values_of_ranks(found, draws=len(next(iter(draws.values()))))


def p_values_of_ranks(found: Mapping[str, Tensor], *, draws: int) -> dict[str, float]:
    """Test whether ranks of the truth among draws are uniform.

    Simulation-based calibration: Talts et al. 2018, arXiv:1804.06788; a chi-square test on ten bins
    of as many ranks each as the number of ranks allows.

    Parameters
    ----------
    found
        Variable to ranks, from `ranks`, shape ``(n,)``.
    draws
        Number of draws; ranks are 0 to ``draws``.

    Returns
    -------
    dict[str, float]
        p-values after Holm's correction (1979, Scandinavian Journal of Statistics 6, 65) for the
        number of variables.
    """
    from scipy.stats import chisquare

    bins = torch.arange(draws + 1) * _RANK_BINS // (draws + 1)
    share = torch.bincount(bins, minlength=_RANK_BINS).double() / (draws + 1)
    raw = {}
    for name, values in found.items():
        counts = torch.bincount(bins[values.long()], minlength=_RANK_BINS).double()
        raw[name] = float(chisquare(counts.numpy(), (share * len(values)).numpy()).pvalue)
    corrected, worst = {}, 0.0
    for k, name in enumerate(sorted(raw, key=raw.__getitem__)):
        worst = max(worst, min(1.0, raw[name] * (len(raw) - k)))
        corrected[name] = worst
    return corrected


def law_residuals(values: Mapping[str, Tensor], flux: Tensor) -> dict[str, float]:
    """Largest deviation of galaxies and their spectra from physical laws.

    Parameters
    ----------
    values
        Every node, any one shape.
    flux
        Their flux densities.

    Returns
    -------
    dict[str, float]
        ``doublets``: [O III] and [N II] after the dust that the galaxy has is undone; ``balmer``:
        H gamma under the reddening of H alpha over H beta; ``energy``: light that dust emits over
        that which is missing between the Lyman limit and 3.1 micron, by an integral of its own;
        ``negative flux``: over the mean.
    """
    from acie_pipelines.physics import layers
    from acie_pipelines.physics.constants import N_II_6584_6548_RATIO, O_III_5007_4959_RATIO
    from acie_pipelines.simulation.dust import (
        R_V,
        STARS_OVER_GAS_REDDENING,
        calzetti_curve,
        transmission,
    )
    from acie_pipelines.simulation.light import PARAMETERS, GalaxyLight
    from acie_pipelines.simulation.presets import DEPARTURES

    light = GalaxyLight(DEPARTURES["none"])
    galaxies = {name: values[name].flatten().double()[:_LAW_GALAXIES] for name in PARAMETERS}
    observed = light.line_fluxes(galaxies)
    reddening = galaxies["attenuation"][:, None] / (R_V * STARS_OVER_GAS_REDDENING)
    emitted = observed / transmission(calzetti_curve(light.line_wavelengths * 1e-4), reddening)
    order = list(light.lines)
    seen = {name: observed[:, k] for k, name in enumerate(order)}
    line = {name: emitted[:, k] for k, name in enumerate(order)}
    doublets = torch.cat(
        [
            layers.doublet_residual(line["o_iii_5007"], line["o_iii_4959"], O_III_5007_4959_RATIO),
            layers.doublet_residual(line["n_ii_6584"], line["n_ii_6548"], N_II_6584_6548_RATIO),
        ]
    )
    balmer = layers.balmer_residual(seen["h_alpha"], seen["h_beta"], seen["h_gamma"])
    bare = {**galaxies, "attenuation": torch.zeros_like(galaxies["attenuation"])}
    rest = torch.exp(torch.linspace(*_ENERGY_LOG_ANGSTROM, _ENERGY_NODES, dtype=torch.float64))
    rest = rest.expand(len(galaxies["redshift"]), -1)
    missing = torch.trapezoid(light.continuum(rest, bare) - light.continuum(rest, galaxies), rest)
    missing = missing * (1 + galaxies["redshift"])
    missing = missing + (light.line_fluxes(bare) - observed).sum(dim=1)
    absorbed = missing / light.dilution(galaxies["redshift"])
    energy = layers.energy_residual(absorbed, light.absorbed_luminosity(galaxies))
    return {
        "doublets": float(doublets.abs().max()),
        "balmer": float(balmer.abs().max()),
        "energy": float(energy.abs().max()),
        "negative flux": float(layers.negative_flux(flux).max()),
    }


class MassRegressor:
    """Stellar mass from spectra without noise, by regression that knows no engine.

    Quadratic ridge regression on principal components of log flux.

    Parameters
    ----------
    flux
        Positive, shape ``(n, pixels)``.
    log_mass
        Shape ``(n,)``.
    """

    def __init__(self, flux: Tensor, log_mass: Tensor) -> None:
        log_flux = torch.log(flux)
        self.mean = log_flux.mean(dim=0)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            _, scale, basis = torch.pca_lowrank(log_flux - self.mean, _COMPONENTS, niter=4)
        self.basis = basis / scale * len(flux) ** 0.5
        features = self._features(flux)
        gram = features.T @ features + _RIDGE * len(flux) * torch.eye(features.shape[1]).double()
        self.coefficients = torch.linalg.solve(gram, features.T @ log_mass.double())

    def _features(self, flux: Tensor) -> Tensor:
        x = ((torch.log(flux.clamp_min(1e-30)) - self.mean) @ self.basis).double()
        rows, columns = torch.triu_indices(x.shape[1], x.shape[1])
        return torch.cat([torch.ones(len(x), 1).double(), x, x[:, rows] * x[:, columns]], dim=1)

    def __call__(self, flux: Tensor) -> Tensor:
        """Log of stellar mass [Msun], shape ``(n,)``."""
        log_mass: Tensor = self._features(flux) @ self.coefficients
        return log_mass


def violations(scores: Mapping[str, float]) -> list[str]:
    """Measures outside their limits, each in words; NaN is outside.

    Parameters
    ----------
    scores
        Some or all measures of `LIMITS`.
    """
    found = []
    for name, score in scores.items():
        low, high = LIMITS[name]
        if not low <= score <= high:
            found.append(f"{name} is {score:.3g}, outside [{low:g}, {high:g}]")
    return found
