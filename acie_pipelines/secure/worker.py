"""A process that does units of work until it is told to stop.

Belongs here: the loop, and what a worker may know. Does not belong here: what units are
(`acie_pipelines.secure.tasks`), printing, or anything that imports the vault.

A worker is given a store, a queue and the owner's public keys. It refuses to start where a private
key is within its reach (`acie_pipelines.secure.roles.refuse_secrets`), and refuses units under keys
that the owner's document does not hold: whoever can write to the queue cannot make it encrypt for
somebody else.
"""

import os
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from acie_pipelines.errors import AcieError
from acie_pipelines.secure.queue import LeaseLostError, WorkQueue
from acie_pipelines.secure.queue_tables import Lease
from acie_pipelines.secure.roles import ComputeWorker, refuse_secrets
from acie_pipelines.secure.tasks import KINDS, LEASE_SECONDS, check_key, perform
from acie_pipelines.storage import Store

__all__ = ["COMPUTE_KINDS", "ENCRYPTION_KINDS", "Event", "run_worker", "start_worker"]

# Reading plaintext tiles is the owner's side; everything else works on ciphertexts.
ENCRYPTION_KINDS: tuple[str, ...] = ("ciphertexts", "encrypted_windows")
COMPUTE_KINDS: tuple[str, ...] = tuple(kind for kind in KINDS if kind not in ENCRYPTION_KINDS)

_IDLE_SECONDS = 2.0


@dataclass(frozen=True)
class Event:
    """Something that a worker has to tell.

    Attributes
    ----------
    what
        ``claimed``, ``progress``, ``done``, ``failed``, ``lost`` or ``returned``.
    unit
        Name of the unit.
    done, total
        Pieces of it, while it is worked on.
    reason
        Of a failure.
    """

    what: str
    unit: str
    done: int = 0
    total: int = 0
    reason: str = ""


class _Stopped(BaseException):
    """The process was asked to stop in the middle of a unit."""


def start_worker(
    document: Path, store: Store, environ: dict[str, str], argv: Sequence[str]
) -> ComputeWorker:
    """Take on the role: public keys only, and no secret within reach.

    Parameters
    ----------
    document
        Public keys, as `acie keys export-public` writes them.
    store
        What the worker reads and writes; a local one is searched for keys.
    environ, argv
        Of this process.

    Raises
    ------
    RoleError
        If a private key could be read; names the place.
    """
    worker = ComputeWorker.open(document)
    places = [store.local_path("")] if store.is_local else []
    refuse_secrets(environ, argv, places=places, keys=worker.keys)
    return worker


def run_worker(
    worker: ComputeWorker,
    queue: WorkQueue,
    store: Store,
    *,
    kinds: Sequence[str],
    stop: threading.Event,
    drain: bool,
    report: Callable[[Event], None],
) -> int:
    """Claim units and do them, one after the other; the kernels use every core.

    Parameters
    ----------
    worker, queue, store
        The role, where units come from, and where results go.
    kinds
        `COMPUTE_KINDS` or `ENCRYPTION_KINDS`.
    stop
        Once set, the unit at work is handed back after its present piece.
    drain
        Whether to end when there is nothing to claim, instead of waiting.
    report
        Told what happens.

    Returns
    -------
    int
        Units done.

    Raises
    ------
    RoleError
        If a unit is under a key that the owner's document does not hold.
    """
    owner = f"{socket.gethostname()}, process {os.getpid()}"
    done = 0
    while not stop.is_set():
        lease = queue.claim(owner, seconds=LEASE_SECONDS, kinds=kinds)
        if lease is None:
            if drain:
                break
            stop.wait(_IDLE_SECONDS)
            continue
        check_key(queue, lease, worker.keys)
        done += _do(queue, store, lease, stop, report)
    return done


def _do(
    queue: WorkQueue,
    store: Store,
    lease: Lease,
    stop: threading.Event,
    report: Callable[[Event], None],
) -> int:
    def progress(done: int, total: int) -> None:
        report(Event("progress", lease.name, done, total))
        if stop.is_set() and done < total:
            raise _Stopped

    report(Event("claimed", lease.name))
    try:
        perform(queue, store, lease, progress)
    except _Stopped:
        report(Event("returned", lease.name))
        return 0
    except LeaseLostError as error:
        report(Event("lost", lease.name, reason=str(error)))
        return 0
    except AcieError as error:
        report(Event("failed", lease.name, reason=str(error)))
        return 0
    report(Event("done", lease.name))
    return 1
