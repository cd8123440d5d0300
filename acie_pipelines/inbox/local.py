"""An inbox that is a directory of this machine.

Links are followed to files inside the inbox only; what is neither file nor directory is ignored.

Belongs here: walking and opening local files so that nothing outside the inbox is ever read.
Does not belong here: which files are new (see `acie_pipelines.arrivals`).
"""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from acie_pipelines.errors import ConfigurationError
from acie_pipelines.inbox.model import (
    ZARR_SUFFIX,
    Item,
    Part,
    Refusal,
    may_lie_behind,
    passed_over,
)

__all__ = ["LocalInbox"]


class _OutsideError(Exception):
    """A symbolic link leads out of the inbox."""


def _reraise(error: OSError) -> None:
    raise error


class LocalInbox:
    """A directory of this machine.

    Parameters
    ----------
    root
        Absolute path.

    Raises
    ------
    ConfigurationError
        If there is no such directory.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise ConfigurationError(root, "is not a directory", "make it or set ACIE_INBOX_URL")
        self.root = root
        self._real_root = root.resolve()

    def walk(self, after: tuple[str, ...]) -> Iterator[Item | Refusal]:
        """Yield what lies behind a position, in order."""
        yield from self._walk(self.root, (), after)

    def _walk(
        self, directory: Path, position: tuple[str, ...], after: tuple[str, ...]
    ) -> Iterator[Item | Refusal]:
        try:
            with os.scandir(directory) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except FileNotFoundError:
            return
        except OSError as error:
            yield Refusal(str(directory), f"cannot be listed ({error.strerror})")
            return
        for entry in entries:
            here = (*position, entry.name)
            if passed_over(entry.name) or not may_lie_behind(here, after):
                continue
            directory_entry = entry.is_dir(follow_symlinks=False)
            if directory_entry and not entry.name.endswith(ZARR_SUFFIX):
                yield from self._walk(Path(entry.path), here, after)
            elif here > after:
                found = self._examined(Path(entry.path), here)
                if found is not None:
                    yield found

    def _examined(self, path: Path, position: tuple[str, ...]) -> Item | Refusal | None:
        try:
            str(path).encode()
        except UnicodeEncodeError:
            return Refusal(repr(str(path)), "its name is not UTF-8; rename it")
        try:
            if path.is_dir() and not path.is_symlink():
                return self._tree(path, position)
            part = self._part(path, "")
        except FileNotFoundError:
            if path.is_symlink():
                return Refusal(str(path), "is a symbolic link to nothing; remove it")
            return None
        except _OutsideError:
            return Refusal(str(path), "is or holds a link out of its place; copy the data instead")
        except OSError as error:
            return Refusal(str(path), f"cannot be read ({error.strerror})")
        if part is None:
            return None
        return Item(str(path), position, (part,))

    def _tree(self, path: Path, position: tuple[str, ...]) -> Item:
        parts: list[Part] = []
        for directory, subdirectories, files in os.walk(path, onerror=_reraise):
            # Readers take no links inside a Zarr directory, wherever they lead.
            if any(Path(directory, name).is_symlink() for name in (*subdirectories, *files)):
                raise _OutsideError
            for name in files:
                file = Path(directory) / name
                part = self._part(file, file.relative_to(path).as_posix())
                if part is not None:
                    parts.append(part)
        parts.sort(key=lambda part: part.name)
        return Item(str(path), position, tuple(parts))

    def _part(self, path: Path, name: str) -> Part | None:
        real = path
        if path.is_symlink():
            real = Path(os.path.realpath(path, strict=True))
            if not real.is_relative_to(self._real_root):
                raise _OutsideError
        status = real.lstat()
        if not stat.S_ISREG(status.st_mode):
            return None
        # The change time tells apart same-sized files copied over each other with their times kept.
        version = f"{status.st_mtime_ns}-{status.st_ctime_ns}"
        return Part(name, str(real), status.st_size, version, status.st_mtime)

    def again(self, item: Item) -> Item | None:
        """Look at an item once more; ``None`` if it is gone."""
        found = self._examined(Path(item.path), item.position)
        return found if isinstance(found, Item) else None

    def open(self, part: Part) -> IO[bytes]:
        """Open a part, and nothing that has since taken its place.

        Raises
        ------
        OSError
            If it is gone, has become a link, or is not a regular file.
        """
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(part.path, flags)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(0, "is no longer a regular file", part.path)
        return os.fdopen(descriptor, "rb")
