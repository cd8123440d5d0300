"""A user's own table: read, fitted, asked and written, against a world with known answers."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from acie_pipelines.causal.files import read_model
from acie_pipelines.causal.graph import CausalGraph, Node
from acie_pipelines.causal.tables import read_rows, write_rows
from acie_pipelines.cli import app
from acie_pipelines.errors import (
    AcieError,
    ConfigurationError,
    ModelError,
    StorageError,
    UnreadableObservationError,
)

torch.set_num_threads(1)

GRAPH = CausalGraph(
    [
        Node("mass", "Msun", True, (5.0, 15.0), mechanism="additive"),
        Node("sfr", "Msun/yr", True, (-9.0, 9.0), ("mass",), mechanism="additive"),
        Node(
            "kind", "", False, (0.0, 1.0), ("mass",), mechanism="categorical", categories=("a", "b")
        ),
    ]
)
SLOPE = 0.8


def columns(count: int = 900) -> dict[str, Any]:
    rng = np.random.default_rng(3)
    mass = rng.normal(10, 0.6, count)
    kind = np.where(mass + rng.logistic(0, 0.2, count) > 10, "b", "a")
    return {
        "mass": mass,
        "sfr": SLOPE * (mass - 10) + rng.normal(0, 0.2, count),
        "kind": kind,
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "graph.yaml").write_text(GRAPH.to_yaml())
    return tmp_path


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(each) for each in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_fit_and_ask_from_the_shell(folder: Path) -> None:
    rows = columns()
    rows["sfr"][::10] = -9999
    table, model, answers = folder / "t.parquet", folder / "m.scm", folder / "a.h5"
    pd.DataFrame(rows).to_parquet(table)
    text = run(
        "scm",
        "fit",
        folder / "graph.yaml",
        table,
        "--out",
        model,
        "--missing",
        "-9999",
        "--max-epochs",
        12,
    )
    assert "additive" in text
    text = run(
        "scm", "ask", model, table, "--do", "mass*=10", "--out", answers, "--missing", "-9999"
    )
    assert "810 of 900" in text
    with h5py.File(answers) as file:
        sfr, mass = file["galaxies/sfr"][()], file["galaxies/mass"][()]
        low, high = file["galaxies/sfr_low"][()], file["galaxies/sfr_high"][()]
        for name in ("sfr", "sfr_low", "sfr_high"):
            assert file[f"galaxies/{name}"].attrs["unit"] == "log10(Msun/yr)"
        assert "mass_low" not in file["galaxies"] and "kind_low" not in file["galaxies"]
    missing = np.arange(900) % 10 == 0
    assert np.array_equal(np.isnan(sfr), missing)
    assert np.allclose(mass, rows["mass"] + 1, atol=1e-5)
    # Within two standard deviations of where there are data, the answer is the slope's.
    central = ~missing & (np.abs(rows["mass"] - 9.7) < 0.5)
    assert np.median(np.abs(sfr - rows["sfr"] - SLOPE)[central]) < 0.06
    assert np.all((low < sfr)[~missing] & (sfr < high)[~missing])
    assert np.isnan(low[missing]).all()
    # The slope of a straight line is known this well; that of a curve less.
    error = 1.64 * 0.2 / 0.6 / 730**0.5
    assert error < np.median(0.5 * (high - low)[central]) < 6 * error


def test_measurement_errors_are_deconvolved(folder: Path) -> None:
    rows, noise = columns(1200), np.random.default_rng(8).normal(0, 0.5, 1200)
    measured = {**rows, "mass": rows["mass"] + noise, "mass_err": np.full(1200, 0.5)}
    pd.DataFrame(measured).to_parquet(folder / "t.parquet")
    graph, table, model = folder / "graph.yaml", folder / "t.parquet", folder / "m"
    slopes = []
    for extra in ((), ("--error", "mass=mass_err")):
        run("scm", "fit", graph, table, "--out", model, "--max-epochs", 4, *extra)
        fitted, draws = read_model(model)
        assert bool(draws) is not bool(extra)
        batch = fitted.tensor({"mass": [9.5, 10.5], "sfr": [-0.4, 0.4], "kind": [0, 1]})
        noise_terms = torch.zeros_like(fitted.abduct(batch))
        noise_terms[:, 0] = fitted.abduct(batch)[:, 0]
        values = fitted.predict(noise_terms)
        slopes.append(float((values[1, 1] - values[0, 1]) / (values[1, 0] - values[0, 0])))
    # Ignored, the errors flatten the slope to 0.8 * 0.36 / (0.36 + 0.25) = 0.47.
    assert abs(slopes[0] - 0.47) < 0.1
    assert abs(slopes[1] - SLOPE) < abs(slopes[0] - SLOPE) / 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--error", "mass"), "names no column"),
        (("--error", "weight=mass"), r"errors of \['weight'\]: name no node"),
        (("--error", "mass=absent"), r"has no columns \['absent'\]"),
        (("--error", "mass=sfr"), "is negative or not a number"),
        (("--error", "mass=mass", "--choose-families"), "cannot choose families"),
    ],
)
def test_errors_that_make_no_sense(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    pd.DataFrame(columns(60)).to_parquet(folder / "t.parquet")
    with pytest.raises(AcieError, match=message):
        run(
            *("scm", "fit", folder / "graph.yaml", folder / "t.parquet", "--out", folder / "m"),
            *arguments,
        )


def test_families_chosen_by_likelihood(folder: Path) -> None:
    pd.DataFrame(columns(400)).to_parquet(folder / "t.parquet")
    run(
        *("scm", "fit", folder / "graph.yaml", folder / "t.parquet", "--out", folder / "m"),
        *("--choose-families", "--max-epochs", 5),
    )
    assert read_model(folder / "m")[0].graph.nodes["sfr"].mechanism == "additive"


def test_identification_from_the_shell(folder: Path) -> None:
    found = json.loads(run("scm", "identify", folder / "graph.yaml", "sfr", "kind", "--json"))
    assert found["status"] == "no directed path"
    assert found["identified"]
    assert len(found["assumptions"]) >= 3
    text = run("scm", "identify", folder / "graph.yaml", "mass", "sfr")
    assert "back-door; adjust for nothing" in text


@pytest.mark.parametrize("suffix", [".parquet", ".h5"])
def test_what_is_written_is_read(folder: Path, suffix: str) -> None:
    values = {
        "mass": np.array([9.5, np.nan, 11.0], np.float32),
        "sfr": np.array([0.1, -2.0, np.nan], np.float32),
        "kind": np.array([0.0, 1.0, np.nan], np.float32),
    }
    path = folder / f"rows{suffix}"
    write_rows(path, GRAPH, values)
    again = read_rows(path, GRAPH)
    assert list(again) == ["mass", "sfr", "kind"]
    for name, column in values.items():
        assert np.array_equal(again[name], column, equal_nan=True)


def hdf5(path: Path, **datasets: Any) -> None:
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file[name] = values


def test_galaxies_of_the_simulator_are_read(folder: Path) -> None:
    from acie_pipelines.simulation.dataset import Simulation, write_dataset
    from acie_pipelines.simulation.galaxy import galaxy_graph

    write_dataset(folder / "s.h5", Simulation(3, "sdss", 1))
    found = read_rows(folder / "s.h5", galaxy_graph())
    with h5py.File(folder / "s.h5") as file:
        assert np.array_equal(found["stellar_mass"], file["galaxies/stellar_mass"][()])


def wrong_unit(folder: Path) -> Path:
    path = folder / "t.h5"
    hdf5(path, mass=[10.0], sfr=[0.0], kind=[0])
    with h5py.File(path, "a") as file:
        file["mass"].attrs["unit"] = "kg"
    return path


def truncated(folder: Path) -> Path:
    path = folder / "t.parquet"
    pd.DataFrame(columns(10)).to_parquet(path)
    path.write_bytes(path.read_bytes()[:-40])
    return path


def parquet(folder: Path, **changes: Any) -> Path:
    path = folder / "t.parquet"
    pd.DataFrame({**columns(4), **changes}).to_parquet(path)
    return path


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda f: f / "t.csv", ConfigurationError, "neither Parquet nor HDF5"),
        (lambda f: f / "absent.h5", UnreadableObservationError, "cannot be read"),
        (truncated, UnreadableObservationError, "cannot be read"),
        (wrong_unit, ConfigurationError, r"t.h5:mass: is in 'kg', the graph expects 'log10\(Msun"),
        (
            lambda f: parquet(f).rename(f / "t.pq") and parquet(f, kind=["a", "b", "c", "a"]),
            ConfigurationError,
            r"t.parquet:kind: holds \['c'\]",
        ),
        (
            lambda f: parquet(f, mass=[10.0, -9999.0, 9.0, -9999.0]),
            ConfigurationError,
            r"in 2 rows, first in row 1 with -9999; .*code of missing",
        ),
        (lambda f: parquet(f, sfr=["x", "y", "z", "w"]), ConfigurationError, "sfr: holds object"),
    ],
)
def test_bad_tables_are_refused(
    folder: Path, make: Any, kind: type[AcieError], message: str
) -> None:
    with pytest.raises(kind, match=message):
        read_rows(make(folder), GRAPH)


def test_missing_columns_are_named(folder: Path) -> None:
    hdf5(folder / "t.h5", mass=[10.0])
    with pytest.raises(ConfigurationError, match=r"has no columns \['sfr', 'kind'\]; it has"):
        read_rows(folder / "t.h5", GRAPH)


def test_damaged_models_are_refused(folder: Path) -> None:
    pd.DataFrame(columns(300)).to_parquet(folder / "t.parquet")
    path = folder / "m.scm"
    run(
        *("scm", "fit", folder / "graph.yaml", folder / "t.parquet", "--out", path),
        *("--max-epochs", 1),
    )
    whole = path.read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 1
    for content in (whole[: len(whole) // 2], bytes(damaged), b""):
        path.write_bytes(content)
        with pytest.raises(ModelError, match="damaged"):
            read_model(path)
    # A whole archive, one part of which is something else.
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, b"no tensors" if name == "draws.pt" else old.read(name))
    with pytest.raises(ModelError, match="damaged"):
        read_model(path)
    with pytest.raises(StorageError, match="absent"):
        read_model(folder / "absent.scm")


def test_a_node_with_the_name_of_an_interval_is_refused(folder: Path) -> None:
    graph = CausalGraph([*GRAPH.nodes.values(), Node("sfr_low", "", False, (0.0, 1.0))])
    values = {name: np.ones(1, dtype=np.float32) for name in graph.nodes}
    with pytest.raises(ConfigurationError, match="would hold sfr_low twice"):
        write_rows(folder / "a.h5", graph, values, {"sfr": (values["sfr"], values["sfr"])})
    assert not (folder / "a.h5").exists()


def test_latent_nodes_cannot_be_fitted(folder: Path) -> None:
    hidden = CausalGraph([*GRAPH.nodes.values(), Node("dust", "mag", False, (0, 9), latent=True)])
    (folder / "graph.yaml").write_text(hidden.to_yaml())
    pd.DataFrame(columns(20)).to_parquet(folder / "t.parquet")
    with pytest.raises(ConfigurationError, match=r"latent nodes \['dust'\]"):
        run("scm", "fit", folder / "graph.yaml", folder / "t.parquet", "--out", folder / "m")


def test_a_zarr_table_is_refused_by_the_formats_that_are_read(folder: Path) -> None:
    table = folder / "t.zarr"
    table.mkdir()
    with pytest.raises(ConfigurationError) as refused:
        run("scm", "fit", folder / "graph.yaml", table, "--out", folder / "m")
    assert str(refused.value) == (
        f"{table}: is neither Parquet nor HDF5; store the rows as Parquet (.parquet, .pq) or HDF5 "
        "(.h5, .hdf5)"
    )
    assert not (folder / "m").exists()
