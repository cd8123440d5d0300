"""kill -9 at random moments: readers never see half a dataset, and running again completes it."""

import numpy as np
import pytest
from fault_stages import KINDS, STAGES, prepare

from acie_pipelines.crypto.tile_decryption import decrypt_tile, verify_decryption
from acie_pipelines.provenance import current_manifest, read_manifest, verify_chain
from acie_pipelines.storage import Store


@pytest.fixture
def assert_same(private_key):
    """Compare what a stage made with what an uninterrupted run makes."""

    def decrypted(store, manifest):
        return [
            decrypt_tile(store, manifest, private_key, plane["name"], tile)
            for plane in manifest.attributes["planes"]
            for tile in range(len(manifest.attributes["tiles"]))
        ]

    def compare(store, manifest, reference_store, reference):
        if manifest.kind != "ciphertexts":
            assert manifest.outputs == reference.outputs
            assert manifest.attributes == reference.attributes
            return
        # Every encryption is another one; what it hides is the same.
        (ref,) = manifest.inputs
        tiles = read_manifest(store, ref.kind, ref.key, ref.generation)
        verify_decryption(store, manifest, tiles, private_key, None)
        pairs = zip(decrypted(store, manifest), decrypted(reference_store, reference), strict=True)
        assert all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)

    return compare


@pytest.fixture
def kill_many(settings_for, runner, watching, assert_same, tmp_path):
    """Kill a stage until that many kills met it at work; return how many did."""

    def run(stage, kills, seed):
        reference_store = Store(str(tmp_path / "reference"))
        _, reference = prepare(stage, settings_for(stage, reference_store.url), "0")
        store = Store(str(tmp_path / "store"))
        setting, _ = prepare(stage, settings_for(stage, store.url), "0")
        said, duration = runner.run(stage, setting, "measured")
        assert said == "finished"
        rng = np.random.default_rng(seed)
        interrupted = 0
        for kill in range(4 * kills):
            if interrupted == kills:
                break
            version = f"killed-{kill}"
            before = current_manifest(store, KINDS[stage], setting.key)
            with watching(store, KINDS[stage], setting.key) as watcher:
                delay = duration * rng.uniform(0, 1.05)
                at_work = runner.kill_after(delay, stage, setting, version)
            interrupted += at_work
            # A stage that ended sooner than it was measured: other work ran at the time.
            duration = duration if at_work else min(duration, delay)
            assert watcher.problems == []
            assert watcher.verified > 0
            current = current_manifest(store, KINDS[stage], setting.key)
            assert current == before or current.code_version == version
            again = STAGES[stage](setting, version)
            assert again.code_version == version
            assert_same(store, again, reference_store, reference)
            verify_chain(store, again)
        return interrupted

    return run


@pytest.mark.parametrize(
    ("stage", "kills"), [("ingest", 2), ("tile", 3), ("aggregate", 1), ("encrypt", 2)]
)
def test_a_killed_stage_leaves_whole_data(stage, kills, kill_many):
    assert kill_many(stage, kills, seed=7) == kills


@pytest.mark.slow
@pytest.mark.parametrize(
    ("stage", "kills"), [("ingest", 10), ("tile", 14), ("aggregate", 6), ("encrypt", 10)]
)
def test_forty_kills(stage, kills, kill_many):
    assert kill_many(stage, kills, seed=40) == kills
