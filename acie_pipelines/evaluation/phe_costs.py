"""What single operations cost python-paillier on GMP.

Belongs here: processor seconds per operation of the peer, measured on a slice, and what a
computation of known counts would take it. Does not belong here: our side, or what is computed.
"""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from acie_pipelines.crypto.keys import PaillierPrivateKey
from acie_pipelines.evaluation.bench import peer_version, processor_seconds_of

__all__ = ["PEER_NAME", "Operations", "PheCosts", "peer_versions"]

PEER_NAME: Final = "phe + gmpy2"

_ENCRYPTIONS: Final = 8
_DECRYPTIONS: Final = 16
_WEIGHTS: Final = 400
_INPUTS: Final = 50


def peer_versions() -> str:
    """Versions of the peer and of its arithmetic."""
    return f"{peer_version('phe')} + {peer_version('gmpy2')}"


@dataclass(frozen=True)
class Operations:
    """Operations on ciphertexts that a computation takes.

    Attributes
    ----------
    encryptions, decryptions
        Of one ciphertext each.
    products
        Multiplications by a signed 8-bit weight, each with the addition to a sum.
    """

    encryptions: int = 0
    products: int = 0
    decryptions: int = 0


class PheCosts:
    """The peer under a key, on one core.

    Parameters
    ----------
    key
        Key pair of both sides.
    """

    def __init__(self, key: PaillierPrivateKey) -> None:
        import phe
        from phe.util import HAVE_GMP

        if not HAVE_GMP:
            raise RuntimeError("the peer runs without gmpy2; install it for a fair comparison")
        self._private: Any = key.to_phe()
        self._public: Any = self._private.public_key
        numbers = [secrets.randbelow(self._public.n // 3) for _ in range(_INPUTS)]
        raw = [self._public.raw_encrypt(number) for number in numbers[:_DECRYPTIONS]]
        self._raw = [raw[i % len(raw)] for i in range(_INPUTS)]
        self._encrypted = [phe.EncryptedNumber(self._public, value) for value in self._raw]
        rng = np.random.default_rng(8)
        self._weights = rng.integers(-128, 128, (_WEIGHTS // _INPUTS, _INPUTS)).tolist()
        self._numbers = numbers

    def seconds(self, operations: Operations) -> float:
        """Measure each operation on a slice, and extrapolate to all.

        Parameters
        ----------
        operations
            Counts; what is not needed is not measured.
        """
        total = 0.0
        if operations.encryptions:
            some = self._numbers[:_ENCRYPTIONS]
            spent = processor_seconds_of(
                lambda: [self._public.raw_encrypt(number) for number in some]
            )
            total += spent / len(some) * operations.encryptions
        if operations.products:
            total += processor_seconds_of(self._multiply) / _WEIGHTS * operations.products
        if operations.decryptions:
            raw = self._raw[:_DECRYPTIONS]
            spent = processor_seconds_of(
                lambda: [self._private.raw_decrypt(value) for value in raw]
            )
            total += spent / len(raw) * operations.decryptions
        return total

    def _multiply(self) -> None:
        for row in self._weights:
            terms = (a * weight for a, weight in zip(self._encrypted, row, strict=True))
            sum(terms, next(terms))


def _seconds_each(operation: Callable[[int], object], numbers: list[int]) -> float:
    return processor_seconds_of(lambda: [operation(number) for number in numbers]) / len(numbers)
