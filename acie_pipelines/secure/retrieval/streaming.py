"""Features of images larger than memory: tile by tile, resumable, checked as a whole.

Belongs here: the ``encrypted_features`` dataset, its resumption, and the flux check over all tiles.
Does not belong here: one image (`inference`), fan-out over workers.

A tile that is done lies below ``encrypted_features_parts`` until the dataset is committed; a run
that was stopped continues behind the last one. Parts are bound to the tile's content, the model,
the key and the plane.
"""

import hashlib
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.crypto.cipher_planes import check_key
from acie_pipelines.crypto.kept import check_ciphertexts
from acie_pipelines.crypto.keys import PaillierPrivateKey, PaillierPublicKey
from acie_pipelines.crypto.packing import PackingLayout, choose_fractional_bits
from acie_pipelines.crypto.tensor_format import from_bytes, to_bytes
from acie_pipelines.crypto.totals import EncryptedTotal, RunningTotal
from acie_pipelines.errors import CryptoError, IntegrityError, ModelError
from acie_pipelines.manifest import canonical_json
from acie_pipelines.provenance import Manifest, Output, new_generation, reusable_manifest
from acie_pipelines.secure.model_format import digest
from acie_pipelines.secure.model_format import to_bytes as model_bytes
from acie_pipelines.secure.models import Interface, SecureModel
from acie_pipelines.secure.retrieval.inference import (
    EncryptedFeatures,
    Evaluate,
    check_flux,
    encrypt_image,
    evaluate_windows,
    plaintext_total,
)
from acie_pipelines.secure.retrieval.messages import malformed, read_message, write_message
from acie_pipelines.secure.signals import Signal
from acie_pipelines.storage import Store
from acie_pipelines.tiling.reading import (
    Tile,
    iter_tiles,
    open_plane,
    plane_record,
    read_tile,
    tiles_of,
)

__all__ = ["KIND", "StreamReport", "check_stream", "plane_signal", "read_features", "run_stream"]

KIND: Final = "encrypted_features"
_CODE_VERSION: Final = "1"
_PARTS: Final = f"{KIND}_parts"
_TILE: Final = b"ACIEFEAT"
_TOTAL: Final = b"ACIETOTL"
_TOTAL_FILE: Final = "total"
_FIX: Final = "run it again"


@dataclass(frozen=True)
class StreamReport:
    """How far a run is.

    Attributes
    ----------
    tiles, tiles_total
        Tiles done so far, and in all.
    resumed
        Those that an earlier run had done.
    """

    tiles: int
    tiles_total: int
    resumed: int


def plane_signal(tiles: Manifest, plane: str, shape: tuple[int, int]) -> Signal:
    """Describe windows of a plane for a model: greatest value, and a scale far below the noise.

    Parameters
    ----------
    tiles
        Dataset of kind ``tiles``.
    plane
        Name of the plane.
    shape
        Of a window, in pixels.

    Raises
    ------
    ModelError
        If the plane holds nothing but zeros or invalid samples.
    """
    measured = [tile.statistics for tile in tiles_of(tiles, plane)]
    extremes = [
        abs(found[name])
        for found in measured
        for name in ("minimum", "maximum")
        if found[name] is not None
    ]
    maximum = max(extremes, default=0.0)
    if maximum == 0.0:
        raise ModelError(f"plane {plane!r}", "holds no light", "choose another plane")
    if np.dtype(plane_record(tiles, plane)["dtype"]).kind != "f":
        return Signal.inputs(shape, maximum=maximum, fractional_bits=0, exact=True)
    noise = [found["background_rms"] for found in measured if found["background_rms"]]
    bits = choose_fractional_bits(statistics.median(noise or [0.0]), maximum)
    return Signal.inputs(shape, maximum=maximum, fractional_bits=bits)


