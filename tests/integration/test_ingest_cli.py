"""`acie ingest`, `status`, `keys` and `verify` as a person at a shell meets them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import sqlalchemy as sa

from acie_pipelines import __version__
from acie_pipelines.crypto.vault import FileVault
from acie_pipelines.database import engine, writing
from acie_pipelines.ledger import Ledger
from acie_pipelines.partitions import observation_partitions
from acie_pipelines.runs import open_instance
from acie_pipelines.settings import Settings
from acie_pipelines.storage import Store

RAW = dg.AssetKey("raw_observation")
FIELDS = {"path", "status", "error_type", "reason", "key"}


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    path = tmp_path / "drop"
    path.mkdir()
    return path


def partition_status(instance: dg.DagsterInstance, keys: set[str]) -> dict[str, str]:
    found = instance.get_status_by_partition(RAW, sorted(keys), observation_partitions)
    return {key: status.value for key, status in (found or {}).items() if status is not None}


def failure_descriptions(instance: dg.DagsterInstance, key: str) -> list[str]:
    """What the UI shows for the failed steps of a partition's runs."""
    runs = instance.get_runs(dg.RunsFilter(tags={"dagster/partition": key}))
    return [
        entry.dagster_event.step_failure_data.user_failure_data.description
        for run in runs
        for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    ]


@pytest.mark.slow
def test_good_and_bad_files_in_one_directory(
    acie: Any,
    settings: Settings,
    vault: FileVault,
    inbox: Path,
    image_file: Path,
    bad_files: dict[str, tuple[bytes, str]],
    make_fits: Callable[..., bytes],
) -> None:
    for name, (content, _) in bad_files.items():
        (inbox / name).write_bytes(content)
    (inbox / "below").mkdir()
    (inbox / "below" / "good.fits").write_bytes(make_fits(1))
    shutil.copy(image_file, inbox / "zz_last.fits")
    (inbox / ".hidden.fits").write_bytes(b"")

    code, rows = acie.ingest(inbox)
    assert code == 1
    assert all(set(row) == FIELDS for row in rows)
    by_name = {Path(row["path"]).name: row for row in rows}
    assert set(by_name) == {*bad_files, "good.fits", "zz_last.fits"}
    store, ledger = Store(settings.storage_url), Ledger(settings.database_url)
    for name in ("good.fits", "zz_last.fits"):
        row = by_name[name]
        assert (row["status"], row["error_type"], row["reason"]) == ("accepted", "", "")
        assert store.exists(f"archive/{row['key']}/current.json")
        assert Path(row["path"]).exists()
    for name, (content, error_type) in bad_files.items():
        row = by_name[name]
        assert (row["status"], row["error_type"]) == ("quarantined", error_type)
        assert row["key"].startswith(name.removesuffix(".fits"))
        assert not (inbox / name).exists()
        assert store.read_bytes(f"quarantine/{row['key']}/{name}") == content
        record = json.loads(store.read_bytes(f"quarantine/{row['key']}/reason.json"))
        assert record["source"] == str(inbox / name)
        assert (record["error"], record["reason"]) == (error_type, row["reason"])
        assert record["source_removed"]
        assert not store.exists(f"observation/{row['key']}/current.json")

    keys = {row["key"] for row in rows}
    with open_instance() as instance:
        assert set(instance.get_dynamic_partitions("observation")) == keys
        expected = {
            row["key"]: "MATERIALIZED" if row["status"] == "accepted" else "FAILED" for row in rows
        }
        assert partition_status(instance, keys) == expected
        for name in bad_files:
            [description] = failure_descriptions(instance, by_name[name]["key"])
            assert by_name[name]["reason"] in description
    assert ledger.counts()["accepted"] == 2
    assert ledger.counts()["quarantined"] == len(bad_files)

    code, out, _ = acie("status", "--json")
    body = json.loads(out)
    assert code == 0
    assert body["observations"]["quarantined"] == len(bad_files)
    assert body["new_since_training"] == 2
    assert {(entry["key"], entry["error_type"]) for entry in body["quarantined"]} == {
        (by_name[name]["key"], error_type) for name, (_, error_type) in bad_files.items()
    }
    code, out, _ = acie("verify")
    assert (code, out.splitlines()[-1]) == (0, "12 datasets verified")
    _, text, _ = acie("status")
    assert "2 accepted" in text and "Quarantine" in text

    # The same contents again: nothing is done twice, whatever the name.
    (inbox / "again.fits").write_bytes(bad_files["cut.fits"][0])
    code, [again] = acie.ingest(inbox / "again.fits")
    assert (code, again["status"], again["error_type"]) == (1, "quarantined", "TruncatedFileError")
    assert "already in quarantine" in again["reason"]
    assert again["key"] == by_name["cut.fits"]["key"]
    with open_instance() as instance:
        runs = instance.get_runs_count()
        code, rows = acie.ingest(inbox / "zz_last.fits", inbox / "below")
        assert (code, [row["status"] for row in rows]) == (0, ["accepted", "accepted"])
        assert instance.get_runs_count() == runs


