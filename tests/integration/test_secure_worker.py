"""Worker processes for real: what they cannot know, and what becomes of stalled and killed ones."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa

from acie_pipelines.crypto import encryption_plan
from acie_pipelines.crypto.keys import PaillierPrivateKey, generate_keypair
from acie_pipelines.crypto.public_keys import KeyRecord, KeyState, PublicKeys
from acie_pipelines.crypto.tile_decryption import verify_decryption
from acie_pipelines.crypto.tile_encryption import encrypt_tiles
from acie_pipelines.crypto.totals import fixed_point_total
from acie_pipelines.crypto.vault import FileVault
from acie_pipelines.database import writing
from acie_pipelines.observations.ingest import ingest_observation, open_stored
from acie_pipelines.provenance import Manifest, verify_chain
from acie_pipelines.secure.batches import Work, make, open_batch, publish_batch
from acie_pipelines.secure.encryption import open_encryption, publish_encryption
from acie_pipelines.secure.features import matched_filters
from acie_pipelines.secure.queue import WorkQueue
from acie_pipelines.secure.queue_tables import Batch, units
from acie_pipelines.secure.retrieval.streaming import check_stream, features_work
from acie_pipelines.secure.retrieval.window_units import plane_signal, windows_work
from acie_pipelines.secure.roles import worker_environment
from acie_pipelines.secure.statistics import differing_planes, read_sums, statistics_work
from acie_pipelines.storage import Store
from acie_pipelines.tiling.writer import write_tiles

ACIE = str(Path(sys.executable).with_name("acie"))


@pytest.fixture(scope="module")
def private_key() -> PaillierPrivateKey:
    return generate_keypair(2048)


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Manifest]:
    """A store with 64 plaintext tiles."""
    from astropy.io import fits

    folder = tmp_path_factory.mktemp("owner")
    pixels = np.random.default_rng(5).normal(100, 5, (768, 768)).astype(np.float32)
    fits.PrimaryHDU(pixels).writeto(folder / "field.fits")
    store = Store(str(folder / "store"))
    stored = ingest_observation(store, folder / "field.fits", code_version="1")
    with open_stored(store, stored) as observation:
        return store, write_tiles(store, stored, observation, code_version="1", tile_size=96)


class Workplace:
    """A directory that workers are started in, and what they are given."""

    def __init__(self, folder: Path, key: PaillierPrivateKey) -> None:
        folder.mkdir()
        self.folder = folder
        self.store = Store(str(folder / "store"))
        (folder / "store").mkdir()
        self.queue = WorkQueue(f"sqlite:///{folder / 'queue.db'}")
        now = datetime.now(UTC).isoformat()
        keys = PublicKeys("owner", (KeyRecord(key.public_key, 1, now, KeyState.CURRENT, now),))
        (folder / "public.json").write_bytes(keys.to_json())
        self.keys = keys
        self.environment = worker_environment(os.environ) | {
            "ACIE_HOME": str(folder),
            "ACIE_STORAGE_URL": self.store.url,
            "ACIE_DATABASE_URL": f"sqlite:///{folder / 'queue.db'}",
        }
        self.started: list[subprocess.Popen[str]] = []

    def start(self, *options: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [ACIE, "secure", "worker", "--public-keys", "public.json", *options],
            cwd=self.folder,
            env=self.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process

    def wait_until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 400
        while not condition():
            running = time.monotonic() < deadline and self.started[-1].poll() is None
            assert running, self.started[-1].communicate()[1]
            time.sleep(0.002)

    def leases_run_out(self) -> None:
        """As if a minute had passed."""
        with writing(self.queue.engine) as connection:
            connection.execute(sa.update(units).values(lease_until=0.0))


@pytest.fixture
def workplace(tmp_path: Path, private_key: PaillierPrivateKey) -> Iterator[Workplace]:
    place = Workplace(tmp_path / "worker", private_key)
    yield place
    for process in place.started:
        process.kill()
        process.communicate()


def spellings(key: PaillierPrivateKey) -> dict[str, bytes]:
    """Every form in which a prime, or what decrypts in its place, could lie in memory."""
    found = {}
    order = (key.p - 1) * (key.q - 1)
    for name, number in {"p": key.p, "q": key.q, "order": order}.items():
        size = (number.bit_length() + 7) // 8
        digits = [number >> (30 * i) & (2**30 - 1) for i in range(9)]
        found[f"{name} in limbs"] = number.to_bytes(size, "little")[:32]
        found[f"{name} as a Python int"] = np.array(digits[1:], dtype="<u4").tobytes()
        if name != "order":  # its first digits are those of the public modulus
            found[f"{name} in bytes"] = number.to_bytes(size, "big")[:32]
            found[f"{name} in decimal"] = str(number)[:40].encode()
            found[f"{name} in hexadecimal"] = f"{number:x}"[:40].encode()
    return found


def memory_of(pid: int) -> Iterator[bytes]:
    """Everything that is mapped readable."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            place, mode = line.split()[:2]
            start, stop = (int(end, 16) for end in place.split("-"))
            if "r" not in mode or "[v" in line:
                continue
            memory.seek(start)
            try:
                yield memory.read(stop - start)
            except OSError:
                continue  # a guard page


