"""What is known about encrypted numbers without decrypting them.

Belongs here: scales, bounds and errors of the numbers between layers, and rounding of weights.
Does not belong here: layers (`layers`), ciphertexts (`acie_pipelines.crypto`).
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.crypto.packing import MAXIMUM_VALUE_BITS, value_bits_for
from acie_pipelines.errors import ModelError

__all__ = ["MAXIMUM_WEIGHT_BITS", "Signal", "quantised", "rounded_bias"]

MAXIMUM_WEIGHT_BITS: Final = 32
# Bounds are sums of float64 products; this covers their rounding.
_SLACK: Final = 1 + 1e-9


@dataclass(frozen=True)
class Signal:
    """An array of encrypted fixed-point numbers, as far as it is public.

    An integer k stands for ``k / (divisor 2^fractional_bits)``.

    Attributes
    ----------
    shape
        Of one sample.
    fractional_bits, divisor
        Scale; the divisor is what averages leave undone.
    value_bits
        Width of the numbers that were encrypted, in two's complement.
    weight
        Sum of absolute weights of what met in a number; integers stay within
        ``weight 2^(value_bits - 1)``.
    bound
        Greatest absolute integer; at most what `weight` allows.
    error
        Greatest distance between a number and what real arithmetic without rounding gives.
    """

    shape: tuple[int, ...]
    fractional_bits: int
    value_bits: int
    bound: int
    error: float
    divisor: int = 1
    weight: int = 1

    def __post_init__(self) -> None:
        if not (
            self.shape
            and min(self.shape) > 0
            and self.divisor > 0
            and 2 <= self.value_bits <= MAXIMUM_VALUE_BITS
            and self.weight >= 1
            and 0 <= self.bound <= self.weight << (self.value_bits - 1)
            and 0 <= self.error < math.inf
        ):
            raise ModelError("signal", f"{asdict(self)} is not valid", "make it with Signal.inputs")

    @classmethod
    def inputs(
        cls,
        shape: tuple[int, ...],
        *,
        maximum: float,
        fractional_bits: int,
        exact: bool = False,
    ) -> "Signal":
        """Describe numbers that the data owner encrypts.

        Parameters
        ----------
        shape
            Of one sample.
        maximum
            Greatest absolute value.
        fractional_bits
            Scale they are rounded to.
        exact
            They are multiples of the scale; others will be refused instead of rounded.

        Raises
        ------
        ModelError
            If they need more than 62 bits.
        """
        if not 0 < maximum < math.inf:
            raise ModelError("inputs", f"cannot reach {maximum}", "give their greatest value")
        bits = value_bits_for(maximum, fractional_bits)
        if bits > MAXIMUM_VALUE_BITS:
            raise ModelError("inputs", f"need {bits} bits", "use fewer fractional bits")
        error = 0.0 if exact else math.ldexp(0.5, -fractional_bits)
        bound = round(math.ldexp(maximum, fractional_bits))
        return cls(shape, fractional_bits, bits, bound, error)

    @property
    def unit(self) -> float:
        """What an integer of 1 stands for."""
        return math.ldexp(1.0, -self.fractional_bits) / self.divisor

    @property
    def size(self) -> int:
        """Numbers in a sample."""
        return math.prod(self.shape)

    def after(
        self,
        weights: NDArray[np.int64],
        bias: NDArray[np.object_],
        *,
        shape: tuple[int, ...],
        fractional_bits: int,
        divisor: int,
        error: float,
    ) -> "Signal":
        """Describe what a matrix of integers and an added vector make of this.

        Parameters
        ----------
        weights
            Shape ``(m, k)``; every number of the result is one of its rows times `k` numbers.
        bias
            Shape ``(m,)``.
        shape
            Of the result.
        fractional_bits, divisor
            Scale of the weights.
        error
            Of the result.
        """
        half = self.value_bits - 1
        sums = np.abs(weights.astype(object)).sum(axis=1)
        added = np.abs(bias)
        return Signal(
            shape,
            self.fractional_bits + fractional_bits,
            self.value_bits,
            int((self.bound * sums + added).max()),
            error * _SLACK,
            self.divisor * divisor,
            max(1, int((self.weight * sums - (-added >> half)).max())),
        )

    def to_json(self) -> dict[str, Any]:
        """Fields as a JSON object."""
        return asdict(self) | {"shape": list(self.shape)}

    @classmethod
    def from_json(cls, fields: Any) -> "Signal":
        """Read what `to_json` wrote.

        Raises
        ------
        ModelError
            If it is something else.
        """
        try:
            shape = tuple(fields["shape"])
            numbers = (*shape, *(v for k, v in fields.items() if k not in ("shape", "error")))
            if not all(type(number) is int for number in numbers):
                raise TypeError("numbers are not integers")
            return cls(**{**fields, "shape": shape, "error": float(fields["error"])})
        except (TypeError, KeyError, ValueError, AttributeError, OverflowError) as error:
            raise ModelError("signal", f"is malformed ({error})", "take another copy") from error


def quantised(weights: NDArray[Any], weight_bits: int) -> tuple[NDArray[np.int64], int]:
    """Round weights to signed integers of a width times a power of two, half to even.

    Parameters
    ----------
    weights
        Finite numbers of any shape.
    weight_bits
        Width in two's complement, 2 to 32.

    Returns
    -------
    integers
        ``int64`` of the same shape.
    fractional_bits
        The integers are weights times 2 to this.

    Raises
    ------
    ModelError
        If a weight is not finite or the width is not allowed.
    """
    values = np.asarray(weights, dtype=np.float64)
    if not np.isfinite(values).all() or not values.size:
        raise ModelError("weights", "are not finite or there are none", "train the model again")
    if not 2 <= weight_bits <= MAXIMUM_WEIGHT_BITS:
        raise ModelError(
            f"weights of {weight_bits} bits", "are not allowed", f"use 2 to {MAXIMUM_WEIGHT_BITS}"
        )
    limit = (1 << (weight_bits - 1)) - 1
    largest = float(np.abs(values).max())
    if largest == 0.0:
        return np.zeros(values.shape, dtype=np.int64), 0
    bits = weight_bits - 1 - math.frexp(largest)[1]
    while abs(round(math.ldexp(largest, bits))) > limit:
        bits -= 1
    return np.rint(np.ldexp(values, bits)).astype(np.int64), bits


def rounded_bias(bias: NDArray[Any], unit_bits: int, divisor: int) -> NDArray[np.object_]:
    """Round numbers to integers of a scale, as Python integers of any size.

    Parameters
    ----------
    bias
        Finite numbers.
    unit_bits, divisor
        An integer k stands for ``k / (divisor 2^unit_bits)``.

    Raises
    ------
    ModelError
        If a number is not finite.
    """
    values = np.asarray(bias, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ModelError("bias", "is not finite", "train the model again")
    exact = []
    for value in values.tolist():
        numerator, denominator = float(value).as_integer_ratio()
        numerator *= divisor << max(0, unit_bits)
        exact.append(_divide(numerator, denominator << max(0, -unit_bits)))
    return np.array(exact, dtype=object)


def _divide(numerator: int, denominator: int) -> int:
    """Nearest integer to a quotient."""
    return (2 * numerator + denominator) // (2 * denominator)
