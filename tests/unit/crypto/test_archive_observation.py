"""Archives of observations in the store."""

import hashlib
from pathlib import Path
from typing import Any

import pytest

from acie_native import Streebog256
from acie_pipelines.crypto.archive_key import ArchiveKey
from acie_pipelines.crypto.archive_observation import archive_observation, restore_archive
from acie_pipelines.errors import IntegrityError, TamperedDataError
from acie_pipelines.provenance import Manifest, Output, new_generation, verify_chain
from acie_pipelines.storage import Store

KEY = ArchiveKey("0123456789abcdef", bytes(range(32)))
FILES = {
    "field.zarr/zarr.json": b"{}",
    "field.zarr/c/0": bytes(range(256)) * 9000,
    "field.zarr/c/1": b"",
}


def observation(store: Store, files: dict[str, bytes] = FILES) -> Manifest:
    outputs = []
    with new_generation(
        store, "observation", "field-0123456789ab", inputs=(), code_version="1", parameters={}
    ) as generation:
        for name, content in {f"original/{k}": v for k, v in files.items()}.items():
            store.write_bytes(f"{generation.prefix}/{name}", content)
            outputs.append(Output(name, hashlib.sha256(content).hexdigest()))
        store.write_bytes(f"{generation.prefix}/header.json", b"{}")
        outputs.append(Output("header.json", hashlib.sha256(b"{}").hexdigest()))
        return generation.commit(tuple(outputs), {"source_name": "field.zarr"})


def archived(store: Store, source: Manifest, key: ArchiveKey = KEY) -> Manifest:
    return archive_observation(store, source, key, code_version="1")


def test_every_original_file_is_restored(store: Store, tmp_path: Path) -> None:
    archive = archived(store, observation(store))
    assert archive.kind == "archive"
    assert archive.attributes["key_id"] == KEY.key_id
    assert archive.attributes["bytes"] == sum(map(len, FILES.values()))
    for entry in archive.attributes["files"]:
        assert entry["streebog256"] == Streebog256(FILES[entry["name"]]).hexdigest()
    restored = restore_archive(store, archive, KEY, tmp_path / "out")
    assert {
        path.relative_to(tmp_path / "out").as_posix(): path.read_bytes() for path in restored
    } == FILES
    assert verify_chain(store, archive) == 2


def test_ciphertext_shows_nothing_of_the_content(store: Store) -> None:
    archive = archived(store, observation(store, {"a.fits": b"SIMPLE  =  T" * 1000}))
    sealed = store.read_bytes(f"{archive.prefix}/{archive.outputs[0].path}")
    assert b"SIMPLE" not in sealed


def test_an_archive_is_reused_until_the_key_changes(store: Store) -> None:
    source = observation(store)
    first = archived(store, source)
    assert archived(store, source) == first
    other = ArchiveKey("f" * 16, bytes(32))
    assert archived(store, source, other).generation != first.generation


def test_a_changed_original_is_not_archived(store: Store) -> None:
    source = observation(store)
    store.write_bytes(f"{source.prefix}/original/field.zarr/zarr.json", b"[]")
    with pytest.raises(IntegrityError, match="not the file"):
        archived(store, source)
    assert store.names(f"archive/{source.key}") == []


def test_an_observation_without_originals_is_refused(store: Store) -> None:
    with pytest.raises(IntegrityError, match="no original"):
        archived(store, observation(store, {}))


def test_damage_and_swapped_files_are_refused(store: Store, tmp_path: Path) -> None:
    archive = archived(store, observation(store, {"a.fits": b"one", "b.fits": b"two"}))
    first, second = (f"{archive.prefix}/{output.path}" for output in archive.outputs)
    original = store.read_bytes(first)
    store.write_bytes(first, store.read_bytes(second))
    with pytest.raises(TamperedDataError, match="another file"):
        restore_archive(store, archive, KEY, tmp_path)
    store.write_bytes(first, original[:-1] + bytes([original[-1] ^ 1]))
    with pytest.raises(TamperedDataError, match="not authentic"):
        restore_archive(store, archive, KEY, tmp_path)
    assert list(tmp_path.glob("*.fits")) == []


@pytest.mark.parametrize("name", ["../escape", "/etc/escape", "a/../../escape"])
def test_names_cannot_leave_the_directory(store: Store, tmp_path: Path, name: str) -> None:
    archive = archived(store, observation(store))
    entry: dict[str, Any] = {**archive.attributes["files"][0], "name": name}
    forged = Manifest(**{**vars(archive), "attributes": {"files": [entry]}})
    with pytest.raises(TamperedDataError, match="no name below"):
        restore_archive(store, forged, KEY, tmp_path / "out")
