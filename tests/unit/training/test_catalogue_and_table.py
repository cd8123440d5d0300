"""The catalogue dataset and the training table, end to end on a local store."""

import gzip
import json
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

import acie_pipelines
from acie_pipelines.causal.graph import catalogue_graph
from acie_pipelines.errors import (
    FormatMismatchError,
    IntegrityError,
    ObservationError,
    TruncatedFileError,
)
from acie_pipelines.observations.ingest import ingest_observation, open_stored
from acie_pipelines.provenance import Manifest, new_generation, verify_chain, verify_outputs
from acie_pipelines.samples import CATALOGUE
from acie_pipelines.storage import Store
from acie_pipelines.tiling.writer import write_tiles
from acie_pipelines.training.catalogue import ingest_catalogue
from acie_pipelines.training.spectra import MEASURED_LINES
from acie_pipelines.training.table import TABLE_FILE, TableReader, build_training_table

LINES = gzip.decompress(CATALOGUE.read_bytes()).decode().splitlines()
SPECTRA = sorted(
    (Path(acie_pipelines.__file__).parent / "sample_data" / "observations").glob("spec-*.fits")
)


def write_csv(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def catalogue(store: Store, tmp_path: Path) -> Manifest:
    return ingest_catalogue(store, write_csv(tmp_path / "c.csv", LINES[:401]), code_version="1")


def seal(store: Store, tiles: Manifest) -> Manifest:
    """Stand-in for encryption: a manifest of kind ciphertexts made from the tiles."""
    with new_generation(
        store,
        "ciphertexts",
        tiles.key,
        inputs=(tiles.as_input(),),
        code_version="1",
        parameters={},
    ) as generation:
        return generation.commit(())


def sealed_spectrum(store: Store, path: Path) -> tuple[Manifest, Manifest]:
    observation = ingest_observation(store, path, code_version="1")
    with open_stored(store, observation) as reader:
        tiles = write_tiles(store, observation, reader, code_version="1")
    return tiles, seal(store, tiles)


def test_the_bundled_catalogue_is_valid(store: Store) -> None:
    manifest = ingest_catalogue(store, CATALOGUE, code_version="1")
    assert manifest.attributes["rows"] == 17930
    assert manifest.attributes["missing"]["sfr"] == 259
    assert manifest.attributes["units"]["stellar_mass"] == "log10(Msun)"
    verify_outputs(store, manifest)
    again = ingest_catalogue(store, CATALOGUE, code_version="1")
    assert again.generation == manifest.generation
    table = pd.read_parquet(store.local_path(f"{manifest.prefix}/catalogue.parquet"))
    assert list(table.columns) == list(catalogue_graph().nodes)


def changed(row: int, column: int, value: str) -> list[str]:
    lines = LINES[:20]
    cells = lines[row].split(",")
    cells[column] = value
    return [*lines[:row], ",".join(cells), *lines[row + 1 :]]


@pytest.mark.parametrize(
    ("lines", "error", "message"),
    [
        (LINES[1:20], FormatMismatchError, "columns|numbers"),
        ([LINES[0]], FormatMismatchError, "0 rows"),
        ([line.rsplit(",", 1)[0] for line in LINES[:20]], FormatMismatchError, "sfr"),
        (changed(3, 0, "abc"), FormatMismatchError, "numbers"),
        (changed(3, 10, "42.0"), ObservationError, "line 4: stellar_mass"),
        (changed(3, 0, "inf"), ObservationError, "line 4: o_ii_3729"),
        (changed(3, 0, ""), ObservationError, "empty cells"),
        ([*LINES[:20], LINES[5]], ObservationError, "line 21 repeats"),
    ],
)
def test_bad_catalogues_are_refused(
    store: Store, tmp_path: Path, lines: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ingest_catalogue(store, write_csv(tmp_path / "bad.csv", lines), code_version="1")
    assert not store.exists("catalogue/emission-lines/current.json")


def test_a_cut_gzip_file_and_binary_noise_are_refused(store: Store, tmp_path: Path) -> None:
    cut = tmp_path / "cut.csv.gz"
    cut.write_bytes(CATALOGUE.read_bytes()[:5000])
    with pytest.raises(TruncatedFileError):
        ingest_catalogue(store, cut, code_version="1")
    noise = tmp_path / "noise.csv"
    noise.write_bytes(bytes(range(256)) * 10)
    with pytest.raises(ObservationError):
        ingest_catalogue(store, noise, code_version="1")


def test_table_holds_units_splits_and_measured_rows(store: Store, catalogue: Manifest) -> None:
    pairs = [sealed_spectrum(store, path) for path in SPECTRA[:2]]
    table = build_training_table(store, catalogue, pairs, code_version="1")
    assert verify_chain(store, table) >= 6
    assert table.attributes["rows_from_observations"] == 2
    assert [ref.kind for ref in table.inputs].count("ciphertexts") == 2
    with h5py.File(store.local_path(f"{table.prefix}/{TABLE_FILE}")) as file:
        galaxies = file["galaxies"]
        assert galaxies["stellar_mass"].attrs["unit"] == "log10(Msun)"
        assert galaxies["h_alpha"].attrs["missing"] == "NaN"
        assert galaxies["h_alpha"].dtype == np.float32
        measured = galaxies["origin"][:] >= 0
        assert measured.sum() == 2
        assert np.isnan(galaxies["stellar_mass"][:][measured]).all()
        assert np.isfinite(galaxies["n_ii_6584"][:][measured]).all()
        keys = sorted(tiles.key for tiles, _ in pairs)
        assert [key.decode() for key in file["observations/key"][:]] == keys
    assert "h_alpha" not in MEASURED_LINES
    again = build_training_table(store, catalogue, pairs[::-1], code_version="1")
    assert again.generation == table.generation


def test_rows_stay_in_their_split_when_the_catalogue_changes(store: Store, tmp_path: Path) -> None:
    def splits(lines: list[str]) -> dict[bytes, int]:
        manifest = ingest_catalogue(store, write_csv(tmp_path / "c.csv", lines), code_version="1")
        table = build_training_table(store, manifest, [], code_version="1")
        path = store.local_path(f"{table.prefix}/{TABLE_FILE}")
        reader = TableReader(path, tuple(catalogue_graph().nodes), block_rows=97)
        found = {}
        for k, name in enumerate(("train", "validation", "test")):
            found |= {row.tobytes(): k for row in reader.read(name)}  # type: ignore[arg-type]
        return found

    first, second = splits(LINES[:301]), splits([LINES[0], *LINES[:100:-1]])
    common = first.keys() & second.keys()
    assert len(common) == 200
    assert all(first[row] == second[row] for row in common)
    shares = np.bincount(list(second.values())) / len(second)
    assert np.abs(shares - [0.7, 0.15, 0.15]).max() < 0.02


def test_unsealed_observations_are_refused(store: Store, catalogue: Manifest) -> None:
    tiles, _ = sealed_spectrum(store, SPECTRA[0])
    other, other_seal = sealed_spectrum(store, SPECTRA[1])
    for wrong in (other_seal, other):
        with pytest.raises(IntegrityError, match="not sealed"):
            build_training_table(store, catalogue, [(tiles, wrong)], code_version="1")


def test_damaged_inputs_are_refused(store: Store, catalogue: Manifest) -> None:
    path = store.local_path(f"{catalogue.prefix}/catalogue.parquet")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError, match="does not match"):
        build_training_table(store, catalogue, [], code_version="1")


def test_spectra_without_a_redshift_are_named(
    store: Store, catalogue: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = sealed_spectrum(store, SPECTRA[0])
    source = pair[0].inputs[0]
    with new_generation(
        store, source.kind, source.key, inputs=(), code_version="1", parameters={}
    ) as generation:
        blank = generation.commit((), {"class": "GALAXY"})
    monkeypatch.setattr("acie_pipelines.training.spectra.read_manifest", lambda *_: blank)
    table = build_training_table(store, catalogue, [pair], code_version="1")
    assert table.attributes["without_row"] == [
        {"key": pair[0].key, "reason": "states no usable redshift"}
    ]
    assert json.dumps(dict(table.attributes))
