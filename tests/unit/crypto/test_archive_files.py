"""Single files: sealed, restored and verified, by the library and by `acie secure`."""

import json
import os
import socket
from pathlib import Path

import pytest
from typer.testing import CliRunner

from acie_native import Streebog256
from acie_pipelines.cli import app
from acie_pipelines.crypto.archive_files import restore_file, seal_file, verify_file
from acie_pipelines.crypto.destination import STAGING, Destination, safe_parts
from acie_pipelines.crypto.vault import FileVault
from acie_pipelines.errors import StorageError, TamperedDataError


def run(*arguments: object) -> tuple[int, list[dict[str, object]]]:
    result = CliRunner().invoke(app, ["secure", *map(str, arguments), "--json"])
    return result.exit_code, [json.loads(line) for line in result.stdout.splitlines()]


def test_files_are_sealed_verified_and_restored(
    vault: FileVault, tmp_path: Path, image_file: Path, spectrum_file: Path
) -> None:
    sealed, back = tmp_path / "sealed", tmp_path / "back"
    files = [image_file, spectrum_file]
    code, lines = run("seal", *files, "--out", sealed)
    assert code == 0
    for file, line in zip(files, lines, strict=True):
        content = file.read_bytes()
        assert (line["status"], line["size"]) == ("sealed", len(content))
        assert line["streebog256"] == Streebog256(content).hexdigest()
        assert content[:80] not in (sealed / f"{file.name}.acie").read_bytes()
    archives = sorted(sealed.iterdir())
    code, lines = run("verify", *archives)
    assert (code, {line["status"] for line in lines}) == (0, {"verified"})
    code, lines = run("restore", *archives, "--out", back)
    assert (code, {line["status"] for line in lines}) == (0, {"restored"})
    assert {path.name: path.read_bytes() for path in back.iterdir()} == {
        file.name: file.read_bytes() for file in files
    }
    assert {os.stat(path).st_mode & 0o777 for path in back.iterdir()} == {0o600}  # noqa: PTH116


def test_a_second_run_changes_nothing(vault: FileVault, tmp_path: Path, image_file: Path) -> None:
    run("seal", image_file, "--out", tmp_path / "sealed")
    archive = tmp_path / "sealed" / f"{image_file.name}.acie"
    run("restore", archive, "--out", tmp_path / "back")
    before = archive.stat().st_mtime_ns, (tmp_path / "back" / image_file.name).stat().st_mtime_ns
    for arguments in (
        ("seal", image_file, "--out", tmp_path / "sealed"),
        ("restore", archive, "--out", tmp_path / "back"),
    ):
        code, lines = run(*arguments)
        assert (code, lines[0]["status"]) == (0, "unchanged")
    after = archive.stat().st_mtime_ns, (tmp_path / "back" / image_file.name).stat().st_mtime_ns
    assert before == after


def test_a_bad_file_does_not_stop_the_others(
    vault: FileVault, tmp_path: Path, image_file: Path
) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        files = [tmp_path / "missing", fifo, tmp_path / "socket", tmp_path, image_file]
        code, lines = run("seal", *files, "--out", tmp_path / "sealed")
    assert code == 1
    assert [line["status"] for line in lines] == ["failed"] * 4 + ["sealed"]
    assert all(line["error_type"] == "StorageError" for line in lines[:4])
    assert [path.name for path in (tmp_path / "sealed").iterdir()] == [f"{image_file.name}.acie"]


def test_existing_files_are_never_replaced(
    vault: FileVault, tmp_path: Path, image_file: Path
) -> None:
    archive, back = tmp_path / "a.acie", tmp_path / "back"
    seal_file(image_file, archive, vault.archive_key())
    back.mkdir()
    (back / image_file.name).write_bytes(b"mine")
    with Destination(back) as destination, pytest.raises(StorageError, match="exists already"):
        restore_file(archive, destination, vault)
    assert (back / image_file.name).read_bytes() == b"mine"
    with pytest.raises(StorageError, match="exists already"):
        seal_file(image_file, back / image_file.name, vault.archive_key())
    assert (back / image_file.name).read_bytes() == b"mine"


