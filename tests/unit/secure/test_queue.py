"""Leases, retries and fencing: every unit ends with exactly one result, whatever its workers do."""

import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from acie_pipelines.database import database_time, reading, writing
from acie_pipelines.secure.queue import LeaseLostError, UnitFailedError, WorkQueue
from acie_pipelines.secure.queue_tables import Batch, Lease, units

LONG, OVER = 3600.0, -1.0  # a lease of no length has always just run out


@pytest.fixture
def queue(tmp_path: Path) -> WorkQueue:
    return WorkQueue(f"sqlite:///{tmp_path / 'queue.db'}")


def opened(queue: WorkQueue, count: int = 3, request: str = "r") -> Batch:
    return queue.open(
        "ciphertexts",
        "field",
        request=request,
        generation=f"g-{request}",
        payload={"modulus": "ff"},
        unit_payloads=[{"n": n} for n in range(count)],
    )


def claimed(queue: WorkQueue, seconds: float = LONG, **options: Any) -> Lease:
    lease = queue.claim("worker", seconds=seconds, **options)
    assert lease is not None
    return lease


def run_out(queue: WorkQueue) -> None:
    """Let every lease end now."""
    with writing(queue.engine) as connection:
        connection.execute(sa.update(units).values(lease_until=0.0))


def test_the_databases_clock_is_the_time_of_day(queue: WorkQueue) -> None:
    before = time.time()
    with reading(queue.engine) as connection:
        moment = float(connection.execute(sa.select(database_time(connection))).scalar_one())
    assert before - 0.01 <= moment <= time.time() + 0.01


def test_units_are_given_out_once_and_their_results_kept_in_order(queue: WorkQueue) -> None:
    batch = opened(queue)
    leases = [claimed(queue) for _ in range(3)]
    assert queue.claim("late", seconds=LONG) is None
    assert [(lease.number, lease.token, lease.payload) for lease in leases] == [
        (n, 1, {"n": n}) for n in range(3)
    ]
    assert queue.result(batch.id, 0) is None
    with pytest.raises(UnitFailedError, match="is not done"):
        queue.results(batch.id)
    for lease in reversed(leases):
        queue.complete(lease, {"made": lease.number})
    assert queue.results(batch.id) == [(f"units/0000{n}-1", {"made": n}) for n in range(3)]
    assert queue.counts(batch.id).done == queue.counts(batch.id).total == 3


def test_an_equal_request_continues_the_batch(queue: WorkQueue) -> None:
    batch = opened(queue)
    queue.complete(claimed(queue), {"made": 0})
    assert opened(queue) == batch
    other = opened(queue, request="other")
    assert other.id != batch.id
    assert queue.counts(batch.id).done == 1
    assert queue.lookup("ciphertexts", "field", "r") == batch
    assert queue.lookup("ciphertexts", "field", "none") is None
    assert [each.id for each, _ in queue.batches()] == [batch.id, other.id]


def test_a_unit_is_taken_over_when_its_lease_ends_and_the_late_writer_is_refused(
    queue: WorkQueue,
) -> None:
    batch = opened(queue, 1)
    stale = claimed(queue, OVER)
    heir = claimed(queue)
    assert (heir.number, heir.token, heir.attempt) == (stale.number, 2, 2)
    assert heir.directory != stale.directory
    for late in (
        lambda: queue.renew(stale),
        lambda: queue.complete(stale, {"made": "late"}),
        lambda: queue.fail(stale, "Error", "late"),
        lambda: queue.release(stale),
    ):
        with pytest.raises(LeaseLostError, match="token 1 is not the highest"):
            late()
    queue.complete(heir, {"made": "in time"})
    with pytest.raises(LeaseLostError):
        queue.complete(stale, {"made": "late"})
    with pytest.raises(LeaseLostError):
        queue.complete(heir, {"made": "twice"})
    assert queue.result(batch.id, 0) == {"made": "in time"}
    assert queue.results(batch.id) == [(heir.directory, {"made": "in time"})]


def test_a_heartbeat_keeps_the_unit(queue: WorkQueue) -> None:
    opened(queue, 1)
    lease = claimed(queue, LONG)
    for _ in range(2):
        run_out(queue)
        queue.renew(lease)
        assert queue.claim("heir", seconds=LONG) is None
    run_out(queue)
    assert claimed(queue).token == 2