def run_stream(
    store: Store,
    tiles: Manifest,
    plane: str,
    model: SecureModel,
    key: PaillierPublicKey | PaillierPrivateKey,
    *,
    evaluate: Evaluate | None = None,
    progress: Callable[[StreamReport], None] | None = None,
) -> Manifest:
    """Compute a model's features of every tile of a plane under encryption, in constant memory.

    Parameters
    ----------
    store, tiles
        Dataset of kind ``tiles``; every tile read is checked against its hash.
    plane
        Name of the plane.
    model
        Takes windows ``(height, width)``.
    key
        Either half of the owner's pair.
    evaluate
        Where the model is evaluated; in this process by default.
    progress
        Called after each tile.

    Returns
    -------
    Manifest
        Of kind ``encrypted_features`` under ``<observation>/<plane>``. The current one is returned
        if it was made of the same tiles, model and key and is undamaged.

    Raises
    ------
    ModelError
        If a tile does not fit the model.
    CryptoError
        If a result could overflow.
    IntegrityError
        If a tile is not what its manifest states.
    StorageError
        If the store is full or unreachable; tiles that are done are kept.
    """
    public_key = key.public_key if isinstance(key, PaillierPrivateKey) else key
    name, identity = f"{tiles.key}/{plane}", digest(model_bytes(model))
    wanted: dict[str, Any] = {
        "inputs": (tiles.as_input(),),
        "code_version": _CODE_VERSION,
        "parameters": {"plane": plane, "model": identity, "key_id": public_key.key_id},
    }
    reusable = reusable_manifest(store, KIND, name, **wanted)
    if reusable is not None:
        return reusable
    request = hashlib.sha256(
        canonical_json([tiles.digest, _CODE_VERSION, wanted["parameters"]])
    ).hexdigest()
    scratch = f"{_PARTS}/{name}/{request}"
    layout = model.interface.layout(public_key.bits)
    source = open_plane(store, tiles, plane)
    of_plane = list(tiles_of(tiles, plane))
    running = RunningTotal(public_key, layout)
    outputs, resumed = [], 0
    with new_generation(store, KIND, name, **wanted) as generation:
        for number, tile in enumerate(of_plane):
            part = f"{scratch}/{number:06d}"
            header = {"request": request, "number": number, "sha256": tile.sha256}
            data = _part(store, part, header)
            if data is None:
                pixels = read_tile(store, tiles, tile, array=source)
                tensor, places = encrypt_image(pixels, model.interface, key)
                result, total = evaluate_windows(tensor, evaluate or model.evaluate)
                features = EncryptedFeatures(places, result, total)
                data = _to_bytes(features, header)
                store.write_bytes(part, data)
            else:
                resumed += 1
            running.merge(_from_bytes(data, public_key, layout).total)
            path = f"tiles/{number:06d}"
            store.write_bytes(f"{generation.prefix}/{path}", data)
            outputs.append(Output(path, hashlib.sha256(data).hexdigest()))
            if progress is not None:
                progress(StreamReport(number + 1, len(of_plane), resumed))
        data = _total_bytes(_TOTAL, {}, running.total(), [])
        store.write_bytes(f"{generation.prefix}/{_TOTAL_FILE}", data)
        outputs.append(Output(_TOTAL_FILE, hashlib.sha256(data).hexdigest()))
        manifest = generation.commit(
            tuple(outputs),
            {
                "key_id": public_key.key_id,
                "modulus": f"{public_key.n:x}",
                "key_bits": public_key.bits,
                "plane": plane,
                "model": identity,
                "interface": model.interface.to_json(),
                "tiles": [_place(tile) for tile in of_plane],
            },
        )
    store.delete(f"{_PARTS}/{name}")
    return manifest


def read_features(
    store: Store, features: Manifest, private_key: PaillierPrivateKey
) -> Iterator[tuple[dict[str, int], NDArray[Any]]]:
    """Decrypt the features tile by tile, as the data owner.

    Parameters
    ----------
    store, features
        Dataset of kind ``encrypted_features``.
    private_key
        The owner's.

    Yields
    ------
    place
        The tile's channel, y0, y1, x0 and x1 in pixels, ends excluded.
    values
        See `EncryptedFeatures.decrypt`.

    Raises
    ------
    IntegrityError
        If a file is not what its manifest states.
    CryptoError
        If the key is another one.
    """
    check_key(features, private_key.public_key)
    interface = Interface.from_json(features.attributes["interface"])
    layout = interface.layout(private_key.public_key.bits)
    for place, output in zip(features.attributes["tiles"], features.outputs, strict=False):
        data = _read(store, features, output)
        yield (
            place,
            _from_bytes(data, private_key.public_key, layout).decrypt(interface, private_key),
        )


