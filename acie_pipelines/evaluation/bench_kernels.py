"""Kernels that are not cryptography: statistics, packing, hashes, intervals, entropy.

Belongs here: the ``kernels`` benchmark.
Does not belong here: the kernels, or their tests.
"""

import hashlib
import platform
import secrets
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.evaluation.bench import Emit, compare, peer_version, seconds_of, timed_row

__all__ = ["run"]

_SIDE = 1024
_MESSAGE_BYTES = 1 << 24
# The pure Python peer needs about a second for so many.
_PEER_MESSAGE_BYTES = 1 << 16
# Slots of 16-bit pixels under a key of 3072 bits.
_LAYOUT: dict[str, Any] = {"slot_bits": 34, "value_bits": 17, "slots_per_plaintext": 90}
_LIMBS = 48


def run(emit: Emit, *, repetitions: int = 5) -> None:
    """Compare with NumPy, SciPy, astropy, SHA-256 and, where it is installed, ``gostcrypto``.

    Parameters
    ----------
    emit
        Called with each row.
    repetitions
        Measurements of each side.
    """
    from acie_native import tile_statistics

    versions = f"{peer_version('numpy')} + {peer_version('astropy')}"
    for name, tile in _tiles().items():

        def ours(tile: NDArray[Any] = tile) -> object:
            return tile_statistics(tile)

        def peer(tile: NDArray[Any] = tile) -> object:
            return _numpy_statistics(tile)

        emit(
            timed_row(
                ours,
                peer,
                name=f"kernels/tile statistics/{name}",
                peer_name="numpy + astropy sigma_clipped_stats",
                peer_version=versions,
                repetitions=repetitions,
            )
        )
    _slots(emit, repetitions)
    _streebog(emit, repetitions)
    _fingerprint(emit, repetitions)
    _intervals(emit, repetitions)
    _entropy(emit, repetitions)


