"""Doing one unit of work under its lease.

Belongs here: the heartbeat, what happens to a unit whose work ends well, badly or not at all, and
which function does which kind of unit.
Does not belong here: the states of units (`acie_pipelines.secure.queue`), or processes
(`acie_pipelines.secure.worker`).
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from acie_pipelines.crypto.public_keys import PublicKeys
from acie_pipelines.errors import AcieError, IntegrityError, RoleError, StorageError
from acie_pipelines.secure.queue import LeaseLostError, WorkQueue
from acie_pipelines.secure.queue_tables import Lease
from acie_pipelines.storage import Store

__all__ = ["KINDS", "LEASE_SECONDS", "Progress", "check_key", "do_unit", "perform"]

LEASE_SECONDS = 60.0
# Two heartbeats may be lost before somebody else takes the unit.
_BEATS_PER_LEASE = 3
_POLL_SECONDS = 1.0

# Called with the pieces done and their total; what it raises ends the work.
Progress = Callable[[int, int], None]

# Kind of dataset -> module whose `do_unit(store, lease, progress)` makes a unit of it and returns
# its result. By name: a worker loads only what it does.
KINDS: Mapping[str, str] = {
    "ciphertexts": "acie_pipelines.secure.encryption",
    "encrypted_coadd": "acie_pipelines.secure.encrypted_images",
    "encrypted_difference": "acie_pipelines.secure.encrypted_images",
    "encrypted_features": "acie_pipelines.secure.retrieval.streaming",
    "encrypted_statistics": "acie_pipelines.secure.statistics",
    "encrypted_windows": "acie_pipelines.secure.retrieval.window_units",
}


@contextmanager
def _heartbeat(queue: WorkQueue, lease: Lease) -> Iterator[Callable[[], None]]:
    """Renew a lease in the background; yield a function that raises once it is lost."""
    stop = threading.Event()
    lost: list[LeaseLostError] = []

    def beat() -> None:
        while not stop.wait(lease.seconds / _BEATS_PER_LEASE):
            try:
                queue.renew(lease)
            except LeaseLostError as error:
                lost.append(error)
                return
            except StorageError:
                # The database is away for now; the lease may well outlast that.
                continue

    def check() -> None:
        if lost:
            raise lost[0]

    thread = threading.Thread(target=beat, name=f"heartbeat of {lease.name}", daemon=True)
    thread.start()
    try:
        yield check
    finally:
        stop.set()
        thread.join()


def check_key(queue: WorkQueue, lease: Lease, keys: PublicKeys) -> None:
    """Refuse a unit under a key that is not the owner's, and hand it back.

    Whoever can write to the queue can thus not have data encrypted for somebody else.

    Parameters
    ----------
    queue, lease
        The unit.
    keys
        What the owner exported.

    Raises
    ------
    LostKeyError, RevokedKeyError
        If the unit's key is unknown or revoked.
    RoleError
        If its modulus is not that of the key it names.
    """
    payload = lease.batch.payload
    try:
        if f"{keys.public_key(str(payload['key_id'])).n:x}" != payload["modulus"]:
            raise RoleError(
                lease.name,
                "is under a modulus that is not the owner's key of this id",
                "do not trust this queue; find out who wrote to it",
            )
    except AcieError:
        queue.release(lease)
        raise


def perform(
    queue: WorkQueue, store: Store, lease: Lease, progress: Progress | None = None
) -> Mapping[str, Any]:
    """Do a unit and publish its result.

    If the work fails, the error is recorded and the unit given back for another attempt, or given
    up; if this process is stopped, it is given back as it was. What was written is removed.

    Parameters
    ----------
    queue, store
        Where the lease is from, and where results go.
    lease
        From `WorkQueue.claim`.
    progress
        Called as pieces of the unit are done; it may raise to end the work.

    Returns
    -------
    Mapping
        The result that was published.

    Raises
    ------
    LeaseLostError
        If the unit was given to somebody else meanwhile.
    """
    module = import_module(KINDS[lease.batch.kind])
    started = time.monotonic()
    try:
        with _heartbeat(queue, lease) as check:

            def advance(done: int, total: int) -> None:
                check()
                if progress is not None:
                    progress(done, total)

            result: dict[str, Any] = module.do_unit(store, lease, advance)
        result["seconds"] = time.monotonic() - started
        queue.complete(lease, result)
    except LeaseLostError:
        _discard(store, lease)
        raise
    except Exception as error:
        passing = not isinstance(error, AcieError) or isinstance(
            error, IntegrityError | StorageError
        )
        reason = str(error) if isinstance(error, AcieError) else "an error of the program"
        queue.fail(lease, type(error).__name__, reason, final=not passing)
        _discard(store, lease)
        raise
    except BaseException:
        queue.release(lease)
        _discard(store, lease)
        raise
    return result


def _discard(store: Store, lease: Lease) -> None:
    store.delete(f"{lease.batch.prefix}/{lease.directory}")


def do_unit(
    queue: WorkQueue,
    store: Store,
    keys: PublicKeys,
    batch_id: int,
    number: int,
    owner: str,
    progress: Progress | None = None,
) -> Mapping[str, Any]:
    """Return a unit's result: found, made here, or waited for while another worker makes it.

    Parameters
    ----------
    queue, store
        Where the unit is, and where its result goes.
    keys
        What the owner exported, see `check_key`.
    batch_id, number
        The unit.
    owner
        Name of this worker, for people to read.
    progress
        As of `perform`.

    Raises
    ------
    UnitFailedError
        If the unit's attempts are used up.
    """
    while True:
        result = queue.result(batch_id, number)
        if result is not None:
            return result
        lease = queue.claim(owner, seconds=LEASE_SECONDS, batch_id=batch_id, number=number)
        if lease is None:
            time.sleep(_POLL_SECONDS)
            continue
        check_key(queue, lease, keys)
        try:
            return perform(queue, store, lease, progress)
        except LeaseLostError:
            continue