def found_in_memory(pid: int, needles: dict[str, bytes]) -> set[str]:
    return {
        what for region in memory_of(pid) for what, needle in needles.items() if needle in region
    }


def test_the_search_of_memory_finds_a_key(private_key: PaillierPrivateKey) -> None:
    script = (
        "import sys, time; from acie_pipelines.crypto.keys import PaillierPrivateKey as K\n"
        "key = K(*map(int, sys.stdin.readline().split()))\n"
        "key.context; print('ready', flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{private_key.p} {private_key.q}\n")
    process.stdin.flush()
    assert process.stdout.readline() == "ready\n"
    found = found_in_memory(process.pid, spellings(private_key))
    process.kill()
    process.communicate()
    assert {"p as a Python int", "q as a Python int", "p in limbs"} <= found


def exchanged(
    owner: tuple[Store, Manifest], workplace: Workplace, key: PaillierPrivateKey
) -> Manifest:
    """Ciphertexts, and nothing else of the owner's, in the worker's store."""
    store, tiles = owner
    manifest = encrypt_tiles(store, tiles, key.public_key, code_version="1")
    shutil.copytree(store.local_path("ciphertexts"), workplace.store.local_path("ciphertexts"))
    return manifest


def streamed(owner: tuple[Store, Manifest], workplace: Workplace, folder: Path) -> Work:
    """Features of windows that the owner has encrypted, for whoever has nothing but these."""
    store, tiles = owner
    signal_in = plane_signal(tiles, "primary", (8, 8))
    model = matched_filters(np.ones((1, 8, 8)), signal_in, weight_bits=8)
    key = workplace.keys.public_key()
    windows = make(
        WorkQueue(f"sqlite:///{folder / 'owner.db'}"),
        store,
        workplace.keys,
        windows_work(tiles, "primary", model.interface, key),
    )
    shutil.copytree(store.local_path(windows.kind), workplace.store.local_path(windows.kind))
    return features_work(workplace.store, windows, model, key)


def returned(owner: tuple[Store, Manifest], workplace: Workplace, work: Work) -> Manifest:
    """What the worker made, published and brought back."""
    made, _ = publish_batch(workplace.queue, workplace.store, work)
    back = owner[0].local_path(made.kind)
    shutil.copytree(workplace.store.local_path(made.kind), back, dirs_exist_ok=True)
    return made


def test_a_worker_computes_and_cannot_decrypt(
    owner: tuple[Store, Manifest],
    workplace: Workplace,
    private_key: PaillierPrivateKey,
    tmp_path: Path,
) -> None:
    ciphertexts = exchanged(owner, workplace, private_key)
    sums_work = statistics_work(ciphertexts, "1")
    features = streamed(owner, workplace, tmp_path)
    batches = [open_batch(workplace.queue, work) for work in (sums_work, features)]
    process = workplace.start()
    workplace.wait_until(
        lambda: [workplace.queue.counts(batch.id).done for batch in batches] == [1, 64]
    )
    pid = process.pid
    # The process has done its work and still runs: everything that it ever needed is there.
    needles = spellings(private_key)
    assert found_in_memory(pid, needles) == set()
    for name in ("environ", "cmdline"):
        content = Path(f"/proc/{pid}/{name}").read_bytes()
        assert content and not [what for what, needle in needles.items() if needle in content]
        assert b"ACIE_KEYS" not in content
    files = [link.readlink() for link in Path(f"/proc/{pid}/fd").iterdir()]
    readable = [path for path in files if path.is_file()]
    readable += [path for path in workplace.folder.rglob("*") if path.is_file()]
    assert any(path.name == "public.json" for path in readable)
    for path in readable:
        content = path.read_bytes()
        assert not [what for what, needle in needles.items() if needle in content], path
    process.send_signal(signal.SIGTERM)
    out, errors = process.communicate(timeout=400)
    assert (process.returncode, out) == (0, "65 units done\n"), errors

    store, tiles = owner
    sums = returned(owner, workplace, sums_work)
    [found] = read_sums(store, sums, private_key)
    assert len(found.sums) == 64
    assert sum(found.sums) == fixed_point_total(store, tiles, found.plane, found.layout)
    assert differing_planes(store, sums, tiles, private_key) == []
    stream = returned(owner, workplace, features)
    assert check_stream(store, stream, tiles, private_key) == pytest.approx(768**2 * 100, rel=1e-3)
    assert workplace.queue.batches() == []


