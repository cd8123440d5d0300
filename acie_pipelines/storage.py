"""One tree of objects on a local disk or an object store, with atomic writes.

Belongs here: moving bytes to and from the store's URL.
Does not belong here: what the bytes mean (see `acie_pipelines.provenance`).
"""

import errno
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import fsspec

from acie_pipelines.errors import AcieError, StorageError

if TYPE_CHECKING:
    from zarr.abc.store import Store as ZarrStore

__all__ = ["Store", "atomic_writer", "storage_errors"]


@contextmanager
def storage_errors(subject: object) -> Iterator[None]:
    """Turn the operating system's write errors into `StorageError`.

    Parameters
    ----------
    subject
        What was being written, named in the message.

    Raises
    ------
    StorageError
        Instead of any `OSError` raised inside the block.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                subject, "no space left on the device", "free space and run again"
            ) from error
        raise StorageError(
            subject, f"cannot be written or read ({error})", "check the path and its permissions"
        ) from error


def _fsync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_writer(path: Path, *, mode: int = 0o644) -> Iterator[IO[bytes]]:
    """Write a local file so that readers see the old content or all of the new.

    Parameters
    ----------
    path
        Destination; parent directories are made.
    mode
        Permission bits of the new file.

    Yields
    ------
    IO[bytes]
        A temporary file beside the destination, renamed over it when the block succeeds.

    Raises
    ------
    StorageError
        If the disk is full or the path cannot be written; the old file is intact.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_RDWR, mode)
        try:
            with os.fdopen(descriptor, "w+b") as handle:
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            temporary.replace(path)
            _fsync_directory(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


class Store:
    """Objects under one root URL, addressed by ``/``-separated relative names.

    Parameters
    ----------
    url
        A local path, or any URL fsspec understands (``s3://bucket/prefix``).
    """

    def __init__(self, url: str) -> None:
        self.url = url
        # Cached listings would hide what other processes write.
        filesystem, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        self._fs: Any = filesystem
        self._root = str(root).rstrip("/")
        protocols = filesystem.protocol
        names = (protocols,) if isinstance(protocols, str) else tuple(protocols)
        self.is_local = "file" in names

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def _full(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    @contextmanager
    def _reporting(self, name: str) -> Iterator[None]:
        """Turn any failure of the file system into `StorageError`.

        Client libraries of object stores raise types of their own for a missing bucket, refused
        credentials or an unreachable host; only the file system's calls go inside the block.
        """
        subject = f"{self.url}/{name}"
        try:
            with storage_errors(subject):
                yield
        except AcieError:
            raise
        except Exception as error:
            raise StorageError(
                subject,
                f"cannot be written or read ({error})",
                "check the store's address and credentials",
            ) from error

    def local_path(self, name: str) -> Path:
        """Path of an object of a local store.

        Raises
        ------
        StorageError
            If the store is not on a local disk.
        """
        if not self.is_local:
            raise StorageError(self.url, "is not a local directory", "use local_copy instead")
        return Path(self._full(name))

    def exists(self, name: str) -> bool:
        """Whether an object or a prefix of this name exists."""
        # Not fsspec's exists(): that takes every failure, a refused login too, for absence.
        with self._reporting(name):
            try:
                self._fs.info(self._full(name))
            except (FileNotFoundError, NotADirectoryError):
                return False
        return True

    def names(self, prefix: str) -> list[str]:
        """Sorted last components of what lies directly below a prefix."""
        with self._reporting(prefix):
            try:
                found = self._fs.ls(self._full(prefix), detail=False)
            except FileNotFoundError:
                return []
        return sorted(str(path).rstrip("/").rsplit("/", 1)[-1] for path in found)

    def read_bytes(self, name: str) -> bytes:
        """Content of a small object."""
        with self._reporting(name):
            return bytes(self._fs.cat_file(self._full(name)))

    def open(self, name: str) -> IO[bytes]:
        """Open an object for seekable reading."""
        with self._reporting(name):
            handle: IO[bytes] = self._fs.open(self._full(name), "rb")
            return handle

    @contextmanager
    def writer(self, name: str) -> Iterator[IO[bytes]]:
        """Write an object as a stream; it appears, whole, when the block succeeds.

        Raises
        ------
        StorageError
            If the device is full or unreachable; an earlier object is intact.
        """
        if self.is_local:
            with atomic_writer(self.local_path(name)) as handle:
                yield handle
            return
        # Spooled, then sent as a whole: a remote file object completes its upload when it is
        # closed, also when it is closed by an error halfway.
        with tempfile.TemporaryDirectory(prefix="acie-") as directory:
            spool = Path(directory) / "spool"
            with storage_errors(spool), spool.open("w+b") as handle:
                yield handle
            with self._reporting(name):
                self._fs.put_file(str(spool), self._full(name))

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a small object atomically."""
        with self.writer(name) as handle:
            handle.write(data)

    @contextmanager
    def local_copy(self, name: str) -> Iterator[Path]:
        """Give libraries that need a file path one: the object itself, or a temporary download."""
        if self.is_local:
            yield self.local_path(name)
            return
        with tempfile.TemporaryDirectory(prefix="acie-") as directory:
            target = Path(directory) / name.rsplit("/", 1)[-1]
            with self._reporting(name):
                self._fs.get(
                    self._full(name), str(target), recursive=self._fs.isdir(self._full(name))
                )
            yield target

    def zarr(self, prefix: str) -> "ZarrStore":
        """Zarr store rooted at a prefix."""
        import zarr.storage

        if self.is_local:
            return zarr.storage.LocalStore(self.local_path(prefix))
        return zarr.storage.FsspecStore.from_url(
            f"{self.url.rstrip('/')}/{prefix}", storage_options={"use_listings_cache": False}
        )

    def sync(self, prefix: str) -> None:
        """Force everything below a prefix to stable storage before a manifest names it."""
        if not self.is_local:
            return
        with storage_errors(f"{self.url}/{prefix}"):
            for directory, _, files in os.walk(self.local_path(prefix)):
                for file in files:
                    descriptor = os.open(Path(directory) / file, os.O_RDONLY)
                    try:
                        os.fsync(descriptor)
                    finally:
                        os.close(descriptor)
                _fsync_directory(Path(directory))

    def delete(self, prefix: str) -> None:
        """Remove an object or everything below a prefix; absence is not an error."""
        with self._reporting(prefix):
            try:
                self._fs.rm(self._full(prefix), recursive=True)
            except FileNotFoundError:
                return
