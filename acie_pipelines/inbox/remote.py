"""An inbox on an object store, or any other file system that fsspec knows.

Belongs here: listing and opening through fsspec.
Does not belong here: which objects are new (see `acie_pipelines.arrivals`).
"""

from collections.abc import Iterator
from datetime import datetime
from typing import IO, Any

import fsspec

from acie_pipelines.errors import ConfigurationError
from acie_pipelines.inbox.model import (
    ZARR_SUFFIX,
    Item,
    Part,
    Refusal,
    may_lie_behind,
    passed_over,
)
from acie_pipelines.storage import storage_errors

__all__ = ["RemoteInbox"]


class RemoteInbox:
    """A prefix of an object store, or any other file system that fsspec knows.

    A directory is listed as a whole, because that is what fsspec offers; keep single prefixes
    below some hundred thousand objects.

    Parameters
    ----------
    url
        For example ``s3://bucket/inbox``.
    """

    def __init__(self, url: str) -> None:
        filesystem, root = fsspec.core.url_to_fs(url)
        self._fs: Any = filesystem
        self._root = str(root).rstrip("/")
        self.url = url

    def walk(self, after: tuple[str, ...]) -> Iterator[Item | Refusal]:
        """Yield what lies behind a position, in order."""
        self._fs.invalidate_cache()
        with storage_errors(self.url):
            bucket = self._root.strip("/").split("/", 1)[0]
            if not self._fs.exists(self._root) and not self._fs.exists(bucket):
                raise ConfigurationError(
                    self.url, "does not exist", "make the bucket or set ACIE_INBOX_URL"
                )
        yield from self._walk(self._root, (), after)

    def _walk(
        self, directory: str, position: tuple[str, ...], after: tuple[str, ...]
    ) -> Iterator[Item | Refusal]:
        for path, info in self._listed(directory):
            name = path.rsplit("/", 1)[-1]
            here = (*position, name)
            if passed_over(name) or not may_lie_behind(here, after):
                continue
            if info["type"] == "directory" and not name.endswith(ZARR_SUFFIX):
                yield from self._walk(path, here, after)
            elif here > after:
                yield self._item(path, here, info)

    def _listed(self, directory: str) -> list[tuple[str, dict[str, Any]]]:
        with storage_errors(self.url):
            try:
                listing = self._fs.ls(directory, detail=True)
            except FileNotFoundError:  # an object store has no empty directories
                return []
        found = [(str(info["name"]).rstrip("/"), info) for info in listing]
        # Object stores list the marker of an empty directory as an object inside it.
        inside = [pair for pair in found if pair[0] != directory.rstrip("/")]
        return sorted(inside, key=lambda pair: pair[0].rsplit("/", 1)[-1])

    def _item(self, path: str, position: tuple[str, ...], info: dict[str, Any]) -> Item:
        if info["type"] == "directory":
            below = self._fs.find(path, detail=True)
            parts = tuple(
                _remote_part(name.removeprefix(f"{path}/"), name, below[name])
                for name in sorted(below)
            )
        else:
            parts = (_remote_part("", path, info),)
        return Item(str(self._fs.unstrip_protocol(path)), position, parts)

    def again(self, item: Item) -> Item | None:
        """Look at an item once more; ``None`` if it is gone."""
        self._fs.invalidate_cache()
        path = self._fs._strip_protocol(item.path)
        try:
            return self._item(path, item.position, self._fs.info(path))
        except FileNotFoundError:
            return None

    def open(self, part: Part) -> IO[bytes]:
        """Open a part for seekable reading."""
        handle: IO[bytes] = self._fs.open(part.path, "rb", block_size=1 << 24)
        return handle


def _modified_of(info: dict[str, Any]) -> float | None:
    for field in ("LastModified", "last_modified", "mtime", "updated", "created"):
        value = info.get(field)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, int | float):
            return float(value)
    return None


def _remote_part(name: str, path: str, info: dict[str, Any]) -> Part:
    modified = _modified_of(info)
    tag = info.get("ETag") or info.get("etag") or modified
    return Part(name, path, int(info["size"] or 0), str(tag), modified)
