"""Linear layers with integer weights, for ciphertexts and for plain integers.

Belongs here: the layers, how they are rounded from real weights, and folding them into one matrix.
Does not belong here: chains of layers and who may do what (`models`), where weights come from
(`features`, `split_inference`).

Both evaluations of a layer give the same integers, always. What separates them from the real
layer is the rounding of inputs, weights and additions, which `Signal.error` bounds.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.crypto.cipher_tensor import CipherTensor
from acie_pipelines.errors import CryptoError, ModelError
from acie_pipelines.secure.signals import Signal, quantised, rounded_bias
from acie_pipelines.secure.windows import Meeting, Window

__all__ = ["Layer", "SecureAveragePool", "SecureConv2d", "SecureLinear", "folded"]

# Ciphertexts gathered for one product: 50 MB under a key of 3072 bits.
_GATHERED: Final = 1 << 16
_INT64_LIMIT: Final = 1 << 63
_FLOAT_LIMIT: Final = 1 << 53


class Layer(Protocol):
    """What chains are made of."""

    @property
    def input(self) -> Signal:
        """What goes in."""

    @property
    def output(self) -> Signal:
        """What comes out."""

    def encrypted(self, tensor: CipherTensor) -> CipherTensor:
        """Evaluate ciphertexts."""

    def integers(self, values: NDArray[Any]) -> NDArray[Any]:
        """Evaluate plain integers."""

    def matrix(self) -> tuple[NDArray[np.int64], NDArray[np.object_]]:
        """Give the weights ``(outputs, inputs)`` and additions of the whole layer."""


@dataclass(frozen=True, eq=False)
class _MatrixLayer:
    """Rows of integer weights that meet numbers of the input.

    Attributes
    ----------
    input
        What goes in.
    weights
        ``int64[m, k]``, not to be written to.
    bias
        `m` Python integers in units of the result.
    fractional_bits, divisor
        Scale of the weights.
    error
        Greatest distance between a result and that of the real layer on real inputs.
    """

    input: Signal
    weights: NDArray[np.int64]
    bias: NDArray[np.object_]
    fractional_bits: int
    divisor: int
    error: float

    def __post_init__(self) -> None:
        self.weights.flags.writeable = False
        self.bias.flags.writeable = False
        if self.bias.shape != self.weights.shape[:1]:
            raise ModelError("layer", "needs one addition per row of weights", "give both alike")

    @cached_property
    def output(self) -> Signal:
        """What comes out."""
        return self.input.after(
            self.weights,
            self.bias,
            shape=self._output_shape,
            fractional_bits=self.fractional_bits,
            divisor=self.divisor,
            error=self.error,
        )

    @property
    def _output_shape(self) -> tuple[int, ...]:
        raise NotImplementedError

    def _meetings(self, limit: int) -> Iterable[Meeting]:
        raise NotImplementedError

    def encrypted(self, tensor: CipherTensor) -> CipherTensor:
        """Evaluate ciphertexts; nothing is re-randomised.

        Parameters
        ----------
        tensor
            Shape of `input` and an axis of samples that fills whole ciphertexts.

        Raises
        ------
        CryptoError
            If the tensor is not what `input` says, or a result could overflow its slot; nothing
            is computed then.
        """
        samples = self._checked_samples(tensor)
        per_value = samples // tensor.layout.slots_per_plaintext
        flat = tensor.reshape(self.input.size, samples)
        parts, places = [], []
        for meeting in self._meetings(_GATHERED // per_value):
            taken = flat[meeting.inputs.reshape(-1)].reshape(len(meeting.columns), -1)
            product = taken.affine(
                np.ascontiguousarray(self.weights[:, meeting.columns]),
                self.bias.tolist(),
                fractional_bits=self.fractional_bits,
                weight=self.output.weight,
            )
            parts.append(product.reshape(-1, samples))
            places.append(meeting.outputs.reshape(-1))
        joined = CipherTensor.concatenate(parts)[np.argsort(np.concatenate(places))]
        return joined.reshape(*self._output_shape, samples)

    def integers(self, values: NDArray[Any]) -> NDArray[Any]:
        """Evaluate plain integers, exactly.

        Parameters
        ----------
        values
            Integers in units of `input`: its shape and an axis of samples.

        Returns
        -------
        NDArray
            Integers in units of `output`; Python's where 64 bits may not do.

        Raises
        ------
        ModelError
            If the shape differs or a value is out of bounds.
        """
        largest = max(abs(int(values.min())), abs(int(values.max()))) if values.size else 0
        if values.shape[:-1] != self.input.shape or largest > self.input.bound:
            raise ModelError(
                f"values of shape {values.shape}",
                f"are not {self.input.shape} and samples, or beyond {self.input.bound}",
                "encode them as the model says",
            )
        samples = values.shape[-1]
        # Floats are exact below 2^53, and their products have the fast routines.
        small = self.output.bound < _FLOAT_LIMIT
        dtype = np.dtype(np.float64) if small else np.dtype(object)
        weights, flat = self.weights.astype(dtype), values.reshape(-1, samples).astype(dtype)
        result = np.empty((self.output.size, samples), dtype=dtype)
        for meeting in self._meetings(_GATHERED):
            taken = flat[meeting.inputs].reshape(len(meeting.columns), -1)
            product = weights[:, meeting.columns] @ taken + self.bias[:, None].astype(dtype)
            result[meeting.outputs.reshape(-1)] = product.reshape(-1, samples)
        exact = result.astype(np.int64) if self.output.bound < _INT64_LIMIT else result
        return exact.reshape(*self._output_shape, samples)

    def matrix(self) -> tuple[NDArray[np.int64], NDArray[np.object_]]:
        """Give the weights ``(outputs, inputs)`` and additions of the whole layer."""
        weights = np.zeros((self.output.size, self.input.size), dtype=np.int64)
        bias = np.zeros(self.output.size, dtype=object)
        for meeting in self._meetings(_GATHERED):
            for row, places in enumerate(meeting.outputs):
                weights[places, meeting.inputs] = self.weights[row, meeting.columns, None]
                bias[places] = self.bias[row]
        return weights, bias

    def _checked_samples(self, tensor: CipherTensor) -> int:
        subject = f"tensor under key {tensor.public_key.key_id}"
        samples = tensor.shape[-1] if len(tensor.shape) == len(self.input.shape) + 1 else 0
        if not samples or tensor.shape[:-1] != self.input.shape:
            raise CryptoError(
                subject,
                f"has shape {tensor.shape} where the layer takes {self.input.shape} and samples",
                "encrypt what the model asks for",
            )
        layout, scale = tensor.layout, (self.input.fractional_bits, self.input.value_bits)
        if (layout.fractional_bits, layout.value_bits) != scale:
            raise CryptoError(
                subject,
                f"holds {layout.value_bits} bits at a scale of 2^-{layout.fractional_bits} where "
                f"the layer takes {scale[1]} bits at 2^-{scale[0]}",
                "encrypt at the scale of the model",
            )
        if tensor.weight != self.input.weight:
            raise CryptoError(
                subject,
                f"has weight {tensor.weight} where the layer takes {self.input.weight}",
                "give the layer what the layer before it made",
            )
        if self.output.weight > layout.maximum_weight:
            raise CryptoError(
                subject,
                f"has guard bits for {layout.maximum_weight} where the layer needs "
                f"{self.output.weight}",
                "encrypt with the layout of the model",
            )
        return samples


@dataclass(frozen=True, eq=False)
class SecureLinear(_MatrixLayer):
    """All numbers of a sample times a matrix, plus a vector; the result has one axis."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights.ndim != 2 or self.weights.shape[1] != self.input.size:
            raise ModelError(
                f"weights of shape {self.weights.shape}",
                f"do not meet {self.input.size} inputs",
                "give a column per input",
            )

    @classmethod
    def quantise(
        cls, weights: NDArray[Any], bias: NDArray[Any], signal: Signal, *, weight_bits: int
    ) -> Self:
        """Round real weights.

        Parameters
        ----------
        weights
            Real, shape ``(m, inputs)``.
        bias
            Real, shape ``(m,)``.
        signal
            What goes in.
        weight_bits
            Width of the weights in two's complement, 2 to 32.

        Raises
        ------
        ModelError
            If shapes do not match or a number is not finite.
        """
        rounded, bits = quantised(weights, weight_bits)
        added = rounded_bias(bias, signal.fractional_bits + bits, signal.divisor)
        error = _error(np.asarray(weights, np.float64), rounded, bits, bias, added, signal)
        return cls(signal, rounded, added, bits, 1, error)

    @property
    def _output_shape(self) -> tuple[int, ...]:
        return self.weights.shape[:1]

    def _meetings(self, limit: int) -> Iterator[Meeting]:
        outputs, inputs = self.weights.shape
        yield Meeting(np.arange(inputs), np.arange(inputs)[:, None], np.arange(outputs)[:, None])


