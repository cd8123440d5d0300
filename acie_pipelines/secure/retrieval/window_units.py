"""Tiles of a plane encrypted window by window, as a batch of units.

The owner's side: whoever does these units reads plaintext tiles, and cannot decrypt.

Belongs here: the ``encrypted_windows`` dataset, and the scale of a plane for a model.
Does not belong here: evaluating models (`streaming`), cutting one image (`inference`).

Why the ``ciphertexts`` of `encrypted_tiles` cannot be used instead: they hold neighbouring pixels
in the slots of one ciphertext. Ciphertexts can be added, and multiplied by one number, which
multiplies every slot; slots cannot be moved or taken out without the private key. A model gives
each pixel of a window a weight of its own, so the pixels of a window must lie in different
ciphertexts. Here a ciphertext holds the same pixel of many windows instead, all of which meet the
same weight. Guard bits differ too: there they allow sums of a fixed length, here whatever the model
adds up.
"""

import hashlib
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from acie_pipelines.crypto.cipher_tensor import CipherTensor
from acie_pipelines.crypto.keys import PaillierPublicKey
from acie_pipelines.crypto.packing import choose_fractional_bits
from acie_pipelines.crypto.tensor_format import from_bytes, to_bytes
from acie_pipelines.errors import IntegrityError, ModelError
from acie_pipelines.provenance import Generation, Manifest, Output
from acie_pipelines.secure.batches import Recipe, Work, input_of
from acie_pipelines.secure.models import Interface
from acie_pipelines.secure.queue_tables import Lease
from acie_pipelines.secure.retrieval.inference import encrypt_image
from acie_pipelines.secure.signals import Signal
from acie_pipelines.secure.tasks import Progress
from acie_pipelines.storage import Store
from acie_pipelines.tiling.reading import plane_record, read_tile, tiles_of

__all__ = ["KIND", "do_unit", "plane_signal", "read_windows", "verified_file", "windows_work"]

KIND: Final = "encrypted_windows"
_CODE_VERSION: Final = "1"
_PLACE: Final = ("channel", "y0", "y1", "x0", "x1")


def plane_signal(tiles: Manifest, plane: str, shape: tuple[int, int]) -> Signal:
    """Describe windows of a plane for a model: width of values, and a scale far below the noise.

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
    exact = np.dtype(plane_record(tiles, plane)["dtype"]).kind != "f"
    noise = [found["background_rms"] for found in measured if found["background_rms"]]
    bits = 0 if exact else choose_fractional_bits(statistics.median(noise or [0.0]), maximum)
    # All that fits the same width: the greatest value itself would be public with the model.
    width = max(1, round(math.ldexp(maximum, bits)).bit_length())
    greatest = math.ldexp((1 << width) - 1, -bits)
    return Signal.inputs(shape, maximum=greatest, fractional_bits=bits, exact=exact)


def windows_work(
    tiles: Manifest, plane: str, interface: Interface, public_key: PaillierPublicKey
) -> Work:
    """Plan the encryption of every tile of a plane for models of one interface.

    The dataset of kind ``encrypted_windows`` under ``<observation>/<plane>`` holds a tensor per
    tile; models that take the same windows, and need no more guard bits, share it.

    Parameters
    ----------
    tiles
        Dataset of kind ``tiles``.
    plane
        Name of the plane.
    interface
        Of the model; it takes windows ``(height, width)``.
    public_key
        The owner's.
    """
    plane_record(tiles, plane)
    of_plane = list(tiles_of(tiles, plane))
    taken = {"input": interface.input.to_json(), "weight": interface.weight}

    def assemble(
        _: Generation, results: Sequence[Mapping[str, Any]]
    ) -> tuple[tuple[Output, ...], dict[str, Any]]:
        outputs = tuple(Output(result["path"], result["sha256"]) for result in results)
        facts = {
            "key_id": public_key.key_id,
            "modulus": f"{public_key.n:x}",
            "key_bits": public_key.bits,
            "plane": plane,
            "tiles": [{name: getattr(tile, name) for name in _PLACE} for tile in of_plane],
        }
        return outputs, facts | taken

    return Work(
        Recipe(
            KIND,
            f"{tiles.key}/{plane}",
            (tiles.as_input(),),
            _CODE_VERSION,
            {"plane": plane, "key_id": public_key.key_id} | taken,
        ),
        public_key,
        {"tiles": vars(tiles.as_input()), "plane": plane, "interface": interface.to_json()},
        [{"tile": number} for number in range(len(of_plane))],
        assemble,
    )


def do_unit(store: Store, lease: Lease, progress: Progress) -> dict[str, Any]:
    """Encrypt the windows of one tile.

    Parameters
    ----------
    store
        Holds the tiles and receives the tensor.
    lease
        Of a unit of `windows_work`.
    progress
        Called at the end.

    Returns
    -------
    dict
        ``path`` and ``sha256`` of the tensor.

    Raises
    ------
    ModelError
        If the tile does not fit the model.
    IntegrityError
        If it is not what its manifest states.
    """
    payload = lease.batch.payload
    tiles = input_of(store, payload["tiles"])
    tile = list(tiles_of(tiles, payload["plane"]))[lease.payload["tile"]]
    interface = Interface.from_json(payload["interface"])
    key = PaillierPublicKey(int(payload["modulus"], 16))
    tensor, _ = encrypt_image(read_tile(store, tiles, tile), interface, key)
    data, path = to_bytes(tensor), f"{lease.directory}/windows"
    store.write_bytes(f"{lease.batch.prefix}/{path}", data)
    progress(1, 1)
    return {"path": path, "sha256": hashlib.sha256(data).hexdigest()}


def verified_file(store: Store, manifest: Manifest | Generation, output: Output) -> bytes:
    """Read a file of a dataset and check its hash.

    Raises
    ------
    IntegrityError
        If it is not what was written.
    """
    where = f"{manifest.prefix}/{output.path}"
    data = store.read_bytes(where)
    if hashlib.sha256(data).hexdigest() != output.sha256:
        raise IntegrityError(where, "does not match the hash in its manifest", "run it again")
    return data


def read_windows(
    store: Store, windows: Manifest, tile: int, public_key: PaillierPublicKey
) -> CipherTensor:
    """Read the windows of a tile.

    Parameters
    ----------
    store, windows
        Dataset of kind ``encrypted_windows``.
    tile
        Its number, in storage order.
    public_key
        Key of the dataset.

    Raises
    ------
    IntegrityError
        If it is not what was written.
    CryptoError
        If the key is another one.
    """
    return from_bytes(verified_file(store, windows, windows.outputs[tile]), public_key)
