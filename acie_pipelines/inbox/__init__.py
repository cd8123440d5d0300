"""Lists a directory or an object-store prefix in a stable order, safely and lazily.

A name that ends in ``.zarr`` is one item, whatever lies below it. Hidden and temporary names are
passed over.

Belongs here: what lies in an inbox, reading and hashing it.
Does not belong here: which of it is new (see `acie_pipelines.arrivals`).
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec

from acie_pipelines.inbox.hashing import content_sha256
from acie_pipelines.inbox.local import LocalInbox
from acie_pipelines.inbox.model import Inbox, Item, Part, Refusal
from acie_pipelines.inbox.remote import RemoteInbox
from acie_pipelines.storage import storage_errors

__all__ = ["Inbox", "Item", "Part", "Refusal", "content_sha256", "fetch", "open_inbox"]


def _is_local(filesystem: Any) -> bool:
    protocols = filesystem.protocol
    return "file" in ((protocols,) if isinstance(protocols, str) else protocols)


def open_inbox(url: str) -> Inbox:
    """Open an inbox by path or URL.

    Parameters
    ----------
    url
        A directory, or any URL fsspec understands.

    Raises
    ------
    ConfigurationError
        If it does not exist.
    """
    filesystem, root = fsspec.core.url_to_fs(url)
    if _is_local(filesystem):
        return LocalInbox(Path(root).absolute())
    return RemoteInbox(url)


@contextmanager
def fetch(path_or_url: str) -> Iterator[Path]:
    """Give readers that need a local path one, for a local or a remote observation.

    Parameters
    ----------
    path_or_url
        As in `Item.path`: a file, or a ``.zarr`` directory.

    Yields
    ------
    Path
        The file itself, or a download that is removed afterwards.

    Raises
    ------
    StorageError
        If it cannot be found or read.
    """
    filesystem, path = fsspec.core.url_to_fs(path_or_url)
    with storage_errors(path_or_url):
        if _is_local(filesystem):
            local = Path(path)
            local.stat()
        else:
            local = None
    if local is not None:
        yield local
        return
    with tempfile.TemporaryDirectory(prefix="acie-") as directory:
        target = Path(directory) / str(path).rstrip("/").rsplit("/", 1)[-1]
        with storage_errors(path_or_url):
            filesystem.invalidate_cache()
            filesystem.get(path, str(target), recursive=filesystem.isdir(path))
        yield target