@pytest.mark.parametrize("damage", ["flip", "cut", "extend", "empty"])
def test_a_damaged_archive_leaves_nothing_behind(
    damage: str, vault: FileVault, tmp_path: Path, image_file: Path
) -> None:
    archive = tmp_path / "a.acie"
    seal_file(image_file, archive, vault.archive_key())
    data = archive.read_bytes()
    archive.write_bytes(
        {
            "flip": data[:-1] + bytes([data[-1] ^ 1]),
            "cut": data[:-1],
            "extend": data + b"\0",
            "empty": b"",
        }[damage]
    )
    with pytest.raises(TamperedDataError):
        verify_file(archive, vault)
    with Destination(tmp_path / "back") as destination, pytest.raises(TamperedDataError):
        restore_file(archive, destination, vault)
    assert list((tmp_path / "back").iterdir()) == []


def test_nothing_has_its_final_name_before_it_is_whole(tmp_path: Path) -> None:
    with Destination(tmp_path) as destination:
        with destination.file("deep/er/file.fits", mode=0o640) as sink:
            sink.write(b"half")
            sink.flush()
            assert not (tmp_path / "deep/er/file.fits").exists()
            (staged,) = (tmp_path / STAGING).iterdir()
            assert staged.stat().st_mode & 0o777 == 0o600
            assert (tmp_path / STAGING).stat().st_mode & 0o777 == 0o700
            sink.write(b" whole")
        assert (tmp_path / "deep/er/file.fits").read_bytes() == b"half whole"
        assert (tmp_path / "deep/er/file.fits").stat().st_mode & 0o777 == 0o640
    assert not (tmp_path / STAGING).exists()


def test_what_a_killed_restoration_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / STAGING).mkdir(mode=0o700)
    (tmp_path / STAGING / "0.part").write_bytes(b"plaintext")
    with Destination(tmp_path), pytest.raises(StorageError, match="in use"), Destination(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["", "/etc/x", "..", "a/../../x", "a//b", "./a", "a/", "a\0b", "x" * 256, "\ud800"]
)
def test_names_that_leave_a_directory_are_refused(name: str) -> None:
    with pytest.raises(TamperedDataError):
        safe_parts(name)


def test_a_link_on_the_way_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "back").mkdir()
    (tmp_path / "back/a").symlink_to(tmp_path / "outside")
    with (
        Destination(tmp_path / "back") as destination,
        pytest.raises(StorageError),
        destination.file("a/b"),
    ):
        pass
    assert list((tmp_path / "outside").iterdir()) == []


def test_names_are_shown_without_their_control_characters(vault: FileVault, tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/[red]\x1b[31m\xff\n.fits"))
    path.write_bytes(b"x")
    result = CliRunner().invoke(app, ["secure", "seal", str(path)])
    assert result.exit_code == 0
    assert r"[red]\x1b[31m\xff\n.fits" in result.stdout
    assert len(result.stdout.splitlines()) == 1


def test_rotated_keys_open_archives_and_revoked_ones_only_on_request(
    vault: FileVault, tmp_path: Path, image_file: Path
) -> None:
    old = vault.public_key().key_id
    tree, out = tmp_path / "tree", tmp_path / "sealed"
    tree.mkdir()
    (tree / "a.fits").write_bytes(b"sky")
    run("seal", image_file, "--out", tmp_path)
    run("seal-tree", tree, out)
    archive = tmp_path / f"{image_file.name}.acie"
    vault.rotate(2048)
    assert run("verify", archive)[0] == run("verify-tree", out)[0] == 0
    vault.revoke(old, "lost a laptop")
    code, lines = run("restore", archive, "--out", tmp_path / "back")
    assert (code, lines[0]["error_type"]) == (1, "RevokedKeyError")
    assert list((tmp_path / "back").iterdir()) == []
    assert run("restore-tree", out, tmp_path / "tree2")[0] == 1
    assert run("restore", archive, "--out", tmp_path / "back", "--allow-revoked")[0] == 0
    assert run("restore-tree", out, tmp_path / "tree2", "--allow-revoked")[0] == 0
    # What is sealed from now on, over the old tree too, is under the new key.
    code, lines = run("seal-tree", tree, out)
    assert (code, lines[-1]["version"], lines[0]["status"]) == (0, 2, "sealed")
    assert lines[0]["key_id"] == vault.public_key().key_id != old
    assert run("verify-tree", out)[0] == 0
