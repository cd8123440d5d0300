"""Fingerprints against hashlib and published answers; keys."""

import hashlib
import threading
from pathlib import Path

import pytest
import zarr

from acie_pipelines.errors import IntegrityError, UnreadableObservationError
from acie_pipelines.observations import identity
from acie_pipelines.observations.identity import (
    content_sha256,
    fingerprint,
    observation_key,
    unchanged,
)


@pytest.mark.parametrize(
    ("content", "streebog256"),
    [
        # RFC 6986, example M1, and the empty message.
        (
            b"012345678901234567890123456789012345678901234567890123456789012",
            "9d151eefd8590b89daa6ba6cb74af9275dd051026bb149a452fd84e5e57b5500",
        ),
        (b"", "3f539a213e97c802cc229d474c6aa32a825a360b2a933a949fd925208d9ce1bb"),
    ],
)
def test_known_answers(tmp_path: Path, content: bytes, streebog256: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    found = fingerprint(path)
    assert found.streebog256 == streebog256
    assert found.sha256 == hashlib.sha256(content).hexdigest()
    assert found.size == len(content)


def test_a_file_of_many_blocks(tmp_path: Path) -> None:
    content = bytes(range(256)) * (9 << 12) + b"tail"
    path = tmp_path / "a"
    path.write_bytes(content)
    assert fingerprint(path).sha256 == hashlib.sha256(content).hexdigest()
    assert content_sha256(path) == hashlib.sha256(content).hexdigest()


def test_a_zarr_directory_is_hashed_unambiguously(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    zarr.create_array(path, shape=(4, 4), chunks=(2, 2), dtype="f4")[:] = 1
    expected = hashlib.sha256()
    for name in sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file()):
        data = (path / name).read_bytes()
        expected.update(len(name).to_bytes(8, "big") + name.encode())
        expected.update(len(data).to_bytes(8, "big") + data)
    assert fingerprint(path).sha256 == expected.hexdigest() == content_sha256(path)


def test_moving_bytes_between_files_changes_the_identity(tmp_path: Path) -> None:
    digests = set()
    for case, files in enumerate([{"a": b"xy", "b": b""}, {"a": b"x", "b": b"y"}, {"ab": b"xy"}]):
        directory = tmp_path / str(case)
        directory.mkdir()
        for name, content in files.items():
            (directory / name).write_bytes(content)
        digests.add(content_sha256(directory))
    assert len(digests) == 3


def test_links_are_refused(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "x").symlink_to("/etc/passwd")
    with pytest.raises(UnreadableObservationError):
        fingerprint(tmp_path / "d")


def test_a_change_meanwhile_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"before")
    with pytest.raises(IntegrityError, match="changed"), unchanged(path):
        path.write_bytes(b"after!!")


def test_both_digests_run_beside_the_reader(tmp_path: Path, monkeypatch) -> None:
    seen = set()
    digest = hashlib.sha256()

    class Recorder:
        def update(self, block: bytes) -> None:
            seen.add(threading.current_thread() is threading.main_thread())
            digest.update(block)

        def hexdigest(self) -> str:
            return digest.hexdigest()

    monkeypatch.setattr(identity.acie_native, "Streebog256", Recorder)
    path = tmp_path / "a"
    path.write_bytes(bytes(10 << 20))
    assert fingerprint(path).streebog256 == hashlib.sha256(bytes(10 << 20)).hexdigest()
    assert seen == {False}


SHA = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("name", "slug"),
    [
        ("c4d_170316_062107_ooi_z_ls9.N2.fits", "c4d-170316-062107-ooi-z-ls9-n2"),
        ("/data/in/tpv.fits.gz", "tpv"),
        ("A.zarr.zip", "a"),
        ("spec-0266-51630-0168.FITS", "spec-0266-51630-0168"),
        ("Köln été.tif", "koln-ete"),
        ("图像.fits", "observation"),
        ("..fits", "observation"),
        ("a" * 100 + ".h5", "a" * 60),
        ("x/", "x"),
    ],
)
def test_keys(name: str, slug: str) -> None:
    assert observation_key(name, SHA) == f"{slug}-0123456789ab"
