"""TIFF, HDF5 and Zarr planes against an independent read, sample for sample."""

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tifffile
import zarr

from acie_pipelines.errors import NoImagePlaneError, UnreadableObservationError
from acie_pipelines.observations.model import Observation, Plane, Window
from acie_pipelines.observations.opening import open_observation

RNG = np.random.default_rng(3)


def assert_same(observation: Observation, plane: Plane, expected: np.ndarray) -> None:
    depth, height, width = plane.shape
    rng = np.random.default_rng(5)
    windows = [Window(c, 0, height, 0, width) for c in range(depth)]
    for _ in range(10):
        y0, x0 = int(rng.integers(height)), int(rng.integers(width))
        y1, x1 = int(rng.integers(y0, height)) + 1, int(rng.integers(x0, width)) + 1
        windows.append(Window(int(rng.integers(depth)), y0, y1, x0, x1))
    for window in windows:
        read = observation.read(plane, window)
        assert read.dtype == plane.dtype
        assert read.dtype.isnative
        part = expected[window.channel, window.y0 : window.y1, window.x0 : window.x1]
        np.testing.assert_array_equal(read, part)


TIFF_OPTIONS: dict[str, dict[str, Any]] = {
    "strips": {"rowsperstrip": 7},
    "one strip": {},
    "tiles": {"tile": (32, 48)},
    "big-endian": {"byteorder": ">", "rowsperstrip": 16},
    "bigtiff": {"bigtiff": True, "tile": (16, 16)},
    "bigtiff big-endian": {"bigtiff": True, "byteorder": ">"},
    "deflate": {"compression": "zlib", "rowsperstrip": 16},
    "deflate predictor": {"compression": "zlib", "predictor": True, "tile": (32, 32)},
    "lzw": {"compression": "lzw", "rowsperstrip": 9},
    "lzw predictor big-endian": {"compression": "lzw", "predictor": True, "byteorder": ">"},
    "packbits": {"compression": "packbits"},
    "zstd": {"compression": "zstd", "tile": (64, 16)},
}


@pytest.mark.parametrize("option", TIFF_OPTIONS)
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_tiff(tmp_path: Path, option: str, dtype: str) -> None:
    values = (RNG.random((101, 75)) * 200).astype(dtype)
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, values, **TIFF_OPTIONS[option])
    with open_observation(path) as observation:
        (plane,) = observation.planes
        assert (plane.name, plane.shape) == ("page0", (1, 101, 75))
        assert_same(observation, plane, tifffile.imread(path)[np.newaxis])
        np.testing.assert_array_equal(tifffile.imread(path), values)


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("options", [{"rowsperstrip": 10}, {"compression": "zlib"}])
def test_rgb_tiff_has_three_channels(tmp_path: Path, planar: str, options: dict[str, Any]) -> None:
    values = RNG.integers(0, 65535, (40, 33, 3), np.uint16)
    stored = values if planar == "contig" else np.moveaxis(values, -1, 0)
    path = tmp_path / "rgb.tif"
    tifffile.imwrite(path, stored, photometric="rgb", planarconfig=planar, **options)
    with open_observation(path) as observation:
        assert observation.planes[0].shape == (3, 40, 33)
        assert_same(observation, observation.planes[0], np.moveaxis(values, -1, 0))


def test_pages_are_planes_and_thumbnails_are_not(tmp_path: Path) -> None:
    path = tmp_path / "pages.tif"
    pages = RNG.random((3, 30, 20)).astype("f4")
    with tifffile.TiffWriter(path) as writer:
        writer.write(pages[0], subifds=1)
        writer.write(pages[0][::2, ::2], subfiletype=1)
        writer.write(pages[1])
        writer.write(pages[1][::4, ::4], subfiletype=1)
        writer.write(pages[2], compression="zlib")
    with open_observation(path) as observation:
        assert [plane.name for plane in observation.planes] == ["page0", "page1", "page3"]
        for plane, expected in zip(observation.planes, pages, strict=True):
            assert_same(observation, plane, expected[np.newaxis])


