import errno
import os
import resource
import signal
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import numpy as np
import pytest
import zarr

from acie_pipelines.errors import StorageError
from acie_pipelines.storage import Store, atomic_writer, storage_errors
from tests.s3_server import s3_server


def _close_s3_sessions():
    """Close what s3fs leaves to the end of the process: sessions living in Zarr's event loop."""
    import s3fs
    from zarr.core.sync import sync

    for filesystem in list(s3fs.S3FileSystem._cache.values()):
        creator = getattr(filesystem, "_s3creator", None)
        if filesystem.asynchronous and creator is not None:
            sync(creator.__aexit__(None, None, None))
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="module")
def s3_endpoint():
    """A local S3 server, reached with credentials and address from the environment."""
    with s3_server():
        yield
        _close_s3_sessions()


@pytest.fixture(params=["local", "memory", "s3"])
def store(request, tmp_path):
    """A store of each kind."""
    if request.param == "local":
        return Store(str(tmp_path / "root"))
    if request.param == "memory":
        return Store(f"memory://{uuid.uuid4().hex}")
    import s3fs

    request.getfixturevalue("s3_endpoint")
    bucket = f"acie-{uuid.uuid4().hex}"
    s3fs.S3FileSystem().mkdir(bucket)
    return Store(f"s3://{bucket}/prefix")


def test_written_bytes_are_read_back(store):
    assert not store.exists("a/b.bin")
    store.write_bytes("a/b.bin", b"one")
    store.write_bytes("a/b.bin", b"two")
    assert store.read_bytes("a/b.bin") == b"two"
    assert store.exists("a/b.bin")
    assert store.exists("a")
    assert not store.exists("a/b.bin/c")


def test_names_lists_one_level(store):
    assert store.names("a") == []
    for name in ("a/2", "a/1", "a/sub/x", "b"):
        store.write_bytes(name, b"x")
    assert store.names("a") == ["1", "2", "sub"]


def test_open_seeks(store):
    store.write_bytes("data", bytes(range(200)))
    with store.open("data") as handle:
        handle.seek(100)
        assert handle.read(3) == b"def"


def test_a_failed_block_keeps_the_old_object(store):
    store.write_bytes("x", b"old")
    with pytest.raises(ZeroDivisionError), store.writer("x") as handle:
        handle.write(b"half of the new")
        raise ZeroDivisionError
    assert store.read_bytes("x") == b"old"
    assert store.names("") == ["x"]


def test_large_objects_stream(store):
    block = os.urandom(1 << 20)
    with store.writer("large") as handle:
        for _ in range(12):
            handle.write(block)
    with store.open("large") as handle:
        assert all(handle.read(1 << 20) == block for _ in range(12))
        assert handle.read() == b""


def test_delete_removes_a_tree_and_forgives_absence(store):
    store.write_bytes("tree/a/1", b"x")
    store.write_bytes("tree/2", b"x")
    store.write_bytes("treetop", b"x")
    store.delete("tree")
    store.delete("tree")
    assert store.names("") == ["treetop"]


def test_local_copy_gives_a_path(store):
    store.write_bytes("dir/one.txt", b"1")
    with store.local_copy("dir/one.txt") as path:
        assert path.name == "one.txt"
        assert path.read_bytes() == b"1"


def test_missing_objects_are_storage_errors(store):
    with pytest.raises(StorageError, match="nothing"):
        store.read_bytes("nothing")
    with pytest.raises(StorageError), store.open("nothing") as handle:
        handle.read(1)


def test_zarr_arrays_are_written_and_read(store):
    values = np.arange(48, dtype=np.float32).reshape(6, 8)
    array = zarr.create_array(
        store.zarr("group/array"), shape=(6, 8), chunks=(2, 2), shards=(4, 4), dtype="float32"
    )
    array[:] = values
    again = zarr.open_array(Store(store.url).zarr("group/array"), mode="r")
    assert np.array_equal(np.asarray(again[:]), values)
    assert store.exists("group/array/zarr.json")
    store.sync("group")
    store.delete("group")
    assert not store.exists("group")


def test_another_process_sees_what_was_written(s3_endpoint):
    import s3fs

    bucket = f"acie-{uuid.uuid4().hex}"
    s3fs.S3FileSystem().mkdir(bucket)
    store = Store(f"s3://{bucket}/p")
    assert store.names("kind/key") == []
    store.write_bytes("kind/key/a", b"1")
    assert store.names("kind/key") == ["a"]
    code = (
        "import sys; from acie_pipelines.storage import Store; "
        "Store(sys.argv[1]).write_bytes('kind/key/current.json', b'2')"
    )
    subprocess.run([sys.executable, "-c", code, store.url], check=True)
    assert store.exists("kind/key/current.json")
    assert store.names("kind/key") == ["a", "current.json"]


@pytest.mark.usefixtures("s3_endpoint")
def test_a_missing_bucket_is_a_storage_error():
    store = Store(f"s3://acie-{uuid.uuid4().hex}/p")
    with pytest.raises(StorageError, match="s3://"):
        store.write_bytes("x", b"1")


def test_an_unreachable_server_is_not_an_absent_object(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")  # pragma: allowlist secret
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    import s3fs

    _close_s3_sessions()
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    store = Store("s3://bucket/p")
    for act in (lambda: store.exists("x"), lambda: store.names("x"), lambda: store.read_bytes("x")):
        with pytest.raises(StorageError, match="s3://bucket/p/x"):
            act()
    _close_s3_sessions()


def test_an_interrupted_upload_publishes_nothing(monkeypatch):
    store = Store(f"memory://{uuid.uuid4().hex}")
    store.write_bytes("x", b"old")

    def fail(*_args, **_options):
        raise OSError(errno.ECONNRESET, "connection reset")

    monkeypatch.setattr(store._fs, "put_file", fail)
    with pytest.raises(StorageError, match="connection reset"):
        store.write_bytes("x", b"new")
    assert store.read_bytes("x") == b"old"


def test_remote_stores_have_no_local_path():
    with pytest.raises(StorageError, match="local_copy"):
        Store("memory://somewhere").local_path("x")


def test_a_full_device_is_named():
    # /dev/full refuses every write with ENOSPC.
    with (
        pytest.raises(StorageError, match="no space left") as caught,
        storage_errors("/dev/full"),
        Path("/dev/full").open("wb", buffering=0) as handle,
    ):
        handle.write(b"x")
    assert isinstance(caught.value.__cause__, OSError)


def test_a_file_size_limit_keeps_the_old_file(tmp_path):
    target = tmp_path / "file.bin"
    target.write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with pytest.raises(StorageError), atomic_writer(target) as handle:
            for _ in range(40):
                handle.write(bytes(1 << 13))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_mode_is_that_of_the_finished_file(tmp_path):
    with atomic_writer(tmp_path / "secret", mode=0o600) as handle:
        handle.write(b"x")
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_readers_never_see_half_a_file(tmp_path):
    store = Store(str(tmp_path))
    payloads = [bytes([value]) * 300_000 for value in range(8)]
    store.write_bytes("x", payloads[0])
    stop = threading.Event()
    torn = []

    def read():
        while not stop.is_set():
            data = store.read_bytes("x")
            if len(data) != 300_000 or len(set(data)) != 1:
                torn.append(len(data))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for thread in readers:
        thread.start()
    for turn in range(40):
        store.write_bytes("x", payloads[turn % 8])
    stop.set()
    for thread in readers:
        thread.join()
    assert torn == []


def test_a_path_that_cannot_be_a_directory_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError):
        Store(str(tmp_path)).write_bytes("file/below", b"x")
