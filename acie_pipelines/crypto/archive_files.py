"""Sealing of single files, and their restoration: what `acie secure seal` and `restore` do.

Belongs here: one file to one archive and back, and what became of each of many.
Does not belong here: the archive format (`archive`), trees (`sealed_tree`), the store's archives
(`archive_observation`).
"""

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal

from acie_pipelines.crypto.archive import ArchiveHeader, read_header, read_note, seal, unseal
from acie_pipelines.crypto.archive_key import ArchiveKey
from acie_pipelines.crypto.destination import Destination
from acie_pipelines.crypto.vault import KeyVault
from acie_pipelines.errors import AcieError, StorageError, TamperedDataError
from acie_pipelines.observations.identity import Fingerprint, fingerprint_stream
from acie_pipelines.storage import atomic_writer, storage_errors

__all__ = [
    "SUFFIX",
    "Describe",
    "Outcome",
    "attempt_each",
    "open_regular",
    "restore_file",
    "seal_file",
    "verify_file",
]

SUFFIX = ".acie"
# Given the path, for messages, and the open file: what to note, and what to say if that is nothing.
Describe = Callable[[Path, IO[bytes]], tuple[dict[str, Any] | None, str]]
Status = Literal["sealed", "restored", "verified", "unchanged", "omitted", "failed"]


@dataclass(frozen=True)
class Outcome:
    """What became of one file.

    Attributes
    ----------
    path
        The file that was worked on.
    status
        ``unchanged`` if the result was there already, whole and authentic; ``omitted`` for what a
        tree held but was not sealed with it.
    result
        What was written; empty if nothing was.
    size, sha256, streebog256, key_id
        Of the original file, from its authenticated header; none on failure.
    error_type, reason
        Why it failed; empty unless it did or something is to be said.
    note
        What its owner noted about the content, from the archive's encrypted part; ``None`` if
        nothing was.
    """

    path: str
    status: Status
    result: str = ""
    size: int | None = None
    sha256: str = ""
    streebog256: str = ""
    key_id: str = ""
    error_type: str = ""
    reason: str = ""
    note: Mapping[str, Any] | None = None

    @property
    def failed(self) -> bool:
        """Whether something is not as it should be."""
        return self.status == "failed"

    @classmethod
    def of(
        cls,
        path: object,
        status: Status,
        result: object,
        header: ArchiveHeader,
        note: Mapping[str, Any] | None = None,
    ) -> "Outcome":
        """Success, described by an authenticated header and note."""
        return cls(
            str(path),
            status,
            str(result),
            header.size,
            header.sha256,
            header.streebog256,
            header.key_id,
            note=note,
        )

    @classmethod
    def failure(cls, path: object, error: AcieError) -> "Outcome":
        """Failure, with its reason and fix."""
        return cls(
            str(path),
            "failed",
            error_type=type(error).__name__,
            reason=f"{error.reason}; {error.fix}",
        )

    def to_dict(self) -> dict[str, Any]:
        """Fields as a JSON object."""
        return dict(vars(self))


def attempt_each(paths: Iterable[Path], work: Callable[[Path], Outcome]) -> Iterator[Outcome]:
    """Work on files one after another; what goes wrong with one does not stop the others."""
    for path in paths:
        try:
            yield work(path)
        except AcieError as error:
            yield Outcome.failure(path, error)


@contextmanager
def open_regular(path: Path) -> Iterator[IO[bytes]]:
    """Open a regular file for reading; a pipe or device is refused and not waited for.

    Raises
    ------
    StorageError
        If it is missing, unreadable or no regular file.
    """
    with storage_errors(path):
        handle = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    with handle:
        if not stat.S_ISREG(os.fstat(handle.fileno()).st_mode):
            raise StorageError(path, "is no regular file", "name files; trees have seal-tree")
        yield handle


