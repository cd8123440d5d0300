"""Directory trees: sealed, brought up to date, verified and restored; every change is noticed."""

import hashlib
import json
import os
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from acie_pipelines.cli import app
from acie_pipelines.crypto import sealed_tree
from acie_pipelines.crypto.archive_files import Outcome
from acie_pipelines.crypto.archive_key import ArchiveKey
from acie_pipelines.crypto.destination import STAGING
from acie_pipelines.crypto.sealed_tree import MANIFEST, object_path, seal_tree
from acie_pipelines.crypto.tree_restoring import restore_tree, verify_tree
from acie_pipelines.errors import StorageError, TamperedDataError
from acie_pipelines.observations import identity


class Keys:
    """Archive keys of a vault, the first one current."""

    def __init__(self, *key_ids: str) -> None:
        self.key_ids_ = key_ids

    def archive_key(self, key_id: str | None = None, *, allow_revoked: bool = False) -> ArchiveKey:
        name = self.key_ids_[0] if key_id is None else key_id
        assert name in self.key_ids_
        return ArchiveKey(name, hashlib.sha256(name.encode()).digest())


OLD, NEW = "0" * 16, "1" * 16
KEYS = Keys(OLD)


class Run:
    """Outcomes of one call."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Outcome] = {}

    def __call__(self, outcome: Outcome) -> None:
        assert outcome.path not in self.outcomes
        self.outcomes[outcome.path] = outcome

    @property
    def failed(self) -> set[str]:
        return {path for path, outcome in self.outcomes.items() if outcome.failed}

    def of(self, status: str) -> set[str]:
        return {path for path, outcome in self.outcomes.items() if outcome.status == status}


def seal(tree: Path, out: Path, keys: Keys = KEYS) -> tuple[Run, sealed_tree.SealedTree]:
    run = Run()
    return run, seal_tree(tree, out, keys, run)  # type: ignore[arg-type]


def verify(out: Path, keys: Keys = KEYS, expected: str | None = None) -> Run:
    run = Run()
    verify_tree(out, keys, run, expected=expected)  # type: ignore[arg-type]
    return run


def restore(out: Path, back: Path, keys: Keys = KEYS) -> Run:
    run = Run()
    restore_tree(out, back, keys, run)  # type: ignore[arg-type]
    return run


def listing(root: Path) -> dict[str, tuple[object, ...]]:
    """All that a tree is: types, modes, times, links, contents and which names are one file."""
    found: dict[str, tuple[object, ...]] = {}
    first: dict[int, str] = {}
    for folder, directories, files in os.walk(root):
        for name in sorted([*directories, *files]):
            path = Path(folder) / name
            status = path.lstat()
            key = path.relative_to(root).as_posix()
            if path.is_symlink():
                found[key] = ("link", os.readlink(path))  # noqa: PTH115
            elif path.is_dir():
                found[key] = ("directory", status.st_mode, status.st_mtime_ns)
            else:
                same = first.setdefault(status.st_ino, key)
                found[key] = ("file", status.st_mode, status.st_mtime_ns, same, path.read_bytes())
    return found


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "night1/raw").mkdir(parents=True)
    (root / "night1/empty").mkdir(mode=0o750)
    for index in range(4):
        (root / f"night1/raw/{index}.fits").write_bytes(bytes([index]) * (1000 + index))
    (root / "notes.txt").write_text("seeing 0.8")
    (root / "notes.txt").chmod(0o640)
    (root / "none").touch()
    (root / "again.fits").hardlink_to(root / "night1/raw/2.fits")
    (root / "latest").symlink_to("night1/raw/3.fits")
    (root / "night1/up").symlink_to("../notes.txt")
    Path(os.fsdecode(os.fsencode(root) + b"/caf\xe9 \n\x1b")).write_bytes(b"latin-1")
    with (root / "holes").open("wb") as handle:
        handle.truncate(1 << 19)
        handle.seek(1 << 18)
        handle.write(b"star")
    (root / "night1").chmod(0o500)
    return root


def test_a_tree_comes_back_as_it_was(tree: Path, tmp_path: Path) -> None:
    run, _ = seal(tree, tmp_path / "sealed")
    assert not run.failed
    assert not verify(tmp_path / "sealed").failed
    assert not restore(tmp_path / "sealed", tmp_path / "back").failed
    assert listing(tmp_path / "back") == listing(tree)
    holes = (tmp_path / "back/holes").stat()
    assert holes.st_blocks * 512 < holes.st_size // 2
    assert not (tmp_path / "back" / STAGING).exists()


def test_names_and_structure_are_hidden(tree: Path, tmp_path: Path) -> None:
    seal(tree, tmp_path / "sealed")
    for path in (tmp_path / "sealed").rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        for word in (b"night1", b"notes.txt", b"0.fits", b"seeing", b"latest"):
            assert word not in os.fsencode(path.relative_to(tmp_path))
            assert word not in content


def test_nothing_is_redone_unless_it_changed(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "sealed"
    _, first = seal(tree, out)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.acie")}
    run, second = seal(tree, out)
    assert second.digest == first.digest
    assert run.of("unchanged") >= {"notes.txt", "night1/raw/0.fits"}
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.acie")} == before

    (tree / "notes.txt").write_text("seeing 1.2")
    (tree / "none").unlink()
    os.utime(tree / "notes.txt", ns=(1, 1))
    run, third = seal(tree, out)
    assert third.manifest.generation == 2
    assert {path for path in run.of("sealed") if "->" not in run.outcomes[path].result} == {
        "notes.txt",
        "night1/raw/2.fits",
    }
    assert not verify(out).failed  # archives of the first version are gone
    restore(out, tmp_path / "back")
    assert listing(tmp_path / "back") == listing(tree)


def test_a_rotated_key_opens_the_tree_and_the_next_run_seals_anew(
    tree: Path, tmp_path: Path
) -> None:
    out = tmp_path / "sealed"
    seal(tree, out)
    both = Keys(NEW, OLD)
    assert not verify(out, both).failed
    run, sealed = seal(tree, out, both)
    assert not run.of("unchanged")
    assert sealed.manifest.generation == 2
    assert not verify(out, Keys(NEW)).failed


def test_special_files_are_refused_and_listed(tree: Path, tmp_path: Path) -> None:
    os.mkfifo(tree / "pipe")
    expected = {"pipe", "socket"}
    try:
        os.mknod(tree / "null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        os.mknod(tree / "loop", stat.S_IFBLK | 0o600, os.makedev(7, 200))
    except PermissionError:
        pass
    else:
        expected |= {"null", "loop"}
    (tree / STAGING).mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tree / "socket"))
        run, sealed = seal(tree, tmp_path / "sealed")
    assert run.failed == {*expected, STAGING}
    assert {omission.path for omission in sealed.manifest.omitted} == run.failed
    run = restore(tmp_path / "sealed", tmp_path / "back")
    assert not run.failed
    assert run.of("omitted") == {*expected, STAGING}
    assert (tmp_path / "back/notes.txt").exists()
    assert not (tmp_path / "back/pipe").exists()


def test_links_out_of_the_tree_are_recorded_and_not_restored(tree: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tree / "absolute").symlink_to(outside)
    (tree / "above").symlink_to("../outside")
    (tree / "deep").mkdir()
    # Harmless by its text alone: `deep/top/..` looks like `deep` but is the parent of the tree.
    (tree / "deep/top").symlink_to("..")
    (tree / "sly").symlink_to("deep/top/../outside")
    (tree / "circle").symlink_to("circle")
    run, _ = seal(tree, tmp_path / "sealed")
    assert not run.failed
    run = restore(tmp_path / "sealed", tmp_path / "back")
    assert run.failed == {"absolute", "above", "sly", "circle"}
    for name in run.failed:
        assert not (tmp_path / "back" / name).is_symlink()
    assert os.readlink(tmp_path / "back/deep/top") == ".."  # noqa: PTH115


def _archive(sealed: sealed_tree.SealedTree, path: str) -> Path:
    (entry,) = (entry for entry in sealed.manifest.entries if entry.path == path)
    return object_path(sealed.path, entry.object_id)


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _swap(a: Path, b: Path) -> None:
    spare = a.with_name("spare")
    a.rename(spare)
    b.rename(a)
    spare.rename(b)


DAMAGE: dict[str, Callable[[Path, Path], object]] = {
    "flipped": lambda mine, other: _flip(mine),
    "cut": lambda mine, other: mine.write_bytes(mine.read_bytes()[:-1]),
    "removed": lambda mine, other: mine.unlink(),
    "emptied": lambda mine, other: mine.write_bytes(b""),
    "renamed": lambda mine, other: mine.rename(mine.with_name("f" * 64 + ".acie")),
    "replaced by another of the tree": lambda mine, other: shutil.copy(other, mine),
    "swapped with another of the tree": _swap,
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_archives_are_noticed(damage: str, tree: Path, tmp_path: Path) -> None:
    _, sealed = seal(tree, tmp_path / "sealed")
    DAMAGE[damage](_archive(sealed, "notes.txt"), _archive(sealed, "night1/raw/0.fits"))
    hit = {"notes.txt"} | ({"night1/raw/0.fits"} if damage.startswith("swapped") else set())
    found = verify(sealed.path)
    assert {path for path in found.failed if not path.startswith("objects/")} == hit
    assert all(found.outcomes[path].error_type == "TamperedDataError" for path in found.failed)
    run = restore(sealed.path, tmp_path / "back")
    assert run.failed == hit
    assert not (tmp_path / "back/notes.txt").exists()
    assert (tmp_path / "back/night1/raw/1.fits").exists()
    # The next run seals what was damaged, and only that.
    run, _ = seal(tree, sealed.path)
    assert {path for path in hit if run.outcomes[path].status == "sealed"} == hit
    assert not verify(sealed.path).failed


def test_additions_are_noticed(tree: Path, tmp_path: Path) -> None:
    _, sealed = seal(tree, tmp_path / "sealed")
    archive = _archive(sealed, "notes.txt")
    extra = [sealed.path / "extra", archive.with_name("a" * 64 + ".acie"), sealed.path / "d/e"]
    (sealed.path / "d").mkdir()
    for path in extra:
        shutil.copy(archive, path)
    (sealed.path / "tree").write_text("0" * 32)
    wanted = {path.relative_to(sealed.path).as_posix() for path in extra} | {"d", "tree"}
    assert verify(sealed.path).failed == wanted


def test_files_of_another_tree_under_the_same_key_do_not_open(tree: Path, tmp_path: Path) -> None:
    _, one = seal(tree, tmp_path / "one")
    _, two = seal(tree, tmp_path / "two")
    shutil.copy(_archive(two, "notes.txt"), _archive(one, "notes.txt"))
    assert "does not commit" in verify(one.path).outcomes["notes.txt"].reason
    # Nor does its manifest fit these files.
    shutil.copy(two.path / MANIFEST, one.path / MANIFEST)
    assert "notes.txt" in verify(one.path).failed


def test_an_older_version_is_noticed(tree: Path, tmp_path: Path) -> None:
    out, old = tmp_path / "sealed", tmp_path / "old"
    _, first = seal(tree, out)
    shutil.copytree(out, old)
    (tree / "notes.txt").write_text("seeing 1.2")
    _, second = seal(tree, out)
    # One file rolled back: its archive of then, in the place of today's.
    then = _archive(first, "notes.txt").relative_to(first.path)
    shutil.copy(old / then, _archive(second, "notes.txt"))
    assert "notes.txt" in verify(out).failed
    # The manifest rolled back: the archives of then are gone.
    shutil.copy(old / MANIFEST, out / MANIFEST)
    assert "notes.txt" in verify(out).failed
    # All of it rolled back: only who knows today's digest can tell.
    assert not verify(old).failed
    with pytest.raises(TamperedDataError, match="not the one expected"):
        verify(old, expected=second.digest)
    assert not verify(old, expected=first.digest).failed


def test_mixed_keys_are_refused(tree: Path, tmp_path: Path) -> None:
    _, old = seal(tree, tmp_path / "old", Keys(OLD))
    _, new = seal(tree, tmp_path / "new", Keys(NEW))
    shutil.copy(_archive(old, "notes.txt"), _archive(new, "notes.txt"))
    assert verify(new.path, Keys(NEW, OLD)).failed == {"notes.txt"}


@pytest.mark.parametrize("position", [0, 9, 40, -1])
def test_a_changed_manifest_is_refused(position: int, tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "sealed"
    seal(tree, out)
    data = bytearray((out / MANIFEST).read_bytes())
    data[position] ^= 1
    (out / MANIFEST).write_bytes(data)
    for work in (verify, lambda out: restore(out, tmp_path / "back"), lambda out: seal(tree, out)):
        with pytest.raises(TamperedDataError):
            work(out)
    assert not (tmp_path / "back").exists()


def test_what_cannot_be_read_stays_as_it_was_sealed(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "sealed"
    seal(tree, out)
    (tree / "night1/raw/0.fits").write_bytes(b"new")
    (tree / "fresh").write_bytes(b"fresh")
    broken = {"night1/raw/0.fits", "fresh"}
    opening = os.open

    def fail(name: object, *arguments: object, **options: object) -> int:
        if name in ("0.fits", "fresh"):
            raise PermissionError(13, "Permission denied", name)
        return opening(name, *arguments, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        with pytest.raises(StorageError, match="under another key"):
            seal(tree, out, Keys(NEW, OLD))
        run, sealed = seal(tree, out)
    assert run.failed == broken
    assert [omission.path for omission in sealed.manifest.omitted] == ["fresh"]
    assert not verify(out).failed
    restore(out, tmp_path / "back")
    assert (tmp_path / "back/night1/raw/0.fits").read_bytes() == bytes([0]) * 1000


def test_a_file_that_changes_meanwhile_is_not_sealed(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reading = sealed_tree.fingerprint_stream

    def meddle(source: object) -> identity.Fingerprint:
        found = reading(source)  # type: ignore[arg-type]
        (tree / "notes.txt").write_text("seeing 9.9 and more")
        return found

    monkeypatch.setattr(sealed_tree, "fingerprint_stream", meddle)
    run, _ = seal(tree, tmp_path / "sealed")
    assert "notes.txt" in run.failed
    assert "notes.txt" not in run.of("sealed")


def test_existing_files_differ_and_stay(tree: Path, tmp_path: Path) -> None:
    seal(tree, tmp_path / "sealed")
    back = tmp_path / "back"
    (back / "night1").mkdir(parents=True)
    (back / "notes.txt").write_text("mine")
    (back / "latest").write_text("mine")
    (back / "night1/raw").symlink_to(tmp_path)
    run = restore(tmp_path / "sealed", back)
    assert run.failed >= {"notes.txt", "latest", "night1/raw/0.fits"}
    assert (back / "notes.txt").read_text() == "mine"
    assert (back / "latest").read_text() == "mine"
    assert not list(tmp_path.glob("*.fits"))
    assert (back / "none").exists()


def test_restoring_again_changes_nothing(tree: Path, tmp_path: Path) -> None:
    seal(tree, tmp_path / "sealed")
    restore(tmp_path / "sealed", tmp_path / "back")
    inodes = {path: path.lstat().st_ino for path in (tmp_path / "back").rglob("*")}
    run = restore(tmp_path / "sealed", tmp_path / "back")
    assert set(run.outcomes) == run.of("unchanged")
    assert {path: path.lstat().st_ino for path in (tmp_path / "back").rglob("*")} == inodes
    assert listing(tmp_path / "back") == listing(tree)


@pytest.mark.parametrize("out", ["tree", "tree/sealed", "."])
def test_trees_do_not_contain_one_another(out: str, tree: Path, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="contain one another"):
        seal(tree, tmp_path / out)
    with pytest.raises(StorageError, match="no directory"):
        seal(tree / "notes.txt", tmp_path / "sealed")


def test_only_an_empty_directory_becomes_a_sealed_tree(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "sealed"
    out.mkdir()
    (out / "mine").touch()
    with pytest.raises(StorageError, match="neither empty"):
        seal(tree, out)
    (out / "mine").unlink()
    (out / "tree").write_text("nonsense")
    with pytest.raises(TamperedDataError, match="no id"):
        seal(tree, out)


def test_two_runs_do_not_meet(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "sealed"
    with sealed_tree._locked(out), pytest.raises(StorageError, match="another process"):
        seal(tree, out)


def test_a_deep_tree(tmp_path: Path) -> None:
    root, deep = tmp_path / "tree", 120
    current = root
    current.mkdir()
    for _ in range(deep):
        current = current / "d"
        current.mkdir()
    (current / "f").write_bytes(b"bottom")
    seal(root, tmp_path / "sealed")
    assert not restore(tmp_path / "sealed", tmp_path / "back").failed
    assert (tmp_path / "back" / "/".join(["d"] * deep) / "f").read_bytes() == b"bottom"


@pytest.mark.usefixtures("vault")
def test_commands(tree: Path, tmp_path: Path) -> None:
    def run(*arguments: object) -> tuple[int, list[dict[str, object]]]:
        result = CliRunner().invoke(app, ["secure", *map(str, arguments), "--json"])
        return result.exit_code, [json.loads(line) for line in result.stdout.splitlines()]

    out, back = tmp_path / "sealed", tmp_path / "back"
    code, lines = run("seal-tree", tree, out)
    assert code == 0
    digest = lines[-1]["digest"]
    assert lines[-1]["files"] == len({line["path"] for line in lines[:-1] if line["sha256"]})
    code, lines = run("verify-tree", out, "--expect", digest)
    assert (code, lines[-1]["failures"]) == (0, 0)
    code, _ = run("restore-tree", out, back)
    assert code == 0
    assert listing(back) == listing(tree)
    os.mkfifo(tree / "pipe")
    code, lines = run("seal-tree", tree, out)
    assert (code, lines[-1]["failures"], lines[-1]["version"]) == (1, 1, 2)
    result = CliRunner().invoke(app, ["secure", "verify-tree", str(out), "--expect", str(digest)])
    assert isinstance(result.exception, TamperedDataError)
