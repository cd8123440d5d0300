"""The ledger: one claim per content, stable verdicts, marks and failures."""

import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from acie_pipelines import ledger_tables
from acie_pipelines.database import create_all, display_url, engine, reading
from acie_pipelines.errors import ConfigurationError, IntegrityError, StorageError
from acie_pipelines.ledger import Ledger, LedgerError

SHA = [f"{n:064x}" for n in range(100)]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/deep/er/acie.db"


def claim_all(url: str, barrier: "threading.Barrier | None") -> list[int]:
    if barrier is not None:
        barrier.wait()
    ledger = Ledger(url)
    return [n for n in range(40) if ledger.register(SHA[n], f"k-{n}", f"/in/{n}", n)]


def claim_in_process(url: str, barrier: object, queue: object) -> None:
    queue.put(claim_all(url, barrier))  # type: ignore[attr-defined]


def test_a_content_is_claimed_once_and_for_all(url: str) -> None:
    assert Ledger(url).register(SHA[1], "k-1", "/in/a.fits", 5) is True
    assert Ledger(url).register(SHA[1], "other-name", "/in/b.fits", 5) is False
    entry = Ledger(url).entry("k-1")
    assert entry is not None
    assert (entry.sha256, entry.source, entry.size) == (SHA[1], "/in/a.fits", 5)
    assert (entry.status, entry.attempt, entry.run_key) == ("registered", 1, SHA[1])
    assert abs(datetime.now(UTC) - entry.registered_at) < timedelta(seconds=10)
    assert Ledger(url).entry("other-name") is None
    assert Ledger(url).entry_of_content(SHA[1]) == entry
    assert Ledger(url).source_of("k-1") == "/in/a.fits"


