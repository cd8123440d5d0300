"""Which encrypted values a tensor holds, and choosing among them.

Belongs here: the fields of a tensor, its bounds, and everything that only moves ciphertexts.
Does not belong here: arithmetic (`tensor_arithmetic`), encryption (`cipher_tensor`).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from acie_native import CipherArray
from acie_pipelines.crypto.kept import KeptCiphertexts
from acie_pipelines.crypto.keys import PaillierPublicKey
from acie_pipelines.crypto.packing import PackingLayout
from acie_pipelines.errors import CryptoError

__all__ = ["UNPACK", "TensorSelection"]

# How to do what packed tensors refuse.
UNPACK = "encrypt with unpacked_layout, one value per ciphertext"
_WIDER = "encrypt with a layout for more additions, or narrower values"


@dataclass(frozen=True, eq=False)
class TensorSelection:
    """Fields and selection of `acie_pipelines.crypto.cipher_tensor.CipherTensor`.

    Attributes
    ----------
    public_key
        Key it is encrypted under.
    layout
        Slots and scale.
    shape
        Shape of the plaintext array.
    kept
        The ciphertexts, of C order.
    weight
        Sum of absolute weights of everything added up in a value; 1 when fresh. Stored integers
        stay within ``weight * 2^(value_bits - 1)``.
    """

    public_key: PaillierPublicKey
    layout: PackingLayout
    shape: tuple[int, ...]
    kept: KeptCiphertexts
    weight: int = 1

    # Without this, iteration would take rows until an IndexError.
    __iter__: ClassVar[None] = None

    def __post_init__(self) -> None:
        self.layout.check_key(self.public_key.bits)
        rows = self.layout.rows(self.size)
        if len(self.kept) != rows:
            raise self._refusal(
                f"has {len(self.kept)} ciphertexts where its shape needs {rows}",
                "read it with the shape it was encrypted with",
            )
        self._checked_weight(self.weight)

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def bound(self) -> int:
        """Largest absolute value that a stored integer can have."""
        return self.weight << (self.layout.value_bits - 1)

    @property
    def ciphertexts(self) -> NDArray[np.uint64]:
        """Contiguous little-endian limbs, ``uint64[rows, limbs]``; not to be written to."""
        return self.kept.rows

    def reshape(self, *shape: int) -> Self:
        """Give the same values another shape, in C order; -1 stands for what is left."""
        return replace(self, shape=np.broadcast_to(np.int8(0), self.shape).reshape(shape).shape)

    def __getitem__(self, key: Any) -> Self:
        """Select values as NumPy does; packed ones by whole ciphertexts along the first axis."""
        if not self.layout.packed:
            return self._taken(self._grid()[key])
        inner = math.prod(self.shape[1:])
        slots = self.layout.slots_per_plaintext
        if isinstance(key, slice) and self.shape:
            start, stop, step = key.indices(self.shape[0])
            ends = stop * inner % slots == 0 or stop == self.shape[0]
            if step == 1 and start <= stop and start * inner % slots == 0 and ends:
                rows = np.arange(start * inner // slots, self.layout.rows(stop * inner))
                return self._made(self.kept.array.take(rows), shape=(stop - start, *self.shape[1:]))
        if isinstance(key, tuple):
            raise self._refusal("packed values can be selected along the first axis only", UNPACK)
        grid = self._grid()
        chosen = np.arange(self.shape[0])[key]
        rows = np.ascontiguousarray(grid[chosen]).reshape(-1)
        shape = np.shape(chosen) + self.shape[1:]
        return self._made(self.kept.array.take(rows), shape=shape)

    @classmethod
    def concatenate(cls, tensors: Sequence[Self]) -> Self:
        """Join tensors of one key, layout and weight along the first axis.

        Raises
        ------
        CryptoError
            If there is none, they do not match, or packed ones do not fill whole ciphertexts.
        """
        if not tensors:
            raise CryptoError("concatenation", "has no tensors", "give at least one tensor")
        first = tensors[0]
        for tensor in tensors:
            for name, mine, theirs in (
                ("keys", first.public_key, tensor.public_key),
                ("layouts", first.layout, tensor.layout),
                ("weights", first.weight, tensor.weight),
                ("shapes of rows", first.shape[1:], tensor.shape[1:]),
            ):
                if mine != theirs:
                    raise first._mismatch(name, mine, theirs)
            tensor._grid()
        joined = CipherArray.concatenate([tensor.kept.array for tensor in tensors])
        length = sum(tensor.shape[0] for tensor in tensors)
        return first._made(joined, shape=(length, *first.shape[1:]))

    def rerandomised(self) -> Self:
        """Make ciphertexts that cannot be linked to these; do so before they leave."""
        rows = self.public_key.context.rerandomise(self.ciphertexts)
        return replace(self, kept=KeptCiphertexts.of_rows(rows, self.public_key))

    def _made(
        self,
        array: CipherArray,
        *,
        layout: PackingLayout | None = None,
        weight: int | None = None,
        shape: tuple[int, ...] | None = None,
    ) -> Self:
        return type(self)(
            self.public_key,
            layout or self.layout,
            self.shape if shape is None else shape,
            KeptCiphertexts.of_array(array, self.public_key),
            self.weight if weight is None else weight,
        )

    def _grid(self) -> NDArray[np.int64]:
        """Numbers of ciphertexts: of every value, or of the parts of every packed row."""
        if not self.layout.packed:
            return np.arange(self.size).reshape(self.shape)
        inner, slots = math.prod(self.shape[1:]), self.layout.slots_per_plaintext
        if not self.shape or inner % slots:
            raise self._refusal(
                f"rows of {inner} values share ciphertexts of {slots}",
                f"{UNPACK}, or make rows a multiple of {slots} values",
            )
        return np.arange(len(self.kept)).reshape(self.shape[0], inner // slots)

    def _taken(self, grid: NDArray[np.int64]) -> Self:
        indices = np.ascontiguousarray(grid).reshape(-1)
        return self._made(self.kept.array.take(indices), shape=np.shape(grid))

    def _broadcast(self, shape: tuple[int, ...]) -> Self:
        return self if shape == self.shape else self._taken(np.broadcast_to(self._grid(), shape))

    def _transposed(self) -> Self:
        if self.layout.packed:
            raise self._refusal("packed values cannot be transposed", UNPACK)
        return self._taken(self._grid().T)

    def _checked_weight(self, weight: int, layout: PackingLayout | None = None) -> int:
        limit = (layout or self.layout).maximum_weight
        if not 1 <= weight <= limit:
            raise self._refusal(
                f"values of weight {weight} could overflow guard bits made for {limit}", _WIDER
            )
        return weight

    def _mismatch(self, name: str, mine: object, theirs: object) -> CryptoError:
        return self._refusal(
            f"the operands have different {name}, {mine} and {theirs}", "encrypt both alike"
        )

    def _refusal(self, reason: str, fix: str) -> CryptoError:
        return CryptoError(f"tensor under key {self.public_key.key_id}", reason, fix)
