"""A directory that receives restored files: each whole and verified, none outside of it.

Belongs here: names that stay below a directory, staging, and putting files in their place.
Does not belong here: what is restored (`archive_files`, `sealed_tree`).

Files are written with mode 0600 to a subdirectory of mode 0700 of the destination itself and linked
to their name only when they are complete, so that nothing partial or unauthenticated ever has a
final name. Directories are opened component by component relative to their parent, never through a
symbolic link; whoever swaps one for a link meanwhile gains nothing. The destination is locked while
it is used: what is found in the staging directory was left by a killed process and is removed.
"""

import fcntl
import io
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, cast

from acie_pipelines.errors import StorageError, TamperedDataError
from acie_pipelines.storage import storage_errors

__all__ = ["STAGING", "Destination", "open_directory", "safe_parts"]

STAGING = ".acie-restoring"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAXIMUM_COMPONENT_BYTES = 255
_HOLE_BYTES = 4096


def safe_parts(path: str) -> tuple[str, ...]:
    """Split a relative path whose every component is an ordinary name.

    Raises
    ------
    TamperedDataError
        If it is absolute, empty, has an empty, ``.`` or ``..`` component, or cannot be a file name.
    """
    parts = tuple(path.split("/"))
    for part in parts:
        try:
            length = len(os.fsencode(part))
        except UnicodeEncodeError:
            length = 0
        if part in ("", ".", "..") or "\0" in part or not 0 < length <= _MAXIMUM_COMPONENT_BYTES:
            raise TamperedDataError(
                repr(path), "is no name below a directory", "use another copy of the archive"
            )
    return parts


def open_directory(root: int, parts: tuple[str, ...], *, create: bool = False) -> int:
    """Open a directory below another without following links; the caller closes it.

    Parameters
    ----------
    root
        Descriptor of the directory above.
    parts
        Its components, see `safe_parts`.
    create
        Make what is missing, with mode 0700.

    Raises
    ------
    OSError
        If a component is missing, a link or no directory.
    """
    current = os.dup(root)
    try:
        for part in parts:
            if create:
                with suppress(FileExistsError):
                    os.mkdir(part, 0o700, dir_fd=current)
            following = os.open(part, _DIRECTORY, dir_fd=current)
            os.close(current)
            current = following
    except BaseException:
        os.close(current)
        raise
    return current


