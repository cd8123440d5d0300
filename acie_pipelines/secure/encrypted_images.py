"""Images made of encrypted images: difference from a reference, co-addition of epochs.

Belongs here: datasets of images, made with the public key in units of tiles that any worker can do.
Does not belong here: reading them with the private key (`image_reading`), sums (`statistics`),
encryption of tiles (`acie_pipelines.crypto`).

All results are exact: they equal the same arithmetic on the fixed-point integers, at the scale they
state. Packed slots are scaled by one number per ciphertext, hence weights are per epoch. Alignment
is by global pixel coordinates: images are combined only if their tiles lie in the same places; that
the same pixel is the same piece of sky is for whoever registered the epochs.

An invalid sample was encrypted as 0 beside a validity bit that cannot be read here. Results carry
those bits along, re-randomised: of a difference once, of a co-addition per epoch, and the owner
finds out after decryption which weights met in a pixel.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.crypto.cipher_planes import (
    CipherPlane,
    CipherTile,
    check_key,
    cipher_plane,
    public_key_of,
)
from acie_pipelines.crypto.cipher_rows import ciphertext_rows, row_range
from acie_pipelines.crypto.cipher_tensor import CipherTensor
from acie_pipelines.crypto.kept import check_ciphertexts
from acie_pipelines.crypto.keys import PaillierPublicKey
from acie_pipelines.crypto.packing import PackingLayout, decode_fixed_point, encode_fixed_point
from acie_pipelines.crypto.plaintexts import exact_weights
from acie_pipelines.errors import CryptoError, IntegrityError
from acie_pipelines.manifest import canonical_json
from acie_pipelines.provenance import Manifest, Output
from acie_pipelines.secure.batches import Recipe, Work, input_of
from acie_pipelines.secure.queue_tables import Lease
from acie_pipelines.secure.tasks import Progress
from acie_pipelines.storage import Store
from acie_pipelines.tiling.reading import Tile, read_tile, tiles_of

__all__ = ["COADD", "DIFFERENCE", "coadd_work", "difference_work", "do_unit", "subtract_reference"]

DIFFERENCE = "encrypted_difference"
COADD = "encrypted_coadd"
_PLACE = ("channel", "y0", "y1", "x0", "x1")
# Fresh randomness makes a tile of 1024 x 1024 pixels cost about as much as its encryption.
_TILES_PER_UNIT = 16


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


def difference_work(
    ciphertexts: Manifest,
    plane: str,
    reference: Manifest,
    code_version: str,
    *,
    reference_plane: str | None = None,
) -> Work:
    """Plan the subtraction of a plaintext reference image from an encrypted plane, tile by tile.

    The dataset of kind ``encrypted_difference`` under ``<observation>/<plane>`` is read by
    `acie_pipelines.crypto.tile_decryption.decrypt_tile`.

    Parameters
    ----------
    ciphertexts
        Dataset of kind ``ciphertexts``.
    plane
        Name of the plane.
    reference
        Dataset of kind ``tiles``: template of the same field, tiled alike, without invalid samples.
    code_version
        Version of the code, recorded in the manifest.
    reference_plane
        Name of the plane in `reference`; the same by default.

    Raises
    ------
    IntegrityError
        If the tiles lie in other places, or there is no such plane.
    """
    subtracted = plane if reference_plane is None else reference_plane
    source = cipher_plane(ciphertexts, plane)
    _check_places(ciphertexts, source.tiles, reference, tuple(tiles_of(reference, subtracted)))
    public_key = public_key_of(ciphertexts)
    return Work(
        Recipe(
            DIFFERENCE,
            f"{ciphertexts.key}/{plane}",
            (ciphertexts.as_input(), reference.as_input()),
            code_version,
            {"plane": plane, "reference_plane": subtracted, "key_id": public_key.key_id},
        ),
        public_key,
        {
            "epochs": [vars(ciphertexts.as_input())],
            "plane": plane,
            "reference": vars(reference.as_input()),
            "reference_plane": subtracted,
        },
        _ranges(source),
        lambda _, results: _assemble_difference(ciphertexts, plane, results),
    )


def coadd_work(
    epochs: Sequence[Manifest],
    plane: str,
    weights: Sequence[float] | NDArray[Any],
    code_version: str,
) -> Work:
    """Plan the sum of epochs of one field, each with a weight.

    The dataset of kind ``encrypted_coadd`` is read by
    `acie_pipelines.secure.image_reading.decrypt_coadd`.

    Parameters
    ----------
    epochs
        Datasets of kind ``ciphertexts`` under one key.
    plane
        Name of the plane in all of them, of one layout and scale.
    weights
        One number per epoch, not zero; used exactly.
    code_version
        Version of the code, recorded in the manifest.

    Raises
    ------
    IntegrityError
        If the tiles lie in other places.
    CryptoError
        If keys or layouts differ, a weight is zero or missing, or the sum could overflow.
    """
    integers, bits = exact_weights(weights)
    if not epochs or integers.shape != (len(epochs),) or not integers.all():
        raise CryptoError(
            "weights of a co-addition",
            f"are not {len(epochs)} numbers other than zero",
            "give one weight per epoch and leave out epochs of weight zero",
        )
    public_key = public_key_of(epochs[0])
    first = cipher_plane(epochs[0], plane)
    for epoch in epochs:
        check_key(epoch, public_key)
        source = cipher_plane(epoch, plane)
        _check_places(epochs[0], first.tiles, epoch, source.tiles)
        if source.layout != first.layout:
            raise CryptoError(
                f"{epoch.prefix}/{plane}",
                "has another layout than the first epoch",
                "encrypt the epochs from one integer dtype, or noise and range alike",
            )
    heaviest = sum(abs(int(weight)) for weight in integers)
    if heaviest > first.layout.maximum_weight:
        raise CryptoError(
            "weights of a co-addition",
            f"add up to {heaviest} where sums overflow beyond {first.layout.maximum_weight}",
            "use weights of fewer bits, as in numpy.rint(weights * 64) / 64",
        )
    factors = [float(weight) * 2.0**-bits for weight in integers.tolist()]
    references = tuple(epoch.as_input() for epoch in epochs)
    name = hashlib.sha256(canonical_json([[r.digest for r in references], plane, factors]))
    return Work(
        Recipe(
            COADD,
            f"coadd-{name.hexdigest()[:12]}",
            references,
            code_version,
            {"plane": plane, "weights": factors, "key_id": public_key.key_id},
        ),
        public_key,
        {
            "epochs": [vars(reference) for reference in references],
            "plane": plane,
            "weights": integers.tolist(),
            "weight_bits": bits,
        },
        _ranges(first),
        lambda _, results: _assemble_coadd(epochs, plane, integers.tolist(), bits, results),
    )


def _ranges(plane: CipherPlane) -> list[dict[str, Any]]:
    count = len(plane.tiles)
    return [
        {"tiles": [first, min(first + _TILES_PER_UNIT, count)]}
        for first in range(0, count, _TILES_PER_UNIT)
    ]


def do_unit(store: Store, lease: Lease, progress: Progress) -> dict[str, Any]:
    """Compute some tiles of a difference or co-addition, with fresh randomness.

    Parameters
    ----------
    store
        Holds ciphertexts and reference, and receives the result.
    lease
        Of a unit of `difference_work` or `coadd_work`.
    progress
        Called after each tile.

    Returns
    -------
    dict
        ``array`` and ``layout`` of the result, ``validity`` (array per epoch, null for planes
        without), and of each of the ``tiles`` its ``weight``, and ``rows`` and ``sha256`` of its
        values and, per epoch, of its validity bits.

    Raises
    ------
    IntegrityError
        If data are not those that were written.
    CryptoError
        If the reference has invalid samples or does not fit the layout.
    """
    payload, directory = lease.batch.payload, lease.directory
    key = PaillierPublicKey(int(payload["modulus"], 16))
    sources = []
    for ref in payload["epochs"]:
        epoch = input_of(store, ref)
        check_key(epoch, key)
        sources.append((epoch, cipher_plane(epoch, payload["plane"])))
    first, stop = lease.payload["tiles"]
    numbers, plane = range(first, stop), sources[0][1]
    array, arrays = f"{directory}/ciphertexts", []
    count = sum(plane.layout.rows(t.shape[0] * t.shape[1]) for t in plane.tiles[first:stop])
    tiles: list[dict[str, Any]] = []
    layout = plane.layout
    with ciphertext_rows(store, lease.batch.prefix, array, count, key) as rows:
        for number in numbers:
            tensor = _computed(store, lease, sources, number, key)
            layout = tensor.layout
            made = _record(rows.append(tensor.rerandomised().ciphertexts))
            tiles.append(made | {"weight": tensor.weight, "validity": []})
            progress(number + 1 - first, stop - first)
    for place, (epoch, source) in enumerate(sources):
        path = f"{directory}/validity/{place}" if source.has_validity else None
        arrays.append(path)
        ranges = [source.tiles[number].validity_rows or (0, 0) for number in numbers]
        count = sum(end - start for start, end in ranges)
        with ciphertext_rows(store, lease.batch.prefix, path, count, key) as rows:
            for number, tile in zip(numbers if path else (), tiles, strict=False):
                bits = source.read_rows(store, epoch, source.tiles[number], validity=True)
                check_ciphertexts(bits, key)
                tile["validity"].append(_record(rows.append(key.context.rerandomise(bits))))
    return {"array": array, "layout": layout.to_json(), "validity": arrays, "tiles": tiles}


def _record(output: Output) -> dict[str, Any]:
    return {"rows": list(row_range(output)), "sha256": output.sha256}


def _computed(
    store: Store,
    lease: Lease,
    sources: Sequence[tuple[Manifest, CipherPlane]],
    number: int,
    key: PaillierPublicKey,
) -> CipherTensor:
    payload = lease.batch.payload
    images = [
        source.read_tensor(store, epoch, source.tiles[number], key) for epoch, source in sources
    ]
    if lease.batch.kind == DIFFERENCE:
        reference = input_of(store, payload["reference"])
        template = tuple(tiles_of(reference, payload["reference_plane"]))[number]
        return subtract_reference(images[0], read_tile(store, reference, template))
    total: CipherTensor = images[0] * payload["weights"][0]
    for image, weight in zip(images[1:], payload["weights"][1:], strict=True):
        total = total + image * weight
    bits = total.layout.fractional_bits + payload["weight_bits"]
    return replace(total, layout=replace(total.layout, fractional_bits=bits))


def _described(
    source: Manifest, plane: str, results: Sequence[Mapping[str, Any]], *, validity: bool
) -> dict[str, Any]:
    """Describe the result's plane, and the key."""
    (record,) = (p for p in source.attributes["planes"] if p["name"] == plane)
    layout = PackingLayout.from_json(results[0]["layout"])
    whole = np.dtype(record["dtype"]).kind != "f" and not layout.fractional_bits
    facts = {field: source.attributes[field] for field in ("key_id", "modulus", "key_bits")}
    public = {field: record[field] for field in ("name", "kind", "shape", "unit")}
    public |= {"dtype": "<i8" if whole else "<f8", "layout": results[0]["layout"]}
    return facts | {"planes": [public | {"has_validity": validity}]}