def _intervals(emit: Emit, repetitions: int) -> None:
    """NumPy rounds every step: near the light cone it loses the digits that ours keeps."""
    from acie_native import minkowski_interval

    metric = np.array([-1.0, 1.0, 1.0, 1.0])

    def peer(start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
        difference = end - start
        difference *= difference
        squared: NDArray[np.float64] = difference @ metric
        return squared

    for pairs, calls in ((100_000, 10), (1_000_000, 1)):
        start, end = np.random.default_rng(3).normal(size=(2, pairs, 4))
        emit(
            timed_row(
                partial(minkowski_interval, start, end),
                partial(peer, start, end),
                name=f"kernels/Minkowski interval/{pairs} pairs",
                peer_name="numpy",
                peer_version=peer_version("numpy"),
                repetitions=repetitions,
                calls=calls,
            )
        )


def _entropy(emit: Emit, repetitions: int) -> None:
    from acie_native import distribution_entropy

    samples = np.random.default_rng(4).standard_normal((20_000, 64)).astype(np.float32)
    emit(
        timed_row(
            lambda: distribution_entropy(samples),
            lambda: _scipy_entropy(samples),
            name="kernels/entropy of a distribution/20000 samples of 64 dimensions",
            peer_name="numpy + scipy differential_entropy",
            peer_version=f"{peer_version('numpy')} + {peer_version('scipy')}",
            repetitions=repetitions,
        )
    )


def _scipy_entropy(samples: NDArray[np.float32]) -> float:
    """Entropy along the axes of one orthonormal basis of the whitened samples."""
    from scipy.stats import differential_entropy

    centered = samples - samples.mean(axis=0, dtype=np.float64)
    spread, directions = np.linalg.eigh(np.cov(centered, rowvar=False))
    dimensions = samples.shape[1]
    basis = np.linalg.qr(np.random.default_rng(0).standard_normal((dimensions, dimensions)))[0]
    axes = (directions / np.sqrt(spread)) @ basis
    values = axes.T @ centered.T
    entropies = differential_entropy(values, window_length=8, axis=1, method="vasicek")
    return float(entropies.sum() + 0.5 * np.log(spread).sum())


def _tiles() -> dict[str, NDArray[Any]]:
    """Tiles of sky noise with sources, as surveys deliver them."""
    rng = np.random.default_rng(11)
    sky = rng.normal(200.0, 8.0, (_SIDE, _SIDE))
    sky += rng.pareto(2.0, sky.shape) * (rng.random(sky.shape) < 0.02) * 50
    blank = sky.astype(np.float32)
    blank[100:110] = np.nan
    return {
        "float32": sky.astype(np.float32),
        "float32 with NaN": blank,
        "float64": sky,
        "uint8": np.clip(sky, 0, 255).astype(np.uint8),
        "int16": np.clip(sky, 0, 32767).astype(np.int16),
        "uint16": np.clip(sky, 0, 65535).astype(np.uint16),
        "int32": sky.astype(np.int32),
        "int32, wide": np.clip(sky * 1e4, 0, 2**31 - 1).astype(np.int32),
    }


def _numpy_statistics(tile: NDArray[Any]) -> tuple[float, ...]:
    from astropy.stats import sigma_clipped_stats

    valid = tile[np.isfinite(tile)] if tile.dtype.kind == "f" else tile
    _, background, rms = sigma_clipped_stats(valid, sigma=3.0, maxiters=5)
    return (
        float(valid.min()),
        float(valid.max()),
        float(valid.mean(dtype=np.float64)),
        float(valid.var(dtype=np.float64)),
        float(valid.sum(dtype=np.float64)),
        float(background),
        float(rms),
    )


def _slots(emit: Emit, repetitions: int) -> None:
    """Bytes read and written per second, against those of a copy of the values."""
    from acie_native import pack_slots, unpack_slots

    values = np.random.default_rng(11).integers(0, 1 << 16, _SIDE * _SIDE)
    packed = pack_slots(values, **_LAYOUT, limbs=_LIMBS)
    moved = values.nbytes + packed.nbytes
    works: dict[str, Callable[[], object]] = {
        "pack": lambda: pack_slots(values, **_LAYOUT, limbs=_LIMBS),
        "unpack": lambda: unpack_slots(packed, values.size, **_LAYOUT),
    }
    for name, work in works.items():
        work()

        def ours(work: Callable[[], object] = work) -> float:
            return moved / seconds_of(work) / 1e9

        emit(
            compare(
                ours,
                lambda: 2 * values.nbytes / seconds_of(values.copy) / 1e9,
                name=f"kernels/{name} slots of 34 bits",
                unit="GB/s",
                peer_name="numpy.copy",
                peer_version=peer_version("numpy"),
                better="more",
                repetitions=repetitions,
            )
        )


def _fingerprint(emit: Emit, repetitions: int) -> None:
    """SHA-256 and Streebog-256 of a file in one read, against one after the other."""
    from acie_native import Streebog256
    from acie_pipelines.observations.identity import fingerprint

    with NamedTemporaryFile() as file:
        file.write(secrets.token_bytes(_MESSAGE_BYTES))
        file.flush()
        path = Path(file.name)

        def twice() -> float:
            def work() -> None:
                hashlib.sha256(path.read_bytes()).digest()
                Streebog256(path.read_bytes()).digest()

            return _MESSAGE_BYTES / seconds_of(work) / 1e6

        emit(
            compare(
                lambda: _MESSAGE_BYTES / seconds_of(lambda: fingerprint(path)) / 1e6,
                twice,
                name="kernels/SHA-256 and Streebog-256 of a file",
                unit="MB/s",
                peer_name="the same hashes, one after the other",
                peer_version=platform.python_version(),
                better="more",
                repetitions=repetitions,
            )
        )


def _streebog(emit: Emit, repetitions: int) -> None:
    from acie_native import Streebog256

    message = secrets.token_bytes(_MESSAGE_BYTES)

    def ours() -> float:
        digest = Streebog256()
        seconds = seconds_of(lambda: digest.update(message))
        return len(message) / seconds / 1e6

    # Not the same function, but what one would hash with otherwise.
    peers: dict[str, tuple[str, Callable[[], float]]] = {
        "SHA-256 (another hash, for scale)": (
            platform.python_version(),
            lambda: len(message) / seconds_of(lambda: hashlib.sha256(message)) / 1e6,
        )
    }
    if find_spec("gostcrypto") is not None:
        peers["gostcrypto"] = (peer_version("gostcrypto"), lambda: _gostcrypto_rate(message))
    for name, (found_version, peer) in peers.items():
        emit(
            compare(
                ours,
                peer,
                name="kernels/Streebog-256",
                unit="MB/s",
                peer_name=name,
                peer_version=found_version,
                better="more",
                repetitions=repetitions,
            )
        )


def _gostcrypto_rate(message: bytes) -> float:
    new = import_module("gostcrypto.gosthash").new
    piece = bytearray(message[:_PEER_MESSAGE_BYTES])
    return len(piece) / seconds_of(lambda: new("streebog256", data=piece).digest()) / 1e6
