"""Features of images larger than memory: tile by tile, by many workers, checked as a whole.

Belongs here: the ``encrypted_features`` dataset, its units, and the flux check over all tiles.
Does not belong here: one image (`inference`), encrypting tiles (`window_units`).

Two batches of units make it. Whoever does the first reads plaintext tiles and encrypts their
windows; whoever does the second has public keys and ciphertexts only, evaluates the model and adds
up what it was given. A unit is a tile: leased, fenced, done once, whatever stalls or dies.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeGuard

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.crypto.cipher_planes import check_key
from acie_pipelines.crypto.kept import check_ciphertexts
from acie_pipelines.crypto.keys import PaillierPrivateKey, PaillierPublicKey
from acie_pipelines.crypto.packing import PackingLayout
from acie_pipelines.crypto.public_keys import PublicKeys
from acie_pipelines.crypto.tensor_format import from_bytes, to_bytes
from acie_pipelines.crypto.totals import EncryptedTotal, RunningTotal
from acie_pipelines.errors import IntegrityError
from acie_pipelines.provenance import (
    Generation,
    Manifest,
    Output,
    new_generation,
    read_manifest,
    reusable_manifest,
)
from acie_pipelines.secure.batches import Recipe, Work, input_of, make
from acie_pipelines.secure.model_format import digest
from acie_pipelines.secure.model_format import from_bytes as model_from_bytes
from acie_pipelines.secure.model_format import to_bytes as model_bytes
from acie_pipelines.secure.models import Interface, SecureModel
from acie_pipelines.secure.queue import WorkQueue
from acie_pipelines.secure.queue_tables import Lease
from acie_pipelines.secure.retrieval import window_units
from acie_pipelines.secure.retrieval.inference import (
    EncryptedFeatures,
    check_flux,
    evaluate_windows,
    plaintext_total,
)
from acie_pipelines.secure.retrieval.messages import malformed, read_message, write_message
from acie_pipelines.secure.retrieval.window_units import (
    read_windows,
    verified_file,
    windows_work,
)
from acie_pipelines.secure.tasks import Progress
from acie_pipelines.storage import Store
from acie_pipelines.tiling.reading import iter_tiles

__all__ = [
    "KIND",
    "StreamReport",
    "check_stream",
    "do_unit",
    "features_work",
    "read_features",
    "run_stream",
]

KIND: Final = "encrypted_features"
_MODEL_KIND: Final = "secure_model"
_CODE_VERSION: Final = "2"
_TILE: Final = b"ACIEFEAT"
_TOTAL: Final = b"ACIETOTL"
_TOTAL_FILE: Final = "total"


@dataclass(frozen=True)
class StreamReport:
    """How far a run is.

    Attributes
    ----------
    stage
        ``encrypting`` or ``evaluating``.
    tiles, tiles_total
        Tiles done so far, by anybody, and in all.
    """

    stage: str
    tiles: int
    tiles_total: int


def run_stream(
    queue: WorkQueue,
    store: Store,
    tiles: Manifest,
    plane: str,
    model: SecureModel,
    keys: PublicKeys,
    *,
    progress: Callable[[StreamReport], None] | None = None,
) -> Manifest:
    """Compute a model's features of every tile of a plane under encryption, in constant memory.

    Workers of either side may help (`acie_pipelines.secure.worker`); tiles that are done stay done
    when a run is stopped.

    Parameters
    ----------
    queue, store
        Where units and datasets are.
    tiles
        Dataset of kind ``tiles``; every tile read is checked against its hash.
    plane
        Name of the plane.
    model
        Takes windows ``(height, width)``.
    keys
        What the owner exported; the current one is used.
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
        If the store is full or unreachable.
    """

    def reporting(stage: str) -> Progress:
        def report(done: int, total: int) -> None:
            if progress is not None:
                progress(StreamReport(stage, done, total))

        return report

    work = windows_work(tiles, plane, model.interface, keys.public_key())
    windows = make(queue, store, keys, work, reporting("encrypting"))
    work = features_work(store, windows, model, keys.public_key())
    return make(queue, store, keys, work, reporting("evaluating"))


def _stored_model(store: Store, model: SecureModel) -> Manifest:
    """Put a model where workers find it."""
    data = model_bytes(model)
    identity = digest(data)
    recipe: dict[str, Any] = {"inputs": (), "code_version": "1", "parameters": {"model": identity}}
    found = reusable_manifest(store, _MODEL_KIND, identity[:16], **recipe)
    if found is not None:
        return found
    with new_generation(store, _MODEL_KIND, identity[:16], **recipe) as generation:
        store.write_bytes(f"{generation.prefix}/model", data)
        return generation.commit((Output("model", identity),))


def features_work(
    store: Store, windows: Manifest, model: SecureModel, public_key: PaillierPublicKey
) -> Work:
    """Plan the features of every tile whose windows have been encrypted.

    Parameters
    ----------
    store
        Receives the model.
    windows
        Dataset of kind ``encrypted_windows``.
    model
        Of the interface that they were encrypted for.
    public_key
        Key of the windows.
    """
    stored = _stored_model(store, model)
    [output] = stored.outputs
    layout = model.interface.layout(public_key.bits)

    def assemble(
        generation: Generation, results: Sequence[Mapping[str, Any]]
    ) -> tuple[tuple[Output, ...], dict[str, Any]]:
        outputs = [Output(result["path"], result["sha256"]) for result in results]
        running = RunningTotal(public_key, layout)
        for each in outputs:
            data = verified_file(generation.store, generation, each)
            running.merge(_from_bytes(data, public_key, layout)[0])
        data = _total_bytes(_TOTAL, running.total(), [])
        generation.store.write_bytes(f"{generation.prefix}/{_TOTAL_FILE}", data)
        outputs.append(Output(_TOTAL_FILE, hashlib.sha256(data).hexdigest()))
        copied = ("key_id", "modulus", "key_bits", "plane", "tiles")
        facts = {name: windows.attributes[name] for name in copied}
        facts |= {"model": output.sha256, "interface": model.interface.to_json()}
        return tuple(outputs), facts

    return Work(
        Recipe(
            KIND,
            windows.key,
            (windows.as_input(), stored.as_input()),
            _CODE_VERSION,
            {"key_id": public_key.key_id},
        ),
        public_key,
        {
            "windows": vars(windows.as_input()),
            "model": vars(stored.as_input()),
            "model_digest": output.sha256,
        },
        [{"tile": number} for number in range(len(windows.outputs))],
        assemble,
    )


def do_unit(store: Store, lease: Lease, progress: Progress) -> dict[str, Any]:
    """Evaluate the model on the windows of one tile, with the public key alone.

    Parameters
    ----------
    store
        Holds the windows and the model, and receives the features.
    lease
        Of a unit of `features_work`.
    progress
        Called at the end.

    Returns
    -------
    dict
        ``path`` and ``sha256`` of the features and their total.

    Raises
    ------
    IntegrityError
        If windows or model are not what was written.
    CryptoError
        If a result could overflow.
    """
    payload = lease.batch.payload
    windows, stored = (input_of(store, payload[name]) for name in ("windows", "model"))
    key = PaillierPublicKey(int(payload["modulus"], 16))
    check_key(windows, key)
    data = verified_file(store, stored, stored.outputs[0])
    model = model_from_bytes(data, expected=payload["model_digest"])
    tensor = read_windows(store, windows, lease.payload["tile"], key)
    result, total = evaluate_windows(tensor, model.evaluate)
    made, path = _total_bytes(_TILE, total, [to_bytes(result)]), f"{lease.directory}/features"
    store.write_bytes(f"{lease.batch.prefix}/{path}", made)
    progress(1, 1)
    return {"path": path, "sha256": hashlib.sha256(made).hexdigest()}


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
        data = verified_file(store, features, output)
        total, found = _from_bytes(data, private_key.public_key, layout)
        tensor = from_bytes(found, private_key.public_key)
        height, width = interface.input.shape
        shape = (place["y1"] - place["y0"], place["x1"] - place["x0"])
        places = (-(-shape[0] // height), -(-shape[1] // width))
        yield place, EncryptedFeatures(places, tensor, total).decrypt(interface, private_key)


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
    [used] = [ref for ref in features.inputs if ref.kind == window_units.KIND]
    windows = read_manifest(store, used.kind, used.key, used.generation)
    if windows.digest != used.digest or tiles.digest not in {ref.digest for ref in windows.inputs}:
        raise IntegrityError(
            features.prefix, f"was not made from {tiles.prefix}", "check it with its own tiles"
        )
    interface = Interface.from_json(features.attributes["interface"])
    layout = interface.layout(private_key.public_key.bits)
    [output] = [each for each in features.outputs if each.path == _TOTAL_FILE]
    header, parts = read_message(_TOTAL, verified_file(store, features, output))
    total = _total(header, parts[0], private_key.public_key, layout)
    expected = sum(
        plaintext_total(pixels, interface.input)
        for _, pixels in iter_tiles(store, tiles, features.attributes["plane"])
    )
    found = check_flux(total, expected, private_key, features.prefix)
    return found * interface.input.unit


def _total_bytes(magic: bytes, total: EncryptedTotal, others: list[bytes]) -> bytes:
    rows = total.ciphertexts.astype("<u8", copy=False).tobytes()
    return write_message(magic, {"weights": list(total.weights)}, [rows, *others])


def _from_bytes(
    data: bytes, public_key: PaillierPublicKey, layout: PackingLayout
) -> tuple[EncryptedTotal, bytes]:
    """Read the total of a tile; its features are left as bytes."""
    header, parts = read_message(_TILE, data)
    if len(parts) != 2:
        raise malformed("lacks fields")
    return _total(header, parts[0], public_key, layout), parts[1]


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
