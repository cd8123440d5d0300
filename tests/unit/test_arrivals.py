"""Arrivals: every content once, whatever happens to the files, the scanner and the cursor."""

import multiprocessing
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import fsspec
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acie_pipelines import arrivals
from acie_pipelines.arrivals import Arrival, ScanResult, fetch, scan
from acie_pipelines.errors import ConfigurationError, StorageError
from acie_pipelines.inbox import hashing
from acie_pipelines.ledger import Ledger
from acie_pipelines.observations.identity import content_sha256
from tests.s3_server import s3_server

SETTLE = 5.0


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(f"sqlite:///{tmp_path}/acie.db")


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    path = tmp_path / "inbox"
    path.mkdir()
    return path


def look(
    inbox: object, ledger: Ledger, cursor: str | None = None, *, later: float = 60, limit: int = 500
) -> ScanResult:
    return scan(
        str(inbox),
        ledger,
        cursor=cursor,
        limit=limit,
        settle_seconds=SETTLE,
        time_budget_s=20,
        now=time.time() + later,
    )


def until_complete(inbox: object, ledger: Ledger, limit: int = 500) -> list[Arrival]:
    found: list[Arrival] = []
    cursor: str | None = None
    while cursor != "":
        result = look(inbox, ledger, cursor, limit=limit)
        assert result.hashed <= limit and len(result.ready) <= limit
        found.extend(result.ready)
        cursor = result.cursor
    return found


def test_an_arrival_names_the_content(inbox: Path, ledger: Ledger) -> None:
    (inbox / "deep").mkdir()
    (inbox / "deep" / "M 31.fits").write_bytes(b"pixels")
    [arrival] = look(inbox, ledger).ready
    digest = sha256(b"pixels").hexdigest()
    assert arrival.path == str(inbox / "deep" / "M 31.fits")
    assert (arrival.sha256, arrival.run_key, arrival.size) == (digest, digest, 6)
    assert arrival.key.endswith(digest[:12])
    assert ledger.source_of(arrival.key) == arrival.path
    with fetch(arrival.path) as path:
        assert path.read_bytes() == b"pixels"


def test_a_thousand_files_come_once_each_in_slices(inbox: Path, ledger: Ledger) -> None:
    for n in range(1000):
        folder = inbox / f"night-{n % 7}"
        folder.mkdir(exist_ok=True)
        (folder / f"{n}.fits").write_bytes(b"%d" % n)
    found = until_complete(inbox, ledger, limit=90)
    assert Counter(arrival.path for arrival in found) == Counter(
        {str(path): 1 for path in inbox.rglob("*.fits")}
    )
    again = look(inbox, Ledger(str(ledger.engine.url)))
    assert (again.ready, again.hashed, again.examined, again.complete) == ((), 0, 1000, True)


def test_a_lost_cursor_and_a_new_ledger_object_change_nothing(inbox: Path, ledger: Ledger) -> None:
    for n in range(50):
        (inbox / f"{n:03}.fits").write_bytes(b"%d" % n)
    found = list(look(inbox, ledger, limit=10).ready)
    for _ in range(4):
        found += look(inbox, Ledger(str(ledger.engine.url)), None, limit=10).ready
    assert sorted(Path(arrival.path).name for arrival in found) == [
        f"{n:03}.fits" for n in range(50)
    ]


def test_a_scan_goes_once_around_from_its_cursor(inbox: Path, ledger: Ledger) -> None:
    for name in "abcdef":
        (inbox / name).write_bytes(name.encode())
    first = look(inbox, ledger, limit=3)
    assert first.cursor == "c" and not first.complete
    (inbox / "a2").write_bytes(b"late")
    rest = look(inbox, ledger, first.cursor)
    assert {Path(arrival.path).name for arrival in rest.ready} == {"d", "e", "f", "a2"}
    assert rest.complete


def test_a_growing_file_waits_until_it_stands_still(inbox: Path, ledger: Ledger) -> None:
    file = inbox / "growing.fits"
    for n in range(3):
        with file.open("ab") as handle:
            handle.write(b"x" * 100)
        result = look(inbox, ledger, later=0.5 * n)
        assert (result.ready, result.settling) == ((), 1)
    [arrival] = look(inbox, ledger, later=30).ready
    assert arrival.size == 300


