"""kill -9 of a step of Dagster's multiprocess executor, and a step that stalls and comes back."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest
import sqlalchemy as sa
from fault_stages import Setting as Stage
from fault_stages import ingest, write_fits

from acie_pipelines.crypto.keys import PaillierPrivateKey
from acie_pipelines.crypto.public_keys import KeyRecord, KeyState, PublicKeys
from acie_pipelines.crypto.tile_decryption import verify_decryption
from acie_pipelines.database import reading
from acie_pipelines.observations.ingest import open_stored
from acie_pipelines.partitions import observation_partitions
from acie_pipelines.provenance import Manifest, current_manifest, verify_chain
from acie_pipelines.secure.queue import WorkQueue
from acie_pipelines.secure.queue_tables import Batch, units
from acie_pipelines.secure.tasks import do_unit
from acie_pipelines.settings import Settings
from acie_pipelines.storage import Store
from acie_pipelines.tiling.writer import write_tiles

NOW = "2026-01-01T00:00:00+00:00"
GROUPS = 3


class Run:
    """A run of `small_groups.encrypt` in processes of its own, where there is no vault."""

    def __init__(self, key: str, settings: Settings, log: Path) -> None:
        self.store, self.queue = Store(settings.storage_url), WorkQueue(settings.database_url)
        self.log = log
        location = Path(__file__).with_name("small_groups.py")
        command = [sys.executable, "-m", "dagster", "job", "execute", "-f", str(location)]
        command += ["-j", "encrypt", "--tags", json.dumps({"dagster/partition": key})]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=output, start_new_session=True
            )

    def wait_for(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 400
        while not condition():
            alive = time.monotonic() < deadline and self.process.poll() is None
            assert alive, self.log.read_text()[-3000:]
            time.sleep(0.002)

    def batch(self) -> Batch:
        self.wait_for(lambda: bool(self.queue.batches()))
        [(batch, counts)] = self.queue.batches()
        assert counts.total == GROUPS
        return batch

    def caught(self, batch: Batch, number: int, sent: signal.Signals) -> None:
        """Signal the process of a step once it has begun to write its group."""
        place = f"{batch.kind}/{batch.key}/{batch.generation}/units/{number:05d}-1"
        self.wait_for(lambda: self.store.exists(place))
        query = sa.select(units.c.owner).where(units.c.number == number)
        with reading(self.queue.engine) as connection:
            owner = str(connection.execute(query).scalar_one())
        self.pids = {**getattr(self, "pids", {}), number: int(owner.rpartition(" ")[2])}
        self.id = re.findall("run ([0-9a-f-]+) on", owner)[0]
        os.kill(self.pids[number], sent)
        assert self.queue.result(batch.id, number) is None, "the group was done too soon"


@pytest.fixture
def public_keys(private_key: PaillierPrivateKey) -> PublicKeys:
    return PublicKeys("owner", (KeyRecord(private_key.public_key, 1, NOW, KeyState.CURRENT, NOW),))


@pytest.fixture
def tiles(home: Path, tmp_path: Path) -> Manifest:
    """An observation of 96 tiles."""
    store = Store(Settings.from_environment().storage_url)
    write_fits(tmp_path / "field.fits", seed=4, height=1536, width=1024)
    source = ingest(Stage(store.url, tmp_path / "field.fits"), "1")
    with open_stored(store, source) as observation:
        return write_tiles(store, source, observation, code_version="1", tile_size=128)


@pytest.fixture
def run(
    tiles: Manifest,
    public_keys: PublicKeys,
    instance: dg.DagsterInstance,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Run]:
    (tmp_path / "public.json").write_bytes(public_keys.to_json())
    monkeypatch.setenv("ACIE_PUBLIC_KEYS_FILE", str(tmp_path / "public.json"))
    instance.add_dynamic_partitions(observation_partitions.name, [tiles.key])
    settings = Settings.from_environment()
    assert not settings.keys_file.exists()
    started = Run(tiles.key, settings, tmp_path / "log")
    yield started
    if started.process.poll() is None:
        os.killpg(started.process.pid, signal.SIGKILL)
        started.process.wait()


@pytest.mark.slow
def test_a_killed_steps_group_is_taken_over_and_a_late_one_refused(
    run: Run,
    tiles: Manifest,
    public_keys: PublicKeys,
    private_key: PaillierPrivateKey,
    instance: dg.DagsterInstance,
) -> None:
    batch = run.batch()
    # Of two steps at once, one stalls in the middle of its group; the other finishes, and the next
    # one is killed.
    run.caught(batch, 1, signal.SIGSTOP)
    run.wait_for(lambda: run.queue.counts(batch.id).done == 1)
    finished = run.queue.result(batch.id, 0)
    run.caught(batch, 2, signal.SIGKILL)
    # Another worker is given the stalled group when its lease has ended.
    made = do_unit(run.queue, run.store, public_keys, batch.id, 1, "heir")
    os.kill(run.pids[1], signal.SIGCONT)
    assert run.process.wait(timeout=400) == 0, run.log.read_text()[-3000:]

    ciphertexts = current_manifest(run.store, "ciphertexts", tiles.key)
    assert ciphertexts.generation == batch.generation
    # Files are those of the first claim of the finished group, and the second of the other two.
    assert run.store.names(f"{ciphertexts.prefix}/units") == ["00000-1", "00001-2", "00002-2"]
    hashes = {output.sha256 for output in ciphertexts.outputs}
    for result in (finished, made):
        assert result is not None and {tile["sha256"] for tile in result["tiles"]} < hashes
    assert run.queue.batches() == []
    verify_chain(run.store, ciphertexts)
    check = verify_decryption(run.store, ciphertexts, tiles, private_key, None)
    assert (check.tiles, check.values) == (96, 3 << 19) and check.worst_error_quanta <= 0.5

    # The run itself noticed the kill and did the group again; nothing else was begun twice.
    events = instance.all_logs(run.id)
    steps = [
        (event.dagster_event.event_type, event.dagster_event.step_key)
        for event in events
        if event.dagster_event is not None
    ]
    retried = [key for kind, key in steps if kind is dg.DagsterEventType.STEP_UP_FOR_RETRY]
    assert retried == [f"encrypted_tiles.encrypt_group[batch_{batch.id}_unit_00002]"]