def check_stream(
    store: Store, features: Manifest, tiles: Manifest, private_key: PaillierPrivateKey
) -> float:
    """Check that no light was lost: the encrypted total against all plaintext tiles.

    Every tile is read again and compared with its hash.

    Parameters
    ----------
    store, features, tiles
        Datasets of kinds ``encrypted_features`` and ``tiles``, the first made of the second.
    private_key
        The owner's.

    Returns
    -------
    float
        The total flux, in the plane's unit.

    Raises
    ------
    FluxConservationError
        If the totals differ at all.
    IntegrityError
        If the datasets do not belong together, or something in them was changed.
    CryptoError
        If the key is another one.
    """
    check_key(features, private_key.public_key)
    if tiles.digest not in {ref.digest for ref in features.inputs}:
        raise IntegrityError(
            features.prefix, f"was not made from {tiles.prefix}", "check it with its own tiles"
        )
    interface = Interface.from_json(features.attributes["interface"])
    layout = interface.layout(private_key.public_key.bits)
    [output] = [each for each in features.outputs if each.path == _TOTAL_FILE]
    header, parts = read_message(_TOTAL, _read(store, features, output))
    total = _total(header, parts[0], private_key.public_key, layout)
    expected = sum(
        plaintext_total(pixels, interface.input)
        for _, pixels in iter_tiles(store, tiles, features.attributes["plane"])
    )
    found = check_flux(total, expected, private_key, features.prefix)
    return found * interface.input.unit


def _place(tile: Tile) -> dict[str, int]:
    return {name: getattr(tile, name) for name in ("channel", "y0", "y1", "x0", "x1")}


def _part(store: Store, name: str, header: dict[str, Any]) -> bytes | None:
    """Read what an earlier run did for a tile; ``None`` if it is missing, damaged or another's."""
    if not store.exists(name):
        return None
    data = store.read_bytes(name)
    try:
        found, _ = read_message(_TILE, data)
    except CryptoError:
        return None
    return data if {field: found.get(field) for field in header} == header else None


def _read(store: Store, manifest: Manifest, output: Output) -> bytes:
    where = f"{manifest.prefix}/{output.path}"
    data = store.read_bytes(where)
    if hashlib.sha256(data).hexdigest() != output.sha256:
        raise IntegrityError(where, "does not match the hash in its manifest", _FIX)
    return data


def _to_bytes(features: EncryptedFeatures, header: dict[str, Any]) -> bytes:
    fields = header | {"places": list(features.places)}
    return _total_bytes(_TILE, fields, features.total, [to_bytes(features.tensor)])


def _total_bytes(
    magic: bytes, header: dict[str, Any], total: EncryptedTotal, others: list[bytes]
) -> bytes:
    rows = total.ciphertexts.astype("<u8", copy=False).tobytes()
    return write_message(magic, header | {"weights": list(total.weights)}, [rows, *others])


def _from_bytes(
    data: bytes, public_key: PaillierPublicKey, layout: PackingLayout
) -> EncryptedFeatures:
    header, parts = read_message(_TILE, data)
    places = header.get("places")
    if len(parts) != 2 or not _numbers(places) or len(places) != 2:
        raise malformed("lacks fields")
    total = _total(header, parts[0], public_key, layout)
    return EncryptedFeatures((places[0], places[1]), from_bytes(parts[1], public_key), total)


def _total(
    header: dict[str, Any], data: bytes, public_key: PaillierPublicKey, layout: PackingLayout
) -> EncryptedTotal:
    weights, limbs = header.get("weights"), public_key.context.ciphertext_limbs
    if not _numbers(weights) or len(data) != 8 * limbs * len(weights):
        raise malformed("does not have one ciphertext per weight")
    rows = np.frombuffer(data, dtype="<u8").astype(np.uint64).reshape(-1, limbs)
    check_ciphertexts(rows, public_key)
    return EncryptedTotal(public_key, layout, rows, tuple(weights))


def _numbers(found: Any) -> TypeGuard[list[int]]:
    return isinstance(found, list) and all(type(each) is int and each > 0 for each in found)