def test_a_file_from_the_future_settles_by_standing_still(inbox: Path, ledger: Ledger) -> None:
    file = inbox / "clock.fits"
    file.write_bytes(b"x")
    os.utime(file, (time.time() + 1e6,) * 2)
    assert look(inbox, ledger, later=0).ready == ()
    assert look(inbox, ledger, later=SETTLE - 1).ready == ()
    assert len(look(inbox, ledger, later=SETTLE + 1).ready) == 1


def test_an_old_file_is_ready_at_first_sight(inbox: Path, ledger: Ledger) -> None:
    file = inbox / "old.fits"
    file.write_bytes(b"x")
    os.utime(file, (1e9, 1e9))
    assert len(look(inbox, ledger, later=0).ready) == 1


def test_one_content_under_many_names_is_one_arrival(inbox: Path, ledger: Ledger) -> None:
    for name in ("a.fits", "b.fits", "copy.fits"):
        (inbox / name).write_bytes(b"same")
    assert len(look(inbox, ledger).ready) == 1
    (inbox / "d.fits").write_bytes(b"same")
    assert look(inbox, ledger).ready == ()
    (inbox / "a.fits").touch()
    touched = look(inbox, ledger)
    assert (touched.ready, touched.hashed) == ((), 1)


def test_changed_content_is_a_new_arrival_even_with_size_and_time_kept(
    inbox: Path, ledger: Ledger
) -> None:
    file = inbox / "a.fits"
    file.write_bytes(b"one")
    [first] = look(inbox, ledger).ready
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    time.sleep(0.02)
    file.write_bytes(b"two")
    os.utime(file, ns=times)
    [second] = look(inbox, ledger, later=120).ready
    assert first.key != second.key
    assert second.sha256 == sha256(b"two").hexdigest()


