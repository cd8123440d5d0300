"""Simulated galaxies in HDF5 and in Zarr: the same content, and no half of one accepted."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import zarr

from acie_pipelines.causal.interventions import Intervention
from acie_pipelines.errors import ConfigurationError, UnreadableObservationError
from acie_pipelines.observations.identity import content_sha256
from acie_pipelines.observations.spectra import read_spectrum
from acie_pipelines.simulation.container import Container, open_container
from acie_pipelines.simulation.dataset import Simulation, write_dataset

SIMULATION = Simulation(300, "sdss", 4, do=(Intervention("stellar_mass", "shift", 0.3),))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("simulated")
    paths = folder / "galaxies.h5", folder / "galaxies.zarr"
    for path in paths:
        write_dataset(path, SIMULATION)
    return paths


@pytest.fixture
def copy(both: tuple[Path, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(both[1], tmp_path / "copy.zarr"))


def test_zarr_holds_what_hdf5_holds(both: tuple[Path, Path]) -> None:
    names: list[str] = []
    with h5py.File(both[0]) as file:
        file.visititems(lambda n, item: names.append(n) if isinstance(item, h5py.Dataset) else None)
        group = zarr.open_group(both[1], mode="r", zarr_format=3)
        assert {n for n, item in group.members(None) if isinstance(item, zarr.Array)} == set(names)
        assert len(names) > 60
        assert dict(group.attrs) == dict(file.attrs)
        for name in names:
            array = group[name]
            assert isinstance(array, zarr.Array)
            assert dict(array.attrs) == dict(file[name].attrs)
            assert array.dtype == file[name].dtype
            assert np.array_equal(np.asarray(array[:]), file[name][()])


def test_a_galaxy_is_read_from_either(both: tuple[Path, Path]) -> None:
    found, other = (read_spectrum(path, row=290) for path in both)
    assert found.redshift == other.redshift
    for name in ("wavelength_angstrom", "flux", "ivar"):
        assert np.array_equal(getattr(found.arms[0], name), getattr(other.arms[0], name))


def test_a_zarr_stopped_anywhere_continues_to_the_same_bytes(
    both: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "galaxies.zarr"

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(path, SIMULATION, progress=stop)
    with monkeypatch.context() as patch:
        patch.setattr(Container, "write", stop)
        with pytest.raises(KeyboardInterrupt):
            write_dataset(path, SIMULATION)
    assert not path.exists()
    write_dataset(path, SIMULATION)
    assert content_sha256(path) == content_sha256(both[1])
    assert list(tmp_path.iterdir()) == [path]
    write_dataset(path, SIMULATION)
    with pytest.raises(ConfigurationError, match="holds something else"):
        write_dataset(path, Simulation(5, "sdss", 4))


def read_all(path: Path, name: str) -> None:
    with open_container(path) as file:
        file.require(["galaxies/age", name])
        file.rows(name, 0, 300)


def test_a_part_that_is_missing_or_damaged_is_named(copy: Path) -> None:
    chunk = copy / "spectra" / "ivar" / "c" / "1" / "0"
    content = chunk.read_bytes()
    for damaged in (content[:-5], b"", content[:9] + b"?" + content[10:]):
        chunk.write_bytes(damaged)
        with pytest.raises(UnreadableObservationError, match=r"copy.zarr.*spectra/ivar"):
            read_all(copy, "spectra/ivar")
    chunk.unlink()
    with pytest.raises(UnreadableObservationError, match=r"spectra/ivar has 1 of 2 chunks; copy"):
        read_all(copy, "spectra/ivar")
    shutil.rmtree(copy / "spectra")
    with pytest.raises(UnreadableObservationError, match=r"no readable spectra/ivar"):
        read_all(copy, "spectra/ivar")


def test_a_cut_hdf5_file_is_refused(both: tuple[Path, Path], tmp_path: Path) -> None:
    cut = tmp_path / "cut.h5"
    cut.write_bytes(both[0].read_bytes()[:-1000])
    with pytest.raises(ConfigurationError, match=r"cut.h5.*not readable as HDF5"):
        read_all(cut, "spectra/ivar")


def test_what_is_no_container_is_refused(copy: Path, tmp_path: Path) -> None:
    (copy / "zarr.json").unlink()
    (tmp_path / "empty.zarr").mkdir()
    zarr.create_group(tmp_path / "old.zarr", zarr_format=2)
    zarr.create_array(tmp_path / "array.zarr", shape=(3,), dtype="f4")
    (tmp_path / "file.zarr").write_text("no directory")
    (tmp_path / "directory.h5").mkdir()
    for path in tmp_path.iterdir():
        with pytest.raises(ConfigurationError, match=f"{path.name}: is not readable as"):
            read_all(path, "spectra/ivar")
        with pytest.raises(ConfigurationError, match="exists and is not readable as"):
            write_dataset(path, SIMULATION)
    with pytest.raises(ConfigurationError, match="does not exist; write it with"):
        read_all(tmp_path / "none.zarr", "spectra/ivar")
    with pytest.raises(ConfigurationError, match=r"name it .h5 or .zarr"):
        write_dataset(tmp_path / "galaxies.fits", SIMULATION)
