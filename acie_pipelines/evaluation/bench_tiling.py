"""Ingesting and tiling of large files: throughput, and memory that does not grow with them.

Belongs here: the ``tiling`` benchmark, and the work its child processes do.
Does not belong here: making the files (`acie_pipelines.evaluation.bench_data`).

Every measurement runs in a process of its own, ``python -m acie_pipelines.evaluation.bench_tiling
<work> <source> <directory>``, because the peak of resident memory can only be read for a process
as a whole.
"""

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from acie_pipelines import __version__
from acie_pipelines.errors import StorageError
from acie_pipelines.evaluation.bench import Emit, Row, median_and_spread, peer_version
from acie_pipelines.evaluation.bench_data import write_large_fits, write_large_tiff

__all__ = ["Measured", "measure", "peak_memory_mb", "run"]

_PEER_GB = 0.5
_SMALL_GB = 1.0
# The source, its copy in the store, and the tiles.
_DISK_PER_INPUT = 3.5
_MAKERS = {"FITS": (".fits", write_large_fits), "TIFF": (".tif", write_large_tiff)}


@dataclass(frozen=True)
class Measured:
    """What one child process took.

    Attributes
    ----------
    seconds
        Wall time of the work, without starting Python and loading libraries.
    peak_mb
        Peak resident memory of the process, in 10**6 bytes.
    megabytes
        Size of the samples, in 10**6 bytes.
    """

    seconds: float
    peak_mb: float
    megabytes: float

    @property
    def throughput(self) -> float:
        """Samples taken in, in 10**6 bytes per second."""
        return self.megabytes / self.seconds


def measure(work: str, source: Path) -> Measured:
    """Do some work on a file in a process of its own; what it writes is deleted.

    Parameters
    ----------
    work
        ``ingest-and-tile`` or ``astropy-and-zarr``.
    source
        The file.
    """
    with tempfile.TemporaryDirectory(prefix="acie-bench-", dir=source.parent) as directory:
        command = [sys.executable, "-m", __name__, work, str(source), directory]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE)  # noqa: S603
    return Measured(**json.loads(done.stdout))


def run(
    emit: Emit, *, large_gb: float = 5.0, repetitions: int = 5, directory: Path | None = None
) -> None:
    """Compare with astropy and Zarr at a size they can hold, then grow the files.

    Parameters
    ----------
    emit
        Called with each row.
    large_gb
        Size of the large files in 10**9 bytes.
    repetitions
        Measurements of each side of the comparison.
    directory
        Where to put the files; a new temporary directory by default.

    Raises
    ------
    StorageError
        If the disk has too little space.
    """
    with tempfile.TemporaryDirectory(prefix="acie-bench-", dir=directory) as folder:
        _require_space(Path(folder), large_gb)
        _against_astropy(emit, Path(folder), repetitions)
        for file_format in _MAKERS:
            _against_smaller(emit, Path(folder), file_format, large_gb)


def _require_space(folder: Path, large_gb: float) -> None:
    needed = _DISK_PER_INPUT * max(large_gb, _SMALL_GB) * 1e9
    if shutil.disk_usage(folder).free < needed:
        raise StorageError(
            folder, f"has less than {needed / 1e9:.0f} GB free", "free space or set TMPDIR"
        )


def _against_astropy(emit: Emit, folder: Path, repetitions: int) -> None:
    source = folder / "peer.fits"
    write_large_fits(source, _PEER_GB)
    pairs = [
        (measure("ingest-and-tile", source), measure("astropy-and-zarr", source))
        for _ in range(repetitions)
    ]
    source.unlink()
    versions = f"{peer_version('astropy')} + {peer_version('zarr')}"
    speed, speed_spread = median_and_spread([ours.throughput for ours, _ in pairs])
    peer_speed, _ = median_and_spread([peer.throughput for _, peer in pairs])
    peak, peak_spread = median_and_spread([ours.peak_mb for ours, _ in pairs])
    peer_peak, _ = median_and_spread([peer.peak_mb for _, peer in pairs])
    name = f"tiling/FITS {_PEER_GB:g} GB"
    peer = "fits.getdata + zarr.save (no hashes, statistics or copy)"
    emit(
        Row(
            f"{name}/throughput",
            speed,
            peer_speed,
            speed / peer_speed,
            "MB/s",
            repetitions,
            speed_spread,
            peer,
            versions,
        )
    )
    emit(
        Row(
            f"{name}/peak memory",
            peak,
            peer_peak,
            peer_peak / peak,
            "MB",
            repetitions,
            peak_spread,
            peer,
            versions,
        )
    )


def _against_smaller(emit: Emit, folder: Path, file_format: str, large_gb: float) -> None:
    """One run at each size: a file of many gigabytes is long enough to average over."""
    suffix, make = _MAKERS[file_format]
    found = {}
    for size in (_SMALL_GB, large_gb):
        source = folder / f"large{suffix}"
        make(source, size)
        found[size] = measure("ingest-and-tile", source)
        source.unlink()
    small, large = found[_SMALL_GB], found[large_gb]
    name = f"tiling/{file_format} {large_gb:g} GB"
    peer = f"acie at {_SMALL_GB:g} GB"
    emit(
        Row(
            f"{name}/throughput",
            large.throughput,
            small.throughput,
            large.throughput / small.throughput,
            "MB/s",
            1,
            0.0,
            peer,
            __version__,
        )
    )
    emit(
        Row(
            f"{name}/peak memory",
            large.peak_mb,
            small.peak_mb,
            small.peak_mb / large.peak_mb,
            "MB",
            1,
            0.0,
            peer,
            __version__,
        )
    )


def peak_memory_mb() -> float:
    """Peak resident memory of this process.

    The kernel lets a process inherit its parent's ``ru_maxrss`` when it is started, so Linux's
    own figure for the present program is read where there is one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(row for row in status.read_text().splitlines() if row.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts bytes.
    return peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6


def _ingest_and_tile(source: Path, directory: Path) -> tuple[float, float]:
    from acie_pipelines.observations.ingest import ingest_observation, open_stored
    from acie_pipelines.storage import Store
    from acie_pipelines.tiling.writer import write_tiles

    start = time.perf_counter()
    store = Store(str(directory / "store"))
    stored = ingest_observation(store, source, code_version="bench")
    with open_stored(store, stored) as observation:
        tiles = write_tiles(store, stored, observation, code_version="bench")
    return time.perf_counter() - start, tiles.attributes["bytes"] / 1e6


def _astropy_and_zarr(source: Path, directory: Path) -> tuple[float, float]:
    import zarr
    from astropy.io import fits

    start = time.perf_counter()
    pixels = fits.getdata(source)
    zarr.save(str(directory / "array.zarr"), pixels.astype(pixels.dtype.newbyteorder("=")))
    return time.perf_counter() - start, pixels.nbytes / 1e6


_WORK = {"ingest-and-tile": _ingest_and_tile, "astropy-and-zarr": _astropy_and_zarr}


def main(arguments: list[str]) -> None:
    """Do one measured piece of work and print what it took.

    Parameters
    ----------
    arguments
        Name of the work, source file, directory to write into.
    """
    work, source, directory = arguments
    seconds, megabytes = _WORK[work](Path(source), Path(directory))
    figures = {"seconds": seconds, "peak_mb": peak_memory_mb(), "megabytes": megabytes}
    sys.stdout.write(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1:])
