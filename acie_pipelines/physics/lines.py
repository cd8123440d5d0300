"""Equivalent widths of emission lines from one galaxy spectrum.

Belongs here: the line fit. Does not belong here: file formats, flag conventions of a survey, or
what is done with the widths.

A group of neighbouring lines is fitted at once: a straight continuum through the side bands and the
line window, and one Gaussian per line, all with one velocity width and one velocity offset. For
given width and offset the model is linear, so weighted least squares gives amplitudes and their
covariance exactly; width and offset are searched on a grid and refined by Newton steps. Weak lines
leave the width undetermined and would take it from noise, so a weak prior holds it near what
emission lines of SDSS galaxies have.

The widths are net of stellar absorption: Balmer lines come out smaller than in catalogues that
subtract a stellar template first (MPA-JHU: Tremonti et al. 2004, ApJ 613, 898,
doi:10.1086/423264). Under [O III] the continuum of old stars is uneven by about 0.5 Angstrom of
equivalent width, which the stated errors do not include.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.physics.constants import (
    LINE_WAVELENGTHS_ANGSTROM,
    O_II_3726_WAVELENGTH_ANGSTROM,
    SPEED_OF_LIGHT_KM_S,
)

__all__ = ["LINE_GROUPS", "LineGroup", "measure_equivalent_widths"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LineGroup:
    """Lines fitted together, and the rest wavelengths used for it.

    Attributes
    ----------
    lines
        Name to vacuum wavelength [Angstrom]; names that are no catalogue node are fitted only.
    blue, red
        Continuum side bands [Angstrom].
    """

    lines: Mapping[str, float]
    blue: tuple[float, float]
    red: tuple[float, float]


def _lines(*names: str) -> dict[str, float]:
    return {name: LINE_WAVELENGTHS_ANGSTROM[name] for name in names}


# The bands avoid the other lines of the list, He I 4389 and 5017, [O III] 4364 and the strong
# stellar features near them (CN and Ca at 3750, the G band below 4320).
LINE_GROUPS: Final = (
    LineGroup(
        {"o_ii_3726": O_II_3726_WAVELENGTH_ANGSTROM} | _lines("o_ii_3729"),
        (3690.0, 3715.0),
        (3740.0, 3765.0),
    ),
    LineGroup(_lines("h_gamma"), (4318.0, 4331.0), (4350.0, 4360.0)),
    LineGroup(_lines("h_beta"), (4820.0, 4845.0), (4880.0, 4920.0)),
    LineGroup(_lines("o_iii_4959", "o_iii_5007"), (4920.0, 4945.0), (5025.0, 5060.0)),
    LineGroup(_lines("n_ii_6548", "h_alpha", "n_ii_6584"), (6490.0, 6530.0), (6605.0, 6650.0)),
    LineGroup(_lines("s_ii_6717", "s_ii_6731"), (6670.0, 6700.0), (6750.0, 6790.0)),
)

# Total widths seen in SDSS, instrument included: 70 km/s resolution to broad narrow-line regions.
_LOG_WIDTH_GRID: Final = np.log(np.geomspace(60.0, 500.0, 12))
_OFFSET_GRID_KM_S: Final = np.linspace(-150.0, 150.0, 9)
_LOWEST: Final = np.array([np.log(50.0), -250.0])
_HIGHEST: Final = np.array([np.log(600.0), 250.0])
# Finite-difference steps and the largest Newton move, in (log width, km/s).
_STEPS: Final = np.array([0.02, 2.0])
_MAX_MOVE: Final = np.array([0.15, 30.0])
_NEWTON_STEPS: Final = 8
_CONVERGED: Final = 0.02  # in units of the steps
_STARTS: Final = 3
# Prior: width 120 km/s within a factor 1.6; offset of gas against the pipeline redshift 60 km/s.
_LOG_WIDTH_PRIOR: Final = MappingProxyType({"mean": float(np.log(120.0)), "sigma": 0.47})
_OFFSET_PRIOR_KM_S: Final = 60.0

_CORE_SIGMAS: Final = 2.5
_REFERENCE_WIDTH_KM_S: Final = 120.0
_MIN_GOOD_CORE: Final = 0.7
_MIN_SIDE_PIXELS: Final = 6
_MIN_CONTINUUM_SNR: Final = 3.0


@dataclass(frozen=True)
class _Fit:
    """Solution at one width and offset."""

    objective: float
    widths: Array
    covariance: Array
    continuum_snr: Array


def _design(rest: Array, group: LineGroup, log_width: float, offset_km_s: float) -> Array:
    centres = np.array(list(group.lines.values())) * (1 + offset_km_s / SPEED_OF_LIGHT_KM_S)
    sigma = centres * np.exp(log_width) / SPEED_OF_LIGHT_KM_S
    pivot = float(np.mean(list(group.lines.values())))
    profiles = np.exp(-0.5 * ((rest[:, None] - centres) / sigma) ** 2)
    profiles /= np.sqrt(2 * np.pi) * sigma
    return np.column_stack([np.ones_like(rest), rest - pivot, profiles])


def _solve(
    rest: Array, flux: Array, ivar: Array, group: LineGroup, log_width: float, offset_km_s: float
) -> _Fit:
    """Weighted linear least squares; ``widths`` are line flux over continuum [Angstrom]."""
    design = _design(rest, group, log_width, offset_km_s)
    weighted = design * ivar[:, None]
    covariance = np.linalg.inv(design.T @ weighted)
    solution = covariance @ (weighted.T @ flux)
    residual = flux - design @ solution
    lines = np.array(list(group.lines.values()))
    # d(continuum at each line) / d(solution), then d(area / continuum) / d(solution).
    at_lines = np.zeros((lines.size, solution.size))
    at_lines[:, 0] = 1.0
    at_lines[:, 1] = lines - lines.mean()
    continuum = at_lines @ solution
    with np.errstate(divide="ignore", invalid="ignore"):  # no continuum: the caller drops the line
        widths = solution[2:] / continuum
        per_continuum = 1.0 / continuum
        jacobian = -(widths * per_continuum)[:, None] * at_lines
    jacobian[:, 2:] += np.diag(per_continuum)
    continuum_error = np.sqrt(np.einsum("ij,jk,ik->i", at_lines, covariance, at_lines))
    prior = ((log_width - _LOG_WIDTH_PRIOR["mean"]) / _LOG_WIDTH_PRIOR["sigma"]) ** 2
    prior += (offset_km_s / _OFFSET_PRIOR_KM_S) ** 2
    return _Fit(
        float(residual @ (ivar * residual) + prior),
        widths,
        jacobian @ covariance @ jacobian.T,
        continuum / continuum_error,
    )


def _fit_group(rest: Array, flux: Array, ivar: Array, group: LineGroup) -> _Fit:
    """Best fit of a group, its covariance widened by that of width and offset."""

    def solve(log_width: float, offset_km_s: float) -> _Fit:
        return _solve(rest, flux, ivar, group, log_width, offset_km_s)

    grid = np.array([[solve(w, o).objective for o in _OFFSET_GRID_KM_S] for w in _LOG_WIDTH_GRID])
    # A doublet as wide as its separation can nearly be fitted with its lines exchanged, which is a
    # second valley along the offset: the best offsets are all refined before one is chosen.
    columns = np.argsort(grid.min(axis=0))[:_STARTS]
    starts = [
        np.array([_LOG_WIDTH_GRID[grid[:, column].argmin()], _OFFSET_GRID_KM_S[column]])
        for column in columns
    ]
    refined = [_descend(solve, start) for start in starts]
    point, shape_covariance = min(refined, key=lambda found: solve(*found[0]).objective)
    fit = solve(*point)
    slopes = np.column_stack(
        [
            (solve(*(point + step)).widths - solve(*(point - step)).widths) / (2 * step.sum())
            for step in np.diag(_STEPS)
        ]
    )
    covariance = fit.covariance + slopes @ shape_covariance @ slopes.T
    return _Fit(fit.objective, fit.widths, covariance, fit.continuum_snr)


def _descend(solve: Callable[[float, float], _Fit], start: Array) -> tuple[Array, Array]:
    """Newton's method with halved steps; returns (log width, offset) and their covariance."""
    point = start
    # Without curvature (line lost in the noise) the uncertainty is that of the prior.
    covariance = np.diag([_LOG_WIDTH_PRIOR["sigma"], _OFFSET_PRIOR_KM_S]) ** 2
    for _ in range(_NEWTON_STEPS):
        gradient, hessian = _derivatives(solve, point)
        values, vectors = np.linalg.eigh(hessian * np.outer(_STEPS, _STEPS))
        if values.min() > 0:
            covariance = 2.0 * np.linalg.inv(hessian)
        # Absolute eigenvalues turn a saddle's Newton step into one that descends.
        descent = vectors @ ((vectors.T @ (gradient * _STEPS)) / np.maximum(np.abs(values), 1e-12))
        move = np.clip(-descent * _STEPS, -_MAX_MOVE, _MAX_MOVE)
        here = solve(*point).objective
        while np.abs(move / _STEPS).max() > _CONVERGED:
            target = np.clip(point + move, _LOWEST, _HIGHEST)
            if solve(*target).objective < here:
                point = target
                break
            move = move / 2
        else:
            break
    return point, covariance


