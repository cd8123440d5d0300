"""Rows of the ``secure`` benchmark about what encryption adds to a tile.

Belongs here: bytes and seconds that a tile takes encrypted. Does not belong here: computing on
tiles, single operations (`bench_crypto`).
"""

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from acie_pipelines.crypto.cipher_tensor import CipherTensor
from acie_pipelines.crypto.keys import PaillierPrivateKey
from acie_pipelines.crypto.packing import layout_for
from acie_pipelines.evaluation.bench import Row
from acie_pipelines.evaluation.phe_costs import PEER_NAME, Operations, PheCosts, peer_versions
from acie_pipelines.evaluation.secure_sides import secure_row

__all__ = ["overhead_rows"]

_SIDE: Final = 256
_MEGAPIXEL: Final = 1e6


def overhead_rows(key: PaillierPrivateKey, repetitions: int) -> Iterator[Row]:
    """Measure bytes, encryption and decryption of 16-bit pixels.

    The peer encrypts a pixel per ciphertext; its time is extrapolated from a slice.

    Parameters
    ----------
    key
        Key pair of both sides.
    repetitions
        Measurements of each side.

    Raises
    ------
    RuntimeError
        If a pixel comes back changed.
    """
    bits = key.public_key.bits
    pixels = np.random.default_rng(2).integers(0, 1 << 16, (_SIDE, _SIDE), dtype=np.uint16)
    layout = layout_for(pixels.dtype, key_bits=bits)
    tensor = CipherTensor.encrypt(pixels, key.public_key, layout)
    if not np.array_equal(tensor.decrypt_integers(key), pixels):
        raise RuntimeError("a tile came back from encryption changed")
    ours = tensor.ciphertexts.nbytes / pixels.nbytes
    # A ciphertext is an integer below n^2.
    peer = pixels.size * (2 * bits // 8) / pixels.nbytes
    yield Row(
        f"secure/16-bit tile/ciphertext per plaintext/{bits} bit",
        ours,
        peer,
        peer / ours,
        "bytes/byte",
        1,
        0.0,
        PEER_NAME,
        peer_versions(),
    )
    costs = PheCosts(key)
    work: dict[str, tuple[Callable[[], object], Operations]] = {
        "encrypt": (
            lambda: CipherTensor.encrypt(pixels, key.public_key, layout),
            Operations(encryptions=pixels.size),
        ),
        "decrypt": (
            lambda: tensor.decrypt_integers(key),
            Operations(decryptions=pixels.size),
        ),
    }
    for name, (call, operations) in work.items():

        def theirs(operations: Operations = operations) -> float:
            return costs.seconds(operations)

        yield secure_row(
            call,
            theirs,
            name=f"secure/16-bit tile/{name} a megapixel/{bits} bit/1 core",
            repetitions=repetitions,
            per=pixels.size / _MEGAPIXEL,
        )
