"""Hashes an inbox item within a deadline and goes on later where it stopped.

A sensor tick must end within seconds, and five gigabytes over a network do not hash in that time.
The state of an unfinished hash stays in the memory of the scanning process, so the next tick
continues; after a restart the file is begun anew.

Belongs here: content hashes of inbox items.
Does not belong here: when an item is ready to be hashed (see `acie_pipelines.arrivals`).
"""

import hashlib
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from acie_pipelines.inbox.model import Inbox, Item, Part
from acie_pipelines.observations.identity import member_prefix

if TYPE_CHECKING:
    from hashlib import _Hash

__all__ = ["content_sha256"]

_BLOCK = 1 << 22
_KEPT = 16  # unfinished hashes kept in memory; each is a few hundred bytes


@dataclass
class _Progress:
    digest: "_Hash" = field(default_factory=hashlib.sha256)
    part: int = 0
    offset: int = 0


_unfinished: dict[tuple[str, str], _Progress] = {}
_lock = threading.Lock()


def _take(key: tuple[str, str]) -> _Progress:
    with _lock:
        return _unfinished.pop(key, None) or _Progress()


def _keep(key: tuple[str, str], progress: _Progress) -> None:
    with _lock:
        _unfinished[key] = progress
        while len(_unfinished) > _KEPT:
            del _unfinished[next(iter(_unfinished))]


def _feed(inbox: Inbox, part: Part, progress: _Progress, deadline: float) -> bool:
    """Hash on from where the progress stands; whether the part was finished."""
    if part.name and progress.offset == 0:
        progress.digest.update(member_prefix(part.name, part.size))
    with inbox.open(part) as handle:
        handle.seek(progress.offset)
        while block := handle.read(_BLOCK):
            progress.digest.update(block)
            progress.offset += len(block)
            if time.monotonic() > deadline:
                return progress.offset >= part.size
    return True


def content_sha256(inbox: Inbox, item: Item, deadline: float) -> str | None:
    """SHA-256 of an item's content, the same as `identity.content_sha256` of a local copy.

    Parameters
    ----------
    inbox, item
        What to read.
    deadline
        `time.monotonic` value to stop at. At least one block is hashed per call, so that any file
        is finished in the end.

    Returns
    -------
    str or None
        ``None`` if the deadline came first; the next call with the same item goes on.

    Raises
    ------
    OSError
        If the item cannot be read.
    """
    key = (item.path, item.version)
    progress = _take(key)
    while progress.part < len(item.parts):
        finished = _feed(inbox, item.parts[progress.part], progress, deadline)
        if finished:
            progress.part += 1
            progress.offset = 0
        if progress.part < len(item.parts) and time.monotonic() > deadline:
            _keep(key, progress)
            return None
    return progress.digest.hexdigest()