@dataclass(frozen=True, eq=False)
class SecureConv2d(_MatrixLayer):
    """Convolution of an image, as torch defines it.

    Attributes
    ----------
    window
        Geometry; the weights have a column per channel, row and column of the kernel.
    """

    window: Window

    def __post_init__(self) -> None:
        super().__post_init__()
        window = self.window
        if self.weights.ndim != 2 or self.weights.shape[1] != window.channels * window.kernel**2:
            raise ModelError("convolution", "has other weights than its kernel", "give both alike")
        if self.input.shape != (window.channels, window.height, window.width):
            raise ModelError("convolution", "has an input of another shape", "give both alike")

    @classmethod
    def quantise(
        cls,
        weights: NDArray[Any],
        bias: NDArray[Any],
        signal: Signal,
        *,
        weight_bits: int,
        stride: int = 1,
        padding: int = 0,
    ) -> Self:
        """Round real weights.

        Parameters
        ----------
        weights
            Real, shape ``(outputs, channels, kernel, kernel)``.
        bias
            Real, shape ``(outputs,)``.
        signal
            What goes in, of shape ``(channels, height, width)``.
        weight_bits
            Width of the weights in two's complement, 2 to 32.
        stride, padding
            In pixels along both axes; padding is zero.

        Raises
        ------
        ModelError
            If shapes do not match or a number is not finite.
        """
        if weights.ndim != 4 or weights.shape[2] != weights.shape[3] or len(signal.shape) != 3:
            raise ModelError(
                f"kernel of shape {weights.shape} on {signal.shape}",
                "is no square convolution",
                "give (outputs, channels, kernel, kernel) for (channels, height, width)",
            )
        channels, height, width = signal.shape
        window = Window(channels, height, width, weights.shape[2], stride, padding)
        flat = np.asarray(weights, np.float64).reshape(len(weights), -1)
        rounded, bits = quantised(flat, weight_bits)
        added = rounded_bias(bias, signal.fractional_bits + bits, signal.divisor)
        error = _error(flat, rounded, bits, bias, added, signal)
        return cls(signal, rounded, added, bits, 1, error, window)

    @property
    def _output_shape(self) -> tuple[int, ...]:
        return len(self.weights), *self.window.places

    def _meetings(self, limit: int) -> Iterator[Meeting]:
        return self.window.meetings(len(self.weights), limit)


