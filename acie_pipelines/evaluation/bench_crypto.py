"""Paillier operations against python-paillier on GMP.

Belongs here: the ``crypto`` benchmark.
Does not belong here: the kernels, or any other scheme.
"""

import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from os import cpu_count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.evaluation.bench import (
    Emit,
    Row,
    compare,
    one_core,
    peer_version,
    seconds_of,
)
from acie_pipelines.evaluation.ifma_floor import multiply_adds

__all__ = ["run"]

_KEY_BITS = (2048, 3072)
# A multiple of eight, and enough for about a tenth of a second per measurement and core.
_ROWS = {
    "encrypt": 2048,
    "encrypt by key holder": 2048,
    "decrypt": 512,
    "add": 20000,
    "add, from and to limbs": 4096,
    "subtract": 4096,
    "sum of 4096": 32768,
    "scalar 32 bit": 4096,
}
# Paths without vectors are an order of magnitude slower.
_ROW_PATHS = ("adx", "portable")
_ROW_PATH_ROWS = {"encrypt": 128, "encrypt by key holder": 128, "decrypt": 48}
_PEER_ROWS = {
    "encrypt": 12,
    "encrypt by key holder": 12,
    "decrypt": 40,
    "add": 500,
    "add, from and to limbs": 500,
    "subtract": 100,
    "sum of 4096": 4096,
    "scalar 32 bit": 400,
}
_TILE_SIDE = 1024

_PEER_NAME = "phe + gmpy2"

# Outputs and inputs of matrices of signed 8-bit weights; an operation is one weight.
_MATRICES = {"matrix product 512 x 64": (512, 64), "matrix product 64 x 512": (64, 512)}
_PEER_OUTPUTS = 4

_peer_key: Any = None


def run(emit: Emit, *, repetitions: int = 5, key_bits: Sequence[int] = _KEY_BITS) -> None:
    """Compare encryption, decryption, addition, sums, 32-bit scalars and matrix products.

    Arithmetic works on ciphertexts in the form that a `CipherArray` keeps, except where the row
    says that limbs come and go.

    The peer is ``phe`` with ``gmpy2``: on one core in this process, on all cores in a pool of
    processes that holds the key already. Both sides work under the same key; the unit is
    operations per second. Rows with a floor compare ours with what the counted multiply-adds
    (`acie_pipelines.evaluation.ifma_floor`) would take at the rate that this processor reached
    at the start of the run.

    Besides, all cores against one on our side; the paths for other processors; and seconds for a
    tile of 1024 x 1024 16-bit pixels through packing and back on one core, against the peer's
    time for as many ciphertexts.

    Parameters
    ----------
    emit
        Called with each row.
    repetitions
        Measurements of each side.
    key_bits
        Lengths of the modulus.
    """
    from acie_native import cpu_features, ifma_rate

    cores = cpu_count() or 1
    features = cpu_features()
    rate = ifma_rate() if features.isa == "avx512ifma" else None
    for bits in key_bits:
        case = _Case(bits, rate)
        context = get_context("forkserver")
        with ProcessPoolExecutor(
            cores, mp_context=context, initializer=_hold_key, initargs=(case.n, case.p, case.q)
        ) as pool:
            for operation in (*_ROWS, *_MATRICES):
                emit(_row(case, operation, 1, None, repetitions))
                if cores > 1:
                    emit(_row(case, operation, cores, pool, repetitions))
                    emit(_cores_row(case, operation, cores, repetitions))
        for isa in (path for path in features.available if path in _ROW_PATHS):
            for operation in _ROW_PATH_ROWS:
                emit(_path_row(case, isa, operation, repetitions))
        for row in _tile_rows(case, repetitions):
            emit(row)