def test_errors_are_kept_and_attempts_bounded(queue: WorkQueue) -> None:
    batch = opened(queue, 1)
    for attempt in range(1, 4):
        lease = claimed(queue)
        assert lease.attempt == attempt
        queue.fail(lease, "StorageError", f"disk full, time {attempt}")
    assert queue.claim("worker", seconds=LONG) is None
    for use in (lambda: queue.result(batch.id, 0), lambda: queue.results(batch.id)):
        with pytest.raises(UnitFailedError, match="StorageError: disk full, time 3"):
            use()
    # Running again is a new chance; the token never goes back.
    opened(queue, 1)
    lease = claimed(queue)
    assert (lease.attempt, lease.token) == (1, 4)
    queue.fail(lease, "CryptoError", "no such dtype", final=True)
    assert queue.counts(batch.id).failed == 1
    queue.revive(batch.id, 0)
    queue.complete(claimed(queue), {})
    queue.revive(batch.id, 0)
    assert queue.counts(batch.id).done == 1


def test_a_unit_that_kills_its_workers_is_given_up(queue: WorkQueue) -> None:
    batch = opened(queue, 1)
    last = [claimed(queue, OVER) for _ in range(3)][-1]
    assert queue.claim("worker", seconds=LONG) is None
    with pytest.raises(UnitFailedError, match="vanished one after another"):
        queue.result(batch.id, 0)
    with pytest.raises(LeaseLostError):
        queue.complete(last, {"made": "after all"})


def test_handing_back_is_no_attempt(queue: WorkQueue) -> None:
    opened(queue, 1)
    for token in range(1, 9):
        lease = claimed(queue)
        assert (lease.attempt, lease.token) == (1, token)
        queue.release(lease)


def test_claims_can_be_restricted(queue: WorkQueue) -> None:
    opened(queue)
    other = opened(queue, request="other")
    assert claimed(queue, batch_id=other.id).batch == other
    assert claimed(queue, batch_id=other.id, number=2).number == 2
    assert queue.claim("w", seconds=LONG, batch_id=other.id, number=2) is None
    assert queue.claim("w", seconds=LONG, kinds=["sums"]) is None
    assert claimed(queue, kinds=["ciphertexts"]).number == 0


def test_a_closed_batch_takes_nothing_and_its_number_is_not_reused(queue: WorkQueue) -> None:
    batch = opened(queue, 1)
    lease = claimed(queue)
    queue.close(batch.id)
    again = opened(queue, 1)
    assert again.id > batch.id
    for use in (
        lambda: queue.complete(lease, {}),
        lambda: queue.renew(lease),
        lambda: queue.result(batch.id, 0),
    ):
        with pytest.raises(LeaseLostError):
            use()
    assert queue.counts(again.id).ready == 1


class Workers(RuleBasedStateMachine):
    """Workers that stall, vanish, fail and come back in any order, against a model in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.leases: list[Lease] = []
        self.done: dict[int, int] = {}
        self.highest = dict.fromkeys(range(2), 0)

    @initialize()
    def open(self) -> None:
        self.folder = tempfile.TemporaryDirectory()
        self.queue = WorkQueue(f"sqlite:///{self.folder.name}/queue.db")
        self.batch = opened(self.queue, 2)

    @rule()
    def claim(self) -> None:
        lease = self.queue.claim("w", seconds=LONG)
        if lease is not None:
            assert lease.token == self.highest[lease.number] + 1
            assert lease.number not in self.done
            self.highest[lease.number] = lease.token
            self.leases.append(lease)

    @rule()
    def leases_run_out(self) -> None:
        with writing(self.queue.engine) as connection:
            connection.execute(sa.update(units).values(lease_until=0.0))

    @rule()
    def run_again(self) -> None:
        opened(self.queue, 2)

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), what=st.sampled_from(["renew", "complete", "fail", "release"]))
    def use(self, data: st.DataObject, what: str) -> None:
        lease = data.draw(st.sampled_from(self.leases))
        values = {"complete": ({"by": lease.token},), "fail": ("E", "reason")}.get(what, ())
        try:
            getattr(self.queue, what)(lease, *values)
        except LeaseLostError:
            return
        assert lease.token == self.highest[lease.number]
        assert lease.number not in self.done
        if what == "complete":
            self.done[lease.number] = lease.token

    def teardown(self) -> None:
        for number, token in self.done.items():
            assert self.queue.result(self.batch.id, number) == {"by": token}
        self.folder.cleanup()


TestWorkers = Workers.TestCase
TestWorkers.settings = settings(max_examples=10, stateful_step_count=15, deadline=None)
