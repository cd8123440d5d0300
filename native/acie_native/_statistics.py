"""Statistics of one image tile in a few passes.

Belongs here: the typed result and the checks of `tile_statistics`.
Does not belong here: aggregation over tiles.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from acie_native import _kernels
from acie_native._arrays import check_layout, describe
from acie_native._dispatch import chosen_isa

__all__ = ["TileStatistics", "tile_statistics"]

PIXEL_KINDS = ("f4", "f8", "u1", "i2", "u2", "i4", "u4", "i8")


@dataclass(frozen=True)
class TileStatistics:
    """Statistics of the finite, valid pixels of a tile, in the unit of the pixels.

    Attributes
    ----------
    count
        Finite, valid pixels.
    invalid_count
        All others.
    minimum, maximum
        Extremes: integers for integer pixels, NaN if `count` is 0.
    mean
        Mean, NaN if `count` is 0.
    variance
        Population variance, NaN if `count` is 0.
    total
        Sum: an exact integer for integer pixels, compensated to twice the precision of a double
        before the last rounding otherwise; 0 if `count` is 0.
    background
        Median after sigma clipping, NaN if `count` is 0.
    background_rms
        Standard deviation after sigma clipping, NaN if `count` is 0.
    """

    count: int
    invalid_count: int
    minimum: float
    maximum: float
    mean: float
    variance: float
    total: float
    background: float
    background_rms: float


def tile_statistics(
    pixels: npt.NDArray[Any],
    *,
    clip_sigma: float = 3.0,
    clip_iterations: int = 5,
    valid: npt.NDArray[np.uint8] | npt.NDArray[np.bool_] | None = None,
    isa: str | None = None,
) -> TileStatistics:
    """Measure a tile.

    Clipping is that of ``astropy.stats.sigma_clipped_stats`` with median and standard deviation.

    Parameters
    ----------
    pixels
        Two-dimensional, C-contiguous, native byte order: float32, float64, uint8, int16, uint16,
        int32, uint32 or int64.
    clip_sigma
        Clipping threshold in standard deviations.
    clip_iterations
        Most clipping rounds; 0 for no clipping.
    valid
        Mask of the same shape, true (not 0) where a pixel counts.
    isa
        Instruction set path, see `CpuFeatures`; the chosen one by default. All give the same bits.

    Returns
    -------
    TileStatistics
        Of the pixels that are finite and valid.
    """
    if not isinstance(pixels, np.ndarray) or pixels.dtype.str[1:] not in PIXEL_KINDS:
        raise ValueError(f"pixels have an unsupported type, {describe(pixels)}")
    if not pixels.dtype.isnative:
        raise ValueError("pixels must have native byte order; use astype")
    if pixels.ndim != 2:
        raise ValueError(f"pixels must be two-dimensional, got shape {list(pixels.shape)}")
    check_layout(pixels, "pixels")
    if not clip_sigma > 0 or clip_iterations < 0:
        raise ValueError("clip_sigma must be positive and clip_iterations not negative")
    fields = _kernels.tile_statistics(
        pixels.dtype.str[1:],
        pixels.reshape(-1).view(np.uint8),
        None if valid is None else _checked_mask(valid, pixels.shape),
        pixels.size,
        clip_sigma,
        clip_iterations,
        chosen_isa(isa),
    )
    count, minimum, maximum, total, mean, variance, background, background_rms = fields
    return TileStatistics(
        count=count,
        invalid_count=pixels.size - count,
        minimum=minimum,
        maximum=maximum,
        mean=mean,
        variance=variance,
        total=total,
        background=background,
        background_rms=background_rms,
    )


def _checked_mask(
    valid: npt.NDArray[np.uint8] | npt.NDArray[np.bool_], shape: tuple[int, ...]
) -> npt.NDArray[np.uint8]:
    if not isinstance(valid, np.ndarray) or valid.dtype not in (np.uint8, np.bool_):
        raise ValueError(f"valid must be a bool or uint8 array, got {describe(valid)}")
    if valid.shape != shape or not valid.flags.c_contiguous:
        raise ValueError(f"valid must be C-contiguous with shape {list(shape)}")
    return valid.reshape(-1).view(np.uint8)
