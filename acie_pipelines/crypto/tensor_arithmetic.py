"""Arithmetic on encrypted tensors.

Belongs here: operators, sums, scales, and the bounds that keep their results right.
Does not belong here: which ciphertexts hold which values (`tensor_selection`), encryption
(`cipher_tensor`).

A bound on every value is tracked, and what could overflow is refused before it happens. Nothing
that arithmetic returns is re-randomised: see `TensorSelection.rerandomised`.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from acie_native import ints_to_limbs
from acie_pipelines.crypto.packing import PackingLayout, encode_fixed_point
from acie_pipelines.crypto.plaintexts import absolute_sums, exact_weights, plaintext_rows
from acie_pipelines.crypto.tensor_selection import UNPACK, TensorSelection
from acie_pipelines.errors import CryptoError

__all__ = ["TensorArithmetic"]


class TensorArithmetic(TensorSelection):
    """Operators of `acie_pipelines.crypto.cipher_tensor.CipherTensor`."""

    # NumPy leaves operators between its arrays and tensors to the tensors.
    __array_ufunc__: ClassVar[None] = None

    def __add__(self, other: Any) -> Self:
        """Add a tensor, an array or a number, element by element."""
        if isinstance(other, TensorArithmetic):
            return self._add_tensor(other)
        return self._add_plain(other) if _is_number(other) else NotImplemented

    __radd__ = __add__

    def __sub__(self, other: Any) -> Self:
        """Subtract a tensor, an array or a number, element by element."""
        if isinstance(other, TensorArithmetic):
            return self._add_tensor(-other)
        return self._add_plain(np.negative(other)) if _is_number(other) else NotImplemented

    def __rsub__(self, other: Any) -> Self:
        """Subtract from an array or a number."""
        return -self + other if _is_number(other) else NotImplemented

    def __neg__(self) -> Self:
        """Change every sign."""
        return self * -1

    def __mul__(self, weights: Any) -> Self:
        """Multiply by a number, or an unpacked tensor by an array, element by element."""
        if not _is_number(weights):
            return NotImplemented
        integers, bits = exact_weights(weights)
        if not integers.any():
            # The zeroth power of any ciphertext is 1, which hides nothing.
            raise self._refusal("multiplication by zero", "encrypt an array of zeros instead")
        tensor, layout = self, self._scaled_layout(bits)
        if integers.ndim:
            if self.layout.packed:
                raise self._refusal("packed values cannot be weighted one by one", UNPACK)
            shape = np.broadcast_shapes(self.shape, integers.shape)
            tensor = self._broadcast(shape)
            integers = np.broadcast_to(integers, shape).reshape(-1)
        largest = max(abs(int(integers.min())), abs(int(integers.max())))
        total = tensor._checked_weight(largest * self.weight)
        factors = np.broadcast_to(integers, len(tensor.kept)).astype(np.int64)
        product = tensor.kept.array.scalar_mul(factors)
        if layout.packed and int(integers.min()) < 0:
            # A slot now holds -w(v + B) for a bias B per unit of weight. 2wB more makes it
            # w(-v + B): positive again, and of the weight w.
            product = product.add_plain(self._biases([2 * total], len(factors)))
        return tensor._made(product, layout=layout, weight=total)

    __rmul__ = __mul__

    def __rmatmul__(self, weights: Any) -> Self:
        """Multiply a public matrix ``[m, k]`` or vector ``[k]`` by this ``[k]`` or ``[k, c]``.

        A row of zeros gives ciphertexts that anyone can read: of 0, as the weights say.
        """
        if not _is_number(weights):
            return NotImplemented
        integers, bits = exact_weights(weights)
        layout, matrix = self._scaled_layout(bits), np.atleast_2d(integers)
        if integers.ndim not in (1, 2) or len(self.shape) not in (1, 2) or 0 in matrix.shape:
            raise self._refusal(
                f"weights of shape {integers.shape} times shape {self.shape} is no matrix product",
                "give a vector or matrix that is not empty, and reshape the tensor to one",
            )
        if matrix.shape[1] != self.shape[0] or self.size == 0:
            raise self._refusal(
                f"weights of shape {integers.shape} do not match shape {self.shape}",
                "the last axis of the weights meets the first of the tensor",
            )
        shape = integers.shape[:-1] + self.shape[1:]
        return self._affine(matrix, (0,) * len(matrix), layout, shape, 1)

    def affine(
        self,
        weights: NDArray[np.int64],
        bias: Sequence[int],
        *,
        fractional_bits: int = 0,
        weight: int = 1,
    ) -> Self:
        """Multiply a public integer matrix by this ``[k, c]`` and add a number to every row.

        Parameters
        ----------
        weights
            ``int64[m, k]``, in units of ``2^-fractional_bits``.
        bias
            `m` integers of any size, in units of the result.
        fractional_bits
            Scale of the weights.
        weight
            Least weight of the result; more is taken if the numbers need it.

        Returns
        -------
        Self
            ``[m, c]`` at the scale of values times weights.

        Raises
        ------
        CryptoError
            If the shapes do not match or the result could overflow; nothing is computed then.
        """
        matches = weights.ndim == 2 and len(self.shape) == 2 and weights.shape[1] == self.shape[0]
        empty = not (weights.size and self.size)
        if weights.dtype != np.int64 or not matches or empty or len(bias) != len(weights):
            raise self._refusal(
                f"weights of shape {weights.shape} and {len(bias)} additions do not match shape "
                f"{self.shape}",
                "give an int64 matrix with a column per row of the tensor",
            )
        layout = self._scaled_layout(fractional_bits)
        return self._affine(weights, bias, layout, (len(weights), *self.shape[1:]), weight)

    def _affine(
        self,
        matrix: NDArray[np.int64],
        bias: Sequence[int],
        layout: PackingLayout,
        shape: tuple[int, ...],
        least: int,
    ) -> Self:
        columns = self._grid().shape[1:] if layout.packed else self.shape[1:]
        needed = (
            self.weight * norm - (-abs(number) >> (layout.value_bits - 1))
            for norm, number in zip(absolute_sums(matrix), bias, strict=True)
        )
        total = self._checked_weight(max(least, *needed))
        product = self.kept.array.matmul(matrix)
        repeat = math.prod(columns)
        if layout.packed:
            # Row i carries the bias of its signed weights; fill up to that of the largest sum.
            missing = [total - self.weight * int(row.astype(object).sum()) for row in matrix]
            product = product.add_plain(self._biases(missing, repeat, bias))
        elif any(bias):
            limbs = self.public_key.context.plaintext_limbs
            residues = [number % self.public_key.n for number in bias]
            product = product.add_plain(np.repeat(ints_to_limbs(residues, limbs), repeat, axis=0))
        return self._made(product, layout=layout, weight=total, shape=shape)

    def __matmul__(self, weights: Any) -> Self:
        """Multiply this ``[k]`` or ``[r, k]`` by a public vector ``[k]`` or matrix ``[k, m]``."""
        if not _is_number(weights):
            return NotImplemented
        transposed = np.asarray(weights).T
        if len(self.shape) < 2:
            return self.__rmatmul__(transposed)
        product = self._transposed().__rmatmul__(transposed)
        return product._transposed() if transposed.ndim > 1 else product

    def sum(self, axis: int | tuple[int, ...] | None = None) -> Self:
        """Add up values along axes; all of them by default.

        Raises
        ------
        CryptoError
            If there is nothing to add, values to be added share ciphertexts, or could overflow.
        """
        axes = tuple(range(len(self.shape))) if axis is None else axis
        axes = np.lib.array_utils.normalize_axis_tuple(axes, len(self.shape))
        if self.layout.packed and axes != (0,):
            raise self._refusal("sums within packed ciphertexts need the private key", UNPACK)
        grid = self._grid()
        count = math.prod(self.shape[a] for a in axes)
        if self.size == 0:
            raise self._refusal("has no values to add", "sum an array that is not empty")
        total = self._checked_weight(count * self.weight)
        order = np.moveaxis(grid, axes, range(-len(axes), 0)) if axes else grid
        array = self.kept.array.take(np.ascontiguousarray(order).reshape(-1)).sum(count)
        shape = tuple(length for a, length in enumerate(self.shape) if a not in axes)
        return self._made(array, weight=total, shape=shape)

    @classmethod
    def sum_of(cls, tensors: Iterable[Self]) -> Self:
        """Sum tensors of one key, layout and shape, one at a time.

        Raises
        ------
        CryptoError
            If there is none, they do not match, or the sum could overflow.
        """
        total: Self | None = None
        for tensor in tensors:
            total = tensor if total is None else total + tensor
        if total is None:
            raise CryptoError("sum of tensors", "has no terms", "give at least one tensor")
        return total

    def at_scale(self, fractional_bits: int) -> Self:
        """Give the same values at a finer scale, exactly.

        Raises
        ------
        CryptoError
            If the scale is coarser, or the wider integers could overflow.
        """
        shift = fractional_bits - self.layout.fractional_bits
        if shift == 0:
            return self
        if not 0 < shift <= 62:
            raise self._refusal(
                f"a scale of 2^-{self.layout.fractional_bits} cannot become "
                f"2^-{fractional_bits} exactly",
                "encrypt at the finer scale",
            )
        layout = self._scaled_layout(shift)
        return replace(self * (1 << shift), layout=layout)

    def _add_tensor(self, other: "TensorArithmetic") -> Self:
        if self.public_key != other.public_key:
            raise self._mismatch("keys", self.public_key, other.public_key)
        bits = max(self.layout.fractional_bits, other.layout.fractional_bits)
        a, b = self.at_scale(bits), other.at_scale(bits)
        if a.layout.packed or b.layout.packed:
            for name, mine, theirs in (
                ("layouts", a.layout, b.layout),
                ("shapes", a.shape, b.shape),
            ):
                if mine != theirs:
                    raise self._mismatch(name, mine, theirs)
        try:
            shape = np.broadcast_shapes(a.shape, b.shape)
        except ValueError:
            raise self._mismatch("shapes", a.shape, b.shape) from None
        layout = a.layout if a.layout.value_bits >= b.layout.value_bits else b.layout
        weight = sum(-(-tensor.bound >> (layout.value_bits - 1)) for tensor in (a, b))
        a._checked_weight(weight, layout)
        added = a._broadcast(shape).kept.array.add(b._broadcast(shape).kept.array)
        return a._made(added, layout=layout, weight=weight, shape=shape)

    def _add_plain(self, plain: Any) -> Self:
        values = np.asarray(plain)
        if values.dtype.kind in "iu" and self.layout.fractional_bits:
            exact = values.astype(np.float64)
            if values.size and not (abs(exact) < 2**53).all():
                raise self._refusal("integers to add exceed 2^53", "give them as floats")
            values = exact
        integers = encode_fixed_point(values, self.layout)
        shape = np.broadcast_shapes(self.shape, integers.shape)
        if self.layout.packed and shape != self.shape:
            raise self._mismatch("shapes", self.shape, integers.shape)
        weight = self._checked_weight(self.weight + 1)
        integers = np.ascontiguousarray(np.broadcast_to(integers, shape))
        rows = plaintext_rows(integers, self.public_key, self.layout)
        added = self._broadcast(shape).kept.array.add_plain(rows)
        return self._made(added, weight=weight, shape=shape)

    def _scaled_layout(self, bits: int) -> PackingLayout:
        scale = self.layout.fractional_bits + bits
        try:
            return replace(self.layout, fractional_bits=scale)
        except CryptoError:
            raise self._refusal(
                f"a scale of 2^-{scale} overflows", "round the weights to fewer bits"
            ) from None

    def _biases(
        self, weights: list[int], repeat: int, extra: Iterable[int] = (0,)
    ) -> NDArray[np.uint64]:
        """Plaintexts whose every slot holds biases and a number, each so many times."""
        layout = self.layout
        ones = sum(1 << (i * layout.slot_bits) for i in range(layout.slots_per_plaintext))
        packed = [
            ones * ((weight << (layout.value_bits - 1)) + number)
            for weight, number in zip(weights, extra, strict=True)
        ]
        limbs = self.public_key.context.plaintext_limbs
        return np.repeat(ints_to_limbs(packed, limbs), repeat, axis=0)


def _is_number(value: Any) -> bool:
    if isinstance(value, np.ndarray | np.generic):
        return bool(value.dtype.kind in "iuf")
    return isinstance(value, int | float) and not isinstance(value, bool)