def seal_file(
    path: Path, target: Path, archive_key: ArchiveKey, describe: Describe | None = None
) -> Outcome:
    """Seal a file: two fingerprints in one read, then the authenticated archive.

    Parameters
    ----------
    path
        A regular file, or a link to one.
    target
        Archive to write. One that holds the same file and note under the same key stays as it is.
    archive_key
        Key to seal under.
    describe
        Reads the file and finds what to note about it; nothing by default.

    Raises
    ------
    StorageError
        If the file cannot be read, the archive not be written, or another file is in its place.
    IntegrityError
        If the file changes meanwhile.
    """
    with open_regular(path) as source:
        with storage_errors(path):
            identity = fingerprint_stream(source)
        expected = header_of(path.name, identity, archive_key)
        source.seek(0)
        note, reason = (None, "") if describe is None else describe(path, source)
        status: Status = "unchanged"
        if not target.exists():
            source.seek(0)
            with atomic_writer(target) as sink:
                content = vars(identity) | {"note": note}
                seal(source, sink, archive_key=archive_key, name=path.name, **content)
            status = "sealed"
        elif not _holds(target, expected, note, archive_key):
            raise StorageError(target, "exists already and is not this file sealed", "move it away")
    return replace(Outcome.of(path, status, target, expected, note), reason=reason)


def header_of(name: str, identity: Fingerprint, archive_key: ArchiveKey) -> ArchiveHeader:
    """Header that an archive of this content has."""
    return ArchiveHeader(name=name, key_id=archive_key.key_id, **vars(identity))


def _holds(
    target: Path,
    expected: ArchiveHeader,
    note: Mapping[str, Any] | None,
    archive_key: ArchiveKey,
) -> bool:
    try:
        header, noted = authenticate(target, archive_key)
    except TamperedDataError:
        return False
    return (replace(header, note=""), noted) == (expected, note)


def authenticate(
    archive: Path, archive_key: ArchiveKey
) -> tuple[ArchiveHeader, dict[str, Any] | None]:
    """Verify an archive to its last byte without keeping what it holds; give its header and note.

    Raises
    ------
    TamperedDataError
        If anything differs from what was sealed, or the key is another one.
    """
    with open_regular(archive) as source, Path(os.devnull).open("wb") as nowhere:
        header = unseal(source, nowhere, archive_key=archive_key)
        source.seek(0)
        return header, read_note(source, archive_key=archive_key)


def verify_file(archive: Path, keys: KeyVault) -> Outcome:
    """Verify an archive to its last byte and both fingerprints of what it holds.

    Raises
    ------
    TamperedDataError
        If anything differs from what was sealed.
    KeyVaultError
        If the vault does not hold its key.
    """
    with open_regular(archive) as source:
        key_id = read_header(source).key_id
    header, note = authenticate(archive, keys.archive_key(key_id))
    return Outcome.of(archive, "verified", "", header, note)


def restore_file(archive: Path, destination: Destination, keys: KeyVault) -> Outcome:
    """Restore the file that an archive holds under its original name.

    A file of that name and content stays as it is; one of other content is an error.

    Parameters
    ----------
    archive
        Made by `seal_file`.
    destination
        Directory that receives the file, with mode 0600.
    keys
        Vault with its key.

    Raises
    ------
    TamperedDataError
        If anything differs from what was sealed, or the name leaves the destination.
    StorageError
        If the destination cannot be written or another file has the name.
    """
    with open_regular(archive) as source:
        claimed = read_header(source)
        source.seek(0)
        archive_key = keys.archive_key(claimed.key_id)
        result = destination.path / claimed.name
        with destination.open(claimed.name) as present:
            if present is not None:
                if fingerprint_stream(present) != claimed.fingerprint:
                    raise StorageError(result, "exists already with other content", "move it away")
                header, note = authenticate(archive, archive_key)
                return Outcome.of(archive, "unchanged", result, header, note)
        with destination.file(claimed.name) as sink:
            header = unseal(source, sink, archive_key=archive_key)
            source.seek(0)
            note = read_note(source, archive_key=archive_key)
    return Outcome.of(archive, "restored", result, header, note)
