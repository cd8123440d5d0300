"""Entropy of a vector distribution, as a monitor of collapse.

Belongs here: whitening, projections and error bars around the native spacing estimate.
Does not belong here: thresholds, or what to do about a collapse.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from acie_native import _kernels
from acie_native._arrays import describe

__all__ = ["EntropyEstimate", "distribution_entropy"]

# Order statistics from the middle to either end of a gap.
WINDOW = 8
GAUSSIAN_NATS = 0.5 * math.log(2 * math.pi * math.e)


@dataclass(frozen=True)
class EntropyEstimate:
    """Upper bound on a differential entropy.

    Attributes
    ----------
    nats
        The estimate; minus infinity if the samples fill no volume.
    standard_error
        Of `nats`, from the finite number of samples and projections; NaN if `nats` is infinite.
    """

    nats: float
    standard_error: float


def distribution_entropy(
    samples: npt.NDArray[np.float32], *, projections: int = 64, seed: int = 0
) -> EntropyEstimate:
    """Estimate the differential entropy of a vector distribution from above.

    The entropy of a Gaussian of the same covariance, less what the whitened samples lack to be
    Gaussian along the axes of random orthonormal bases, averaged over the bases. In each basis
    that is no less than the joint entropy, as the entropies of parts sum to at least that of the
    whole (Cover and Thomas 2006, "Elements of Information Theory", theorem 8.6.2). It is exact for
    Gaussians. It falls without limit both when samples collapse onto a subspace (the covariance
    becomes singular) and when they collapse onto modes that some projection tells apart.

    Along one axis the estimate is that of Vasicek 1976 ("A test for normality based on sample
    entropy", J. R. Stat. Soc. B 38, 54) with gaps of up to 16 order statistics; from the log of
    every gap comes off its mean for uniform samples, digamma(k) - digamma(n + 1), as the gap
    follows a beta distribution there. So it is unbiased for a uniform distribution at every n; the
    log determinant is corrected by its mean for Gaussian samples (Misra, Singh and Demchuk 2005,
    "Estimation of the entropy of a multivariate normal distribution", J. Multivar. Anal. 92, 324).

    Parameters
    ----------
    samples
        ``float32[n, d]``, finite, with n > d and n > 16.
    projections
        Axes to project on, rounded up to whole bases of d.
    seed
        Of the bases; the same seed always gives the same bases.

    Returns
    -------
    EntropyEstimate
        In nats, for samples in their own units.

    Raises
    ------
    ValueError
        If the array has another type or form, or holds a NaN or an infinity.

    Notes
    -----
    The standard error adds the sampling variance of the mean log density to the variance between
    projections over their number. What bias is left comes from the curvature of the density across
    a gap. Measured on Gaussians, in nats: under 0.005 in one dimension at n = 200 (error bar 0.05),
    0.01 in 64 dimensions at n = 1000 (error bar 0.19); no error bar was too narrow by more than a
    quarter. For other distributions the bound itself is loose: 1.4 nats for the uniform
    distribution in a cube of 8 dimensions.
    """
    if not isinstance(samples, np.ndarray) or samples.dtype != np.float32:
        raise ValueError(f"samples must be a float32 array, got {describe(samples)}")
    if samples.ndim != 2 or samples.shape[1] < 1:
        raise ValueError(f"samples must have shape [count, dimensions], got {list(samples.shape)}")
    count, dimensions = samples.shape
    if count <= max(dimensions, 2 * WINDOW) or count > np.iinfo(np.uint32).max:
        raise ValueError(
            f"{count} samples are too few or too many for {dimensions} dimensions; "
            f"give more than {max(dimensions, 2 * WINDOW)}"
        )
    if projections < 1:
        raise ValueError(f"projections must be at least 1, got {projections}")
    if not np.isfinite(samples).all():
        raise ValueError("samples hold a NaN or an infinity")
    whitened = _whitened(samples)
    if whitened is None:
        return EntropyEstimate(-math.inf, math.nan)
    centered, whitening, half_log_determinant = whitened
    axes = _orthonormal_bases(dimensions, -(-projections // dimensions), seed)
    values = np.ascontiguousarray((whitening @ axes).T @ centered.T, dtype=np.float32)
    entropies = np.empty(len(values))
    surprisal = np.empty(count)
    _kernels.spacing_entropies(values, WINDOW, _mean_log_gaps(count), entropies, surprisal)
    if not np.isfinite(entropies).all():
        return EntropyEstimate(-math.inf, math.nan)
    # Projections have unit variance in the sample, not in the distribution.
    degrees = count - 1
    unit_variance = 0.5 * (_digamma(degrees / 2) - math.log(degrees / 2))
    lack = GAUSSIAN_NATS - (entropies + unit_variance)
    nats = dimensions * (GAUSSIAN_NATS - lack.mean()) + half_log_determinant
    per_sample = dimensions / len(values) * surprisal
    variance = per_sample.var() / count + dimensions**2 * lack.var() / len(values)
    return EntropyEstimate(float(nats), math.sqrt(variance))


def _whitened(
    samples: npt.NDArray[np.float32],
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], float] | None:
    """Center samples; find what makes their covariance unity, and half its log determinant."""
    count, dimensions = samples.shape
    centered = samples - samples.mean(axis=0, dtype=np.float64)
    scale = np.sqrt(np.einsum("ij,ij->j", centered, centered) / (count - 1))
    if not scale.all():
        return None
    centered /= scale
    spread, directions = np.linalg.eigh(centered.T @ centered / (count - 1))
    if spread[0] <= dimensions * np.finfo(np.float64).eps:
        return None
    degrees = (count - np.arange(1, dimensions + 1)) / 2
    bias = sum(_digamma(each) for each in degrees) - dimensions * math.log((count - 1) / 2)
    half_log_determinant = np.log(scale).sum() + 0.5 * (np.log(spread).sum() - bias)
    return centered, directions / np.sqrt(spread), float(half_log_determinant)


def _orthonormal_bases(dimensions: int, bases: int, seed: int) -> npt.NDArray[np.float64]:
    """Draw uniformly random orthonormal bases, side by side as columns."""
    rng = np.random.default_rng(seed)
    turned = [np.linalg.qr(rng.standard_normal((dimensions, dimensions)))[0] for _ in range(bases)]
    return np.concatenate(turned, axis=1)


def _mean_log_gaps(count: int) -> npt.NDArray[np.float64]:
    whole = _digamma(count + 1)
    return np.array([math.nan, *(_digamma(k) - whole for k in range(1, 2 * WINDOW + 1))])


def _digamma(x: float) -> float:
    """Logarithmic derivative of the gamma function, x > 0.

    Recurrence up to 10, then the asymptotic series: NIST DLMF 5.5.2 and 5.11.2.
    """
    result = 0.0
    while x < 10:
        result -= 1 / x
        x += 1
    inverse = 1 / (x * x)
    series = 1 / 12 - inverse * (
        1 / 120 - inverse * (1 / 252 - inverse * (1 / 240 - inverse / 132))
    )
    return result + math.log(x) - 0.5 / x - inverse * series
