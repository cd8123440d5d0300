"""Encryption of images larger than memory: throughput, and memory that does not grow with them.

Belongs here: the streaming rows of the ``secure`` benchmark, and the work its child processes do.
Does not belong here: making the files (`acie_pipelines.evaluation.bench_data`).

Every measurement runs in a process of its own, ``python -m
acie_pipelines.evaluation.secure_streams <work> <source> <directory> <modulus>``, because the peak
of resident memory can only be read for a process as a whole.
"""

import json
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from acie_pipelines import __version__
from acie_pipelines.crypto.keys import PaillierPublicKey, generate_keypair
from acie_pipelines.crypto.public_keys import KeyRecord, KeyState, PublicKeys
from acie_pipelines.evaluation.bench import Emit, Row
from acie_pipelines.evaluation.bench_data import write_large_fits
from acie_pipelines.evaluation.bench_tiling import Measured, peak_memory_mb
from acie_pipelines.storage import Store

__all__ = ["main", "measure_encryption", "run"]

_KEY_BITS = 2048
_SMALL_GB = 0.1


def run(emit: Emit, *, large_gb: float = 5.0, directory: Path | None = None) -> None:
    """Encrypt a small and a large image of 16-bit pixels; one run of each, on all cores.

    5 GB take half an hour on two cores with AVX-512 IFMA, and 25 GB of disk.

    Parameters
    ----------
    emit
        Called with each row.
    large_gb
        Size of the large image in 10**9 bytes.
    directory
        Where to put the files; a new temporary directory by default.
    """
    small, large = (measure_encryption(size, directory) for size in (_SMALL_GB, large_gb))
    name = f"secure/encrypt {large_gb:g} GB of 16-bit pixels/{_KEY_BITS} bit"
    peer = f"acie at {_SMALL_GB:g} GB"
    for what, ours, peers, unit, ratio in (
        ("throughput", large.throughput, small.throughput, "MB/s", None),
        ("peak memory", large.peak_mb, small.peak_mb, "MB", small.peak_mb / large.peak_mb),
    ):
        better = ours / peers if ratio is None else ratio
        emit(Row(f"{name}/{what}", ours, peers, better, unit, 1, 0.0, peer, __version__))


def measure_encryption(gigabytes: float, directory: Path | None = None) -> Measured:
    """Tile an image of 16-bit pixels, then encrypt its tiles in a process of its own.

    Parameters
    ----------
    gigabytes
        Size of the image in 10**9 bytes.
    directory
        Where to put the files; they are deleted.
    """
    modulus = generate_keypair(_KEY_BITS).public_key.n
    with tempfile.TemporaryDirectory(prefix="acie-bench-", dir=directory) as folder:
        source = Path(folder) / "large.fits"
        write_large_fits(source, gigabytes, dtype="int16")
        _child("tile", source, folder, modulus)
        source.unlink()
        return _child("encrypt", source, folder, modulus)


def _child(work: str, source: Path, folder: str, modulus: int) -> Measured:
    command = [sys.executable, "-m", __name__, work, str(source), folder, f"{modulus:x}"]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)  # noqa: S603
    return Measured(**json.loads(done.stdout))


def _tile(source: Path, folder: Path) -> float:
    from acie_pipelines.observations.ingest import ingest_observation, open_stored
    from acie_pipelines.tiling.writer import write_tiles

    store = Store(str(folder / "store"))
    stored = ingest_observation(store, source, code_version="bench")
    with open_stored(store, stored) as observation:
        tiles = write_tiles(store, stored, observation, code_version="bench")
    return float(tiles.attributes["bytes"]) / 1e6


def _encrypt(folder: Path, public_key: PaillierPublicKey) -> float:
    """Do what the asset's steps and the workers do, one group after the other."""
    from acie_pipelines.provenance import current_manifest
    from acie_pipelines.secure.encryption import open_encryption, publish_encryption
    from acie_pipelines.secure.queue import WorkQueue
    from acie_pipelines.secure.tasks import do_unit

    store = Store(str(folder / "store"))
    queue = WorkQueue(f"sqlite:///{folder / 'queue.db'}")
    [key] = store.names("tiles")
    tiles = current_manifest(store, "tiles", key)
    batch, units = open_encryption(queue, tiles, public_key, "bench")
    now = datetime.now(UTC).isoformat()
    keys = PublicKeys("owner", (KeyRecord(public_key, 1, now, KeyState.CURRENT, now),))
    for number in range(units):
        do_unit(queue, store, keys, batch.id, number, "benchmark")
    publish_encryption(queue, store, tiles, public_key, "bench")
    return float(tiles.attributes["bytes"]) / 1e6


def main(arguments: list[str]) -> None:
    """Do one measured piece of work and print what it took.

    Parameters
    ----------
    arguments
        Name of the work, source file, directory to work in, modulus in hexadecimal.
    """
    work, source, folder, modulus = arguments
    started = time.perf_counter()
    if work == "tile":
        megabytes = _tile(Path(source), Path(folder))
    else:
        megabytes = _encrypt(Path(folder), PaillierPublicKey(int(modulus, 16)))
    seconds = time.perf_counter() - started
    figures = {"seconds": seconds, "peak_mb": peak_memory_mb(), "megabytes": megabytes}
    sys.stdout.write(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1:])
