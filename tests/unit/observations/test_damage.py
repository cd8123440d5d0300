"""Random damage: every outcome is a success or a typed error, never a crash, hang or warning."""

import random
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
import tifffile

from acie_pipelines.errors import ObservationError
from acie_pipelines.observations.model import Window
from acie_pipelines.observations.opening import open_observation


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Cut, flip, overwrite or repeat parts, most often near the start, where headers are."""
    data = bytearray(content)
    for _ in range(rng.randint(1, 6)):
        reach = len(data) if rng.random() < 0.4 else min(len(data), 6000)
        at = rng.randrange(max(reach, 1))
        choice = rng.randrange(5)
        if choice == 0:
            del data[rng.randrange(len(data) + 1) :]
        elif choice == 1 and data:
            data[at] ^= 1 << rng.randrange(8)
        elif choice == 2:
            data[at : at + 8] = rng.randbytes(8)
        elif choice == 3:
            data[at : at + 10] = b"%10d" % rng.choice([-1, 0, 7, 999, 2**31, 2**40])
        else:
            data[at:at] = data[at : at + rng.randrange(200)]
        if not data:
            break
    return bytes(data)


def try_to_read(path: Path) -> bool:
    """Whether the file is readable; any exception but a typed one escapes."""
    try:
        with open_observation(path) as observation:
            observation.verify_checksums()
            for plane in observation.planes[:4]:
                height, width = (min(n, 200) for n in plane.shape[1:])
                observation.read(plane, Window(plane.shape[0] - 1, 0, height, 0, width))
    except ObservationError:
        return False
    return True


FITS_NAMES = [
    "test0.fits",
    "m13_rice.fits",
    "m13_gzip.fits",
    "m13_plio.fits",
    "compressed_with_nan.fits",
    "scale.fits",
    "random_groups.fits",
    "spec",
    "dist_lookup.fits.gz",
]


@pytest.mark.parametrize("name", FITS_NAMES)
def test_damaged_fits(data: Path, samples: Path, tmp_path: Path, name: str) -> None:
    source = samples / "spec-0266-51630-0168.fits" if name == "spec" else data / name
    content = source.read_bytes()
    path = tmp_path / source.name
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(40):
            path.write_bytes(damaged(content, random.Random(f"{name} {seed}")))  # noqa: S311
            try_to_read(path)


@pytest.mark.parametrize(
    "options",
    [
        {"rowsperstrip": 8},
        {"tile": (16, 16), "compression": "zlib", "predictor": True},
        {"compression": "lzw", "byteorder": ">"},
        {"bigtiff": True, "rowsperstrip": 5},
    ],
)
def test_damaged_tiff(tmp_path: Path, options: dict[str, object]) -> None:
    path = tmp_path / "a.tif"
    pages = np.random.default_rng(0).integers(0, 99, (2, 40, 50), np.uint16)
    tifffile.imwrite(path, pages, photometric="minisblack", **options)
    content = path.read_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(80):
            path.write_bytes(damaged(content, random.Random(f"tiff {seed}")))  # noqa: S311
            try_to_read(path)


# The HDF5 library has crashed on damaged files before, so it is tried in a process of its own.
_HDF5_PROGRAM = """
import random, sys, warnings
from pathlib import Path
sys.path[:0] = {paths!r}
from test_damage import damaged, try_to_read
warnings.simplefilter("error")
path = Path({path!r})
content = path.read_bytes()
readable = 0
for seed in range(150):
    path.write_bytes(damaged(content, random.Random(f"hdf5 {{seed}}")))
    readable += try_to_read(path)
print("done", readable)
"""


def test_damaged_hdf5(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    values = np.random.default_rng(0).random((40, 50))
    with h5py.File(path, "w") as file:
        file.create_dataset("g/image", data=values, chunks=(16, 16), compression="gzip")
        file["plain"] = values
    program = _HDF5_PROGRAM.format(paths=[str(Path(__file__).parent), *sys.path], path=str(path))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=400, check=False
    )
    assert done.stdout.startswith("done"), done.stderr[-2000:]


def test_damaged_zarr(tmp_path: Path) -> None:
    import zarr

    origin, path = tmp_path / "origin.zarr", tmp_path / "a.zarr"
    root = zarr.create_group(origin)
    root.create_array("image", shape=(40, 50), chunks=(16, 16), dtype="f4")[:] = 1.5
    files = sorted(p.relative_to(origin) for p in origin.rglob("*") if p.is_file())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(40):
            rng = random.Random(f"zarr {seed}")  # noqa: S311
            shutil.rmtree(path, ignore_errors=True)
            shutil.copytree(origin, path)
            victim = path / rng.choice(files)
            victim.write_bytes(damaged(victim.read_bytes(), rng))
            try_to_read(path)
