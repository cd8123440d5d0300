"""The shared database for real: claims, arrivals and promotions race on PostgreSQL."""

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from acie_pipelines.arrivals import scan
from acie_pipelines.crypto.archive_key import ArchiveKey
from acie_pipelines.database import writing
from acie_pipelines.errors import IntegrityError, PromotionError, RollbackError, StorageError
from acie_pipelines.ledger import Ledger, LedgerError
from acie_pipelines.provenance import InputRef, current_manifest, new_generation
from acie_pipelines.registry.audit import AuditLog, Move
from acie_pipelines.registry.registry import ModelRegistry
from acie_pipelines.registry.states import State
from acie_pipelines.secure.attestation import Attestations
from acie_pipelines.secure.queue import LeaseLostError, WorkQueue
from acie_pipelines.storage import Store

REF = InputRef("model", "k", "g", "d")
PASSED = {"passed": True}


def worker(task: Callable[..., Any], arguments: tuple[Any, ...], barrier: Any, queue: Any) -> None:
    barrier.wait()
    queue.put(task(*arguments))


def at_once(task: Callable[..., Any], arguments: list[tuple[Any, ...]]) -> list[Any]:
    """Results of one process per argument tuple, started together."""
    context = multiprocessing.get_context("spawn")
    barrier, queue = context.Barrier(len(arguments)), context.Queue()
    processes = [
        context.Process(target=worker, args=(task, each, barrier, queue)) for each in arguments
    ]
    for process in processes:
        process.start()
    results = [queue.get(timeout=400) for _ in processes]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    return results


def claim_all(url: str) -> list[int]:
    ledger = Ledger(url)
    return [n for n in range(100) if ledger.register(f"{n:064x}", f"k{n}", f"/in/{n}", n)]


def test_processes_create_the_schema_and_share_out_every_content(postgres_url: str) -> None:
    won = at_once(claim_all, [(postgres_url,)] * 4)
    assert sorted(n for part in won for n in part) == list(range(100))


def test_owners_attesting_at_once_number_their_statements(
    postgres_url: str, tmp_path: Path
) -> None:
    store, key = Store(str(tmp_path / "store")), ArchiveKey("0123456789abcdef", bytes(32))

    def publish(version: int) -> int | None:
        with new_generation(
            store, "archive", "k", inputs=(), code_version=str(version), parameters={}
        ) as generation:
            made = generation.commit(())
        try:
            return Attestations(postgres_url).attest(store, made, key).number
        except IntegrityError as error:
            assert "was replaced by" in error.reason and not isinstance(error, RollbackError)
            return None

    with ThreadPoolExecutor(6) as pool:
        numbers = [number for number in pool.map(publish, range(18)) if number is not None]
    assert sorted(numbers) == list(range(1, len(numbers) + 1))
    current = current_manifest(store, "archive", "k")
    newest = Attestations(postgres_url).authenticate(current, lambda key_id: key)
    assert newest is not None and newest.number == len(numbers)


def test_the_ledger_behaves_as_on_sqlite(postgres_url: str) -> None:
    ledger = Ledger(postgres_url)
    assert ledger.register("a" * 64, "k", "/in/a", 1) is True
    assert ledger.register("a" * 64, "renamed", "/in/b", 1) is False
    with pytest.raises(IntegrityError, match="another content"):
        ledger.register("b" * 64, "k", "/in/c", 1)
    ledger.quarantine("k", "EmptyFileError", "no bytes")
    with pytest.raises(LedgerError, match="forget it first"):
        ledger.accept("k")
    ledger.forget("k")
    assert ledger.register("a" * 64, "k", "/in/a", 1) is True
    [entry] = ledger.pending(0)
    assert (entry.attempt, entry.error_type) == (2, None)
    ledger.accept("k")
    assert ledger.new_since_training() == 1
    ledger.mark_trained(ledger.accepted_count())
    assert ledger.new_since_training() == 0
    assert ledger.counts() == {"registered": 0, "accepted": 1, "quarantined": 0, "forgotten": 0}
    assert ledger.record_failure("r", "job", None, "E", "cause") is True
    assert ledger.record_failure("r", "job", None, "E", "cause") is False
    [failure] = ledger.failures()
    assert failure.at.utcoffset() is not None and failure.cause == "cause"


def work_all(url: str, batch_id: int) -> list[int]:
    queue, done = WorkQueue(url), []
    while (lease := queue.claim("w", seconds=60, batch_id=batch_id)) is not None:
        queue.complete(lease, {"by": lease.token})
        done.append(lease.number)
    return done


def test_workers_share_out_every_unit(postgres_url: str) -> None:
    queue = WorkQueue(postgres_url)
    batch = queue.open(
        "ciphertexts", "k", request="r", generation="g", payload={}, unit_payloads=[{}] * 60
    )
    done = at_once(work_all, [(postgres_url, batch.id)] * 3)
    assert sorted(n for part in done for n in part) == list(range(60))
    assert [result for _, result in queue.results(batch.id)] == [{"by": 1}] * 60