class _Case:
    """A key pair and prepared operands for both sides.

    Parameters
    ----------
    bits
        Length of the modulus.
    ifma_rate
        Eight-lane multiply-adds per second, if the operations use them.
    """

    def __init__(self, bits: int, ifma_rate: float | None) -> None:
        from acie_native import PaillierPrivateContext, PaillierPublicContext, ints_to_limbs
        from acie_pipelines.crypto.keys import generate_keypair

        self.key = key = generate_keypair(bits)
        self.ifma_rate = ifma_rate
        self.bits, self.n, self.p, self.q = bits, key.public_key.n, key.p, key.q
        self.public = PaillierPublicContext(self.n)
        self.private = PaillierPrivateContext(self.p, self.q)
        rows = max(_ROWS.values()) * (cpu_count() or 1)
        numbers = [secrets.randbelow(self.n) for _ in range(rows)]
        self.plaintexts = ints_to_limbs(numbers, self.public.plaintext_limbs)
        # Any numbers below n squared do for arithmetic; encrypting this many would take long.
        some = self.public.encrypt(self.plaintexts[: _ROWS["decrypt"]])
        self.ciphertexts = np.resize(some, (rows, self.public.ciphertext_limbs))
        self.scalars = np.array([secrets.randbits(32) for _ in range(rows)], dtype=np.int64)

    def floor(self, operation: str, threads: int) -> float | None:
        """Operations per second if nothing but multiply-adds took time."""
        count = multiply_adds(operation, self.bits)
        if self.ifma_rate is None or count is None:
            return None
        return threads * self.ifma_rate / count

    def ours(self, operation: str, threads: int) -> Callable[[], object]:
        """Work of our side, all rows in one call."""
        if operation in _MATRICES:
            outputs, inputs = _MATRICES[operation]
            encrypted = self.public.load(self.ciphertexts[:inputs])
            weights = _signed_bytes(outputs * threads, inputs)
            return lambda: encrypted.matmul(weights, threads=threads)
        rows = _ROWS[operation] * threads
        plaintexts, ciphertexts = self.plaintexts[:rows], self.ciphertexts[:rows]
        reverse = np.ascontiguousarray(ciphertexts[::-1])
        scalars = self.scalars[:rows]
        kept, others = self.public.load(ciphertexts), self.public.load(reverse)

        def add_limbs() -> object:
            a, b = (self.public.load(c, threads=threads) for c in (ciphertexts, reverse))
            return a.add(b, threads=threads).store(threads=threads)

        work: dict[str, Callable[[], object]] = {
            "encrypt": lambda: self.public.encrypt(plaintexts, threads=threads),
            "encrypt by key holder": lambda: self.private.encrypt(plaintexts, threads=threads),
            "decrypt": lambda: self.private.decrypt(ciphertexts, threads=threads),
            "add": lambda: kept.add(others, threads=threads),
            "add, from and to limbs": add_limbs,
            "subtract": lambda: kept.subtract(others, threads=threads),
            "sum of 4096": lambda: kept.sum(4096, threads=threads),
            "scalar 32 bit": lambda: kept.scalar_mul(scalars, threads=threads),
        }
        return work[operation]


def _row(
    case: _Case, operation: str, cores: int, pool: ProcessPoolExecutor | None, repetitions: int
) -> Row:
    ours = case.ours(operation, cores)
    mine, theirs = _operations(operation) * cores, _peer_operations(operation)

    def peer_rate() -> float:
        if pool is None:
            return theirs / _peer_seconds(operation, theirs)
        # The slowest worker ends the measurement, as the slowest thread does on our side.
        found = pool.map(_peer_seconds, [operation] * cores, [theirs] * cores)
        return theirs * cores / max(found)

    if pool is None:
        _hold_key(case.n, case.p, case.q)
    ours()
    peer_rate()
    row = compare(
        lambda: mine / seconds_of(ours),
        peer_rate,
        name=f"crypto/{operation}/{case.bits} bit/{cores} core{'s' if cores > 1 else ''}",
        unit="1/s",
        peer_name=_PEER_NAME,
        peer_version=_peer_versions(),
        better="more",
        repetitions=repetitions,
    )
    floor = case.floor(operation, cores)
    return row if floor is None else replace(row, floor=floor, fraction_of_floor=row.ours / floor)


def _operations(operation: str) -> int:
    """Count what our side does on each core in one measurement."""
    if operation in _MATRICES:
        outputs, inputs = _MATRICES[operation]
        return outputs * inputs
    return _ROWS[operation]


def _peer_operations(operation: str) -> int:
    if operation in _MATRICES:
        return _PEER_OUTPUTS * _MATRICES[operation][1]
    return _PEER_ROWS[operation]


def _cores_row(case: _Case, operation: str, cores: int, repetitions: int) -> Row:
    """Measure all cores against one, on our side."""
    on_all, on_one = case.ours(operation, cores), case.ours(operation, 1)
    count = _operations(operation)
    on_all()
    on_one()
    return compare(
        lambda: count * cores / seconds_of(on_all),
        lambda: count / seconds_of(on_one),
        name=f"crypto/{operation}/{case.bits} bit/{cores} cores over 1",
        unit="1/s",
        peer_name="acie_native on one core",
        peer_version=peer_version("acie"),
        better="more",
        repetitions=repetitions,
    )