def _derivatives(solve: Callable[[float, float], _Fit], point: Array) -> tuple[Array, Array]:
    """Gradient and Hessian of the objective by central differences."""
    value = np.array(
        [[solve(*(point + _STEPS * (i, j))).objective for j in (-1, 0, 1)] for i in (-1, 0, 1)]
    )
    gradient = np.array([value[2, 1] - value[0, 1], value[1, 2] - value[1, 0]]) / (2 * _STEPS)
    mixed = (value[2, 2] - value[2, 0] - value[0, 2] + value[0, 0]) / 4
    second = np.array(
        [
            [value[2, 1] - 2 * value[1, 1] + value[0, 1], mixed],
            [mixed, value[1, 2] - 2 * value[1, 1] + value[1, 0]],
        ]
    )
    return gradient, second / np.outer(_STEPS, _STEPS)


def _core_coverage(rest: Array, good: NDArray[np.bool_], centre: float) -> float:
    """Good pixels within the core of a line over the pixels a full core would have."""
    half = _CORE_SIGMAS * centre * _REFERENCE_WIDTH_KM_S / SPEED_OF_LIGHT_KM_S
    inside = np.abs(rest - centre) <= half
    if not inside.any() or rest[0] > centre - half or rest[-1] < centre + half:
        return 0.0
    return float(good[inside].mean())


