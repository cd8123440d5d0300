import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import zarr

from acie_pipelines.errors import IntegrityError, StorageError
from acie_pipelines.provenance import (
    InputRef,
    Manifest,
    Output,
    array_sha256,
    current_manifest,
    file_sha256,
    new_generation,
    read_manifest,
    reusable_manifest,
    verify_chain,
    verify_outputs,
)
from acie_pipelines.storage import Store


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "root"))


def _make(store, kind="table", key="k", *, files=("a", "b"), content="1", inputs=(), code="1"):
    with new_generation(
        store, kind, key, inputs=inputs, code_version=code, parameters={"content": content}
    ) as generation:
        outputs = []
        for name in files:
            store.write_bytes(f"{generation.prefix}/{name}", f"{name}{content}".encode())
            outputs.append(Output(name, file_sha256(store, f"{generation.prefix}/{name}")))
        return generation.commit(tuple(outputs), {"content": content})


def _make_array(store, values):
    with new_generation(
        store, "array", "k", inputs=(), code_version="1", parameters={}
    ) as generation:
        array = zarr.create_array(
            store.zarr(f"{generation.prefix}/x"),
            shape=values.shape,
            dtype=values.dtype,
            chunks=(2, 2),
        )
        array[:] = values
        outputs = tuple(
            Output("x", array_sha256(values[r : r + 2]), ((r, r + 2), (0, 4)), values.dtype.str)
            for r in (0, 2)
        )
        return generation.commit(outputs)


def test_current_is_the_last_committed(store):
    first = _make(store, content="1")
    second = _make(store, content="2")
    assert current_manifest(store, "table", "k") == second
    assert read_manifest(store, "table", "k", first.generation) == first
    verify_outputs(store, first)
    verify_outputs(store, second)


def test_what_was_never_made_is_named(store):
    with pytest.raises(IntegrityError, match=r"table/k: has not been materialised"):
        current_manifest(store, "table", "k")
    with pytest.raises(IntegrityError, match="no such manifest"):
        read_manifest(store, "table", "k", "g1-x")


def test_the_digest_depends_on_content_alone(store):
    first = _make(store, content="1")
    again = _make(store, content="1")
    assert first.generation != again.generation
    assert first.digest == again.digest
    assert first.digest != _make(store, content="2").digest
    assert first.digest != _make(store, content="1", code="2").digest
    assert Manifest.from_json(first.to_json(), "m").digest == first.digest


def test_the_digest_is_pinned():
    # Another value makes every stored dataset unreadable; raise the schema's number instead.
    manifest = Manifest(
        kind="tiles",
        key="field-0",
        generation="g1-a",
        inputs=(InputRef("observation", "field-0", "g0-a", "d" * 64),),
        code_version="1",
        parameters={"tile_size": 1024, "b": [1.5, None]},
        outputs=(Output("planes/x", "0" * 64, ((0, 1), (0, 4)), "<f4"), Output("f", "1" * 64)),
        attributes={"unit": "Jy"},
    )
    assert manifest.digest == ("0aff7e0ddee9946873909c19a5dfcbcbaaed128a162106399edd17db4d03825f")
    assert manifest == Manifest.from_json(manifest.to_json(), "m")


def test_the_order_of_mapping_keys_does_not_matter():
    base = {
        "kind": "k",
        "key": "k",
        "generation": "g",
        "inputs": (),
        "code_version": "1",
        "outputs": (),
    }
    one = Manifest(**base, parameters={"a": 1, "b": 2})
    two = Manifest(**base, parameters={"b": 2, "a": 1})
    assert one.digest == two.digest


@pytest.mark.parametrize(
    "edit",
    [
        {"code_version": "2"},
        {"attributes": {"content": "9"}},
        {"parameters": {}},
        {"outputs": []},
        {"key": "other"},
        {"inputs": [{"kind": "a", "key": "b", "generation": "c", "digest": "d"}]},
        {"schema": "acie.manifest/2"},
    ],
)
def test_an_edited_manifest_is_refused(store, edit):
    manifest = _make(store)
    name = f"{manifest.prefix}/manifest.json"
    store.write_bytes(name, json.dumps(json.loads(store.read_bytes(name)) | edit).encode())
    with pytest.raises(IntegrityError, match=r"manifest\.json"):
        current_manifest(store, "table", "k")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema": "acie.manifest/1"}', b"\xff"])
def test_a_manifest_that_is_none_is_refused(store, content):
    manifest = _make(store)
    store.write_bytes(f"{manifest.prefix}/manifest.json", content)
    with pytest.raises(IntegrityError):
        current_manifest(store, "table", "k")


def test_a_manifest_rewritten_with_its_digest_is_not_the_published_one(store):
    manifest = _make(store)
    forged = Manifest(**{**vars(manifest), "attributes": {"content": "forged"}})
    store.write_bytes(f"{manifest.prefix}/manifest.json", forged.to_json())
    with pytest.raises(IntegrityError, match="not the manifest that was published"):
        current_manifest(store, "table", "k")


