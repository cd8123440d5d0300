"""Sealed trees: kill -9 and full disks lose nothing, show nothing, and running again completes."""

import random
import shutil
import time

import pytest
import tree_stages

from acie_pipelines.crypto.destination import STAGING
from acie_pipelines.crypto.sealed_tree import MANIFEST, open_tree
from acie_pipelines.crypto.tree_restoring import verify_tree
from acie_pipelines.errors import StorageError

KEYS = tree_stages.Keys()
FILES, SIZE = 30, 250_000
KILLS = 3


@pytest.fixture
def tree(tmp_path):
    root = tmp_path / "tree"
    for index in range(FILES):
        path = root / f"night{index % 7}" / f"{index}.raw"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(random.Random(index).randbytes(SIZE + index))  # noqa: S311
    return root


def _contents(root):
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and STAGING not in path.parts
    }


def _kill(processes, delay, stage, source, target):
    """Whether the child was still at work when it was killed."""
    here, there = processes.Pipe()
    process = processes.Process(target=tree_stages.child, args=(stage, source, target, there))
    process.start()
    there.close()
    assert here.recv() == "started"
    time.sleep(delay)
    process.kill()
    process.join()
    finished = here.poll() and process.exitcode == 0
    here.close()
    return not finished


def _kill_often(processes, stage, source, target, check, forget):
    """Kill the stage at different moments while it is at work; start afresh when it was faster."""
    start = time.perf_counter()
    tree_stages.work(stage, source, target.with_name("timing"))
    estimate, killed = time.perf_counter() - start, 0
    while killed < KILLS:
        if _kill(processes, estimate * (killed + 1) / (KILLS + 2), stage, source, target):
            killed += 1
            check()
        else:
            estimate /= 2
            shutil.rmtree(target)
            forget()


def _entries(sealed):
    return [{**vars(entry), "object_id": None} for entry in sealed.manifest.entries]


def test_a_killed_sealing_is_completed_without_doing_anything_twice(tree, tmp_path, processes):
    out, finished = tmp_path / "sealed", {}

    def check():
        assert not (out / MANIFEST).exists()
        now = {path: path.stat().st_mtime_ns for path in out.glob("objects/*/*.acie")}
        assert {path: now.get(path) for path in finished} == finished
        finished.update(now)

    _kill_often(processes, "seal", tree, out, check, finished.clear)
    assert tree_stages.work("seal", tree, out) == []
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    reference = open_tree(tmp_path / "timing", KEYS)
    assert _entries(open_tree(out, KEYS)) == _entries(reference)
    failed = []
    verify_tree(out, KEYS, lambda outcome: failed.append(outcome) if outcome.failed else None)
    assert failed == []
    assert tree_stages.work("restore", out, tmp_path / "back") == []
    assert _contents(tmp_path / "back") == _contents(tree)


def test_a_killed_restoration_shows_whole_files_only_and_is_completed(tree, tmp_path, processes):
    sealed, back = tmp_path / "sealed", tmp_path / "back"
    tree_stages.work("seal", tree, sealed)
    wanted, left = _contents(tree), []

    def check():
        found = _contents(back)
        assert {name: wanted.get(name) for name in found} == found
        for path in back.rglob("*.part"):
            assert path.parent == back / STAGING
            assert path.parent.stat().st_mode & 0o777 == 0o700
            # It takes on its own mode when all of it is there.
            assert path.stat().st_mode & 0o077 == 0 or path.read_bytes() in wanted.values()
            left.append(path)

    _kill_often(processes, "restore", sealed, back, check, left.clear)
    assert tree_stages.work("restore", sealed, back) == []
    assert _contents(back) == wanted
    assert not (back / STAGING).exists()
    assert not any(path.exists() for path in left)


def test_a_killed_update_leaves_the_earlier_version(tree, tmp_path, processes):
    out = tmp_path / "sealed"
    tree_stages.work("seal", tree, out)
    digest, before = open_tree(out, KEYS).digest, _contents(tree)
    for path in tree.rglob("*.raw"):
        path.write_bytes(b"new" + path.read_bytes())
    assert _kill(processes, 0.02, "seal", tree, out)
    assert open_tree(out, KEYS).digest == digest
    assert tree_stages.work("restore", out, tmp_path / "back") == []
    assert _contents(tmp_path / "back") == before


def _fill(disk, leave):
    free = shutil.disk_usage(disk).free
    (disk / "filler").write_bytes(bytes(max(0, free - leave)))


@pytest.mark.parametrize("leave", [0, 8192, 3 << 20])
def test_a_full_disk_keeps_the_earlier_version(leave, tree, tmp_path, small_disk):
    out = small_disk / "sealed"
    tree_stages.work("seal", tree, out)
    digest, before = open_tree(out, KEYS).digest, _contents(tree)
    for path in tree.rglob("*.raw"):
        path.write_bytes(b"new" + path.read_bytes())
    _fill(small_disk, leave)
    with pytest.raises(StorageError, match="no space left on the device") as caught:
        tree_stages.work("seal", tree, out)
    assert "\n" not in str(caught.value)
    assert open_tree(out, KEYS).digest == digest
    assert tree_stages.work("restore", out, tmp_path / "back") == []
    assert _contents(tmp_path / "back") == before
    (small_disk / "filler").unlink()
    assert tree_stages.work("seal", tree, out) == []
    assert open_tree(out, KEYS).manifest.generation == 2


def test_a_full_disk_during_restoration_leaves_whole_files_only(tree, tmp_path, small_disk):
    tree_stages.work("seal", tree, tmp_path / "sealed")
    back = small_disk / "back"
    _fill(small_disk, 5 << 20)
    failed = tree_stages.work("restore", tmp_path / "sealed", back)
    wanted, found = _contents(tree), _contents(back)
    assert 0 < len(found) < FILES
    assert set(failed) == wanted.keys() - found.keys()
    assert {name: wanted[name] for name in found} == found
    assert not (back / STAGING).exists()
    (small_disk / "filler").unlink()
    assert tree_stages.work("restore", tmp_path / "sealed", back) == []
    assert _contents(back) == wanted
