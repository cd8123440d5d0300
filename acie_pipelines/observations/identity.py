"""What makes two observations the same: fingerprints of the content, and the key made from them.

Belongs here: hashing of files and Zarr directories, naming of observations.
Does not belong here: the ledger of what was seen, or storage.
"""

import hashlib
import os
import re
import unicodedata
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import acie_native
from acie_pipelines.errors import IntegrityError, UnreadableObservationError
from acie_pipelines.storage import storage_errors

__all__ = [
    "ContentHasher",
    "Fingerprint",
    "blocks",
    "content_files",
    "content_sha256",
    "fingerprint",
    "fingerprint_stream",
    "member_prefix",
    "observation_key",
    "unchanged",
]

_READ_BYTES = 1 << 22
_SLUG_LENGTH = 60
_SUFFIX = re.compile(
    r"\.(fits?|fts|fz|gz|zip|tiff?|btf|h5|hdf5|he5|zarr)$",
    re.IGNORECASE,
)


def tree_files(path: Path) -> list[Path]:
    """Regular files below a directory in the order of their relative names.

    Raises
    ------
    UnreadableObservationError
        If there is a link or special file, which could lead outside the directory.
    """
    files = []
    for item in path.rglob("*"):
        if item.is_symlink() or not (item.is_file() or item.is_dir()):
            raise UnreadableObservationError(
                path, f"{item.name} is a link or special file", "copy the data themselves"
            )
        if item.is_file():
            files.append(item)
    return sorted(files, key=lambda file: file.relative_to(path).as_posix())


@dataclass(frozen=True)
class Fingerprint:
    """Identity of an observation's content.

    Attributes
    ----------
    sha256
        Hex digest.
    streebog256
        Hex digest of GOST R 34.11-2012, 256 bits: a second function of another design, so that
        a weakness in one does not break identity.
    size
        Bytes of content.
    """

    sha256: str
    streebog256: str
    size: int


class ContentHasher:
    """Feeds blocks to SHA-256 and Streebog side by side.

    Both release the interpreter lock, so they run on two threads while the caller reads on.
    Use as a context manager.

    Attributes
    ----------
    size
        Bytes added so far.
    """

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self._streebog = acie_native.Streebog256()
        self._pool = ThreadPoolExecutor(max_workers=2, thread_name_prefix="hash")
        self._pending: list[Future[None]] = []
        self.size = 0

    def __enter__(self) -> "ContentHasher":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=True)

    def update(self, block: bytes) -> None:
        """Add a block; it must not be changed afterwards."""
        self._wait()
        self.size += len(block)
        self._pending = [
            self._pool.submit(self._sha256.update, block),
            self._pool.submit(self._streebog.update, block),
        ]

    def fingerprint(self) -> Fingerprint:
        """Digest everything added so far."""
        self._wait()
        return Fingerprint(self._sha256.hexdigest(), self._streebog.hexdigest(), self.size)

    def _wait(self) -> None:
        for future in self._pending:
            future.result()
        self._pending = []


def content_files(path: Path) -> list[tuple[str, Path]]:
    """Name the files that make up an observation.

    Returns
    -------
    list of (str, Path)
        One pair for a file. For a Zarr directory every file with its name relative to the
        directory, ``/``-separated, in the order of the names.
    """
    if not path.is_dir():
        return [(path.name, path)]
    return [(file.relative_to(path).as_posix(), file) for file in tree_files(path)]


def member_prefix(name: str, size: int) -> bytes:
    """Encode what precedes a file's bytes in the content of a directory.

    The lengths come first, so that no two different directories have the same content.
    """
    encoded = name.encode("utf-8", "surrogateescape")
    return len(encoded).to_bytes(8, "big") + encoded + size.to_bytes(8, "big")


def blocks(file: Path) -> Iterator[bytes]:
    """Read a file in blocks of 4 MiB, up to the size it has now.

    A file that grows as fast as it is read would else never end; `unchanged` reports it.
    """
    with storage_errors(file):
        handle = file.open("rb")
        left = os.fstat(handle.fileno()).st_size
    with handle:
        while left > 0:
            with storage_errors(file):
                block = handle.read(min(_READ_BYTES, left))
            if not block:
                return
            left -= len(block)
            yield block


@contextmanager
def unchanged(path: Path) -> Iterator[None]:
    """Make sure that a file or directory does not change during the block.

    Raises
    ------
    IntegrityError
        If a size, modification time or set of names differs afterwards.
    """
    before = _state(path)
    yield
    if _state(path) != before:
        raise IntegrityError(
            path, "changed while it was being read", "wait until it is complete and try again"
        )


def _state(path: Path) -> list[tuple[str, int, int, int]]:
    with storage_errors(path):
        states = []
        for name, file in content_files(path):
            status = os.stat(file)  # noqa: PTH116 - follows a link just as open does
            states.append((name, status.st_size, status.st_mtime_ns, status.st_ino))
        return states


def fingerprint(path: Path) -> Fingerprint:
    """Hash the content of an observation in one streaming read.

    Parameters
    ----------
    path
        File, or Zarr directory: its content is then the sequence of name, size and bytes of its
        files, sorted by name, with lengths written first.

    Raises
    ------
    IntegrityError
        If the content changes meanwhile.
    StorageError
        If it cannot be read.
    """
    with unchanged(path), ContentHasher() as hasher:
        for block in _content(path):
            hasher.update(block)
        return hasher.fingerprint()


def fingerprint_stream(source: IO[bytes]) -> Fingerprint:
    """Hash an open file from where it stands to its end, in one read."""
    with ContentHasher() as hasher:
        while block := source.read(_READ_BYTES):
            hasher.update(block)
        return hasher.fingerprint()


def content_sha256(path: Path) -> str:
    """SHA-256 of the same content as `fingerprint` hashes, where one digest is enough."""
    digest = hashlib.sha256()
    with unchanged(path):
        for block in _content(path):
            digest.update(block)
    return digest.hexdigest()


def _content(path: Path) -> Iterator[bytes]:
    for name, file in content_files(path):
        if path.is_dir():
            yield member_prefix(name, file.stat().st_size)
        yield from blocks(file)


def observation_key(path_name: str, sha256: str) -> str:
    """Key of an observation: ``<slug>-<first 12 hex digits>``.

    Parameters
    ----------
    path_name
        File name, with or without directories.
    sha256
        Hex digest of the content.

    Returns
    -------
    str
        Lower-case ASCII letters, digits and ``-``; the slug has at most 60 characters.
    """
    name = path_name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    while (shorter := _SUFFIX.sub("", name)) != name:
        name = shorter
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", ascii_name).strip("-")[:_SLUG_LENGTH].rstrip("-")
    return f"{slug or 'observation'}-{sha256[:12]}"
