"""Decryption of tiles, and the check that it gives back what was encrypted.

Belongs here: everything that turns a ``ciphertexts`` dataset into samples with the private key.
Does not belong here: arithmetic under encryption (`totals`).
"""

import random
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.crypto.cipher_planes import CipherPlane, CipherTile, check_key, cipher_plane
from acie_pipelines.crypto.kept import check_ciphertexts
from acie_pipelines.crypto.keys import PaillierPrivateKey
from acie_pipelines.crypto.packing import decode_fixed_point, unpack_bits
from acie_pipelines.errors import IntegrityError
from acie_pipelines.provenance import Manifest
from acie_pipelines.storage import Store
from acie_pipelines.tiling.reading import read_tile, tiles_of

__all__ = ["DecryptionCheck", "decrypt_tile", "verify_decryption"]


@dataclass(frozen=True)
class DecryptionCheck:
    """Outcome of `verify_decryption`.

    Attributes
    ----------
    tiles, values
        How many were decrypted and compared.
    worst_error_quanta
        Largest difference between a decrypted sample and its original, in units of the plane's
        quantum: 0 for integers, at most 0.5 for floats.
    """

    tiles: int
    values: int
    worst_error_quanta: float


def decrypt_tile(
    store: Store, manifest: Manifest, private_key: PaillierPrivateKey, plane: str, tile: int
) -> NDArray[Any]:
    """Decrypt one tile.

    Parameters
    ----------
    store, manifest
        Dataset of kind ``ciphertexts``.
    private_key
        Key it is encrypted under.
    plane
        Name of the plane.
    tile
        Index of the tile among the plane's tiles, in storage order.

    Returns
    -------
    NDArray
        Samples of the plane's dtype, shape ``(y1 - y0, x1 - x0)``; invalid ones are NaN.

    Raises
    ------
    IntegrityError
        If the plane or tile does not exist, or ciphertexts are not those that were written.
    CryptoError
        If the key is another one, or a ciphertext is invalid.
    """
    check_key(manifest, private_key.public_key)
    encrypted = cipher_plane(manifest, plane)
    if not 0 <= tile < len(encrypted.tiles):
        raise IntegrityError(
            f"{manifest.prefix}/{plane}",
            f"has no tile {tile}",
            f"choose one of 0 to {len(encrypted.tiles) - 1}",
        )
    return _decrypt(store, manifest, private_key, encrypted, encrypted.tiles[tile])


def _decrypt(
    store: Store,
    manifest: Manifest,
    private_key: PaillierPrivateKey,
    plane: CipherPlane,
    tile: CipherTile,
) -> NDArray[Any]:
    public_key = private_key.public_key
    tensor = plane.read_tensor(store, manifest, tile, public_key)
    integers = tensor.decrypt_integers(private_key)
    if plane.dtype.kind != "f":
        return integers.astype(plane.dtype)
    # Rounding a sample to a coarser grid never lengthens its mantissa: the cast is exact.
    samples = decode_fixed_point(integers, plane.layout).astype(plane.dtype)
    if not plane.has_validity:
        return samples
    rows = plane.read_rows(store, manifest, tile, validity=True)
    check_ciphertexts(rows, public_key)
    plaintexts = private_key.context.decrypt(rows)
    valid = unpack_bits(plaintexts, integers.size, key_bits=public_key.bits)
    samples[~valid.reshape(tile.shape)] = np.nan
    return samples


def verify_decryption(
    store: Store,
    ciphertexts: Manifest,
    tiles: Manifest,
    private_key: PaillierPrivateKey,
    sample: int | None,
) -> DecryptionCheck:
    """Decrypt tiles and compare every sample with its original.

    Parameters
    ----------
    store
        Holds both datasets.
    ciphertexts, tiles
        Datasets of these kinds, the first made from the second.
    private_key
        Key of the ciphertexts.
    sample
        How many tiles to compare, drawn at random over all planes; all of them if ``None``.

    Raises
    ------
    IntegrityError
        If the datasets do not belong together, or a sample differs: an integer at all, a float by
        more than half a quantum, or in being invalid.
    CryptoError
        If the key is another one, or a ciphertext is invalid.
    """
    check_key(ciphertexts, private_key.public_key)
    if tiles.digest not in {ref.digest for ref in ciphertexts.inputs}:
        raise IntegrityError(
            ciphertexts.prefix, f"was not made from {tiles.prefix}", "verify it with its own tiles"
        )
    planes = {
        record["name"]: cipher_plane(ciphertexts, record["name"])
        for record in ciphertexts.attributes["planes"]
    }
    pairs = [
        (original, encrypted)
        for name, plane in planes.items()
        for original, encrypted in zip(tiles_of(tiles, name), plane.tiles, strict=True)
    ]
    if sample is not None and sample < len(pairs):
        pairs = random.SystemRandom().sample(pairs, sample)
    values, worst = 0, 0.0
    for original, encrypted in pairs:
        plane = planes[original.plane]
        expected = read_tile(store, tiles, original)
        actual = _decrypt(store, ciphertexts, private_key, plane, encrypted)
        error = _worst_error_quanta(expected, actual, plane)
        if error is None:
            raise IntegrityError(
                f"{ciphertexts.prefix}/{plane.name}[{encrypted.channel}, "
                f"{encrypted.y0}:{encrypted.y1}, {encrypted.x0}:{encrypted.x1}]",
                "does not decrypt to the tile it was made from",
                "materialise the ciphertexts again",
            )
        worst = max(worst, error)
        values += expected.size
    return DecryptionCheck(len(pairs), values, worst)


def _worst_error_quanta(
    expected: NDArray[Any], actual: NDArray[Any], plane: CipherPlane
) -> float | None:
    """Largest error in quanta; ``None`` if it is more than rounding explains."""
    if expected.shape != actual.shape or expected.dtype != actual.dtype:
        return None
    if not plane.has_validity:
        return 0.0 if np.array_equal(expected, actual) else None
    valid = np.isfinite(expected)
    if not np.array_equal(valid, np.isfinite(actual)):
        return None
    differences = np.abs(actual[valid].astype(np.float64) - expected[valid].astype(np.float64))
    error = float(differences.max(initial=0.0)) / plane.layout.quantum
    return error if error <= 0.5 else None