def measure_equivalent_widths(
    wavelength: NDArray[Any],
    flux: NDArray[Any],
    ivar: NDArray[Any],
    redshift: float,
    mask: NDArray[np.bool_] | None = None,
) -> dict[str, tuple[float, float]]:
    """Measure the rest-frame equivalent width of every line of the catalogue.

    Parameters
    ----------
    wavelength
        Observed wavelength in vacuum [Angstrom], increasing, shape ``(n,)``.
    flux, ivar
        Flux density per Angstrom in any unit, and its inverse variance, shape ``(n,)``.
    redshift
        Of the galaxy; the gas may move against it by up to about 200 km/s.
    mask
        True where a pixel must not be used.

    Returns
    -------
    dict[str, tuple[float, float]]
        Name to (equivalent width, standard error), both in Angstrom, positive in emission; NaN
        where the line is not covered, is masked, or the continuum is not detected.
    """
    rest = np.asarray(wavelength, dtype=np.float64) / (1.0 + redshift)
    flux64 = np.asarray(flux, dtype=np.float64)
    weight = np.asarray(ivar, dtype=np.float64)
    good = np.isfinite(flux64) & np.isfinite(weight) & (weight > 0)
    if mask is not None:
        good &= ~mask
    missing = (float("nan"), float("nan"))
    result = dict.fromkeys(LINE_WAVELENGTHS_ANGSTROM, missing)
    for group in LINE_GROUPS:
        bands = [good & (rest >= low) & (rest <= high) for low, high in (group.blue, group.red)]
        covered = [_core_coverage(rest, good, c) >= _MIN_GOOD_CORE for c in group.lines.values()]
        if min(int(band.sum()) for band in bands) < _MIN_SIDE_PIXELS or not all(covered):
            continue
        used = good & (rest >= group.blue[0]) & (rest <= group.red[1])
        fit = _fit_group(rest[used], flux64[used], weight[used], group)
        errors = np.sqrt(np.diag(fit.covariance))
        for index, name in enumerate(group.lines):
            if name in result and fit.continuum_snr[index] >= _MIN_CONTINUUM_SNR:
                result[name] = (float(fit.widths[index]), float(errors[index]))
    return result