@pytest.mark.parametrize("how", ["variable", "file in a variable", "vault in the store"])
def test_a_worker_that_is_given_a_vault_does_not_start(
    workplace: Workplace, tmp_path: Path, vault_document: bytes, how: str
) -> None:
    vault = FileVault.create(tmp_path / "keys.json", 2048)
    assert vault.key_ids()
    environment = {}
    if how == "variable":
        environment["ACIE_KEYS"] = json.dumps(json.loads(vault_document))
    elif how == "file in a variable":
        environment["ACIE_KEYS_FILE"] = str(tmp_path / "keys.json")
    else:
        shutil.copy(tmp_path / "keys.json", workplace.store.local_path("notes.txt"))
    process = workplace.start("--drain", **environment)
    out, errors = process.communicate(timeout=400)
    assert process.returncode == 1 and out == ""
    assert "error:" in errors and len(errors.strip().splitlines()) == 1
    assert ("ACIE_KEYS" in errors) or ("notes.txt" in errors)
    key = next(iter(json.loads(vault_document)["keys"].values()))["secrets"]
    assert not any(str(value)[:40] in errors for value in key.values() if len(str(value)) > 40)


def encryption(
    owner: tuple[Store, Manifest],
    workplace: Workplace,
    key: PaillierPrivateKey,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[Batch, int]:
    """A batch of four groups in the owner's store, for workers of the owner."""
    store, tiles = owner
    workplace.environment["ACIE_STORAGE_URL"] = store.url
    monkeypatch.setattr(encryption_plan, "_GROUP_CORE_SECONDS", 0.15)
    batch, count = open_encryption(workplace.queue, tiles, key.public_key, workplace.folder.name)
    assert count >= 3
    return batch, count


def begun(store: Store, batch: Batch, unit: str) -> bool:
    return store.exists(f"{batch.kind}/{batch.key}/{batch.generation}/units/{unit}")


@pytest.mark.slow
def test_a_stalled_workers_late_write_is_refused(
    owner: tuple[Store, Manifest],
    workplace: Workplace,
    private_key: PaillierPrivateKey,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, tiles = owner
    batch, count = encryption(owner, workplace, private_key, monkeypatch)
    stalled = workplace.start("--encrypt", "--drain")
    workplace.wait_until(lambda: begun(store, batch, "00000-1"))
    stalled.send_signal(signal.SIGSTOP)
    assert workplace.queue.counts(batch.id).leased == 1
    killed = workplace.start("--encrypt", "--drain")
    workplace.wait_until(lambda: begun(store, batch, "00001-1"))
    killed.kill()
    killed.wait()
    workplace.leases_run_out()
    heir = workplace.start("--encrypt", "--drain")
    out, errors = heir.communicate(timeout=400)
    assert heir.returncode == 0, errors
    assert workplace.queue.counts(batch.id).done == count
    before = workplace.queue.results(batch.id)
    stalled.send_signal(signal.SIGCONT)
    out, errors = stalled.communicate(timeout=400)
    assert (stalled.returncode, out) == (0, "0 units done\n")
    assert "lost ciphertexts" in errors
    assert workplace.queue.results(batch.id) == before
    assert [directory for directory, _ in before][:2] == ["units/00000-2", "units/00001-2"]

    made, seconds = publish_encryption(
        workplace.queue, store, tiles, private_key.public_key, workplace.folder.name
    )
    assert seconds is not None and seconds > 0
    names = {f"units/{name}" for name in store.names(f"{made.prefix}/units")}
    assert names == {directory for directory, _ in before}
    verify_chain(store, made)
    verify_decryption(store, made, tiles, private_key, None)


@pytest.mark.slow
def test_a_worker_hands_its_unit_back_when_it_is_asked_to_stop(
    owner: tuple[Store, Manifest],
    workplace: Workplace,
    private_key: PaillierPrivateKey,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, _ = owner
    batch, count = encryption(owner, workplace, private_key, monkeypatch)
    process = workplace.start("--encrypt")
    workplace.wait_until(lambda: begun(store, batch, "00000-1"))
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 0, errors
    assert "returned ciphertexts" in errors
    counts = workplace.queue.counts(batch.id)
    assert (counts.ready, counts.leased) == (count, 0)
    assert not begun(store, batch, "00000-1")


def test_a_unit_under_a_foreign_key_is_refused(
    owner: tuple[Store, Manifest], workplace: Workplace
) -> None:
    _, tiles = owner
    workplace.environment["ACIE_STORAGE_URL"] = owner[0].url
    foreign = generate_keypair(2048).public_key
    batch, _ = open_encryption(workplace.queue, tiles, foreign, "1")
    process = workplace.start("--encrypt", "--drain")
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 1 and foreign.key_id in errors
    assert workplace.queue.counts(batch.id).leased == 0
