"""Store and inbox on S3 (moto, a fake of it on a local port), the ledger on a real PostgreSQL."""

import gc
import json
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from acie_pipelines import sensors
from acie_pipelines.crypto.tile_decryption import verify_decryption
from acie_pipelines.crypto.vault import FileVault
from acie_pipelines.definitions import build_defs
from acie_pipelines.jobs import PROCESS_OBSERVATION
from acie_pipelines.ledger import Ledger
from acie_pipelines.partitions import observation_partitions
from acie_pipelines.provenance import current_manifest
from acie_pipelines.runs import JobOutcome, execute
from acie_pipelines.settings import Settings
from acie_pipelines.storage import Store
from tests.s3_server import s3_server

BUCKET = "survey"

# s3fs leaves it to the end of the process to close what zarr opened through it.
pytestmark = pytest.mark.filterwarnings("ignore:Unclosed c:ResourceWarning")


@pytest.fixture
def s3() -> Iterator[Any]:
    """A client of a local S3 server."""
    import boto3

    with s3_server():
        client = boto3.client("s3")
        client.create_bucket(Bucket=BUCKET)
        yield client
        client.close()
    # Here, and not during another test.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture
def remote(
    home: Path,
    s3: Any,
    postgres_url: str,
    with_keys: Callable[[Settings], FileVault],
    monkeypatch: pytest.MonkeyPatch,
) -> Settings:
    """A workspace whose only local files are the key vault and Dagster's own."""
    monkeypatch.setenv("ACIE_STORAGE_URL", f"s3://{BUCKET}/acie")
    monkeypatch.setenv("ACIE_INBOX_URL", f"s3://{BUCKET}/inbox")
    monkeypatch.setenv("ACIE_DATABASE_URL", postgres_url)
    scratch = home / "tmp"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    monkeypatch.setattr(sensors, "_SETTLE_SECONDS", 0.0)
    settings = Settings.from_environment()
    with_keys(settings)
    return settings


def names(client: Any, prefix: str) -> set[str]:
    found: set[str] = set()
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix):
        found |= {entry["Key"] for entry in page.get("Contents", ())}
    return found


def sense_and_run(
    settings: Settings, instance: dg.DagsterInstance
) -> dict[str, tuple[str, JobOutcome]]:
    """One tick of the inbox sensor and the runs it asks for; by file name."""
    defs = build_defs(settings=settings)
    resources = {name: (defs.resources or {})[name] for name in ("inbox", "ledger")}
    with dg.build_sensor_context(instance=instance, resources=resources) as context:
        result = sensors.new_observations(context)
    ledger, outcomes = Ledger(settings.database_url), {}
    for request in getattr(result, "run_requests", None) or ():
        key = str(request.partition_key)
        instance.add_dynamic_partitions(observation_partitions.name or "", [key])
        outcome = execute(defs, PROCESS_OBSERVATION, instance, partition_key=key)
        outcomes[ledger.source_of(key).rsplit("/", 1)[-1]] = (key, outcome)
    return outcomes


@pytest.mark.slow
def test_nothing_but_the_vault_is_on_local_disk(
    remote: Settings,
    s3: Any,
    instance: dg.DagsterInstance,
    image_file: Path,
    bad_files: dict[str, tuple[bytes, str]],
    home: Path,
    acie: Any,
) -> None:
    s3.put_object(Bucket=BUCKET, Key="inbox/night/good.fits", Body=image_file.read_bytes())
    for name in ("cut.fits", "empty.fits"):
        s3.put_object(Bucket=BUCKET, Key=f"inbox/{name}", Body=bad_files[name][0])
    outcomes = sense_and_run(remote, instance)
    assert set(outcomes) == {"good.fits", "cut.fits", "empty.fits"}
    key, outcome = outcomes["good.fits"]
    assert outcome.success, outcome.cause
    assert len(outcome.checks) == 7 and all(check.passed for check in outcome.checks)

    # What was made is on S3 and nowhere else.
    for kind in ("observation", "tiles", "mosaic", "ciphertexts", "archive"):
        assert f"acie/{kind}/{key}/current.json" in names(s3, f"acie/{kind}/{key}/")
    local = {
        path.relative_to(home).as_posix()
        for path in home.rglob("*")
        if path.is_file() and not path.is_relative_to(home / "dagster_home")
    }
    assert local == {remote.keys_file.relative_to(home).as_posix()}
    assert not list((home / "tmp").iterdir())
    signature = image_file.read_bytes()[-2880:][:64]
    for path in (home / "dagster_home").rglob("*"):
        assert not path.is_file() or signature not in path.read_bytes(), path
    store = Store(remote.storage_url)
    ciphertexts, tiles = (current_manifest(store, k, key) for k in ("ciphertexts", "tiles"))
    private_key = FileVault(remote.keys_file).private_key()
    assert verify_decryption(store, ciphertexts, tiles, private_key, None).tiles == 1
    code, out, _ = acie("verify", key)
    assert (code, out.splitlines()[-1]) == (0, "6 datasets verified")

    # The bad ones are in quarantine with the reason, and have left the inbox.
    assert names(s3, "inbox/") == {"inbox/night/good.fits"}
    ledger = Ledger(remote.database_url)
    for name in ("cut.fits", "empty.fits"):
        content, error_type = bad_files[name]
        bad, failed = outcomes[name]
        assert failed.cause is not None and failed.cause.error_type == error_type
        assert store.read_bytes(f"quarantine/{bad}/{name}") == content
        record = json.loads(store.read_bytes(f"quarantine/{bad}/reason.json"))
        assert record["source"] == f"s3://{BUCKET}/inbox/{name}"
        assert (record["error"], record["sha256"][:12]) == (error_type, bad[-12:])
        entry = ledger.entry(bad)
        assert entry is not None and entry.status == "quarantined"
        assert entry.reason == record["reason"]
    assert sense_and_run(remote, instance) == {}

    # One changed byte on S3 is found from the shell.
    stored = f"acie/{current_manifest(store, 'observation', key).prefix}/original/good.fits"
    body = s3.get_object(Bucket=BUCKET, Key=stored)["Body"].read()
    s3.put_object(Bucket=BUCKET, Key=stored, Body=body[:-1] + b"\x01")
    code, _, err = acie("verify", key)
    assert code == 1 and "original/good.fits" in err


def test_a_store_that_cannot_be_reached(
    remote: Settings,
    s3: Any,
    acie: Any,
    tmp_path: Path,
    make_fits: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The file is neither lost nor blamed."""
    import assets.ingestion.observation as module

    # Without the ten seconds between retries.
    monkeypatch.setattr(module.raw_observation.op, "_retry_policy", None)
    monkeypatch.setenv("ACIE_STORAGE_URL", "s3://no-such-bucket/acie")
    path = tmp_path / "a.fits"
    path.write_bytes(make_fits(1))
    code, [row] = acie.ingest(path)
    assert (code, row["status"], row["error_type"]) == (1, "failed", "StorageError")
    assert "no-such-bucket" in row["reason"]
    assert path.exists()
    monkeypatch.setenv("ACIE_STORAGE_URL", remote.storage_url)
    code, [row] = acie.ingest(path)
    assert (code, row["status"]) == (0, "accepted"), row