def test_text_for_people(
    acie: Any, vault: FileVault, inbox: Path, make_fits: Callable[..., bytes]
) -> None:
    (inbox / "bad.fits").write_bytes(b"")
    (inbox / "good.fits").write_bytes(make_fits(2))
    code, out, err = acie("ingest", inbox / "bad.fits", inbox / "good.fits")
    bad, good = out.splitlines()
    assert code == 1
    assert bad.startswith("quarantined") and "EmptyFileError: " in bad
    assert good.startswith("accepted") and "good-" in good
    assert "done encrypted_tiles" in err


def test_paths_that_are_not_there(
    acie: Any, vault: FileVault, inbox: Path, make_fits: Callable[..., bytes]
) -> None:
    (inbox / "here.fits").write_bytes(make_fits(6))
    code, [missing, there] = acie.ingest(inbox / "nowhere.fits", inbox / "here.fits")
    assert code == 1
    assert (missing["status"], missing["error_type"]) == ("failed", "StorageError")
    assert "No such file" in missing["reason"]
    assert missing["key"] == ""
    assert there["status"] == "accepted"


def test_a_registered_file_that_has_moved(
    acie: Any, settings: Settings, vault: FileVault, inbox: Path, make_fits: Callable[..., bytes]
) -> None:
    """The daemon died after it had claimed the file, and somebody moved the file since."""
    from acie_pipelines.observations.identity import fingerprint, observation_key

    path = inbox / "moved.fits"
    path.write_bytes(make_fits(3))
    content = fingerprint(path)
    key = observation_key("before.fits", content.sha256)
    Ledger(settings.database_url).register(
        content.sha256, key, str(inbox / "before.fits"), content.size
    )
    code, [row] = acie.ingest(path)
    assert (code, row["status"], row["key"]) == (0, "accepted", key), row


def test_without_keys_nothing_is_lost(
    acie: Any, settings: Settings, inbox: Path, make_fits: Callable[..., bytes]
) -> None:
    path = inbox / "early.fits"
    path.write_bytes(make_fits(4))
    code, [row] = acie.ingest(path)
    assert (code, row["status"], row["error_type"]) == (1, "failed", "KeyVaultError")
    assert "acie keys generate" in row["reason"]
    assert path.exists()
    code, out, _ = acie("keys", "generate", "--bits", 2048)
    assert code == 0 and "2048 bits" in out
    assert settings.keys_file.stat().st_mode & 0o777 == 0o600
    code, [row] = acie.ingest(path)
    assert (code, row["status"]) == (0, "accepted")
    before = settings.keys_file.read_bytes()
    code, _, err = acie("keys", "generate", "--bits", 2048)
    assert code == 1 and "exists already" in err
    assert acie("keys", "generate", "--if-missing")[0] == 0
    assert settings.keys_file.read_bytes() == before
    code, out, _ = acie("keys", "list", "--json")
    key_id = json.loads(out)["key_id"]
    assert code == 0 and json.loads(before)["keys"][key_id]["secrets"]["p"] not in out


