"""Totals of encrypted planes, summed by whoever holds the public key.

Belongs here: the homomorphic total of a plane and the plaintext total it must equal.
Does not belong here: element-wise arithmetic (`cipher_tensor`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acie_native import CipherArray, limbs_to_ints
from acie_pipelines.crypto.cipher_planes import CipherPlane, CipherTile, check_key, cipher_plane
from acie_pipelines.crypto.cipher_tensor import CipherTensor
from acie_pipelines.crypto.kept import KeptCiphertexts, check_ciphertexts
from acie_pipelines.crypto.keys import PaillierPrivateKey, PaillierPublicKey
from acie_pipelines.crypto.packing import PackingLayout, encode_fixed_point
from acie_pipelines.crypto.plaintexts import exact_weights
from acie_pipelines.errors import CryptoError
from acie_pipelines.provenance import Manifest
from acie_pipelines.storage import Store
from acie_pipelines.tiling.reading import iter_tiles

__all__ = [
    "EncryptedTotal",
    "RunningTotal",
    "fixed_point_tile_totals",
    "fixed_point_total",
    "homomorphic_total",
    "tile_total",
]


@dataclass(frozen=True, eq=False)
class EncryptedTotal:
    """Total of a plane in a few ciphertexts, each the sum of as many rows as guard bits allow.

    Attributes
    ----------
    public_key, layout
        Of the plane.
    ciphertexts
        ``uint64[parts, limbs]``, re-randomised.
    weights
        Sum of the absolute weights of the rows that were added up in each part.
    """

    public_key: PaillierPublicKey
    layout: PackingLayout
    ciphertexts: NDArray[np.uint64]
    weights: tuple[int, ...]

    def decrypt(self, private_key: PaillierPrivateKey) -> int:
        """Decrypt to the exact total.

        Returns
        -------
        int
            In units of `PackingLayout.quantum`.

        Raises
        ------
        CryptoError
            If the key is another one, or the plaintexts are not sums of this many rows.
        """
        if private_key.public_key != self.public_key:
            raise CryptoError(
                f"total under key {self.public_key.key_id}",
                f"cannot be decrypted with key {private_key.key_id}",
                "take the key of that id from the vault",
            )
        width, slots = self.layout.slot_bits, self.layout.slots_per_plaintext
        total = 0
        plaintexts = limbs_to_ints(private_key.context.decrypt(self.ciphertexts))
        for plaintext, weight in zip(plaintexts, self.weights, strict=True):
            remaining = int(plaintext)
            for _ in range(slots):
                slot = remaining & ((1 << width) - 1)
                remaining >>= width
                if slot > weight << self.layout.value_bits:
                    raise self._corrupt()
                total += slot - (weight << (self.layout.value_bits - 1))
            if remaining:
                raise self._corrupt()
        return total

    def _corrupt(self) -> CryptoError:
        return CryptoError(
            f"total under key {self.public_key.key_id}",
            "decrypts to a number that no such sum can be",
            "verify the ciphertexts and sum them again",
        )


class RunningTotal:
    """Sum of many rows of packed ciphertexts, in as few parts as guard bits allow.

    Parameters
    ----------
    public_key, layout
        Of the ciphertexts.
    """

    def __init__(self, public_key: PaillierPublicKey, layout: PackingLayout) -> None:
        self._public_key, self._layout = public_key, layout
        self._parts: list[CipherArray] = []
        self._weights: list[int] = []

    def add(self, rows: CipherArray, weight: int = 1) -> None:
        """Add fresh ciphertexts, each times a weight.

        Raises
        ------
        CryptoError
            If the weight is zero or larger than the guard bits allow.
        """
        limit = self._layout.maximum_weight
        if not 0 < abs(weight) <= limit:
            raise CryptoError(
                f"weight {weight} under key {self._public_key.key_id}",
                f"is zero or needs more than the {limit.bit_length()} guard bits",
                "leave out what has no weight; round others, as in numpy.rint(weights * 64) / 64",
            )
        step, slots = limit // abs(weight), self._layout.slots_per_plaintext
        for start in range(0, len(rows), step):
            taken = np.arange(start, min(start + step, len(rows)))
            kept = KeptCiphertexts.of_array(rows.take(taken).sum(len(taken)), self._public_key)
            if weight != 1:
                # Tensors keep the biases of slots right, also for negative weights.
                tensor = CipherTensor(self._public_key, self._layout, (slots,), kept, len(taken))
                kept = (tensor * weight).kept
            self._append(kept.array, len(taken) * abs(weight))

    def merge(self, total: EncryptedTotal) -> None:
        """Add another total of the same key and layout.

        Raises
        ------
        CryptoError
            If key or layout differ.
        """
        if (total.public_key, total.layout) != (self._public_key, self._layout):
            raise CryptoError(
                f"total under key {total.public_key.key_id}",
                f"has another key or layout than the sum under key {self._public_key.key_id}",
                "add up totals of one plane",
            )
        loaded = self._public_key.context.load(total.ciphertexts)
        for number, weight in enumerate(total.weights):
            self._append(loaded.take(np.array([number])), weight)

    def total(self, *, weight_bits: int = 0) -> EncryptedTotal:
        """Give the sum so far, re-randomised.

        Parameters
        ----------
        weight_bits
            The weights were in units of ``2^-weight_bits``.

        Raises
        ------
        CryptoError
            If nothing was added.
        """
        if not self._parts:
            raise CryptoError("total", "has no terms", "add at least one tile")
        joined = CipherArray.concatenate(self._parts).store()
        totals = self._public_key.context.rerandomise(joined)
        bits = self._layout.fractional_bits + weight_bits
        layout = replace(self._layout, fractional_bits=bits)
        return EncryptedTotal(self._public_key, layout, totals, tuple(self._weights))

    def _append(self, summed: CipherArray, weight: int) -> None:
        if self._weights and self._weights[-1] + weight <= self._layout.maximum_weight:
            self._parts[-1] = self._parts[-1].add(summed)
            self._weights[-1] += weight
        else:
            self._parts.append(summed)
            self._weights.append(weight)


def homomorphic_total(
    store: Store,
    ciphertexts: Manifest,
    plane: str,
    public_key: PaillierPublicKey,
    *,
    weights: Sequence[float] | NDArray[Any] | None = None,
) -> EncryptedTotal:
    """Sum all values of a plane without decrypting any; invalid samples count as 0.

    Parameters
    ----------
    store, ciphertexts
        Dataset of kind ``ciphertexts``; every row read is checked against its hash.
    plane
        Name of the plane.
    public_key
        Key it is encrypted under.
    weights
        One number per tile that its values are multiplied by, exactly; 1 by default. Weights that
        need more bits give finer scales and fewer rows to a part.

    Raises
    ------
    IntegrityError
        If ciphertexts are not those that were written.
    CryptoError
        If the key is another one, a ciphertext is invalid, there is not one weight per tile, all
        are zero, or one is larger than the guard bits allow.
    """
    check_key(ciphertexts, public_key)
    encrypted = cipher_plane(ciphertexts, plane)
    count = len(encrypted.tiles)
    integers, bits = exact_weights(np.ones(count, dtype=np.int64) if weights is None else weights)
    if integers.shape != (count,) or not integers.any():
        raise CryptoError(
            f"weights of {ciphertexts.prefix}/{plane}",
            f"are not {count} numbers, not all of them zero",
            "give one weight per tile",
        )
    running = RunningTotal(public_key, encrypted.layout)
    for tile, weight in zip(encrypted.tiles, integers.tolist(), strict=True):
        if weight:
            rows = encrypted.read_rows(store, ciphertexts, tile)
            check_ciphertexts(rows, public_key)
            running.add(public_key.context.load(rows), weight)
    return running.total(weight_bits=bits)


def tile_total(
    store: Store,
    ciphertexts: Manifest,
    plane: CipherPlane,
    tile: CipherTile,
    public_key: PaillierPublicKey,
) -> EncryptedTotal:
    """Sum the values of one tile without decrypting any; see `homomorphic_total`."""
    rows = plane.read_rows(store, ciphertexts, tile)
    check_ciphertexts(rows, public_key)
    running = RunningTotal(public_key, plane.layout)
    running.add(public_key.context.load(rows))
    return running.total()


def fixed_point_tile_totals(
    store: Store, tiles: Manifest, plane: str, layout: PackingLayout
) -> tuple[int, ...]:
    """Compute from plaintext tiles what `tile_total` must decrypt to; see `fixed_point_total`."""
    totals = []
    for _, pixels in iter_tiles(store, tiles, plane):
        clean = pixels if pixels.dtype.kind != "f" else pixels[np.isfinite(pixels)]
        integers = encode_fixed_point(clean, layout)
        # Two halves of 32 bits cannot overflow int64 below 2^31 samples.
        high, low = integers >> 32, integers & 0xFFFFFFFF
        totals.append((int(high.sum()) << 32) + int(low.sum()))
    return tuple(totals)


def fixed_point_total(store: Store, tiles: Manifest, plane: str, layout: PackingLayout) -> int:
    """Compute the total that `EncryptedTotal.decrypt` must give, from the plaintext tiles.

    Parameters
    ----------
    store, tiles
        Dataset of kind ``tiles``.
    plane
        Name of the plane.
    layout
        Its layout in the ``ciphertexts`` dataset.
    """
    return sum(fixed_point_tile_totals(store, tiles, plane, layout))
