"""Takes one registered file into the store, or into quarantine with the reason.

Belongs here: the decision and its record in the ledger. Does not belong here: how files are read
(`acie_pipelines.observations`) or found (`acie_pipelines.arrivals`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import fsspec

from acie_pipelines.errors import ConfigurationError, IntegrityError, ObservationError
from acie_pipelines.inbox import fetch
from acie_pipelines.ledger import Ledger
from acie_pipelines.observations.ingest import ingest_observation
from acie_pipelines.observations.quarantine import quarantine
from acie_pipelines.provenance import Manifest, current_manifest, verify_outputs
from acie_pipelines.storage import Store, storage_errors

__all__ = ["quarantined_on_error", "take_in"]


@contextmanager
def quarantined_on_error(store: Store, ledger: Ledger, key: str) -> Iterator[None]:
    """Move an observation to quarantine if the block finds it unusable, and re-raise.

    Raises
    ------
    ObservationError
        The one raised in the block, after the file and the reason are safe.
    """
    try:
        yield
    except ObservationError as error:
        entry = ledger.entry(key)
        if entry is not None:
            _put_aside(store, entry.source, error, key)
            ledger.quarantine(key, type(error).__name__, error.reason)
        raise


def _put_aside(store: Store, source: str, error: ObservationError, key: str) -> None:
    """Move a file from its directory or its object store into quarantine."""
    with fetch(source) as path:
        remote = "://" in source
        quarantine(store, path, error, key=key, found_at=source if remote else None)
    if remote:
        filesystem, name = fsspec.core.url_to_fs(source)
        with storage_errors(source):
            filesystem.rm(name, recursive=True)


def take_in(
    store: Store,
    ledger: Ledger,
    key: str,
    *,
    code_version: str,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Validate a registered file and store it, or quarantine it.

    Parameters
    ----------
    key
        Observation key; the ledger knows the file behind it.

    Returns
    -------
    Manifest
        Of kind ``observation``. Content that is already stored, undamaged, is not read again.

    Raises
    ------
    ConfigurationError
        If the ledger does not know the key.
    ObservationError
        If the file is unusable; it is then in quarantine.
    """
    entry = ledger.entry(key)
    if entry is None:
        raise ConfigurationError(
            key, "is not in the ledger of observations", "hand the file to `acie ingest` instead"
        )
    # A damaged copy is taken in again from the source.
    with suppress(IntegrityError):
        manifest = current_manifest(store, "observation", key)
        verify_outputs(store, manifest)
        ledger.accept(key)
        return manifest
    with quarantined_on_error(store, ledger, key), fetch(entry.source) as path:
        manifest = ingest_observation(
            store,
            path,
            code_version=code_version,
            key=key,
            expected_sha256=entry.sha256,
            progress=progress,
        )
    ledger.accept(key)
    return manifest
