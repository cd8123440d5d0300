"""Rows of the ``secure`` benchmark about statistics of encrypted images.

Belongs here: seconds per megapixel of sums, differences and co-additions.
Does not belong here: the arithmetic itself (`acie_pipelines.secure`).

The peer is given our packing, so both sides do the same operations on as many ciphertexts; its time
is extrapolated from a slice of them. Re-randomisation of the result, an encryption each and the
same for both, is left out: the ``crypto`` area measures that.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from acie_native import limbs_to_ints
from acie_pipelines.crypto.cipher_tensor import CipherTensor
from acie_pipelines.crypto.keys import PaillierPrivateKey
from acie_pipelines.crypto.packing import layout_for
from acie_pipelines.crypto.plaintexts import plaintext_rows
from acie_pipelines.crypto.totals import RunningTotal
from acie_pipelines.evaluation.bench import Row, processor_seconds_of
from acie_pipelines.evaluation.phe_costs import PEER_NAME
from acie_pipelines.evaluation.secure_sides import secure_row
from acie_pipelines.secure.encrypted_images import subtract_reference

__all__ = ["statistics_rows"]

_SIDE: Final = 256
_MEGAPIXEL: Final = 1e6
_PEER_ROWS: Final = 200
_WEIGHTS: Final = (3, -1)


def statistics_rows(key: PaillierPrivateKey, repetitions: int) -> Iterator[Row]:
    """Measure images of 256 x 256 pixels of 16 bits, in seconds per megapixel.

    Parameters
    ----------
    key
        Key pair of both sides.
    repetitions
        Measurements of each side.

    Raises
    ------
    RuntimeError
        If a result differs from that of the plaintext images.
    """
    public = key.public_key
    layout = layout_for(np.uint16, key_bits=public.bits)
    rng = np.random.default_rng(3)
    images = [rng.integers(0, 1 << 16, (_SIDE, _SIDE), dtype=np.uint16) for _ in range(3)]
    first, second = (CipherTensor.encrypt(image, key, layout) for image in images[:2])
    _check(key, first, second, images)
    rows = first.kept.array

    def total() -> object:
        running = RunningTotal(public, layout)
        running.add(rows)
        return running

    ours: dict[str, Callable[[], object]] = {
        "sum": total,
        "difference": lambda: subtract_reference(first, images[2]).kept.array,
        "co-addition of two epochs": lambda: _coadd(first, second).kept.array,
    }
    peer = _Peer(key, first, second, plaintext_rows(images[2].astype(np.int64), public, layout))
    theirs = {
        "sum": peer.total,
        "difference": peer.difference,
        "co-addition of two epochs": peer.coadd,
    }
    for operation, work in ours.items():

        def peer_seconds(operation: str = operation) -> float:
            return processor_seconds_of(theirs[operation]) * len(first.kept) / _PEER_ROWS

        yield secure_row(
            work,
            peer_seconds,
            name=f"secure/{operation}, per megapixel/{public.bits} bit/1 core",
            peer_name=f"{PEER_NAME}, packed alike, extrapolated",
            repetitions=repetitions,
            per=_SIDE * _SIDE / _MEGAPIXEL,
        )


def _coadd(first: CipherTensor, second: CipherTensor) -> CipherTensor:
    return first * _WEIGHTS[0] + second * _WEIGHTS[1]


def _check(
    key: PaillierPrivateKey,
    first: CipherTensor,
    second: CipherTensor,
    images: list[NDArray[np.uint16]],
) -> None:
    a, b, reference = (image.astype(np.int64) for image in images)
    running = RunningTotal(key.public_key, first.layout)
    running.add(first.kept.array)
    same = (
        running.total().decrypt(key) == int(a.sum())
        and (subtract_reference(first, images[2]).decrypt_integers(key) == a - reference).all()
        and (_coadd(first, second).decrypt_integers(key) == _WEIGHTS[0] * a + _WEIGHTS[1] * b).all()
    )
    if not same:
        raise RuntimeError("statistics of encrypted images differ from those of plain ones")


class _Peer:
    """The same on python-paillier, over a slice of the ciphertexts."""

    def __init__(
        self,
        key: PaillierPrivateKey,
        first: CipherTensor,
        second: CipherTensor,
        reference: NDArray[np.uint64],
    ) -> None:
        import phe

        self._public: Any = key.to_phe().public_key

        def numbers(tensor: CipherTensor) -> list[Any]:
            values = limbs_to_ints(tensor.ciphertexts[:_PEER_ROWS])
            return [phe.EncryptedNumber(self._public, int(value)) for value in values]

        self._first, self._second = numbers(first), numbers(second)
        self._reference = [int(v) for v in limbs_to_ints(reference[:_PEER_ROWS])]

    def total(self) -> object:
        return sum(self._first[1:], self._first[0])

    def difference(self) -> object:
        return [a - b for a, b in zip(self._first, self._reference, strict=True)]

    def coadd(self) -> object:
        pairs = zip(self._first, self._second, strict=True)
        return [a * _WEIGHTS[0] + b * _WEIGHTS[1] for a, b in pairs]