def test_hdf5(tmp_path: Path) -> None:
    image = RNG.random((20, 30)).astype(">f4")
    cube = RNG.integers(0, 9, (2, 3, 8, 9), np.uint16)
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.attrs["telescope"] = "test"
        file.create_dataset("sci/image", data=image, chunks=(8, 8), compression="gzip")
        file["sci/image"].attrs["units"] = "Jy"
        file.create_dataset("cube", data=cube)
        file["mask"] = image > 0.5
        file["ivar"] = image
        file["vector"] = np.arange(9)
        file["text"] = np.array([[b"a", b"b"]])
        file["table"] = np.zeros((2, 2), [("a", "f4"), ("b", "i4")])
        file["again"] = file["cube"]
        file["soft"] = h5py.SoftLink("/sci/image")
    with open_observation(path) as observation:
        planes = {plane.name: plane for plane in observation.planes}
        assert observation.header["telescope"] == "test"
        assert {name: plane.kind for name, plane in planes.items()} == {
            "again": "image",
            "ivar": "weight",
            "mask": "mask",
            "sci.image": "image",
        }
        assert planes["sci.image"].unit == "Jy"
        assert planes["again"].shape == (6, 8, 9)
        assert_same(observation, planes["sci.image"], image[np.newaxis].astype("<f4"))
        assert_same(observation, planes["again"], cube.reshape(6, 8, 9))
        assert_same(observation, planes["mask"], (image > 0.5)[np.newaxis].astype("u1"))


def test_hdf5_links_to_other_files_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["image"] = np.ones((4, 4))
        file["other"] = h5py.ExternalLink("/etc/passwd", "/x")
    with (
        pytest.raises(UnreadableObservationError, match="another file"),
        open_observation(tmp_path / "a.h5"),
    ):
        pass


def test_hdf5_virtual_and_external_storage_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "v.h5", "w") as file:
        layout = h5py.VirtualLayout((4, 4), "f4")
        layout[:] = h5py.VirtualSource("elsewhere.h5", "x", (4, 4))
        file.create_virtual_dataset("image", layout)
    with h5py.File(tmp_path / "e.h5", "w") as file:
        file.create_dataset("image", (4, 4), "f4", external=[("raw.bin", 0, 64)])
    for name in ("v.h5", "e.h5"):
        with (
            pytest.raises(UnreadableObservationError, match="another file"),
            open_observation(tmp_path / name),
        ):
            pass


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("packed", [False, True])
def test_zarr(tmp_path: Path, version: int, packed: bool) -> None:
    path = tmp_path / "a.zarr"
    image = RNG.random((50, 40)).astype("f4")
    cube = RNG.integers(0, 9, (3, 20, 10), np.int16)
    root = zarr.create_group(path, zarr_format=version)
    root.attrs["observer"] = "test"
    array = root.create_array("sci/image", shape=image.shape, chunks=(16, 16), dtype=image.dtype)
    array[:] = image
    array.update_attributes({"unit": "nJy"})
    root.create_array("cube", shape=cube.shape, chunks=(1, 8, 8), dtype=cube.dtype)[:] = cube
    root.create_array("wave", shape=(9,), dtype="f8")[:] = np.arange(9)
    if packed:
        path = Path(shutil.make_archive(str(path), "zip", tmp_path, "a.zarr"))
    with open_observation(path) as observation:
        planes = {plane.name: plane for plane in observation.planes}
        assert set(planes) == {"cube", "sci.image"}
        assert planes["sci.image"].unit == "nJy"
        assert observation.header["observer"] == "test"
        assert_same(observation, planes["sci.image"], image[np.newaxis])
        assert_same(observation, planes["cube"], cube)


def test_zarr_array_without_a_group_and_sharded(tmp_path: Path) -> None:
    image = RNG.random((64, 64)).astype("f4")
    array = zarr.create_array(
        tmp_path / "a.zarr", shape=(64, 64), chunks=(8, 8), shards=(32, 32), dtype="f4"
    )
    array[:] = image
    with open_observation(tmp_path / "a.zarr") as observation:
        assert observation.planes[0].name == "data"
        assert_same(observation, observation.planes[0], image[np.newaxis])


def test_nothing_readable(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["vector"] = np.arange(9)
    zarr.create_array(tmp_path / "a.zarr", shape=(9,), dtype="f8")
    zarr.create_group(tmp_path / "b.zarr")
    for name in ("a.h5", "a.zarr", "b.zarr"):
        with pytest.raises(NoImagePlaneError), open_observation(tmp_path / name):
            pass
