"""Files that hold secrets: who may read them, and how they change without being lost.

Belongs here: the guarded read, publication of a new file, the lock and the atomic replacement.
Does not belong here: what is in the files (`vault_document`).

Who may read such a file: its mode must give nothing to group and others, and it must belong to the
user who runs ACIE. A file on a file system that is mounted read-only is exempt from both, because a
mounted secret (Kubernetes mounts Secrets read-only, through symlinks, owned by root) is guarded by
whoever mounted it and cannot be changed from inside.
"""

import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from acie_pipelines.errors import KeyVaultError

__all__ = ["already_there", "locked", "publish", "read_private", "replace_locked"]

_MAXIMUM_BYTES = 1 << 24


def read_private(path: Path, subject: str, missing: str) -> bytes:
    """Read a file that nobody else may read.

    Parameters
    ----------
    path
        The file, or a symlink to it.
    subject
        What it is, for messages.
    missing
        What to do if it is not there.

    Raises
    ------
    KeyVaultError
        If it is not there, cannot be read, or can be read by others.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise KeyVaultError(subject, "does not exist", missing) from None
    except OSError as error:
        raise KeyVaultError(
            subject,
            f"cannot be opened ({error.strerror})",
            "check its path and permissions",
        ) from None
    try:
        # The open file is judged, not its path, which could change in between.
        _guard(descriptor, path, subject, missing)
        with os.fdopen(descriptor, "rb", closefd=False) as handle:
            return handle.read(_MAXIMUM_BYTES)
    finally:
        os.close(descriptor)


def publish(path: Path, data: bytes, subject: str) -> None:
    """Publish a complete 0600 file under a name that is still free.

    A kill at any moment leaves either no file or the whole one: it is written under a temporary
    name and linked, which unlike a rename refuses to replace an existing file.

    Raises
    ------
    KeyVaultError
        If there is a file already or it cannot be written.
    """
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            _write(temporary, data)
            try:
                os.link(temporary, path)
            except FileExistsError:
                raise already_there(subject) from None
        finally:
            temporary.unlink(missing_ok=True)
        _sync_directory(path.parent)
    except OSError as error:
        raise _unwritable(subject, error) from None


def already_there(subject: str) -> KeyVaultError:
    """Error of whoever would replace a file that is there."""
    return KeyVaultError(
        subject,
        "exists already",
        "data encrypted under its keys need it: add a key with `acie keys rotate`, or choose "
        "another path with ACIE_KEYS_FILE",
    )


@contextmanager
def locked(path: Path, subject: str, missing: str) -> Iterator[Path]:
    """Hold a file against everyone else who wants to replace it.

    The lock is on the file itself, so that nothing is left beside it; whoever waited for a file
    that was replaced meanwhile starts over with the new one.

    Yields
    ------
    Path
        The file behind all symlinks, for `replace_locked`.

    Raises
    ------
    KeyVaultError
        If it is not there or may not be written.
    """
    while True:
        try:
            real = path.resolve(strict=True)
            descriptor = os.open(real, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            raise KeyVaultError(subject, "does not exist", missing) from None
        except OSError as error:
            raise _unwritable(subject, error) from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _is_still(real, descriptor):
                yield real
                return
        finally:
            os.close(descriptor)


def replace_locked(path: Path, data: bytes, subject: str) -> None:
    """Replace a file that `locked` holds; a kill at any moment leaves the old or the new one.

    Raises
    ------
    KeyVaultError
        If it cannot be written; the old file is intact.
    """
    temporary = _temporary(path)
    try:
        # What a killed writer left holds secrets, and no other writer is at work.
        for leftover in path.parent.glob(f".{path.name}.*.tmp"):
            leftover.unlink(missing_ok=True)
        try:
            _write(temporary, data)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _sync_directory(path.parent)
    except OSError as error:
        raise _unwritable(subject, error) from None


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _guard(descriptor: int, path: Path, subject: str, missing: str) -> None:
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise KeyVaultError(subject, "is not a regular file", missing)
    if os.fstatvfs(descriptor).f_flag & os.ST_RDONLY:
        return
    if status.st_uid != os.geteuid():
        raise KeyVaultError(
            subject,
            f"belongs to user {status.st_uid}, not to {os.geteuid()}",
            f"run as its owner or `chown {os.geteuid()} {path}`",
        )
    if status.st_mode & 0o077:
        raise KeyVaultError(
            subject,
            f"can be read by others (mode {stat.S_IMODE(status.st_mode):04o})",
            f"run `chmod 600 {path}`",
        )


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(6)}.tmp")


def _write(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _unwritable(subject: str, error: OSError) -> KeyVaultError:
    return KeyVaultError(
        subject,
        f"cannot be written ({error.strerror})",
        "change it where it is kept, or choose a writable path with ACIE_KEYS_FILE",
    )
