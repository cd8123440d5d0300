"""Computing on ciphertexts against python-paillier on GMP.

Belongs here: the list of what the ``secure`` benchmark measures, one function per capability.
Does not belong here: any measurement.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from acie_pipelines.crypto.keys import PaillierPrivateKey, generate_keypair
from acie_pipelines.evaluation.bench import Emit, Row
from acie_pipelines.evaluation.secure_models import agreement_rows, layer_rows, split_rows
from acie_pipelines.evaluation.secure_retrieval import query_rows
from acie_pipelines.evaluation.secure_statistics import statistics_rows
from acie_pipelines.evaluation.secure_tiles import overhead_rows

__all__ = ["run"]

_KEY_BITS: Final = (2048, 3072)

_MEASURES: Final[tuple[Callable[[PaillierPrivateKey, int], Iterator[Row]], ...]] = (
    layer_rows,
    split_rows,
    query_rows,
    overhead_rows,
    statistics_rows,
)
"""Called with a key pair and the repetitions of each side, for every length of key."""


def run(emit: Emit, *, repetitions: int = 5, key_bits: Sequence[int] = _KEY_BITS) -> None:
    """Compare what is computed on ciphertexts; both sides work on one core under one key.

    Parameters
    ----------
    emit
        Called with each row.
    repetitions
        Measurements of each side.
    key_bits
        Lengths of the modulus.
    """
    for row in agreement_rows():
        emit(row)
    for bits in key_bits:
        key = generate_keypair(bits)
        for measure in _MEASURES:
            for row in measure(key, repetitions):
                emit(row)