def test_verify(
    acie: Any, settings: Settings, vault: FileVault, inbox: Path, make_fits: Callable[..., bytes]
) -> None:
    (inbox / "a.fits").write_bytes(make_fits(5))
    _, [row] = acie.ingest(inbox)
    key = row["key"]
    for arguments in (("verify", key), ("verify",)):
        code, out, _ = acie(*arguments)
        assert code == 0
        assert out.splitlines()[-1] == "6 datasets verified"
        assert f"ciphertexts/{key}" in out
        assert "not authenticated" not in out
    # What its owner never attested is not authenticated, until he does.
    with writing(engine(settings.database_url)) as connection:
        connection.execute(sa.text("DELETE FROM acie_attestations"))
    code, out, _ = acie("verify", key)
    assert (code, out.count("not authenticated")) == (0, 3)
    code, out, _ = acie("secure", "attest", key)
    assert (code, out.count("number 1")) == (0, 3)
    code, out, _ = acie("verify", key)
    assert code == 0 and "not authenticated" not in out
    code, _, err = acie("secure", "attest", "no-such-key")
    assert code == 1 and "holds nothing sealed" in err
    # Without the vault the statements are compared all the same, and with the auditor too.
    with writing(engine(settings.database_url)) as connection:
        connection.execute(sa.text("UPDATE acie_attestations SET number = 2"))
    code, _, err = acie("verify", key)
    assert code == 1 and "was not made with key" in err
    hidden = settings.keys_file.rename(settings.keys_file.with_suffix(".away"))
    code, out, _ = acie("verify", key)
    assert code == 0 and "compared, not proved" in out
    hidden.rename(settings.keys_file)
    code, _, err = acie("verify", "no-such-key")
    assert code == 1 and "no-such-key" in err and len(err.splitlines()) == 1
    code, _, err = acie("verify", "--model", "production")
    assert code == 1 and "acie models list" in err
    stored = next(Path(settings.storage_url).glob(f"observation/{key}/**/a.fits"))
    content = bytearray(stored.read_bytes())
    content[2880] ^= 1
    stored.write_bytes(content)
    code, out, err = acie("verify", key)
    assert code == 1
    assert str(stored.relative_to(settings.storage_url)) in err
    assert "verified" not in out
    # An auditor reads no plaintext, whose damage is the owner's to find.
    for arguments in (("verify", "--sealed", key), ("verify", "--sealed")):
        code, out, _ = acie(*arguments)
        assert (code, out.splitlines()[-1]) == (0, "5 datasets verified")
    code, _, err = acie("verify", "--sealed", "--model", "production")
    assert code == 1 and "says nothing about models" in err
    sealed = next(Path(settings.storage_url).glob(f"archive/{key}/**/*.acie"))
    sealed.write_bytes(sealed.read_bytes()[:-1])
    code, _, err = acie("verify", "--sealed", key)
    assert code == 1 and str(sealed.relative_to(settings.storage_url)) in err


@pytest.mark.slow
def test_the_installed_command(home: Path, vault: FileVault, inbox: Path) -> None:
    """Through the entry point: only JSON on standard output, one line for a known error."""
    (inbox / "empty.fits").write_bytes(b"")

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).with_name("acie")), *arguments]
        environment = os.environ | variables
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    version = run("--version")
    assert (version.returncode, version.stdout) == (0, f"acie {__version__}\n")
    usage = run("--help")
    assert usage.returncode == 0
    assert all(name in usage.stdout for name in ("demo", "ingest", "verify", "models", "keys"))
    refused = run("ingest", "--json", str(inbox))
    assert refused.returncode == 1
    [row] = [json.loads(line) for line in refused.stdout.splitlines()]
    assert row["error_type"] == "EmptyFileError"
    broken = run("status", ACIE_EXECUTOR="celery")
    assert broken.returncode == 1
    assert broken.stderr.startswith("error: ACIE_EXECUTOR") and "Traceback" not in broken.stderr


def test_brackets_in_a_name_are_printed(acie: Any, settings: Settings, inbox: Path) -> None:
    missing = inbox / "field[green]1[/].fits"
    code, out, _ = acie("ingest", missing)
    assert code == 1
    assert str(missing) in out
    code, _, errors = acie("infer", "--observation", missing, "--do", "stellar_mass*=2")
    assert code == 1
    assert str(missing) in errors
