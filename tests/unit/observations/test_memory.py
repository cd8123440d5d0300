"""Peak memory of reading a large image, measured in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

_PROGRAM = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from acie_pipelines.observations.model import Window
from acie_pipelines.observations.opening import open_observation
from acie_pipelines.observations.thumbnail import plane_preview
from acie_pipelines.evaluation.bench_tiling import peak_memory_mb
before = peak_memory_mb()
with open_observation(Path({path!r})) as observation:
    observation.verify_checksums()
    (plane,) = observation.planes
    _, height, width = plane.shape
    for y in range(0, height, 256):
        observation.read(plane, Window(0, y, min(y + 256, height), 0, width))
    plane_preview(observation, plane)
print(int(before), int(peak_memory_mb()))
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["fits", "tiff", "hdf5"])
def test_a_gigabyte_image_is_read_in_bounded_memory(tmp_path: Path, kind: str) -> None:
    height = width = 16384
    path = tmp_path / f"big.{kind}".replace("hdf5", "h5")
    if kind == "fits":
        from astropy.io import fits

        header = fits.Header(
            [("SIMPLE", True), ("BITPIX", -32), ("NAXIS", 2), ("NAXIS1", width), ("NAXIS2", height)]
        )
        header["DATASUM"] = "0"
        with path.open("wb") as handle:
            handle.write(header.tostring().encode())
            size = handle.tell() + width * height * 4
            handle.truncate(size + -size % 2880)
    elif kind == "tiff":
        import numpy as np
        import tifffile

        blocks = (np.zeros((512, 512), "f4") for _ in range((height // 512) ** 2))
        tifffile.imwrite(path, blocks, shape=(height, width), dtype="f4", tile=(512, 512))
    else:
        import h5py
        import numpy as np

        band = np.ones((512, width), "f4")
        with h5py.File(path, "w") as file:
            data = file.create_dataset("image", (height, width), "f4", chunks=(512, 512))
            for y in range(0, height, 512):
                data[y : y + 512] = band
    program = _PROGRAM.format(paths=sys.path, path=str(path))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    before, after = (int(word) for word in done.stdout.split())
    assert after < 300
    assert after - before < 150
