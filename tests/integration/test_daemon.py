"""Web server and daemon as `make ui` runs them: files are dropped in, people look at the UI."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from acie_pipelines.crypto.vault import FileVault
from acie_pipelines.definitions import GROUPS
from acie_pipelines.ledger import Ledger
from acie_pipelines.provenance import current_manifest
from acie_pipelines.runs import open_instance
from acie_pipelines.settings import Settings
from acie_pipelines.storage import Store
from acie_pipelines.verification import verify_observation

ROOT = Path(__file__).parents[2]

ASSETS = """
query {
  assetNodes { assetKey { path } groupName opNames isPartitioned }
}
"""
PARTITIONS = """
query {
  assetNodeOrError(assetKey: {path: ["raw_observation"]}) {
    ... on AssetNode {
      assetPartitionStatuses {
        ... on DefaultPartitionStatuses { materializedPartitions failedPartitions }
      }
    }
  }
}
"""
RUNS = """
query {
  runsOrError { ... on Runs { results { runId status jobName tags { key value } } } }
}
"""
OBSERVATIONS = """
query {
  assetOrError(assetKey: {path: ["run_failures"]}) {
    ... on Asset {
      assetObservations(limit: 10) {
        metadataEntries { label ... on TextMetadataEntry { text } }
      }
    }
  }
}
"""
TICKS = """
query {
  sensorsOrError(repositorySelector: {
    repositoryName: "__repository__", repositoryLocationName: "acie_pipelines.definitions"
  }) {
    ... on Sensors { results { name sensorState { status ticks(limit: 20) { status } } } }
  }
}
"""


class Ui:
    """Asks the web server what its pages ask."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def __call__(self, query: str) -> Any:
        request = urllib.request.Request(  # noqa: S310 - our own server
            f"{self.url}/graphql",
            json.dumps({"query": query}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=600) as response:  # noqa: S310
            body = json.loads(response.read())
        assert "errors" not in body, body
        return body["data"]


def wait_until(what: str, done: Callable[[], bool]) -> None:
    # Ten times what a quiet machine takes: only a standstill ends the wait.
    deadline = time.monotonic() + 600
    while not done():
        assert time.monotonic() < deadline, what
        time.sleep(1)


@pytest.fixture
def servers(
    settings: Settings, vault: FileVault, home: Path, unused_port: int
) -> Iterator[tuple[Ui, dict[str, subprocess.Popen[bytes]]]]:
    """Web server and daemon on a workspace of their own, with the settings that ship."""
    shutil.copy(ROOT / "dagster_home" / "dagster.yaml", home / "dagster_home" / "dagster.yaml")
    # Two servers that both create the databases of an empty home can break them (see
    # `open_instance`); `dagster dev` creates them before it starts its own.
    with open_instance():
        pass
    workspace = ["-w", str(ROOT / "workspace.yaml")]
    commands = {
        "webserver": ["dagster_webserver", *workspace, "-p", str(unused_port), "-h", "127.0.0.1"],
        "daemon": ["dagster._daemon", "run", *workspace],
    }
    started: dict[str, subprocess.Popen[bytes]] = {}
    try:
        for name, command in commands.items():
            with (home / f"{name}.log").open("wb") as log:
                started[name] = subprocess.Popen(
                    [sys.executable, "-m", *command],
                    cwd=home,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                )
        yield Ui(unused_port), started
    finally:
        for process in started.values():
            if process.poll() is None:
                process.terminate()
        for process in started.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=20)
            # Runs and code servers are children of the daemon's group.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.slow
def test_files_dropped_into_the_inbox(
    servers: tuple[Ui, dict[str, subprocess.Popen[bytes]]],
    settings: Settings,
    home: Path,
    image_file: Path,
    bad_files: dict[str, tuple[bytes, str]],
) -> None:
    ui, processes = servers
    ledger, store = Ledger(settings.database_url), Store(settings.storage_url)
    inbox = Path(settings.inbox_url)
    inbox.mkdir(parents=True)
    (inbox / "bad.fits").write_bytes(bad_files["checksum.fits"][0])
    shutil.copy(image_file, inbox / "good.fits")

    def settled() -> bool:
        for name, process in processes.items():
            assert process.poll() is None, (home / f"{name}.log").read_text()[-5000:]
        counts = ledger.counts()
        return counts["accepted"] == counts["quarantined"] == 1 and bool(ledger.failures())

    wait_until("neither accepted nor quarantined", settled)
    [bad] = ledger.entries(status="quarantined")
    [good] = ledger.entries(status="accepted")
    wait_until(
        "not everything made",
        lambda: verify_observation(store, good.key, lambda manifest: None) == 6,
    )
    assert current_manifest(store, "observation", good.key).attributes["source_name"] == "good.fits"
    assert not (inbox / "bad.fits").exists() and (inbox / "good.fits").exists()
    assert store.exists(f"quarantine/{bad.key}/reason.json")

    [failure] = ledger.failures()
    assert (failure.step, failure.error_type) == ("raw_observation", "ChecksumMismatchError")
    assert failure.cause.startswith(bad.key)
    [observation] = ui(OBSERVATIONS)["assetOrError"]["assetObservations"]
    shown = {entry["label"]: entry.get("text") for entry in observation["metadataEntries"]}
    assert (shown["error_type"], shown["partition"]) == ("ChecksumMismatchError", bad.key)

    nodes = ui(ASSETS)["assetNodes"]
    groups = {node["assetKey"]["path"][0]: node["groupName"] for node in nodes}
    assert set(groups.values()) == set(GROUPS)
    assert len(groups) == 18
    # Every asset with a function behind it can be materialised by a click.
    assert {name for name in groups if name != "run_failures"} == {
        node["assetKey"]["path"][0] for node in nodes if node["opNames"]
    }
    statuses = ui(PARTITIONS)["assetNodeOrError"]["assetPartitionStatuses"]
    assert statuses == {"materializedPartitions": [good.key], "failedPartitions": [bad.key]}

    # One run per file, and the daemon goes on: a second file is taken in as well.
    (inbox / "empty.fits").write_bytes(b"")
    wait_until("second bad file", lambda: ledger.counts()["quarantined"] == 2)
    runs = ui(RUNS)["runsOrError"]["results"]
    processed = [
        tag["value"]
        for run in runs
        if run["jobName"] == "process_observation"
        for tag in run["tags"]
        if tag["key"] == "dagster/partition"
    ]
    assert len(processed) == len(set(processed)) == 3
    sensors = {
        entry["name"]: entry["sensorState"] for entry in ui(TICKS)["sensorsOrError"]["results"]
    }
    assert set(sensors) == {
        "new_observations",
        "retrain_when_enough_new",
        "keep_observations_current",
        "record_failures",
    }
    for name, state in sensors.items():
        assert state["status"] == "RUNNING", name
        assert "FAILURE" not in {tick["status"] for tick in state["ticks"]}, name
    assert all(process.poll() is None for process in processes.values())