def test_a_file_that_changes_while_it_is_hashed_waits(
    inbox: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = inbox / "a.fits"
    file.write_bytes(b"one")
    real = arrivals.content_sha256

    def slow(*args: object) -> str | None:
        digest = real(*args)  # type: ignore[arg-type]
        file.write_bytes(b"longer")
        return digest

    monkeypatch.setattr(arrivals, "content_sha256", slow)
    assert look(inbox, ledger).ready == ()
    monkeypatch.undo()
    [arrival] = look(inbox, ledger).ready
    assert arrival.sha256 == sha256(b"longer").hexdigest()


def test_a_file_too_large_for_one_scan_is_hashed_over_several(
    inbox: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hashing, "_BLOCK", 1000)
    content = os.urandom(9_999)
    (inbox / "large.fits").write_bytes(content)
    (inbox / "small.fits").write_bytes(b"small")
    found: list[Arrival] = []
    scans, cursor = 0, None
    while len(found) < 2:
        result = scan(
            str(inbox),
            ledger,
            cursor=cursor,
            limit=10,
            settle_seconds=SETTLE,
            time_budget_s=-1,
            now=time.time() + 60,
        )
        found.extend(result.ready)
        cursor, scans = result.cursor, scans + 1
    assert {arrival.sha256 for arrival in found} == {
        sha256(content).hexdigest(),
        sha256(b"small").hexdigest(),
    }
    assert 10 <= scans <= 22
    assert Path(found[0].path).name == "small.fits"  # the large one holds up nobody


def test_hidden_temporary_and_special_files_are_passed_over(inbox: Path, ledger: Ledger) -> None:
    for name in (".a.fits", "b.fits.tmp", "c.PART", "d.fits~", "e.crdownload"):
        (inbox / name).write_bytes(name.encode())
    (inbox / ".cache").mkdir()
    (inbox / ".cache" / "f.fits").write_bytes(b"f")
    os.mkfifo(inbox / "pipe.fits")
    (inbox / "empty").mkdir()
    result = look(inbox, ledger)
    assert (result.ready, result.examined, result.refused) == ((), 0, ())


def test_links_out_of_the_inbox_are_refused(inbox: Path, ledger: Ledger, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "x.fits").write_bytes(b"x")
    (inbox / "out.fits").symlink_to(secret)
    (inbox / "outside").symlink_to(tmp_path / "elsewhere")
    (inbox / "nothing.fits").symlink_to(tmp_path / "gone")
    (inbox / "loop.fits").symlink_to("loop.fits")
    (inbox / "again").symlink_to(inbox)
    (inbox / "cube.zarr").mkdir()
    (inbox / "cube.zarr" / "chunk").symlink_to(secret)
    (inbox / ".data").mkdir()
    (inbox / ".data" / "v1").write_bytes(b"inside")
    (inbox / "in.fits").symlink_to(".data/v1")
    result = look(inbox, ledger)
    assert [Path(arrival.path).name for arrival in result.ready] == ["in.fits"]
    refused = {Path(refusal.path).name: refusal.reason for refusal in result.refused}
    assert set(refused) == {
        "out.fits",
        "outside",
        "nothing.fits",
        "loop.fits",
        "cube.zarr",
    }
    assert "link" in refused["out.fits"] and "link" in refused["cube.zarr"]


def test_a_name_that_is_not_utf8_is_refused_by_name(inbox: Path, ledger: Ledger) -> None:
    Path(os.fsdecode(bytes(inbox) + b"/bad-\xff.fits")).write_bytes(b"x")
    (inbox / "good.fits").write_bytes(b"y")
    result = look(inbox, ledger)
    assert len(result.ready) == 1
    [refusal] = result.refused
    assert "UTF-8" in refusal.reason
    refusal.path.encode()


def test_a_zarr_directory_is_one_arrival(inbox: Path, ledger: Ledger) -> None:
    cube = inbox / "cube.zarr"
    (cube / "c" / "0").mkdir(parents=True)
    (cube / "zarr.json").write_text("{}")
    (cube / "c" / "0" / "0").write_bytes(b"chunk")
    [first] = look(inbox, ledger).ready
    assert (first.path, first.size) == (str(cube), 7)
    assert look(inbox, ledger).ready == ()
    shutil.copytree(cube, inbox / "copy.zarr")
    assert look(inbox, ledger).ready == ()  # the same content
    (cube / "c" / "0" / "1").write_bytes(b"")
    [second] = look(inbox, ledger, later=120).ready
    assert second.sha256 != first.sha256
    with fetch(second.path) as path:
        assert path == cube


def test_a_missing_inbox_is_named(tmp_path: Path, ledger: Ledger) -> None:
    with pytest.raises(ConfigurationError, match="ACIE_INBOX_URL"):
        look(tmp_path / "nowhere", ledger)
    with pytest.raises(StorageError), fetch(str(tmp_path / "nowhere.fits")):
        pass


def test_a_forgotten_content_arrives_again(inbox: Path, ledger: Ledger) -> None:
    (inbox / "bad.fits").write_bytes(b"bad")
    [first] = look(inbox, ledger).ready
    ledger.quarantine(first.key, "E", "r")
    assert look(inbox, ledger).ready == ()
    ledger.forget(first.key)
    [second] = look(inbox, ledger).ready
    assert (second.key, second.attempt) == (first.key, 2)
    assert second.run_key != first.run_key
    assert look(inbox, ledger).ready == ()


def test_a_scanner_killed_before_its_commit_loses_nothing(
    inbox: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(20):
        (inbox / f"{n}.fits").write_bytes(b"%d" % n)
    real, calls = arrivals.register_content, []

    def dies(connection: sa.Connection, **content: object) -> object:
        calls.append(content)
        if len(calls) == 11:
            raise KeyboardInterrupt
        return real(connection, **content)  # type: ignore[arg-type]

    monkeypatch.setattr(arrivals, "register_content", dies)
    with pytest.raises(KeyboardInterrupt):
        look(inbox, ledger)
    monkeypatch.undo()
    assert ledger.counts()["registered"] == 0  # all of the batch or nothing
    assert len(look(inbox, ledger).ready) == 20


def test_a_scanner_killed_after_its_commit_leaves_pending_entries(
    inbox: Path, ledger: Ledger
) -> None:
    (inbox / "a.fits").write_bytes(b"a")
    look(inbox, ledger)  # and nobody requests the run
    assert look(inbox, ledger).ready == ()
    [entry] = ledger.pending(0)
    assert entry.run_key == sha256(b"a").hexdigest()
    ledger.accept(entry.key)
    assert ledger.pending(0) == []


def scan_in_process(inbox: str, url: str, barrier: object, queue: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    queue.put([arrival.path for arrival in until_complete(inbox, Ledger(url), limit=40)])  # type: ignore[attr-defined]


def test_scanners_at_once_share_out_every_file(inbox: Path, ledger: Ledger) -> None:
    for n in range(200):
        (inbox / f"{n}.fits").write_bytes(b"%d" % (n // 2))  # every content twice
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(3), context.Queue()
    url = str(ledger.engine.url)
    workers = [
        context.Process(target=scan_in_process, args=(str(inbox), url, barrier, queue))
        for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    found = [path for _ in workers for path in queue.get(timeout=400)]
    for worker in workers:
        worker.join()
    assert len(found) == len(set(found)) == 100
    assert len({Path(path).read_bytes() for path in found}) == 100


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.dictionaries(
        st.tuples(st.sampled_from(["", "a", "a-b", "a/b", "a.b", "b"]), st.sampled_from("xyz")),
        st.sampled_from([b"", b"1", b"2", b"3"]),
        max_size=8,
    ),
    st.integers(1, 4),
)
def test_any_tree_yields_each_distinct_content_once(
    tmp_path_factory: pytest.TempPathFactory, files: dict[tuple[str, str], bytes], limit: int
) -> None:
    root = tmp_path_factory.mktemp("property")
    (root / "in").mkdir()
    for (folder, name), content in files.items():
        (root / "in" / folder).mkdir(parents=True, exist_ok=True)
        (root / "in" / folder / f"{name}.fits").write_bytes(content)
    found = until_complete(root / "in", Ledger(f"sqlite:///{root}/acie.db"), limit)
    assert sorted(arrival.sha256 for arrival in found) == sorted(
        sha256(content).hexdigest() for content in set(files.values())
    )


@pytest.fixture
def memory() -> Iterator[Callable[[str, bytes], None]]:
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]
    yield lambda name, content: filesystem.pipe_file(f"/inbox/{name}", content)
    filesystem.store.clear()


def check_remote(url: str, put: Callable[[str, bytes], None], ledger: Ledger) -> None:
    for n in range(30):
        put(f"n{n % 3}/{n}.fits", b"%d" % n)
    put("n0/copy.fits", b"0")
    put("cube.zarr/zarr.json", b"{}")
    put("cube.zarr/c/0", b"chunk")
    put(".hidden", b"h")
    put("upload.tmp", b"t")
    found = until_complete(url, ledger, limit=7)
    names = sorted(arrival.path.rsplit("/", 1)[-1] for arrival in found)
    assert len(names) == len(set(names)) == 31
    assert look(url, ledger).ready == ()
    put("n0/0.fits", b"changed")
    [arrival] = look(url, ledger, later=120).ready
    assert arrival.sha256 == sha256(b"changed").hexdigest()
    with fetch(arrival.path) as path:
        assert (path.name, path.read_bytes()) == ("0.fits", b"changed")
    assert not path.exists()
    [cube] = [arrival for arrival in found if arrival.path.endswith(".zarr")]
    assert cube.size == 7
    with fetch(cube.path) as path:
        assert (path / "c" / "0").read_bytes() == b"chunk"
        assert (path / "zarr.json").read_bytes() == b"{}"


def test_a_remote_inbox(memory: Callable[[str, bytes], None], ledger: Ledger) -> None:
    with pytest.raises(ConfigurationError, match="does not exist"):
        look("memory://inbox", ledger)
    check_remote("memory://inbox", memory, ledger)
    with pytest.raises(StorageError), fetch("memory://inbox/none"):
        pass


def test_a_zarr_has_one_identity_local_and_remote(
    memory: Callable[[str, bytes], None], ledger: Ledger, inbox: Path
) -> None:
    (inbox / "cube.zarr" / "c").mkdir(parents=True)
    for name in ("zarr.json", "c.json", "c/0"):
        (inbox / "cube.zarr" / name).write_bytes(name.encode())
        memory(f"cube.zarr/{name}", name.encode())
    [arrival] = look(inbox, ledger).ready
    assert arrival.sha256 == content_sha256(inbox / "cube.zarr")
    result = look("memory://inbox", ledger)
    assert (result.ready, result.hashed) == ((), 1)


def test_an_inbox_on_s3(ledger: Ledger) -> None:
    import boto3

    with s3_server():
        client = boto3.client("s3")
        client.create_bucket(Bucket="survey")
        assert look("s3://survey/inbox", ledger).ready == ()
        client.put_object(Bucket="survey", Key="inbox/")  # the marker some tools make

        def put(name: str, content: bytes) -> None:
            client.put_object(Bucket="survey", Key=f"inbox/{name}", Body=content)

        check_remote("s3://survey/inbox", put, ledger)
        with pytest.raises(ConfigurationError, match="does not exist"):
            look("s3://no-such-bucket/inbox", ledger)
        client.close()
