"""No space: a one-line error that says so, and the earlier version as it was."""

import shutil

import pytest
from fault_stages import KINDS, STAGES, prepare

from acie_pipelines.errors import StorageError
from acie_pipelines.provenance import current_manifest, verify_chain
from acie_pipelines.storage import Store


def _fill(disk, leave):
    """Leave just so many bytes free."""
    free = shutil.disk_usage(disk).free
    (disk / "filler").write_bytes(bytes(max(0, free - leave)))


def _assert_untouched(store, stage, before, names):
    assert current_manifest(store, KINDS[stage], before.key) == before
    assert store.names(f"{KINDS[stage]}/{before.key}") == names
    verify_chain(store, before)


@pytest.mark.parametrize(
    ("stage", "leave"),
    [(stage, leave) for stage in STAGES for leave in (0, 8192)]
    + [("ingest", 1 << 20), ("tile", 1 << 20)],
)
def test_a_full_disk_keeps_the_earlier_version(stage, leave, small_disk, settings_for):
    store = Store(str(small_disk / "store"))
    setting, before = prepare(stage, settings_for(stage, store.url), "1")
    names = store.names(f"{KINDS[stage]}/{setting.key}")
    _fill(small_disk, leave)
    with pytest.raises(StorageError, match="no space left on the device") as caught:
        STAGES[stage](setting, "2")
    assert "\n" not in str(caught.value)
    _assert_untouched(store, stage, before, names)
    (small_disk / "filler").unlink()
    again = STAGES[stage](setting, "2")
    verify_chain(store, again)
    assert len(again.outputs) == len(before.outputs)
    assert stage == "encrypt" or again.outputs == before.outputs


@pytest.mark.parametrize("stage", STAGES)
def test_a_file_size_limit_keeps_the_earlier_version(stage, tmp_path, settings_for, runner):
    store = Store(str(tmp_path / "store"))
    setting, before = prepare(stage, settings_for(stage, store.url), "1")
    names = store.names(f"{KINDS[stage]}/{setting.key}")
    said, _ = runner.run(stage, setting, "2", file_limit=4096)
    assert said.startswith("StorageError: ")
    assert "\n" not in said
    _assert_untouched(store, stage, before, names)