@pytest.mark.parametrize("method", ["spawn", "fork"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_four_processes_creating_and_claiming_share_out_every_content(
    url: str, method: str
) -> None:
    if method == "fork":
        Ledger(url)  # the children inherit an engine they must not use
    context = multiprocessing.get_context(method)
    barrier, queue = context.Barrier(4), context.Queue()
    workers = [
        context.Process(target=claim_in_process, args=(url, barrier, queue)) for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    won = [queue.get(timeout=400) for _ in workers]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert sorted(n for part in won for n in part) == list(range(40))


def test_threads_share_out_every_content(url: str) -> None:
    barrier = threading.Barrier(8)
    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(lambda _: claim_all(url, barrier), range(8)))
    assert sorted(n for part in won for n in part) == list(range(40))


def test_one_key_for_two_contents_is_refused(url: str) -> None:
    ledger = Ledger(url)
    ledger.register(SHA[1], "k", "/in/a", 1)
    with pytest.raises(IntegrityError, match="another content"):
        ledger.register(SHA[2], "k", "/in/b", 1)
    assert ledger.register(SHA[2], "k2", "/in/b", 1) is True


def test_verdicts(url: str) -> None:
    ledger = Ledger(url)
    for n in range(3):
        ledger.register(SHA[n], f"k{n}", f"/in/{n}", n)
    ledger.accept("k0")
    first = ledger.entry("k0")
    ledger.accept("k0")
    assert ledger.entry("k0") == first
    ledger.quarantine("k1", "TruncatedFileError", "ends early")
    verdict = ledger.entry("k1")
    ledger.quarantine("k1", "EmptyFileError", "another reason")
    assert ledger.entry("k1") == verdict
    assert verdict is not None
    assert (verdict.error_type, verdict.reason) == ("TruncatedFileError", "ends early")
    with pytest.raises(LedgerError, match=r"quarantine \(ends early\); forget"):
        ledger.accept("k1")
    assert ledger.counts() == {"registered": 1, "accepted": 1, "quarantined": 1, "forgotten": 0}
    assert [entry.key for entry in ledger.entries()] == ["k2", "k1", "k0"]
    assert [entry.key for entry in ledger.entries(limit=1, offset=1)] == ["k1"]
    assert [entry.key for entry in ledger.entries("accepted")] == ["k0"]
    for change in (ledger.accept, ledger.forget, ledger.source_of):
        with pytest.raises(LedgerError, match="not in the ledger"):
            change("nobody")
    with pytest.raises(LedgerError, match="not in the ledger"):
        ledger.quarantine("nobody", "E", "r")


def test_a_refused_content_stays_refused_until_forgotten(url: str) -> None:
    ledger = Ledger(url)
    ledger.register(SHA[1], "k", "/in/a", 1)
    ledger.quarantine("k", "EmptyFileError", "no bytes")
    assert ledger.register(SHA[1], "k", "/in/a", 1) is False
    entry = ledger.entry_of_content(SHA[1])
    assert entry is not None and entry.status == "quarantined"
    ledger.forget("k")
    assert ledger.register(SHA[1], "renamed", "/in/b", 1) is True
    assert ledger.register(SHA[1], "renamed", "/in/b", 1) is False
    entry = ledger.entry("k")
    assert entry is not None
    assert (entry.status, entry.attempt, entry.source) == ("registered", 2, "/in/b")
    assert entry.run_key == f"{SHA[1]}-2"
    assert entry.error_type is None
    ledger.accept("k")
    with pytest.raises(LedgerError, match="accepted"):
        ledger.forget("k")


def test_pending_lists_what_was_registered_but_never_judged(url: str) -> None:
    ledger = Ledger(url)
    for n in range(4):
        ledger.register(SHA[n], f"k{n}", f"/in/{n}", n)
    ledger.accept("k0")
    ledger.quarantine("k1", "E", "r")
    assert ledger.pending(60) == []
    later = datetime.now(UTC) + timedelta(seconds=61)
    assert {entry.key for entry in ledger.pending(60, now=later)} == {"k2", "k3"}
    drawn = {ledger.pending(60, now=later, limit=1)[0].key for _ in range(64)}
    assert drawn == {"k2", "k3"}  # neither hides the other; fails once in 2**63 runs


def test_training_marks_count_only_what_the_training_read(url: str) -> None:
    ledger = Ledger(url)
    assert ledger.new_since_training() == 0
    for n in range(5):
        ledger.register(SHA[n], f"k{n}", f"/in/{n}", n)
    for n in range(3):
        ledger.accept(f"k{n}")
    read = ledger.accepted_count()
    ledger.accept("k3")  # arrives while the training runs
    assert ledger.new_since_training() == 4
    ledger.mark_trained(read)
    assert ledger.new_since_training() == 1
    ledger.mark_trained(1)  # a slower, older training ends last
    assert ledger.new_since_training() == 1
    ledger.quarantine("k0", "E", "found bad later")
    assert ledger.new_since_training() == 1
    ledger.accept("k4")
    assert ledger.new_since_training() == 2


def test_a_failed_run_is_recorded_once(url: str) -> None:
    ledger = Ledger(url)
    at = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    assert ledger.record_failure("r1", "job", "step", "ValueError", "bad", at) is True
    assert ledger.record_failure("r1", "job", "other", "KeyError", "worse") is False
    assert ledger.record_failure("r2", "job", None, "E", "no step") is True
    newest, oldest = ledger.failures()
    assert (newest.run_id, newest.step) == ("r2", None)
    assert (oldest.error_type, oldest.cause, oldest.at) == ("ValueError", "bad", at)
    assert [failure.run_id for failure in ledger.failures(limit=1)] == ["r2"]


def test_sqlite_is_durable_and_waits_for_locks(url: str) -> None:
    with reading(engine(url)) as connection:
        pragmas = [
            connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "busy_timeout")
        ]
    assert pragmas == ["wal", 2, 30000]
    assert engine(url) is engine(url)
    create_all(engine(url))
    create_all(engine(url))
    assert ledger_tables.observations.name in sa.inspect(engine(url)).get_table_names()


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("not a url with secret", ConfigurationError),
        ("sqlite://", ConfigurationError),
        ("mysql://u:secret@h/d", ConfigurationError),
        ("postgresql+nodriver://u:secret@h/d", ConfigurationError),
        ("postgresql://u:secret@127.0.0.1:1/d", StorageError),
        ("postgresql://u:secret@127.0.0.1:1/d?password=secret", StorageError),
    ],
)
def test_errors_name_the_database_but_no_password(url: str, error: type[Exception]) -> None:
    with pytest.raises(error) as caught:
        Ledger(url)
    chain: BaseException | None = caught.value
    assert "secret" not in str(chain)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_displayed_urls_carry_no_secret() -> None:
    assert display_url("postgresql://u:secret@h:5/d?sslkey=secret") == "postgresql://u:***@h:5/d"
    assert display_url("http://u:secret@h:5000/p?token=secret") == "http://u:***@h:5000/p"