@dataclass(frozen=True, eq=False)
class SecureAveragePool(_MatrixLayer):
    """Means over squares of an image: sums, with the division left to the scale.

    Attributes
    ----------
    window
        Geometry.
    """

    window: Window

    def __post_init__(self) -> None:
        super().__post_init__()
        window = self.window
        if self.weights.shape != (1, window.kernel**2) or (self.weights != 1).any():
            raise ModelError("average", "weighs some pixels more", "use a convolution")
        if self.input.shape != (window.channels, window.height, window.width):
            raise ModelError("average", "has an input of another shape", "give both alike")

    @classmethod
    def of(cls, signal: Signal, *, size: int, stride: int | None = None) -> Self:
        """Average squares of `size` pixels.

        Parameters
        ----------
        signal
            What goes in, of shape ``(channels, height, width)``.
        size
            Side of a square.
        stride
            Distance between squares; `size` by default.
        """
        if len(signal.shape) != 3:
            raise ModelError(
                f"average over {signal.shape}", "needs an image", "give (channels, height, width)"
            )
        channels, height, width = signal.shape
        window = Window(channels, height, width, size, stride or size, 0)
        twos = (size**2 & -(size**2)).bit_length() - 1
        ones, zero = np.ones((1, size**2), dtype=np.int64), np.zeros(1, dtype=object)
        return cls(signal, ones, zero, twos, size**2 >> twos, signal.error, window)

    @property
    def _output_shape(self) -> tuple[int, ...]:
        return self.window.channels, *self.window.places

    def _meetings(self, limit: int) -> Iterator[Meeting]:
        return self.window.meetings_by_channel(limit)


def folded(layers: Iterable[Layer]) -> SecureLinear:
    """Multiply a chain of layers into one matrix that gives the same integers.

    Parameters
    ----------
    layers
        At least one; each takes what the one before it makes. The matrix has a row per output and a
        column per input of the chain, so it suits small images.

    Raises
    ------
    ModelError
        If there is no layer or a weight does not fit 64 bits.
    """
    chain = list(layers)
    if not chain:
        raise ModelError("chain", "has no layers", "give at least one")
    first, last = chain[0], chain[-1]
    weights, bias = (part.astype(object) for part in first.matrix())
    for layer in chain[1:]:
        matrix, added = layer.matrix()
        exact = matrix.astype(object)
        weights, bias = exact @ weights, exact @ bias + added
    if np.abs(weights).max() >= _INT64_LIMIT:
        raise ModelError("chain", "has weights beyond 64 bits", "use fewer bits per layer")
    return SecureLinear(
        first.input,
        weights.astype(np.int64),
        bias,
        last.output.fractional_bits - first.input.fractional_bits,
        last.output.divisor // first.input.divisor,
        last.output.error,
    )


def _error(
    real: NDArray[np.float64],
    rounded: NDArray[np.int64],
    bits: int,
    bias: NDArray[Any],
    added: NDArray[np.object_],
    signal: Signal,
) -> float:
    """Bound the distance between rounded and real arithmetic, row by row."""
    weight_error = np.abs(real - np.ldexp(rounded.astype(np.float64), -bits)).sum(axis=1)
    unit = replace(signal, fractional_bits=signal.fractional_bits + bits).unit
    bias_error = np.abs(np.asarray(bias, np.float64) - added.astype(np.float64) * unit)
    rows = (
        np.abs(real).sum(axis=1) * signal.error
        + weight_error * (signal.bound * signal.unit)
        + bias_error
    )
    return float(rows.max())
