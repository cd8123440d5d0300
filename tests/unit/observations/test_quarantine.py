"""Quarantine: the file is safe before the record says so, and nothing is lost."""

import json
from pathlib import Path

import pytest
import zarr

from acie_pipelines.errors import ObservationError, StorageError, TruncatedFileError
from acie_pipelines.observations import quarantine as module
from acie_pipelines.observations.opening import open_observation
from acie_pipelines.observations.quarantine import list_quarantined, quarantine
from acie_pipelines.storage import Store


@pytest.fixture
def bad(tmp_path: Path, data: Path) -> Path:
    path = tmp_path / "in" / "cut.fits"
    path.parent.mkdir()
    path.write_bytes((data / "test0.fits").read_bytes()[:-3000])
    return path


def error_of(path: Path) -> ObservationError:
    with pytest.raises(ObservationError) as caught, open_observation(path):
        pass
    return caught.value


def test_a_refused_file_is_moved(store: Store, bad: Path) -> None:
    content, error = bad.read_bytes(), error_of(bad)
    record = quarantine(store, bad, error, key="cut-0")
    assert not bad.exists()
    assert store.read_bytes("quarantine/cut-0/cut.fits") == content
    assert json.loads(store.read_bytes("quarantine/cut-0/reason.json"))["key"] == "cut-0"
    assert record.error == "TruncatedFileError"
    assert record.reason == error.reason
    assert record.source_removed
    assert list_quarantined(store) == [record]
    assert quarantine(store, bad, error, key="cut-0") == record


def test_a_source_that_cannot_be_removed_is_said_to_be_there(
    store: Store, bad: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = error_of(bad)

    def refuse(self: Path, missing_ok: bool = False) -> None:
        raise PermissionError("read-only")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        record = quarantine(store, bad, error, key="k")
    assert not record.source_removed
    assert bad.exists()
    again = quarantine(store, bad, error, key="k")
    assert again.source_removed
    assert not bad.exists()


def test_an_interruption_before_the_record_is_repaired(
    store: Store, bad: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = error_of(bad)

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(module, "_remove", fail)
        quarantine(store, bad, error, key="k")
    assert bad.exists()
    assert list_quarantined(store) == []
    assert quarantine(store, bad, error, key="k").source_removed
    assert len(list_quarantined(store)) == 1


def test_an_empty_file_and_a_zarr_directory(store: Store, tmp_path: Path) -> None:
    empty = tmp_path / "empty.fits"
    empty.touch()
    assert quarantine(store, empty, error_of(empty), key="empty").size == 0
    tree = tmp_path / "bad.zarr"
    zarr.create_array(tree, shape=(10**6, 10**6), chunks=(100, 100), dtype="f4")
    record = quarantine(store, tree, error_of(tree), key="tree")
    assert not tree.exists()
    assert store.exists(f"{record.stored}/zarr.json")
    assert [item.key for item in list_quarantined(store)] == ["empty", "tree"]


def test_a_file_that_never_was(store: Store, tmp_path: Path) -> None:
    error = TruncatedFileError("x", "ends", "try again")
    with pytest.raises(StorageError):
        quarantine(store, tmp_path / "none.fits", error, key="k")
    assert list_quarantined(store) == []