def _path_row(case: _Case, isa: str, operation: str, repetitions: int) -> Row:
    """Measure a path for processors without vector arithmetic, on one core."""
    from acie_native import PaillierPrivateContext, PaillierPublicContext

    rows, theirs = _ROW_PATH_ROWS[operation], _PEER_ROWS[operation]
    plaintexts, ciphertexts = case.plaintexts[:rows], case.ciphertexts[:rows]
    private = PaillierPrivateContext(case.p, case.q, isa=isa)
    public = PaillierPublicContext(case.n, isa=isa)
    work: dict[str, Callable[[], object]] = {
        "encrypt": lambda: public.encrypt(plaintexts, threads=1),
        "encrypt by key holder": lambda: private.encrypt(plaintexts, threads=1),
        "decrypt": lambda: private.decrypt(ciphertexts, threads=1),
    }
    ours = work[operation]
    _hold_key(case.n, case.p, case.q)
    ours()
    return compare(
        lambda: rows / seconds_of(ours),
        lambda: theirs / _peer_seconds(operation, theirs),
        name=f"crypto/{operation}, {isa} path/{case.bits} bit/1 core",
        unit="1/s",
        peer_name=_PEER_NAME,
        peer_version=_peer_versions(),
        better="more",
        repetitions=repetitions,
    )


def _tile_rows(case: _Case, repetitions: int) -> Iterator[Row]:
    """Measure a tile through packing and encryption, and back, on one core."""
    from acie_pipelines.crypto.cipher_tensor import CipherTensor
    from acie_pipelines.crypto.packing import layout_for

    public = case.key.public_key
    layout = layout_for(np.uint16, key_bits=public.bits)
    pixels = np.random.default_rng(1).integers(
        0, 1 << 16, (_TILE_SIDE, _TILE_SIDE), dtype=np.uint16
    )
    tensor = CipherTensor.encrypt(pixels, public, layout)
    if not np.array_equal(tensor.decrypt_integers(case.key), pixels):
        raise RuntimeError("a tile came back from encryption changed")
    work: dict[str, Callable[[], object]] = {
        "encrypt": lambda: CipherTensor.encrypt(pixels, public, layout),
        "decrypt": lambda: tensor.decrypt_integers(case.key),
    }
    count = layout.rows(pixels.size)
    _hold_key(case.n, case.p, case.q)
    for operation, ours in work.items():
        theirs = _PEER_ROWS[operation]

        def our_seconds(ours: Callable[[], object] = ours) -> float:
            with one_core():
                return seconds_of(ours)

        def peer_seconds(operation: str = operation, theirs: int = theirs) -> float:
            return _peer_seconds(operation, theirs) * count / theirs

        yield compare(
            our_seconds,
            peer_seconds,
            name=f"crypto/{operation} packed 16 bit tile/{case.bits} bit/1 core",
            unit="s",
            peer_name=f"{_PEER_NAME}, {count} ciphertexts",
            peer_version=_peer_versions(),
            better="less",
            repetitions=repetitions,
        )


def _peer_versions() -> str:
    return f"{peer_version('phe')} + {peer_version('gmpy2')}"


def _signed_bytes(rows: int, columns: int) -> NDArray[np.int64]:
    return np.random.default_rng(8).integers(-128, 128, (rows, columns))


def _hold_key(n: int, p: int, q: int) -> None:
    """Give this process the key, so that no measurement includes sending it."""
    global _peer_key
    import phe
    from phe.util import HAVE_GMP

    if not HAVE_GMP:
        raise RuntimeError("the peer runs without gmpy2; install it for a fair comparison")
    public = phe.PaillierPublicKey(n)
    _peer_key = phe.PaillierPrivateKey(public, p, q)


def _peer_seconds(operation: str, rows: int) -> float:
    """Seconds that the peer needs for so many rows."""
    from phe import EncryptedNumber

    private = _peer_key
    public = private.public_key
    if operation in _MATRICES:
        rows = _MATRICES[operation][1]
    numbers = [secrets.randbelow(public.n // 3) for _ in range(rows)]
    if operation.startswith("encrypt"):
        return seconds_of(lambda: [public.raw_encrypt(number) for number in numbers])
    # Obfuscation is left out of the preparation only: arithmetic takes as long without it.
    raw = [public.raw_encrypt(number, r_value=1) for number in numbers]
    if operation == "decrypt":
        return seconds_of(lambda: [private.raw_decrypt(value) for value in raw])
    encrypted = [EncryptedNumber(public, value) for value in raw]
    others = encrypted[::-1]
    if operation == "subtract":
        return seconds_of(lambda: [a - b for a, b in zip(encrypted, others, strict=True)])
    if operation.startswith("sum"):
        return seconds_of(lambda: sum(encrypted[1:], encrypted[0]))
    if operation.startswith("add"):
        return seconds_of(lambda: [a + b for a, b in zip(encrypted, others, strict=True)])
    if operation in _MATRICES:
        matrix = _signed_bytes(_PEER_OUTPUTS, rows).tolist()

        def multiply() -> None:
            for row in matrix:
                terms = (a * weight for a, weight in zip(encrypted, row, strict=True))
                sum(terms, next(terms))

        return seconds_of(multiply)
    scalars = [secrets.randbits(32) for _ in range(rows)]
    return seconds_of(lambda: [a * b for a, b in zip(encrypted, scalars, strict=True)])
