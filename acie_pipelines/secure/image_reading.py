"""Reading images that were computed under encryption, as their owner.

Belongs here: decryption of differences and co-additions, and FITS files of the result.
Does not belong here: making them (`encrypted_images`).
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.crypto.cipher_planes import CipherTile, check_key, cipher_plane, verified_rows
from acie_pipelines.crypto.kept import check_ciphertexts
from acie_pipelines.crypto.keys import PaillierPrivateKey
from acie_pipelines.crypto.packing import unpack_bits
from acie_pipelines.crypto.tile_decryption import decrypt_tile
from acie_pipelines.provenance import Manifest, read_manifest
from acie_pipelines.secure.encrypted_images import COADD
from acie_pipelines.storage import Store, atomic_writer
from acie_pipelines.tiling.reading import plane_record

if TYPE_CHECKING:
    from astropy.io.fits import Header

__all__ = ["decrypt_coadd", "write_fits"]

_BLOCK = 2880


def decrypt_coadd(
    store: Store, manifest: Manifest, private_key: PaillierPrivateKey, tile: int
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Decrypt one tile of a co-addition.

    Parameters
    ----------
    store, manifest
        Dataset of kind ``encrypted_coadd``.
    private_key
        Key it is encrypted under.
    tile
        Index of the tile in storage order.

    Returns
    -------
    total : NDArray
        Weighted sum of the valid samples, ``int64`` in units of the layout's quantum.
    weight : NDArray
        Sum of the weights of the epochs whose sample is valid, ``int64`` in units of
        ``2^-weight_bits`` (in the manifest).

    Raises
    ------
    IntegrityError
        If ciphertexts are not those that were written.
    CryptoError
        If the key is another one.
    """
    check_key(manifest, private_key.public_key)
    (record,) = manifest.attributes["planes"]
    plane = cipher_plane(manifest, record["name"])
    place = plane.tiles[tile]
    tensor = plane.read_tensor(store, manifest, place, private_key.public_key)
    total = tensor.decrypt_integers(private_key)
    weight = np.zeros(place.shape, dtype=np.int64)
    regions = {(o.path, o.region[0]): o.sha256 for o in manifest.outputs if o.region is not None}
    for epoch in record["epochs"]:
        if epoch["validity"] is None:
            weight += epoch["weight"]
            continue
        path, start, stop = epoch["validity"][tile]
        sha256 = regions.get((path, (start, stop)))
        rows = verified_rows(store, manifest, path, (start, stop), sha256)
        check_ciphertexts(rows, private_key.public_key)
        plain = private_key.context.decrypt(rows)
        valid = unpack_bits(plain, total.size, key_bits=private_key.public_key.bits)
        weight += epoch["weight"] * valid.reshape(place.shape).astype(np.int64)
    return total, weight


def write_fits(
    store: Store, manifest: Manifest, plane: str, private_key: PaillierPrivateKey, path: Path
) -> None:
    """Decrypt an image tile by tile into a FITS file, in constant memory; it appears whole.

    A co-addition is two images: ``SUM``, the weighted sum of valid samples, and ``WEIGHT``, the sum
    of their weights. Others are one, with NaN where a sample is invalid.

    Parameters
    ----------
    store, manifest
        Dataset of kind ``ciphertexts``, ``encrypted_difference`` or ``encrypted_coadd``.
    plane
        Name of the plane.
    private_key
        Key of the dataset.
    path
        The file; one of that name is replaced.

    Raises
    ------
    IntegrityError
        If ciphertexts are not those that were written; there is no file then.
    CryptoError
        If the key is another one.
    StorageError
        If the file cannot be written.
    """
    from astropy.io import fits

    encrypted = cipher_plane(manifest, plane)
    (record,) = (p for p in manifest.attributes["planes"] if p["name"] == plane)
    shape = tuple(record["shape"]) if record["shape"][0] > 1 else tuple(record["shape"][1:])
    summed = manifest.kind == COADD
    names = ("SUM", "WEIGHT") if summed else ("IMAGE",)
    whole = encrypted.dtype.kind != "f" and not summed
    dtype = np.dtype(">i8" if whole else ">f8")
    with atomic_writer(path) as handle:
        starts = []
        for number, name in enumerate(names):
            cards: list[tuple[str, Any]]
            cards = [("XTENSION", "IMAGE")] if number else [("SIMPLE", True)]
            cards += [("BITPIX", 64 if whole else -64), ("NAXIS", len(shape))]
            cards += [(f"NAXIS{axis}", length) for axis, length in enumerate(shape[::-1], start=1)]
            cards += [("PCOUNT", 0), ("GCOUNT", 1)] if number else []
            header = fits.Header([*cards, ("EXTNAME", name)])
            header.update(_world_coordinates(store, manifest, plane))
            if record["unit"] and name != "WEIGHT":
                header["BUNIT"] = record["unit"]
            header.add_history(f"decrypted from {manifest.prefix}")
            handle.write(header.tostring().encode("ascii"))
            starts.append(handle.tell())
            size = int(np.prod(shape)) * dtype.itemsize
            handle.truncate(starts[-1] + -(-size // _BLOCK) * _BLOCK)
            handle.seek(0, 2)
        handle.flush()
        maps = [np.memmap(handle, dtype, "r+", start, tuple(record["shape"])) for start in starts]
        for place, parts in _decrypted(store, manifest, plane, private_key):
            window = (
                place.channel,
                slice(place.y0, place.y1),
                slice(place.x0, place.x1),
            )
            for image, part in zip(maps, parts, strict=True):
                image[window] = part
        for image in maps:
            image.flush()


def _decrypted(
    store: Store, manifest: Manifest, plane: str, private_key: PaillierPrivateKey
) -> Iterator[tuple[CipherTile, tuple[NDArray[Any], ...]]]:
    (record,) = (p for p in manifest.attributes["planes"] if p["name"] == plane)
    encrypted = cipher_plane(manifest, plane)
    for number, place in enumerate(encrypted.tiles):
        if manifest.kind != COADD:
            yield place, (decrypt_tile(store, manifest, private_key, plane, number),)
            continue
        total, weight = decrypt_coadd(store, manifest, private_key, number)
        unit = 2.0 ** -record["weight_bits"]
        yield place, (total * encrypted.layout.quantum, weight * unit)


def _world_coordinates(store: Store, manifest: Manifest, plane: str) -> "Header":
    """Read the world coordinates of the first observation that an image was made of."""
    from astropy.io import fits

    while manifest.kind != "tiles":
        used = manifest.inputs[0]
        manifest = read_manifest(store, used.kind, used.key, used.generation)
    return fits.Header.fromstring(plane_record(manifest, plane)["wcs"] or "")
