"""Files with secrets: created once, replaced whole, never lost."""

import os
import signal
import stat
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from acie_pipelines.crypto.vault_file import locked, publish, read_private, replace_locked
from acie_pipelines.errors import KeyVaultError


def test_umask_neither_widens_nor_breaks_a_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    before = os.umask(0)
    try:
        publish(path, b"1", "vault")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with locked(path, "vault", "make it") as real:
            replace_locked(real, b"2", "vault")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_private(path, "vault", "make it") == b"2"


def test_of_concurrent_creators_one_wins(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    outcomes: list[bytes | None] = []

    def create(data: bytes) -> None:
        try:
            publish(path, data, "vault")
            outcomes.append(data)
        except KeyVaultError:
            outcomes.append(None)

    threads = [threading.Thread(target=create, args=(bytes([i]) * 4096,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [path.read_bytes()] == [outcome for outcome in outcomes if outcome is not None]


def test_an_existing_file_is_never_replaced_by_creation(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text("precious")
    with pytest.raises(KeyVaultError, match="exists already"):
        publish(path, b"other", "vault")
    assert path.read_text() == "precious"
    assert [entry.name for entry in tmp_path.iterdir()] == ["keys.json"]


@pytest.mark.parametrize("call", ["fsync", "link"])
def test_interrupted_creation_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, call, interrupt)
    with pytest.raises(KeyboardInterrupt):
        publish(tmp_path / "keys.json", b"x", "vault")
    assert list(tmp_path.iterdir()) == []


def test_replacement_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "keys.json"
    publish(path, b"old", "vault")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    with (
        locked(path, "vault", "make it") as real,
        monkeypatch.context() as patch,
        pytest.raises(KeyVaultError, match="No space left"),
    ):
        patch.setattr(os, "fsync", full)
        replace_locked(real, b"new", "vault")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["keys.json"]


KILLED = textwrap.dedent(
    """
    import os, pathlib, signal, sys
    from acie_pipelines.crypto.vault_file import locked, replace_locked
    path, moment = pathlib.Path(sys.argv[1]), sys.argv[2]
    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)
    real_fsync, calls = os.fsync, []
    def second(descriptor):
        calls.append(descriptor)
        die() if len(calls) == 2 else real_fsync(descriptor)
    with locked(path, "vault", "") as real:
        if moment == "data written":
            os.fsync = die
        elif moment == "data synced":
            pathlib.Path.replace = die
        elif moment == "renamed":
            os.fsync = second
        replace_locked(real, b"new" * 1000, "vault")
    """
)


@pytest.mark.parametrize(
    ("moment", "content", "leftovers"),
    [("data written", b"old", 1), ("data synced", b"old", 1), ("renamed", b"new" * 1000, 0)],
)
def test_kill_leaves_the_old_file_or_the_new_one(
    tmp_path: Path, moment: str, content: bytes, leftovers: int
) -> None:
    path = tmp_path / "keys.json"
    publish(path, b"old", "vault")
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), moment])
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == content
    left = [entry for entry in tmp_path.iterdir() if entry != path]
    assert len(left) == leftovers
    assert all(stat.S_IMODE(entry.stat().st_mode) == 0o600 for entry in left)
    # The lock died with its holder, and the next writer clears up.
    with locked(path, "vault", "make it") as real:
        replace_locked(real, b"next", "vault")
    assert path.read_bytes() == b"next"
    assert [entry.name for entry in tmp_path.iterdir()] == ["keys.json"]


def test_writers_take_turns(tmp_path: Path) -> None:
    """Each adds one to what it read; without the lock some would be lost."""
    path = tmp_path / "keys.json"
    publish(path, b"0", "vault")

    def count() -> None:
        for _ in range(25):
            with locked(path, "vault", "make it") as real:
                replace_locked(real, str(int(path.read_bytes()) + 1).encode(), "vault")

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() == b"100"


def test_symlinks_stay_and_what_they_lead_to_changes(tmp_path: Path) -> None:
    real, link = tmp_path / "real.json", tmp_path / "keys.json"
    publish(real, b"1", "vault")
    link.symlink_to("real.json")
    with locked(link, "vault", "make it") as path:
        replace_locked(path, b"2", "vault")
    assert link.is_symlink() and real.read_bytes() == b"2"


def test_what_cannot_be_locked_is_named(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none", "does not exist; make it"), (tmp_path, "directory")):
        with pytest.raises(KeyVaultError, match=reason), locked(path, "vault", "make it"):
            raise AssertionError("never entered")