class Destination:
    """Directory being restored to; use as a context manager.

    Parameters
    ----------
    path
        Made if missing. A symbolic link as its last component is followed: the user named it.

    Raises
    ------
    StorageError
        On entering, if it cannot be used or another process restores to it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._root = -1
        self._staging = -1

    def __enter__(self) -> Self:
        with storage_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._root = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(self._root, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StorageError(
                    self.path, "is in use by another restoration", "wait until that has ended"
                ) from None
            with storage_errors(self.path / STAGING):
                self._staging = open_directory(self._root, (STAGING,), create=True)
                with os.scandir(self._staging) as left:
                    for entry in left:
                        os.unlink(entry.name, dir_fd=self._staging)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            with storage_errors(self.path / STAGING):
                os.rmdir(STAGING, dir_fd=self._root)
        finally:
            self._close()

    def _close(self) -> None:
        for descriptor in (self._staging, self._root):
            if descriptor >= 0:
                os.close(descriptor)
        self._staging = self._root = -1

    @contextmanager
    def parent(self, path: str, *, create: bool = True) -> Iterator[tuple[int, str]]:
        """Open the directory that holds a path.

        Yields
        ------
        (int, str)
            Its descriptor, and the path's last component.

        Raises
        ------
        TamperedDataError
            If the path is not below the destination.
        StorageError
            If a directory on the way is a link or cannot be made.
        """
        *above, name = safe_parts(path)
        with storage_errors(self.path / path):
            descriptor = open_directory(self._root, tuple(above), create=create)
        try:
            yield descriptor, name
        finally:
            os.close(descriptor)

    @contextmanager
    def open(self, path: str) -> Iterator[IO[bytes] | None]:
        """Open a regular file that is already there; ``None`` if nothing is.

        Raises
        ------
        StorageError
            If there is something else.
        """
        try:
            with self.parent(path, create=False) as (directory, name), storage_errors(path):
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                handle = os.fdopen(os.open(name, flags, dir_fd=directory), "rb")
        except StorageError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                yield None
                return
            raise
        with handle:
            yield handle

    @contextmanager
    def file(
        self, path: str, *, mode: int = 0o600, mtime_ns: int | None = None, sparse: bool = False
    ) -> Iterator[IO[bytes]]:
        """Write a file that appears under its name, whole, when the block succeeds.

        Parameters
        ----------
        path
            Relative to the destination; directories on the way are made.
        mode, mtime_ns
            Permission bits and time of last change that it has from the moment it appears.
        sparse
            Leave holes where 4 KiB are zero.

        Raises
        ------
        StorageError
            If something of that name exists, which stays as it is, or the disk is full.
        """
        temporary = f"{secrets.token_hex(16)}.part"
        flags = os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC
        with self.parent(path) as (directory, name), storage_errors(self.path / path):
            descriptor = os.open(temporary, flags, 0o600, dir_fd=self._staging)
            try:
                with os.fdopen(descriptor, "w+b") as handle:
                    yield cast(IO[bytes], _SparseSink(handle)) if sparse else handle
                    handle.truncate()
                    self.dress(handle, mode, mtime_ns)
                    os.fsync(handle.fileno())
                # Unlike a rename, a link refuses to replace what is there.
                os.link(
                    temporary,
                    name,
                    src_dir_fd=self._staging,
                    dst_dir_fd=directory,
                    follow_symlinks=False,
                )
            except FileExistsError:
                raise self._exists(path) from None
            finally:
                os.unlink(temporary, dir_fd=self._staging)

    @staticmethod
    def dress(handle: IO[bytes], mode: int, mtime_ns: int | None) -> None:
        """Give an open file its permission bits and time of last change."""
        handle.flush()
        os.fchmod(handle.fileno(), mode)
        if mtime_ns is not None:
            os.utime(handle.fileno(), ns=(mtime_ns, mtime_ns))

    def directory(self, path: str) -> None:
        """Make a directory of mode 0700, and those above it, unless they exist."""
        with self.parent(path) as (above, name), storage_errors(self.path / path):
            os.close(open_directory(above, (name,), create=True))

    def finish_directory(self, path: str, mode: int, mtime_ns: int) -> None:
        """Give a directory its permission bits and time once all is in it."""
        with self.parent(path) as (above, name), storage_errors(self.path / path):
            descriptor = open_directory(above, (name,))
            try:
                os.fchmod(descriptor, mode)
                os.utime(descriptor, ns=(mtime_ns, mtime_ns))
            finally:
                os.close(descriptor)

    def symbolic_link(self, path: str, target: str) -> bool:
        """Make a symbolic link; whether there was none.

        Raises
        ------
        StorageError
            If something else has the name.
        """
        with self.parent(path) as (above, name), storage_errors(self.path / path):
            try:
                os.symlink(target, name, dir_fd=above)
            except FileExistsError:
                status = os.stat(name, dir_fd=above, follow_symlinks=False)
                if stat.S_ISLNK(status.st_mode) and os.readlink(name, dir_fd=above) == target:
                    return False
                raise self._exists(path) from None
        return True

    def hard_link(self, path: str, existing: str) -> bool:
        """Give a restored file another name; whether it did not have it.

        Raises
        ------
        StorageError
            If the file is missing, or something else has the name.
        """
        with (
            self.parent(existing, create=False) as (source, file),
            self.parent(path) as (above, name),
            storage_errors(self.path / path),
        ):
            try:
                os.link(file, name, src_dir_fd=source, dst_dir_fd=above, follow_symlinks=False)
            except FileExistsError:
                pair = (
                    os.stat(file, dir_fd=source, follow_symlinks=False),
                    os.stat(name, dir_fd=above, follow_symlinks=False),
                )
                if len({(status.st_dev, status.st_ino) for status in pair}) == 1:
                    return False
                raise self._exists(path) from None
        return True

    def _exists(self, path: str) -> StorageError:
        return StorageError(
            self.path / path,
            "exists already with other content",
            "move it away or restore to another directory",
        )


class _SparseSink(io.RawIOBase):
    """Writes to a file and leaves holes for blocks of zeros."""

    def __init__(self, handle: IO[bytes]) -> None:
        self._handle = handle

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data)
        for start in range(0, len(view), _HOLE_BYTES):
            block = bytes(view[start : start + _HOLE_BYTES])
            if block.count(0) == len(block):
                self._handle.seek(len(block), os.SEEK_CUR)
            else:
                self._handle.write(block)
        return len(view)
