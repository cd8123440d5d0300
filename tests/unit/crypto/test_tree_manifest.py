"""Manifests of sealed trees: what they accept, and where links lead."""

import dataclasses
import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from acie_pipelines.crypto.archive import seal
from acie_pipelines.crypto.archive_key import ArchiveKey
from acie_pipelines.crypto.sealed_tree import open_tree
from acie_pipelines.crypto.tree_manifest import (
    Omission,
    TreeEntry,
    TreeKeys,
    TreeManifest,
    new_tree_id,
    stays_inside,
    tree_id_of,
)
from acie_pipelines.crypto.tree_restoring import restore_tree
from acie_pipelines.errors import TamperedDataError
from acie_pipelines.observations.identity import Fingerprint, fingerprint_stream

KEY = ArchiveKey("0123456789abcdef", bytes(range(32)))
FILE = TreeEntry("a/f", "file", 0o644, 1, "", "1" * 64, 3, "2" * 64, "3" * 64)
ENTRIES = (
    TreeEntry("a", "directory", 0o755, 5),
    FILE,
    TreeEntry("a/l", "symlink", target="f"),
    TreeEntry("h", "hardlink", target="a/f"),
    TreeEntry("caf\udce9", "symlink", target="\udcff/../a"),
)
MANIFEST = TreeManifest("ab" * 16, 3, ENTRIES, (Omission("pipe", "is a named pipe"),))


def test_round_trip() -> None:
    data = MANIFEST.to_json()
    assert TreeManifest.from_json(data) == MANIFEST
    assert data != MANIFEST.to_json()  # or else its fingerprints would confirm guesses
    assert tree_id_of(MANIFEST.name) == MANIFEST.tree_id


def _with(*entries: TreeEntry, **changes: Any) -> TreeManifest:
    return dataclasses.replace(MANIFEST, entries=(*ENTRIES, *entries), **changes)


def _file(path: str, **changes: Any) -> TreeEntry:
    return dataclasses.replace(FILE, path=path, **{"object_id": "9" * 64, **changes})


