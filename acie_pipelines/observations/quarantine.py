"""Put files that cannot become observations aside, with the reason.

Belongs here: moving a refused file into the store's ``quarantine/`` and listing what is there.
Does not belong here: the decision to refuse a file.

Layout::

    quarantine/<key>/<file name>   the file as it was (a directory for Zarr)
    quarantine/<key>/reason.json   why; written last, so a record always has its file
"""

import json
import os
import shutil
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from acie_pipelines.errors import IntegrityError, ObservationError, StorageError
from acie_pipelines.observations.identity import blocks, content_files, content_sha256, unchanged
from acie_pipelines.observations.ingest import safe_file_name
from acie_pipelines.storage import Store

__all__ = ["QuarantineRecord", "list_quarantined", "quarantine"]

_ROOT = "quarantine"
_REASON = "reason.json"


@dataclass(frozen=True)
class QuarantineRecord:
    """Why a file was put aside.

    Attributes
    ----------
    key
        Directory below ``quarantine/``.
    source
        Where the file was found.
    stored
        Name of the file in the store.
    sha256, size
        Of its content; size in bytes.
    error, reason, fix
        Type and parts of the `ObservationError`.
    time
        UTC, ISO 8601.
    source_removed
        Whether the file is gone from where it was found.
    """

    key: str
    source: str
    stored: str
    sha256: str
    size: int
    error: str
    reason: str
    fix: str
    time: str
    source_removed: bool


def quarantine(
    store: Store, source: Path, error: ObservationError, *, key: str, found_at: str | None = None
) -> QuarantineRecord:
    """Move a refused file into quarantine.

    Parameters
    ----------
    store
        Where ``quarantine/`` lies.
    source
        The file, or Zarr directory. It is removed only after its copy is on stable storage.
    error
        Why it was refused.
    key
        Name of the record, as of `identity.observation_key`.
    found_at
        Where the file was found, if `source` is a local copy of it; the caller removes it there.

    Returns
    -------
    QuarantineRecord
        The new record; after an interruption or a second call the same one, completed.

    Raises
    ------
    IntegrityError
        If the source changes meanwhile.
    StorageError
        If the store cannot be written; the source is then still there.
    """
    name = f"{_ROOT}/{key}/{_REASON}"
    earlier = _read(store, key) if store.exists(name) else None
    if not source.exists():
        if earlier is None:
            raise StorageError(source, "does not exist", "check the path")
        if earlier.source_removed:
            return earlier
        return _write(store, QuarantineRecord(**asdict(earlier) | {"source_removed": True}))
    sha256 = content_sha256(source)
    stored = f"{_ROOT}/{key}/{safe_file_name(source.name)}"
    size = sum(file.stat().st_size for _, file in content_files(source))
    if earlier is None or earlier.sha256 != sha256:
        _copy(store, source, stored, sha256)
    return _write(
        store,
        QuarantineRecord(
            key=key,
            source=found_at or str(source),
            stored=stored,
            sha256=sha256,
            size=size,
            error=type(error).__name__,
            reason=error.reason,
            fix=error.fix,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            source_removed=_remove(source),
        ),
    )


def _copy(store: Store, source: Path, stored: str, sha256: str) -> None:
    with unchanged(source):
        for name, file in content_files(source):
            path = f"{stored}/{name}" if source.is_dir() else stored
            with store.writer(path) as target:
                for block in blocks(file):
                    target.write(block)
    with store.local_copy(stored) as copy:
        if content_sha256(copy) != sha256:
            raise IntegrityError(
                source, "changed while it was being copied", "wait until it is complete"
            )


def _remove(source: Path) -> bool:
    """Remove the source; a read-only inbox is no reason to fail."""
    try:
        if source.is_dir():
            shutil.rmtree(source)
        else:
            source.unlink()
    except OSError:
        return False
    return not os.path.lexists(source)


def _write(store: Store, record: QuarantineRecord) -> QuarantineRecord:
    name = f"{_ROOT}/{record.key}/{_REASON}"
    store.write_bytes(name, json.dumps(asdict(record), indent=1).encode() + b"\n")
    return record


def _read(store: Store, key: str) -> QuarantineRecord:
    name = f"{_ROOT}/{key}/{_REASON}"
    try:
        return QuarantineRecord(**json.loads(store.read_bytes(name)))
    except (ValueError, TypeError) as error:
        raise IntegrityError(
            name, "is not a quarantine record", "restore or remove its directory"
        ) from error


def list_quarantined(store: Store) -> list[QuarantineRecord]:
    """Read every complete record, sorted by key.

    Raises
    ------
    IntegrityError
        If a record was damaged.
    """
    return [
        _read(store, key) for key in store.names(_ROOT) if store.exists(f"{_ROOT}/{key}/{_REASON}")
    ]