def test_a_stale_worker_is_refused_on_postgresql(postgres_url: str) -> None:
    queue = WorkQueue(postgres_url)
    batch = queue.open(
        "ciphertexts", "k", request="r", generation="g", payload={}, unit_payloads=[{}]
    )
    stale = queue.claim("slow", seconds=-1)
    heir = queue.claim("quick", seconds=60)
    assert stale is not None and heir is not None and heir.token == stale.token + 1
    assert queue.claim("third", seconds=60) is None
    with pytest.raises(LeaseLostError):
        queue.complete(stale, {"by": "slow"})
    queue.renew(heir)
    queue.complete(heir, {"by": "quick"})
    assert queue.result(batch.id, 0) == {"by": "quick"}
    queue.close(batch.id)
    assert queue.batches() == []


def scan_all(inbox: str, url: str) -> list[str]:
    ledger, found, cursor = Ledger(url), [], None
    while cursor != "":
        result = scan(
            inbox,
            ledger,
            cursor=cursor,
            limit=60,
            settle_seconds=5,
            time_budget_s=20,
            now=time.time() + 60,
        )
        found += [arrival.path for arrival in result.ready]
        cursor = result.cursor
    return found


def test_scanners_at_once_share_out_a_thousand_files(postgres_url: str, tmp_path: Path) -> None:
    for n in range(1000):
        (tmp_path / f"{n}.fits").write_bytes(b"%d" % (n // 2))  # every content twice
    found = [p for part in at_once(scan_all, [(str(tmp_path), postgres_url)] * 3) for p in part]
    assert len(found) == 500
    assert len({Path(path).read_bytes() for path in found}) == 500
    assert scan_all(str(tmp_path), postgres_url) == []


def race(url: str, version: int, seen: int) -> bool:
    log = AuditLog(url, "m")
    try:
        log.append([Move(version, State.CANARY, State.PRODUCTION, REF)], "p", "r", after=seen)
    except PromotionError:
        return False
    return True


def test_one_of_racing_moves_wins(postgres_url: str) -> None:
    log = AuditLog(postgres_url, "m")
    log.append([Move(n, None, State.CANDIDATE, REF) for n in range(1, 5)], "a", "r", after=0)
    won = at_once(race, [(postgres_url, version, 4) for version in range(1, 5)])
    assert sorted(won) == [False, False, False, True]
    assert [record.sequence for record in log.records()] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE acie_promotions SET actor = 'eve'",
        "DELETE FROM acie_promotions",
        "TRUNCATE acie_promotions",
    ],
)
def test_the_audit_log_cannot_be_changed(postgres_url: str, statement: str) -> None:
    log = AuditLog(postgres_url, "m")
    log.append([Move(1, None, State.CANDIDATE, REF)], "ada", "new", after=0)
    with (
        pytest.raises(sa.exc.DBAPIError, match="append-only"),
        writing(log.engine) as connection,
    ):
        connection.execute(sa.text(statement))
    assert [record.actor for record in log.records()] == ["ada"]


def test_a_wrong_password_is_not_repeated(postgres_url: str) -> None:
    user, host = postgres_url.rsplit("@", 1)
    with pytest.raises(StorageError) as error:
        Ledger(f"{user.rsplit(':', 1)[0]}:not-the-secret@{host}")
    assert "not-the-secret" not in str(error.value)
    assert "acie:***@127.0.0.1" in str(error.value)


def promote(tracking: str, url: str, version: int, seen: int) -> bool:
    registry = ModelRegistry(tracking, url, model="galaxy")
    try:
        registry.promote(
            version, "production", "p", "race", evidence=PASSED, expected_sequence=seen
        )
    except PromotionError:
        return False
    return True


def test_the_registry_on_servers(postgres_url: str, mlflow_server: str) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(mlflow_server, registry_uri=mlflow_server)
    registry = ModelRegistry(mlflow_server, postgres_url, model="galaxy")
    versions = []
    for number in range(3):
        run = client.create_run(client.create_experiment(f"e{number}")).info
        version = registry.register(
            run.run_id,
            f"{run.artifact_uri}/model",
            InputRef("model", f"m{number}", "g", f"{number:064x}"),
            metrics={"loss": 0.5},
            actor="trainer",
            reason="trained",
        )
        for state in ("staging", "canary"):
            registry.promote(version, state, "a", "r", evidence=PASSED)
        versions.append(version)
    registry.promote(versions[0], "production", "a", "r", evidence=PASSED)
    seen = registry.sequence()
    with ThreadPoolExecutor(2) as pool:
        promoted = [
            pool.submit(promote, mlflow_server, postgres_url, version, seen)
            for version in versions[1:]
        ]
    won = [future.result() for future in promoted]
    assert sorted(won) == [False, True]
    aliases = client.get_registered_model("galaxy").aliases
    current = registry.current("production")
    assert current is not None and current.version in versions[1:]
    assert {alias: int(version) for alias, version in aliases.items()} == {
        "production": current.version,
        "archived": versions[0],
        "canary": ({*versions[1:]} - {current.version}).pop(),
    }
    assert registry.rollback("a", "bad") == versions[0]
    assert int(client.get_model_version_by_alias("galaxy", "production").version) == versions[0]
    assert client.get_model_version("galaxy", "1").tags["acie.manifest.key"] == "m0"
