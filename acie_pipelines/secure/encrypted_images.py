"""Images made of encrypted images: difference from a reference, co-addition of epochs.

Belongs here: datasets of images computed with the public key, and reading them with the private.
Does not belong here: sums (`statistics`), encryption of tiles (`acie_pipelines.crypto`).

All results are exact: they equal the same arithmetic on the fixed-point integers, at the scale they
state. Packed slots are scaled by one number per ciphertext, hence weights are per epoch. Alignment
is by global pixel coordinates: images are combined only if their tiles lie in the same places; that
the same pixel is the same piece of sky is for whoever registered the epochs.

An invalid sample was encrypted as 0 beside a validity bit that cannot be read here. Results carry
those bits along, re-randomised: of a difference once, of a co-addition per epoch, and the owner
finds out after decryption which weights met in a pixel.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.crypto.cipher_planes import (
    CipherPlane,
    CipherTile,
    check_key,
    cipher_plane,
    verified_rows,
)
from acie_pipelines.crypto.cipher_rows import ciphertext_rows, row_range
from acie_pipelines.crypto.cipher_tensor import CipherTensor
from acie_pipelines.crypto.kept import check_ciphertexts
from acie_pipelines.crypto.keys import PaillierPrivateKey, PaillierPublicKey
from acie_pipelines.crypto.packing import (
    PackingLayout,
    decode_fixed_point,
    encode_fixed_point,
    unpack_bits,
)
from acie_pipelines.crypto.plaintexts import exact_weights
from acie_pipelines.errors import CryptoError, IntegrityError
from acie_pipelines.manifest import canonical_json
from acie_pipelines.provenance import (
    InputRef,
    Manifest,
    new_generation,
    reusable_manifest,
)
from acie_pipelines.storage import Store
from acie_pipelines.tiling.reading import Tile, open_plane, read_tile, tiles_of

__all__ = ["COADD", "DIFFERENCE", "coadd", "decrypt_coadd", "difference", "subtract_reference"]

DIFFERENCE = "encrypted_difference"
COADD = "encrypted_coadd"
_PLACE = ("channel", "y0", "y1", "x0", "x1")


def subtract_reference(tensor: CipherTensor, reference: NDArray[Any]) -> CipherTensor:
    """Subtract a plaintext image from a packed encrypted one.

    Parameters
    ----------
    tensor
        Encrypted image.
    reference
        Of the same shape; integers, or finite floats, rounded to the tensor's scale.

    Raises
    ------
    CryptoError
        If the reference does not fit the layout or is not finite, or the result could overflow.
    """
    layout = tensor.layout
    negated = -encode_fixed_point(reference, layout)
    if negated.size and int(negated.max()) > layout.maximum:
        # The negative of the least integer of a slot does not fit it, its halves do.
        half = negated // 2
        return tensor + _numbers(half, layout) + _numbers(negated - half, layout)
    return tensor + _numbers(negated, layout)


def _numbers(integers: NDArray[np.int64], layout: PackingLayout) -> NDArray[Any]:
    return decode_fixed_point(integers, layout) if layout.fractional_bits else integers


def difference(
    store: Store,
    ciphertexts: Manifest,
    plane: str,
    reference: Manifest,
    public_key: PaillierPublicKey,
    *,
    code_version: str,
) -> Manifest:
    """Subtract a plaintext reference image from an encrypted plane, tile by tile.

    Parameters
    ----------
    store, ciphertexts
        Dataset of kind ``ciphertexts``.
    plane
        Name of the plane in both datasets.
    reference
        Dataset of kind ``tiles``: template of the same field, tiled alike, without invalid samples.
    public_key
        Key of the ciphertexts.
    code_version
        Version of the code, recorded in the manifest.

    Returns
    -------
    Manifest
        Of kind ``encrypted_difference``, read by
        `acie_pipelines.crypto.tile_decryption.decrypt_tile`.

    Raises
    ------
    IntegrityError
        If data are not those that were written, or the tiles lie in other places.
    CryptoError
        If the key is another one, the reference has invalid samples or does not fit the layout.
    """
    check_key(ciphertexts, public_key)
    source = cipher_plane(ciphertexts, plane)
    templates = tuple(tiles_of(reference, plane))
    _check_places(ciphertexts, source.tiles, reference, templates)
    array = open_plane(store, reference, plane)

    def compute(index: int) -> CipherTensor:
        image = source.read_tensor(store, ciphertexts, source.tiles[index], public_key)
        return subtract_reference(image, read_tile(store, reference, templates[index], array=array))

    return _write(
        store,
        DIFFERENCE,
        ciphertexts.key,
        (ciphertexts.as_input(), reference.as_input()),
        {"plane": plane},
        code_version,
        _Image(public_key, ((ciphertexts, source),), compute),
    )


def coadd(
    store: Store,
    epochs: Sequence[Manifest],
    plane: str,
    weights: Sequence[float] | NDArray[Any],
    public_key: PaillierPublicKey,
    *,
    code_version: str,
) -> Manifest:
    """Add epochs of one field up, each with a weight.

    Parameters
    ----------
    store, epochs
        Datasets of kind ``ciphertexts`` under one key.
    plane
        Name of the plane in all of them, of one layout and scale.
    weights
        One number per epoch, not zero; used exactly.
    public_key
        Key of the ciphertexts.
    code_version
        Version of the code, recorded in the manifest.

    Returns
    -------
    Manifest
        Of kind ``encrypted_coadd``, read by `decrypt_coadd`.

    Raises
    ------
    IntegrityError
        If data are not those that were written, or the tiles lie in other places.
    CryptoError
        If the key is another one, layouts differ, a weight is zero or missing, or the sum could
        overflow.
    """
    integers, bits = exact_weights(weights)
    if not epochs or integers.shape != (len(epochs),) or not integers.all():
        raise CryptoError(
            "weights of a co-addition",
            f"are not {len(epochs)} numbers other than zero",
            "give one weight per epoch and leave out epochs of weight zero",
        )
    sources = []
    for epoch in epochs:
        check_key(epoch, public_key)
        source = cipher_plane(epoch, plane)
        _check_places(epochs[0], cipher_plane(epochs[0], plane).tiles, epoch, source.tiles)
        sources.append((epoch, source))
    first = sources[0][1]
    for epoch, source in sources:
        if source.layout != first.layout:
            raise CryptoError(
                f"{epoch.prefix}/{plane}",
                "has another layout than the first epoch",
                "encrypt the epochs from one integer dtype, or noise and range alike",
            )
    factors = [float(weight) * 2.0**-bits for weight in integers.tolist()]

    def compute(index: int) -> CipherTensor:
        total: CipherTensor | None = None
        for (epoch, source), factor in zip(sources, integers.tolist(), strict=True):
            image = source.read_tensor(store, epoch, source.tiles[index], public_key)
            term = image * factor
            total = term if total is None else total + term
        assert total is not None  # noqa: S101 - there is at least one epoch
        layout = replace(total.layout, fractional_bits=total.layout.fractional_bits + bits)
        return replace(total, layout=layout)

    references = tuple(epoch.as_input() for epoch in epochs)
    name = hashlib.sha256(canonical_json([[r.digest for r in references], plane, factors]))
    return _write(
        store,
        COADD,
        f"coadd-{name.hexdigest()[:12]}",
        references,
        {"plane": plane, "weights": factors},
        code_version,
        _Image(public_key, tuple(sources), compute, tuple(integers.tolist()), bits),
    )


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
        start, stop = epoch["rows"][tile]
        sha256 = regions.get((epoch["validity"], (start, stop)))
        rows = verified_rows(store, manifest, epoch["validity"], (start, stop), sha256)
        check_ciphertexts(rows, private_key.public_key)
        plain = private_key.context.decrypt(rows)
        valid = unpack_bits(plain, total.size, key_bits=private_key.public_key.bits)
        weight += epoch["weight"] * valid.reshape(place.shape).astype(np.int64)
    return total, weight


@dataclass(frozen=True)
class _Image:
    """An image to be computed: from what, how, and with which weights if it is a co-addition."""

    public_key: PaillierPublicKey
    sources: tuple[tuple[Manifest, CipherPlane], ...]
    compute: Callable[[int], CipherTensor]
    weights: tuple[int, ...] = ()
    weight_bits: int = 0

    @property
    def first(self) -> CipherPlane:
        """Plane whose tiles the result has."""
        return self.sources[0][1]

    def record(self, layout: PackingLayout) -> dict[str, Any]:
        """Describe the result's plane."""
        manifest, first = self.sources[0]
        (found,) = (p for p in manifest.attributes["planes"] if p["name"] == first.name)
        whole = first.dtype.kind != "f" and not layout.fractional_bits
        public = {field: found[field] for field in ("name", "kind", "shape", "unit")}
        return public | {
            "dtype": "<i8" if whole else "<f8",
            "layout": layout.to_json(),
            "has_validity": first.has_validity and not self.weights,
        }


