"""Files of simulated galaxies: content, resumption after a kill, refusals."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import astropy.units as u
import h5py
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from acie_pipelines.causal.interventions import Intervention
from acie_pipelines.cli import app
from acie_pipelines.errors import ConfigurationError, StorageError
from acie_pipelines.simulation.dataset import SCHEMA, Simulation, write_dataset
from acie_pipelines.simulation.galaxy import GalaxySCM
from acie_pipelines.simulation.presets import PRESETS
from acie_pipelines.simulation.spectrum import SpectrumRenderer

DOUBLE_MASS = (Intervention("stellar_mass", "shift", float(np.log10(2.0))),)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("simulated") / "galaxies.h5"
    write_dataset(path, Simulation(20, "sdss", 9, do=DOUBLE_MASS, stamps=True))
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_dataset_is_described_with_a_unit(path: Path) -> None:
    seen = []

    def check(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            seen.append(name)
            u.Unit(item.attrs["unit"])
            assert item.attrs["description"]
            assert item.dtype == (np.float64 if name == "wavelength" else np.float32)
            assert np.isfinite(item[()]).all()

    with h5py.File(path) as file:
        assert file.attrs["schema"] == SCHEMA
        file.visititems(check)
        assert file["galaxies/stellar_mass"].attrs["unit"] == "dex(Msun)"
    assert {"spectra/flux", "counterfactual/stamps", "noise/redshift", "lines/h_alpha"} <= set(seen)
    assert "counterfactual/noise" not in seen


def test_content_is_what_the_library_renders(path: Path) -> None:
    scm = GalaxySCM()
    noise = scm.draw_noise(20, seed=9)
    truth = scm.counterfactual(noise, DOUBLE_MASS)
    flux = SpectrumRenderer(PRESETS["sdss"])(truth)
    with h5py.File(path) as file:
        for name in scm.names:
            stored = file[f"counterfactual/galaxies/{name}"][()]
            np.testing.assert_allclose(stored, truth[name].numpy(), rtol=1e-6)
            np.testing.assert_allclose(file[f"noise/{name}"][()], noise[name].numpy(), rtol=1e-6)
        stored = file["counterfactual/spectra/clean_flux"][()]
        np.testing.assert_allclose(stored, flux.numpy(), rtol=1e-5)
        # Environment and redshift are no effects of mass.
        for name in ("redshift", "environment"):
            same = file[f"counterfactual/galaxies/{name}"][()] == file[f"galaxies/{name}"][()]
            assert same.all()
        pull = (file["spectra/flux"][()] - file["spectra/clean_flux"][()]) * np.sqrt(
            file["spectra/ivar"][()]
        )
    assert pull.std() == pytest.approx(1.0, abs=0.03)


def test_a_galaxy_does_not_depend_on_how_many_are_made(path: Path, tmp_path: Path) -> None:
    longer = tmp_path / "longer.h5"
    simulation = Simulation(260, "sdss", 9)
    assert simulation.block == 256
    write_dataset(longer, simulation)
    with h5py.File(path) as few, h5py.File(longer) as many:
        for name in ("galaxies/age", "noise/age", "spectra/flux", "photometry/r", "lines/h_beta"):
            assert np.array_equal(few[name][()], many[name][:20])


def test_a_killed_run_continues_to_the_same_bytes(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole.h5", tmp_path / "killed" / "whole.h5"
    simulation = Simulation(1000, "sdss", 3)
    code = (
        "from pathlib import Path; import sys\n"
        "from acie_pipelines.simulation.dataset import Simulation, write_dataset\n"
        "write_dataset(Path(sys.argv[1]), Simulation(1000, 'sdss', 3))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(killed)])
    parts = killed.with_name(".whole.h5.parts")
    deadline = time.monotonic() + 400
    while len(list(parts.glob("0*.npz"))) < 2 and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not killed.exists()
    kept = {part: part.stat().st_mtime_ns for part in parts.glob("0*.npz")}
    assert 2 <= len(kept) < 4

    torch.manual_seed(1)  # the result does not depend on torch's own generator
    done: list[int] = []
    write_dataset(killed, simulation, progress=lambda now, _: done.append(now))
    write_dataset(whole, simulation)
    assert done == [256, 512, 768, 1000]
    assert digest(killed) == digest(whole)
    assert not parts.exists()


def test_finished_parts_are_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "galaxies.h5"
    simulation = Simulation(515, "sdss", 3)

    def stop(done: int, _: int) -> None:
        if done >= 512:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(path, simulation, progress=stop)
    made = []
    draw = GalaxySCM.draw_noise

    def counted(
        self: GalaxySCM, count: int, *, seed: int, start: int = 0
    ) -> dict[str, torch.Tensor]:
        made.append(start)
        return draw(self, count, seed=seed, start=start)

    monkeypatch.setattr(GalaxySCM, "draw_noise", counted)
    write_dataset(path, simulation)
    assert made == [512]


def test_a_complete_file_is_left_alone(path: Path) -> None:
    before = digest(path), path.stat().st_mtime_ns
    write_dataset(path, Simulation(20, "sdss", 9, do=DOUBLE_MASS, stamps=True))
    assert (digest(path), path.stat().st_mtime_ns) == before


def test_other_content_is_never_overwritten(path: Path, tmp_path: Path) -> None:
    before = digest(path)
    with pytest.raises(ConfigurationError, match="holds something else"):
        write_dataset(path, Simulation(21, "sdss", 9))
    assert digest(path) == before
    text = tmp_path / "notes.h5"
    text.write_text("not HDF5")
    with pytest.raises(ConfigurationError, match="not readable as HDF5"):
        write_dataset(text, Simulation(2, "sdss", 0))
    assert text.read_text() == "not HDF5"


def test_parts_of_another_simulation_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "galaxies.h5"

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(path, Simulation(5, "sdss", 1), progress=stop)
    with pytest.raises(ConfigurationError, match="parts of another simulation"):
        write_dataset(path, Simulation(5, "sdss", 2))


def test_damaged_parts_are_named(tmp_path: Path) -> None:
    path = tmp_path / "galaxies.h5"

    def damage(done: int, total: int) -> None:
        for part in (tmp_path / ".galaxies.h5.parts").glob("0*.npz"):
            part.write_bytes(b"")

    with pytest.raises(StorageError, match="missing or damaged"):
        write_dataset(path, Simulation(5, "sdss", 1), progress=damage)
    assert not path.exists()


def test_unwritable_places_are_storage_errors() -> None:
    with pytest.raises(StorageError, match="/proc"):
        write_dataset(Path("/proc/galaxies.h5"), Simulation(2, "sdss", 0))


@pytest.mark.parametrize(
    "options",
    [{"count": 0}, {"seed": -1}, {"preset": "hst"}, {"departure": "x"}],
)
def test_impossible_simulations_are_refused(options: dict[str, int | str]) -> None:
    with pytest.raises(ConfigurationError):
        Simulation(**{"count": 5, "preset": "sdss", "seed": 0, **options})  # type: ignore[arg-type]


def test_command_writes_counterfactuals(tmp_path: Path) -> None:
    path = tmp_path / "galaxies.h5"
    arguments = ["simulate", "--n", "4", "--seed", "7", "--out", str(path)]
    result = CliRunner().invoke(app, [*arguments, "--do", "stellar_mass*=2, sfr=1.0"])
    assert result.exit_code == 0, result.output
    with h5py.File(path) as file:
        change = (
            file["counterfactual/galaxies/stellar_mass"][()] - file["galaxies/stellar_mass"][()]
        )
        np.testing.assert_allclose(change, np.log10(2), atol=1e-6)
        assert (file["counterfactual/galaxies/sfr"][()] == 0.0).all()
        assert "stamps" not in file


def test_command_refuses_unknown_nodes(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["simulate", "--out", str(tmp_path / "x.h5"), "--do", "luck=1"]
    )
    assert isinstance(result.exception, ConfigurationError)
    assert not list(tmp_path.iterdir())