def test_a_manifest_copied_from_elsewhere_is_refused(store):
    here = _make(store, key="here")
    other = _make(store, key="other")
    store.write_bytes(f"{here.prefix}/manifest.json", other.to_json())
    with pytest.raises(IntegrityError, match="is the manifest of table/other"):
        read_manifest(store, "table", "here", here.generation)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"generation": "g"}'])
def test_a_damaged_pointer_is_named(store, content):
    _make(store)
    store.write_bytes("table/k/current.json", content)
    with pytest.raises(IntegrityError, match=r"current\.json"):
        current_manifest(store, "table", "k")


def test_the_first_mismatch_is_named(store):
    manifest = _make(store, files=("a", "b", "c"))
    store.write_bytes(f"{manifest.prefix}/b", b"changed")
    store.write_bytes(f"{manifest.prefix}/c", b"changed")
    with pytest.raises(IntegrityError, match=rf"{manifest.prefix}/b: content does not match"):
        verify_outputs(store, manifest)
    store.delete(f"{manifest.prefix}/a")
    with pytest.raises(IntegrityError, match=rf"{manifest.prefix}/a: cannot be read"):
        verify_outputs(store, manifest)


def test_the_changed_region_of_an_array_is_named(store):
    values = np.arange(16, dtype=np.float64).reshape(4, 4)
    manifest = _make_array(store, values)
    verify_outputs(store, manifest)
    zarr.open_array(store.zarr(f"{manifest.prefix}/x"), mode="r+")[3, 3] = -1
    with pytest.raises(IntegrityError, match=r"x\[\(2, 4\), \(0, 4\)\]"):
        verify_outputs(store, manifest)


def test_a_lost_chunk_is_found(store):
    manifest = _make_array(store, np.ones((4, 4)))
    store.delete(f"{manifest.prefix}/x/c/0/1")
    with pytest.raises(IntegrityError, match=r"x\[\(0, 2\)"):
        verify_outputs(store, manifest)


def test_another_dtype_over_the_same_bytes_is_found(store):
    manifest = _make_array(store, np.arange(16, dtype=np.float32).reshape(4, 4))
    metadata = store.local_path(f"{manifest.prefix}/x/zarr.json")
    metadata.write_text(metadata.read_text().replace('"float32"', '"int32"'))
    with pytest.raises(IntegrityError, match="does not match"):
        verify_outputs(store, manifest)


def test_array_hash_is_that_of_the_little_endian_bytes():
    values = np.arange(6, dtype=">i2").reshape(2, 3)
    assert array_sha256(values) == array_sha256(values.astype("<i2"))
    assert array_sha256(values.T) == array_sha256(np.ascontiguousarray(values.T))
    assert array_sha256(values.T) != array_sha256(values)
    assert array_sha256(np.zeros((0, 4))).startswith("e3b0c442")


def test_a_failed_block_leaves_no_trace(store):
    first = _make(store)
    with (
        pytest.raises(ZeroDivisionError),
        new_generation(
            store, "table", "k", inputs=(), code_version="1", parameters={}
        ) as generation,
    ):
        store.write_bytes(f"{generation.prefix}/a", b"x")
        raise ZeroDivisionError
    assert store.names("table/k") == ["current.json", first.generation]
    assert current_manifest(store, "table", "k") == first


def test_a_failure_after_publication_keeps_the_data(store):
    with (
        pytest.raises(ZeroDivisionError),
        new_generation(
            store, "table", "k", inputs=(), code_version="1", parameters={}
        ) as generation,
    ):
        store.write_bytes(f"{generation.prefix}/a", b"x")
        generation.commit((Output("a", file_sha256(store, f"{generation.prefix}/a")),))
        raise ZeroDivisionError
    verify_outputs(store, current_manifest(store, "table", "k"))


@pytest.mark.parametrize("moment", ["manifest.json", "current.json"])
def test_a_failing_publication_keeps_the_earlier_version(store, monkeypatch, moment):
    first = _make(store, content="1")
    write = Store.write_bytes

    def fail(self, name, data):
        if name.endswith(moment):
            raise StorageError(name, "no space left on the device", "free space")
        write(self, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write_bytes", fail)
        with pytest.raises(StorageError):
            _make(store, content="2")
    assert store.names("table/k") == ["current.json", first.generation]
    assert current_manifest(store, "table", "k") == first
    verify_outputs(store, first)


def test_a_pointer_that_moved_before_the_failure_still_leads_to_data(store, monkeypatch):
    _make(store, content="1")
    write = Store.write_bytes

    def fail_late(self, name, data):
        write(self, name, data)
        if name.endswith("current.json"):
            raise StorageError(name, "cannot be synchronised", "check the disk")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "write_bytes", fail_late)
        with pytest.raises(StorageError):
            _make(store, content="2")
    current = current_manifest(store, "table", "k")
    assert current.attributes == {"content": "2"}
    verify_outputs(store, current)


def test_orphans_of_killed_writers_are_removed_after_a_day(store):
    first = _make(store)
    old = f"table/k/g{int(time.time()) - 2 * 86400}-dead"
    young = f"table/k/g{int(time.time()) - 60}-busy"
    for orphan in (old, young):
        store.write_bytes(f"{orphan}/a", b"x")
    _make(store)
    assert not store.exists(old)
    assert store.exists(young)
    verify_outputs(store, first)