def _write(
    store: Store,
    kind: str,
    key: str,
    inputs: tuple[InputRef, ...],
    parameters: dict[str, Any],
    code_version: str,
    image: _Image,
) -> Manifest:
    """Compute tile after tile, with fresh randomness, and publish."""
    parameters = parameters | {"key_id": image.public_key.key_id}
    reusable = reusable_manifest(
        store, kind, key, inputs=inputs, code_version=code_version, parameters=parameters
    )
    if reusable is not None:
        return reusable
    public_key, first, outputs = image.public_key, image.first, []
    with new_generation(
        store, kind, key, inputs=inputs, code_version=code_version, parameters=parameters
    ) as generation:
        count = sum(first.layout.rows(tile.shape[0] * tile.shape[1]) for tile in first.tiles)
        bits = _validity_rows(first) if not image.weights else 0
        values, validity = f"ciphertexts/{first.name}", f"validity/{first.name}"
        records: list[dict[str, Any]] = []
        layout = first.layout
        with (
            ciphertext_rows(store, generation.prefix, values, count, public_key) as rows,
            ciphertext_rows(store, generation.prefix, validity, bits, public_key) as valid,
        ):
            for index, tile in enumerate(first.tiles):
                tensor = image.compute(index)
                layout = tensor.layout
                made = [rows.append(tensor.rerandomised().ciphertexts)]
                if bits:
                    made.append(valid.append(_validity(store, *image.sources[0], tile, public_key)))
                outputs.extend(made)
                records.append(
                    {field: getattr(tile, field) for field in _PLACE}
                    | {"plane": first.name, "weight": tensor.weight}
                    | {"rows": list(row_range(made[0]))}
                    | {"validity_rows": list(row_range(made[1])) if bits else None}
                )
        epochs = []
        for number, weight in enumerate(image.weights):
            source = image.sources[number]
            path = f"validity/{number}/{first.name}" if source[1].has_validity else None
            ranges = []
            with ciphertext_rows(
                store, generation.prefix, path, _validity_rows(source[1]), public_key
            ) as valid:
                for tile in source[1].tiles if path else ():
                    output = valid.append(_validity(store, *source, tile, public_key))
                    ranges.append(list(row_range(output)))
                    outputs.append(output)
            epochs.append({"weight": weight, "validity": path, "rows": ranges})
        manifest = image.sources[0][0]
        facts = {f: manifest.attributes[f] for f in ("key_id", "modulus", "key_bits")}
        combined = {"epochs": epochs, "weight_bits": image.weight_bits} if epochs else {}
        return generation.commit(
            tuple(outputs),
            facts | {"planes": [image.record(layout) | combined], "tiles": records},
        )


def _validity_rows(plane: CipherPlane) -> int:
    ranges = [tile.validity_rows for tile in plane.tiles if tile.validity_rows is not None]
    return sum(stop - start for start, stop in ranges)


def _validity(
    store: Store,
    manifest: Manifest,
    plane: CipherPlane,
    tile: CipherTile,
    public_key: PaillierPublicKey,
) -> NDArray[np.uint64]:
    rows = plane.read_rows(store, manifest, tile, validity=True)
    check_ciphertexts(rows, public_key)
    return public_key.context.rerandomise(rows)


def _check_places(
    one: Manifest,
    mine: Sequence[CipherTile] | Sequence[Tile],
    other: Manifest,
    theirs: Sequence[CipherTile] | Sequence[Tile],
) -> None:
    """Refuse images whose tiles lie at other global coordinates."""
    places = [
        [tuple(getattr(tile, field) for field in _PLACE) for tile in tiles]
        for tiles in (mine, theirs)
    ]
    if places[0] != places[1]:
        raise IntegrityError(
            other.prefix,
            f"has its tiles in other places than {one.prefix}",
            "register both on one grid and tile them alike",
        )