def _output(path: str, record: Mapping[str, Any], key: PaillierPublicKey) -> Output:
    start, stop = record["rows"]
    limbs = key.context.ciphertext_limbs
    return Output(path, record["sha256"], ((start, stop), (0, limbs)), "<u8")


def _tile(place: CipherTile, plane: str, tile: Mapping[str, Any]) -> dict[str, Any]:
    where = {field: getattr(place, field) for field in _PLACE}
    return where | {"plane": plane, "weight": tile["weight"], "rows": tile["rows"]}


def _assemble_difference(
    source: Manifest, plane: str, results: Sequence[Mapping[str, Any]]
) -> tuple[tuple[Output, ...], dict[str, Any]]:
    key, found = public_key_of(source), cipher_plane(source, plane)
    outputs, tiles = [], []
    made = [(result, tile) for result in results for tile in result["tiles"]]
    for place, (result, tile) in zip(found.tiles, made, strict=True):
        outputs.append(_output(result["array"], tile, key))
        bits = None
        if found.has_validity:
            [valid] = tile["validity"]
            outputs.append(_output(result["validity"][0], valid, key))
            bits = valid["rows"]
        tiles.append(_tile(place, plane, tile) | {"validity_rows": bits})
    described = _described(source, plane, results, validity=found.has_validity)
    return tuple(outputs), described | {"tiles": tiles}