def test_reuse_needs_the_same_inputs_code_and_parameters(store):
    source = _make(store, "source", content="s")
    ref = source.as_input()
    made = _make(store, content="1", inputs=(ref,))
    same = {"inputs": (ref,), "code_version": "1", "parameters": {"content": "1"}}

    def reuse(**change):
        return reusable_manifest(store, "table", "k", **(same | change))

    assert reuse() == made
    assert reuse(code_version="2") is None
    assert reuse(parameters={"content": "2"}) is None
    assert reuse(inputs=()) is None
    assert reusable_manifest(store, "table", "other", **same) is None
    # The same content in another generation is as good.
    again = _make(store, "source", content="s")
    assert reuse(inputs=(again.as_input(),)) == made


def test_damage_forbids_reuse(store):
    made = _make(store, content="1")
    store.write_bytes(f"{made.prefix}/a", b"damaged")
    assert (
        reusable_manifest(
            store, "table", "k", inputs=(), code_version="1", parameters={"content": "1"}
        )
        is None
    )


def test_a_pointer_cannot_claim_another_request(store):
    made = _make(store, content="1")
    wanted = _make(store, content="2")
    pointer = json.loads(store.read_bytes("table/k/current.json"))
    pointer |= {"generation": made.generation, "digest": made.digest}
    store.write_bytes("table/k/current.json", json.dumps(pointer).encode())
    assert wanted.parameters == {"content": "2"}
    assert (
        reusable_manifest(
            store, "table", "k", inputs=(), code_version="1", parameters={"content": "2"}
        )
        is None
    )


def _diamond(store):
    root = _make(store, "root")
    left = _make(store, "left", inputs=(root.as_input(),))
    right = _make(store, "right", inputs=(root.as_input(),))
    return root, left, _make(store, "top", inputs=(left.as_input(), right.as_input()))


def test_a_chain_is_verified_inputs_first_and_each_once(store):
    *_, top = _diamond(store)
    seen = []
    assert verify_chain(store, top, report=lambda m: seen.append(m.kind)) == 4
    assert seen == ["root", "left", "right", "top"]


def test_damage_deep_in_a_chain_is_named(store):
    root, _, top = _diamond(store)
    store.write_bytes(f"{root.prefix}/b", b"damaged")
    with pytest.raises(IntegrityError, match=rf"{root.prefix}/b"):
        verify_chain(store, top)


def test_equal_content_in_two_generations_is_verified_twice(store):
    good, bad = _make(store, "root"), _make(store, "root")
    assert good.digest == bad.digest
    left = _make(store, "left", inputs=(good.as_input(),))
    right = _make(store, "right", inputs=(bad.as_input(),))
    top = _make(store, "top", inputs=(left.as_input(), right.as_input()))
    assert verify_chain(store, top) == 5
    store.write_bytes(f"{bad.prefix}/a", b"damaged")
    with pytest.raises(IntegrityError, match=bad.generation):
        verify_chain(store, top)


def test_a_swapped_input_is_named(store):
    root, left, top = _diamond(store)
    forged = Manifest(**{**vars(root), "attributes": {"content": "forged"}})
    store.write_bytes(f"{root.prefix}/manifest.json", forged.to_json())
    with pytest.raises(IntegrityError, match=rf"is not the dataset that {left.kind}/k was made"):
        verify_chain(store, top)


def test_a_lost_input_is_named(store):
    root, _, top = _diamond(store)
    store.delete(root.prefix)
    with pytest.raises(IntegrityError, match="no such manifest"):
        verify_chain(store, top)


def test_concurrent_writers_never_mix(store):
    """Whatever the pointer leads to while four writers race is whole and of one writer."""
    names = tuple(f"f{n}" for n in range(6))
    stop = threading.Event()
    problems = []
    polls = 0

    def poll():
        nonlocal polls
        while not stop.is_set():
            try:
                current = current_manifest(store, "table", "k")
            except IntegrityError as error:
                if "has not been materialised" not in str(error):
                    problems.append(str(error))
                continue
            polls += 1
            verify_outputs(store, current)
            mark = current.attributes["content"]
            for name in names:
                if store.read_bytes(f"{current.prefix}/{name}") != f"{name}{mark}".encode():
                    problems.append(name)

    reader = threading.Thread(target=poll)
    reader.start()
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda n: _make(store, files=names, content=str(n)), range(24)))
    stop.set()
    reader.join()
    assert problems == []
    assert polls > 0
    for manifest in made:
        verify_outputs(store, manifest)


def test_stores_in_memory_work_alike():
    store = Store(f"memory://provenance-{os.getpid()}")
    source = _make(store, "source")
    top = _make(store, inputs=(source.as_input(),))
    array = _make_array(store, np.arange(16, dtype=np.int64).reshape(4, 4))
    assert verify_chain(store, top) == 2
    assert verify_chain(store, array) == 1
