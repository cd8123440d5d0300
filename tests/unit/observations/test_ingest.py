"""Ingest: one verified copy, all or nothing, again or not at all."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

from acie_pipelines.errors import (
    ChecksumMismatchError,
    EmptyFileError,
    IntegrityError,
    TruncatedFileError,
)
from acie_pipelines.observations import ingest
from acie_pipelines.observations.identity import content_sha256, fingerprint, observation_key
from acie_pipelines.observations.ingest import ingest_observation, open_stored, planes_of
from acie_pipelines.observations.model import Window
from acie_pipelines.observations.opening import open_observation
from acie_pipelines.provenance import current_manifest, verify_chain
from acie_pipelines.storage import Store


def stored_files(store: Store) -> set[str]:
    root = store.local_path("")
    return {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()}


@pytest.fixture
def source(samples: Path) -> Path:
    (path,) = samples.glob("c4d_*_ooi_*.fits")
    return path


def test_the_manifest_states_what_was_ingested(store: Store, source: Path) -> None:
    calls: list[tuple[int, int]] = []
    manifest = ingest_observation(
        store, source, code_version="1", progress=lambda done, total: calls.append((done, total))
    )
    content = source.read_bytes()
    facts = manifest.attributes
    assert manifest.kind == "observation"
    assert manifest.key == observation_key(source.name, hashlib.sha256(content).hexdigest())
    assert facts["source_name"] == source.name
    assert facts["format"] == "FITS"
    assert facts["bytes"] == len(content)
    found = fingerprint(source)
    assert (facts["sha256"], facts["streebog256"]) == (found.sha256, found.streebog256)
    assert calls[-1] == (len(content), len(content))
    assert (store.local_path(f"{manifest.prefix}/{facts['original']}")).read_bytes() == content
    header = json.loads(store.read_bytes(f"{manifest.prefix}/header.json"))
    assert header["planes"]["N2"]["header"]["CTYPE1"] == "RA---TPV"
    assert verify_chain(store, current_manifest(store, "observation", manifest.key)) == 1
    with open_stored(store, manifest) as observation, open_observation(source) as original:
        (plane,) = planes_of(manifest)
        (direct,) = original.planes
        assert (plane.name, plane.kind, plane.shape, plane.dtype) == (
            direct.name,
            direct.kind,
            direct.shape,
            direct.dtype,
        )
        assert (plane.wcs, plane.pixel_scale_arcsec) == (direct.wcs, direct.pixel_scale_arcsec)
        window = Window(0, 3, 99, 7, 200)
        np.testing.assert_array_equal(
            observation.read(plane, window), original.read(direct, window)
        )
        values = original.read(direct, Window(0, 0, 251, 0, 245))
    quality = facts["quality"]["planes"]["N2"]
    assert quality["sample_fraction"] == 1
    assert quality["invalid_fraction"] == np.mean(~np.isfinite(values))
    assert (quality["min"], quality["max"]) == (values.min(), values.max())
    assert facts["quality"]["has_checksum"] is False
    assert facts["quality"]["checksum_ok"] is None


def test_redshift_and_checksums_are_recorded(store: Store, samples: Path, data: Path) -> None:
    spectrum = ingest_observation(store, samples / "spec-0266-51630-0168.fits", code_version="1")
    assert spectrum.attributes["redshift"] == pytest.approx(0.0674056)
    assert spectrum.attributes["class"] == "GALAXY"
    checked = ingest_observation(store, data / "stack-LRG.fits", code_version="1")
    assert checked.attributes["quality"]["checksum_ok"] is True


def test_again_is_the_same_and_a_damaged_copy_is_replaced(store: Store, source: Path) -> None:
    first = ingest_observation(store, source, code_version="1")
    files = stored_files(store)
    assert ingest_observation(store, source, code_version="1") == first
    assert stored_files(store) == files
    path = store.local_path(f"{first.prefix}/{first.attributes['original']}")
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    third = ingest_observation(store, source, code_version="1")
    assert third.generation != first.generation
    assert third.digest == first.digest


def test_a_zarr_directory_is_copied_file_by_file(store: Store, tmp_path: Path) -> None:
    source = tmp_path / "cube.zarr"
    values = np.random.default_rng(0).random((30, 20)).astype("f4")
    zarr.create_array(source, shape=(30, 20), chunks=(8, 8), dtype="f4")[:] = values
    manifest = ingest_observation(store, source, code_version="1")
    assert manifest.attributes["sha256"] == content_sha256(source)
    shutil.rmtree(source)
    verify_chain(store, manifest)
    with open_stored(store, manifest) as observation:
        (plane,) = planes_of(manifest)
        read = observation.read(plane, Window(0, 0, 30, 0, 20))
    np.testing.assert_array_equal(read, values)


def test_a_gzip_file_is_kept_as_it_is(store: Store, data: Path) -> None:
    manifest = ingest_observation(store, data / "dist_lookup.fits.gz", code_version="1")
    assert manifest.attributes["original"] == "original/dist_lookup.fits.gz"
    assert {plane.name for plane in planes_of(manifest)} >= {"SCI", "D2IMARR"}


def test_what_was_announced_must_arrive(store: Store, source: Path) -> None:
    with pytest.raises(IntegrityError, match="announced"):
        ingest_observation(store, source, code_version="1", expected_sha256="0" * 64)
    assert stored_files(store) == set()
    sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
    ingest_observation(store, source, code_version="1", expected_sha256=sha256)


def test_a_source_that_grows_is_refused(store: Store, source: Path, tmp_path: Path) -> None:
    growing = tmp_path / "growing.fits"
    shutil.copyfile(source, growing)

    def append(done: int, total: int) -> None:
        with growing.open("ab") as handle:
            handle.write(b"more")

    with pytest.raises(IntegrityError):
        ingest_observation(store, growing, code_version="1", progress=append)
    assert stored_files(store) == set()


@pytest.mark.parametrize(
    ("name", "error"),
    [("checksum_false.fits", ChecksumMismatchError), ("cut.fits", TruncatedFileError)],
)
def test_bad_files_leave_nothing(
    store: Store, data: Path, tmp_path: Path, name: str, error: type[Exception]
) -> None:
    (tmp_path / "cut.fits").write_bytes((data / "test0.fits").read_bytes()[:-3000])
    path = data / name if (data / name).exists() else tmp_path / name
    with pytest.raises(error):
        ingest_observation(store, path, code_version="1")
    assert stored_files(store) == set()


def test_an_empty_file_is_refused_before_it_is_named(store: Store, tmp_path: Path) -> None:
    (tmp_path / "a.fits").touch()
    with pytest.raises(EmptyFileError):
        ingest_observation(store, tmp_path / "a.fits", code_version="1")


def test_a_kill_between_copy_and_commit_leaves_no_readable_data(store: Store, source: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from acie_pipelines.observations import ingest
from acie_pipelines.storage import Store
ingest._describe = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
ingest.ingest_observation(Store({store.url!r}), Path({str(source)!r}), code_version="1")
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    key = observation_key(source.name, content_sha256(source))
    assert any(name.endswith(source.name) for name in stored_files(store))
    with pytest.raises(IntegrityError, match="not been materialised"):
        current_manifest(store, "observation", key)
    manifest = ingest_observation(store, source, code_version="1")
    assert verify_chain(store, manifest) == 1


def test_file_names_are_safe() -> None:
    assert ingest.safe_file_name("../../etc/pass wd\n.fits") == "_.._etc_pass_wd_.fits"
    assert ingest.safe_file_name("") == "observation"
    assert ingest.safe_file_name("x" * 300 + ".fits.gz").endswith("x.fits.gz")
    assert len(ingest.safe_file_name("x" * 300 + ".fits.gz")) == 128
