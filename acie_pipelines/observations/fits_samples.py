"""From stored FITS samples to values: BSCALE, BZERO, BLANK and byte order.

Belongs here: the arithmetic of the FITS standard on sample values.
Does not belong here: where the samples are stored.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.errors import UnreadableObservationError

__all__ = ["Scaling", "scaling_from_header"]

_STORED: dict[int, np.dtype[Any]] = {
    8: np.dtype("u1"),
    16: np.dtype("<i2"),
    32: np.dtype("<i4"),
    64: np.dtype("<i8"),
    -32: np.dtype("<f4"),
    -64: np.dtype("<f8"),
}
# FITS has no unsigned 16, 32 or 64-bit type; an offset of half the range stands for one.
_UNSIGNED: dict[tuple[int, int], np.dtype[Any]] = {
    (8, -128): np.dtype("i1"),
    (16, 1 << 15): np.dtype("<u2"),
    (32, 1 << 31): np.dtype("<u4"),
    (64, 1 << 63): np.dtype("<u8"),
}


@dataclass(frozen=True)
class Scaling:
    """How stored samples become values.

    Attributes
    ----------
    stored
        Little-endian dtype of the stored samples.
    dtype
        Little-endian dtype of the values.
    scale, zero
        ``value = stored * scale + zero``.
    blank
        Stored integer that means "no value", or ``None``.
    """

    stored: np.dtype[Any]
    dtype: np.dtype[Any]
    scale: float = 1.0
    zero: float = 0.0
    blank: int | None = None

    @classmethod
    def of(cls, bitpix: int, scale: float, zero: float, blank: int | None) -> "Scaling":
        """Choose the value dtype for a BITPIX and its scaling."""
        stored = _STORED[bitpix]
        plain = scale == 1 and zero == 0
        if bitpix < 0:
            return cls(stored, stored, scale, zero)
        if blank is None and plain:
            return cls(stored, stored)
        if blank is None and scale == 1 and float(zero).is_integer():
            unsigned = _UNSIGNED.get((bitpix, int(zero)))
            if unsigned is not None:
                return cls(stored, unsigned, scale, zero)
        return cls(stored, _float_type(bitpix, scale, zero), scale, zero, blank)

    def apply(self, samples: NDArray[Any]) -> NDArray[Any]:
        """Turn stored samples into values.

        Parameters
        ----------
        samples
            Array of the stored type in either byte order; it may be overwritten.

        Returns
        -------
        ndarray
            Same shape, dtype `dtype`.
        """
        if not samples.dtype.isnative:
            if not samples.flags.writeable:
                samples = samples.copy()
            samples = samples.byteswap(inplace=True).view(samples.dtype.newbyteorder("="))
        if self.dtype.kind in "iu":
            if self.dtype == self.stored:
                return samples
            # Flipping the top bit is adding half the range, without leaving the type.
            top = np.array(1 << (8 * self.dtype.itemsize - 1), f"u{self.dtype.itemsize}")
            flipped: NDArray[Any] = np.bitwise_xor(samples.view(top.dtype), top)
            return flipped.view(self.dtype)
        missing = None if self.blank is None else samples == self.blank
        values = samples.astype(self.dtype, copy=not samples.flags.writeable)
        if self.scale != 1:
            values *= self.dtype.type(self.scale)
        if self.zero != 0:
            values += self.dtype.type(self.zero)
        if missing is not None:
            values[missing] = np.nan
        return values


def _float_type(bitpix: int, scale: float, zero: float) -> np.dtype[Any]:
    """float32 where its steps resolve every stored integer, else float64."""
    if bitpix > 16:
        return np.dtype("<f8")
    largest = abs(scale) * 2.0**bitpix + abs(zero)
    coarse = largest * 2.0**-23 > abs(scale) / 4
    return np.dtype("<f8") if coarse or largest > np.finfo("f4").max else np.dtype("<f4")


def scaling_from_header(path: Path, header: Any, bitpix: int) -> tuple[Scaling, str | None]:
    """Read BSCALE, BZERO and BLANK.

    Returns
    -------
    Scaling
        What to do with the samples.
    str or None
        A warning about a card that was ignored.

    Raises
    ------
    UnreadableObservationError
        If BSCALE or BZERO is not a finite number, or BSCALE is zero.
    """
    scale, zero = header.get("BSCALE", 1), header.get("BZERO", 0)
    for keyword, value in (("BSCALE", scale), ("BZERO", zero)):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or (keyword == "BSCALE" and value == 0):
            raise UnreadableObservationError(
                path, f"{keyword} = {value!r} cannot scale samples", "correct the header"
            )
    blank = header.get("BLANK")
    warning = None
    if blank is not None and (
        bitpix < 0 or isinstance(blank, bool) or not isinstance(blank, int | np.integer)
    ):
        warning = f"BLANK = {blank!r} is ignored for BITPIX = {bitpix}"
        blank = None
    return Scaling.of(bitpix, scale, zero, None if blank is None else int(blank)), warning