def _assemble_coadd(
    sources: Sequence[Manifest],
    plane: str,
    weights: Sequence[int],
    weight_bits: int,
    results: Sequence[Mapping[str, Any]],
) -> tuple[tuple[Output, ...], dict[str, Any]]:
    key, found = public_key_of(sources[0]), cipher_plane(sources[0], plane)
    made = [(result, tile) for result in results for tile in result["tiles"]]
    outputs = [_output(result["array"], tile, key) for result, tile in made]
    tiles = [
        _tile(place, plane, tile) | {"validity_rows": None}
        for place, (_, tile) in zip(found.tiles, made, strict=True)
    ]
    with_bits = [number for number, path in enumerate(results[0]["validity"]) if path is not None]
    epochs: list[dict[str, Any]] = [{"weight": weight, "validity": None} for weight in weights]
    for place, number in enumerate(with_bits):
        valid = [(result["validity"][number], tile["validity"][place]) for result, tile in made]
        outputs += [_output(path, record, key) for path, record in valid]
        epochs[number]["validity"] = [[path, *record["rows"]] for path, record in valid]
    described = _described(sources[0], plane, results, validity=False)
    described["planes"][0] |= {"epochs": epochs, "weight_bits": weight_bits}
    return tuple(outputs), described | {"tiles": tiles}


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