HOSTILE = {
    "above": _with(_file("../x")),
    "above from within": _with(_file("a/../../x")),
    "absolute": _with(_file("/etc/x")),
    "a dot": _with(_file("./x")),
    "empty": _with(_file("")),
    "empty component": _with(_file("a//x")),
    "NUL": _with(_file("x\0y")),
    "too long": _with(_file("x" * 256)),
    "no name of a file system": _with(_file("\ud800")),
    "twice": _with(_file("a/f")),
    "twice in two spellings": _with(_file("é"), _file("\udcc3\udca9", object_id="8" * 64)),
    "below a file": _with(_file("a/f/x")),
    "below a link": _with(_file("a/l/x")),
    "below nothing": _with(_file("b/x")),
    "the staging directory": _with(TreeEntry(".acie-restoring", "directory", 0o755)),
    "one archive for two": _with(_file("x", object_id=FILE.object_id)),
    "an archive elsewhere": _with(_file("x", object_id="../" + "9" * 61)),
    "set-user-id": _with(_file("x", mode=0o4755)),
    "negative mode": _with(_file("x", mode=-1)),
    "negative size": _with(_file("x", size=-1)),
    "endless time": _with(_file("x", mtime_ns=1 << 64)),
    "no fingerprint": _with(_file("x", sha256="")),
    "hard link outside": _with(TreeEntry("x", "hardlink", target="../../etc/passwd")),
    "hard link to a link": _with(TreeEntry("x", "hardlink", target="a/l")),
    "hard link to nothing": _with(TreeEntry("x", "hardlink", target="y")),
    "empty link": _with(TreeEntry("x", "symlink")),
    "link with NUL": _with(TreeEntry("x", "symlink", target="a\0b")),
    "endless link": _with(TreeEntry("x", "symlink", target="a" * 5000)),
    "unknown kind": _with(TreeEntry("x", "device")),  # type: ignore[arg-type]
    "version 0": _with(generation=0),
    "version true": _with(generation=True),
    "a tree elsewhere": _with(tree_id="../" + "ab" * 14),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_manifests_are_refused(what: str, tmp_path: Path) -> None:
    """Even if whoever holds the key has sealed them, nothing is written."""

    data = HOSTILE[what].to_json()
    with pytest.raises(TamperedDataError) as caught:
        TreeManifest.from_json(data)
    assert "\n" not in str(caught.value)

    class Keys:
        def archive_key(
            self, key_id: str | None = None, *, allow_revoked: bool = False
        ) -> ArchiveKey:
            return KEY

    out, source = tmp_path / "sealed", io.BytesIO(data)
    out.mkdir()
    keys = TreeKeys.derive(KEY, MANIFEST.tree_id)
    identity = fingerprint_stream(source)
    source.seek(0)
    with (out / "manifest.acie").open("wb") as sink:
        seal(source, sink, archive_key=keys.archive, name=MANIFEST.name, **vars(identity))
    with pytest.raises(TamperedDataError):
        restore_tree(out, tmp_path / "back", Keys(), pytest.fail)  # type: ignore[arg-type]
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize(
    "edit",
    [
        lambda document: document | {"extra": 1},
        lambda document: document | {"entries": "a"},
        lambda document: document | {"entries": [1]},
        lambda document: document | {"schema": "acie.tree/2"},
        lambda document: document | {"entries": [document["entries"][0] | {"mode": "493"}]},
        lambda document: document | {"entries": [document["entries"][0] | {"mode": True}]},
        lambda document: document | {"entries": [document["entries"][0] | {"owner": "root"}]},
        lambda document: document | {"omitted": [{"path": 1, "reason": ""}]},
        lambda document: {k: v for k, v in document.items() if k != "blind"},
        lambda document: [document],
    ],
)
def test_malformed_documents_are_refused(edit: Any) -> None:
    document = edit(json.loads(MANIFEST.to_json()))
    data = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    with pytest.raises(TamperedDataError, match="malformed"):
        TreeManifest.from_json(data)
    for garbage in (b"", b"[" * 100_000, b"\xff", MANIFEST.to_json() + b" "):
        with pytest.raises(TamperedDataError, match="malformed"):
            TreeManifest.from_json(garbage)


@pytest.mark.parametrize("name", ["m31.fits", "object/" + "1" * 64, "manifest/x/1", "manifest//"])
def test_other_archives_are_no_manifests(name: str) -> None:
    with pytest.raises(TamperedDataError, match="no manifest"):
        tree_id_of(name)


def test_a_manifest_of_another_version_under_its_name_is_refused(tmp_path: Path) -> None:

    class Keys:
        def archive_key(
            self, key_id: str | None = None, *, allow_revoked: bool = False
        ) -> ArchiveKey:
            return KEY

    source = io.BytesIO(dataclasses.replace(MANIFEST, generation=2).to_json())
    identity = fingerprint_stream(source)
    source.seek(0)
    with (tmp_path / "manifest.acie").open("wb") as sink:
        keys = TreeKeys.derive(KEY, MANIFEST.tree_id)
        seal(source, sink, archive_key=keys.archive, name=MANIFEST.name, **vars(identity))
    with pytest.raises(TamperedDataError, match="another tree"):
        open_tree(tmp_path, Keys())  # type: ignore[arg-type]


def test_keys_and_ids_differ_between_trees_and_files() -> None:
    one, two = (TreeKeys.derive(KEY, new_tree_id()) for _ in range(2))
    secrets = {KEY.secret, one.archive.secret, two.archive.secret, one.names, two.names}
    assert len(secrets) == 5
    identity = Fingerprint("2" * 64, "3" * 64, 3)
    other = Fingerprint("2" * 64, "4" * 64, 3)
    ids = {
        keys.object_id(path, f) for keys in (one, two) for path in "ab" for f in (identity, other)
    }
    assert len(ids) == 8
    assert str(one.archive.secret) not in repr(one) + repr(one.archive)


names = st.sampled_from(["a", "b", "c"])
steps = st.lists(st.sampled_from(["a", "b", "c", "..", ".", ""]), min_size=1, max_size=6)


@given(st.dictionaries(st.tuples(names, names), steps, max_size=6))
def test_no_accepted_link_leaves_the_tree(
    tmp_path_factory: pytest.TempPathFactory, drawn: dict[tuple[str, str], list[str]]
) -> None:
    """Against the operating system's own resolution, in directories two deep."""
    root = tmp_path_factory.mktemp("around") / "root"
    links: dict[bytes, bytes] = {}
    for name in "abc":
        (root / name).mkdir(parents=True)
    for (folder, name), parts in drawn.items():
        target = "/".join(parts)
        if target:
            (root / folder / name).symlink_to(target)
            links[f"{folder}/{name}".encode()] = target.encode()
    for path in links:
        real = Path(os.path.realpath(root / os.fsdecode(path)))
        inside = real == root or root in real.parents
        assert inside or not stays_inside(path, links)
