"""Encryption as steps of one asset: fan-out, interruption, running again."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
from astropy.io import fits

from acie_pipelines.crypto import encryption_plan
from acie_pipelines.crypto.tile_decryption import verify_decryption
from acie_pipelines.crypto.vault import FileVault
from acie_pipelines.errors import CryptoError
from acie_pipelines.provenance import Manifest, current_manifest, verify_chain
from acie_pipelines.runs import JobOutcome, open_instance
from acie_pipelines.secure import encryption
from acie_pipelines.secure.queue import WorkQueue
from acie_pipelines.secure.queue_tables import Lease
from acie_pipelines.settings import Settings
from acie_pipelines.storage import Store

PLANES = 4


class Place:
    """An observation of four tiles, each a group of its own, and the graph."""

    def __init__(self, folder: Path, vault: FileVault, instance: Any, process: Any) -> None:
        self.settings = Settings.from_environment()
        self.store = Store(self.settings.storage_url)
        self.queue = WorkQueue(self.settings.database_url)
        self.vault, self.instance, self._process = vault, instance, process
        rng = np.random.default_rng(3)
        images = [
            fits.ImageHDU(rng.integers(0, 4000, (24, 24)).astype(np.int16)) for _ in range(PLANES)
        ]
        self.file = folder / "field.fits"
        fits.HDUList([fits.PrimaryHDU(), *images]).writeto(self.file)
        self.key = ""

    def run(self) -> JobOutcome:
        self.key, outcome = self._process(self.file, self.settings, self.instance)
        return outcome  # type: ignore[no-any-return]

    def steps(self, outcome: JobOutcome) -> list[str]:
        """Groups whose step ended well."""
        events = self.instance.all_logs(outcome.run_id, of_type=dg.DagsterEventType.STEP_SUCCESS)
        keys = [event.dagster_event.step_key for event in events]
        return [key for key in keys if key.startswith("encrypted_tiles.encrypt_group[")]

    def verified(self) -> Manifest:
        """The ciphertexts, which decrypt to the tiles, whatever happened on the way."""
        made = current_manifest(self.store, "ciphertexts", self.key)
        verify_chain(self.store, made)
        tiles = current_manifest(self.store, "tiles", self.key)
        check = verify_decryption(self.store, made, tiles, self.vault.private_key(), None)
        assert (check.tiles, check.worst_error_quanta) == (PLANES, 0.0)
        assert len(self.store.names(f"{made.prefix}/units")) == PLANES
        assert self.queue.batches() == []
        return made


@pytest.fixture
def place(
    tmp_path: Path,
    workspace: Callable[[Path], AbstractContextManager[Path]],
    with_keys: Callable[[Settings], FileVault],
    process_file: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Place]:
    monkeypatch.setattr(encryption_plan, "_GROUP_CORE_SECONDS", 1e-5)
    with workspace(tmp_path / "home"):
        vault = with_keys(Settings.from_environment())
        with open_instance() as instance:
            yield Place(tmp_path, vault, instance, process_file)


def test_groups_are_steps_and_nothing_is_encrypted_twice(place: Place) -> None:
    outcome = place.run()
    assert outcome.success
    assert len(place.steps(outcome)) == PLANES
    made = place.verified()
    again = place.run()
    assert again.success and place.steps(again) == []
    assert place.verified() == made
    record = place.instance.get_latest_materialization_event(dg.AssetKey("encrypted_tiles"))
    assert record is not None and "values_per_second" not in record.asset_materialization.metadata


def test_a_run_that_breaks_off_is_continued(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    work = encryption.do_unit

    def breaks(store: Store, lease: Lease, progress: Any) -> dict[str, Any]:
        if lease.number == 2:
            raise CryptoError("plane 3", "cannot be encrypted today", "wait")
        return work(store, lease, progress)

    monkeypatch.setattr(encryption, "do_unit", breaks)
    outcome = place.run()
    assert outcome.cause is not None
    assert outcome.cause.error_type == "CryptoError" and "today" in outcome.cause.reason
    assert not place.store.exists(f"ciphertexts/{place.key}/current.json")
    [(batch, counts)] = place.queue.batches()
    assert (counts.done, counts.failed) == (PLANES - 1, 1)
    kept = place.store.names(f"ciphertexts/{place.key}/{batch.generation}/units")
    assert len(kept) == PLANES - 1

    done = []

    def works(store: Store, lease: Lease, progress: Any) -> dict[str, Any]:
        done.append(lease.number)
        return work(store, lease, progress)

    monkeypatch.setattr(encryption, "do_unit", works)
    assert place.run().success
    assert done == [2]
    made = place.verified()
    assert made.generation == batch.generation
    assert set(kept) < set(place.store.names(f"{made.prefix}/units"))


def test_steps_that_encrypt_need_no_vault(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the owner's document in place of the vault, only what decrypts or seals fails."""
    document = tmp_path / "public.json"
    document.write_bytes(place.vault.public_keys().to_json())
    kept = place.settings.keys_file.read_bytes()
    place.settings.keys_file.unlink()
    monkeypatch.setenv("ACIE_PUBLIC_KEYS_FILE", str(document))
    place.settings = Settings.from_environment()
    outcome = place.run()
    assert len(place.steps(outcome)) == PLANES
    events = place.instance.all_logs(outcome.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    assert {event.dagster_event.step_key for event in events} == {
        "encrypted_statistics_sums_equal_plaintext",
        "encrypted_tiles_decrypt",
        "sealed_archive",
    }
    place.settings.keys_file.write_bytes(kept)
    place.settings.keys_file.chmod(0o600)
    place.verified()
    # With the vault back nothing is encrypted again, and the owner's checks pass.
    again = place.run()
    assert again.success and place.steps(again) == []
    passed = {(check.asset, check.name) for check in again.checks if check.passed}
    assert {("encrypted_tiles", "decryption_is_exact")} < passed
