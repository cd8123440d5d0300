"""What an inbox yields: items, their files, and what is refused.

Belongs here: the interface between file systems and the scan, and the rules for names.
Does not belong here: any one file system.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Protocol

__all__ = ["ZARR_SUFFIX", "Inbox", "Item", "Part", "Refusal", "may_lie_behind", "passed_over"]

_TEMPORARY = (".tmp", ".part", ".partial", ".crdownload", ".filepart", "~")
ZARR_SUFFIX = ".zarr"


@dataclass(frozen=True)
class Part:
    """One file of an item.

    Attributes
    ----------
    name
        Path inside the item; empty for the item that is one file.
    path
        What the inbox opens it by.
    size
        Bytes.
    version
        Changes when the content does: times of a local file, ETag of an object.
    modified
        Seconds since the epoch; ``None`` if the store does not say.
    """

    name: str
    path: str
    size: int
    version: str
    modified: float | None


@dataclass(frozen=True)
class Item:
    """One candidate for an arrival.

    Attributes
    ----------
    path
        Absolute path or URL; `fetch` takes it.
    position
        Components below the inbox; items come in the order of these.
    parts
        The files it consists of.
    """

    path: str
    position: tuple[str, ...]
    parts: tuple[Part, ...]

    @property
    def name(self) -> str:
        """Last component."""
        return self.position[-1]

    @property
    def size(self) -> int:
        """Bytes of all parts."""
        return sum(part.size for part in self.parts)

    @property
    def modified(self) -> float | None:
        """Latest modification, seconds since the epoch; ``None`` if that is not known."""
        times = [part.modified for part in self.parts]
        known = [time for time in times if time is not None]
        return max(known) if known and len(known) == len(times) else None

    @property
    def version(self) -> str:
        """Changes when any part does, appears or disappears."""
        if len(self.parts) == 1 and not self.parts[0].name:
            return self.parts[0].version
        listing = "\n".join(f"{p.name}\0{p.size}\0{p.version}" for p in self.parts)
        return hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest()


@dataclass(frozen=True)
class Refusal:
    """Something in the inbox that cannot become an arrival.

    Attributes
    ----------
    path
        Where it lies.
    reason
        Why, and what to do about it.
    """

    path: str
    reason: str


class Inbox(Protocol):
    """A place that new observations are put into."""

    def walk(self, after: tuple[str, ...]) -> Iterator[Item | Refusal]:
        """Yield what lies behind a position, in order; ``()`` is the beginning."""
        ...

    def again(self, item: Item) -> Item | None:
        """Look at an item once more; ``None`` if it is gone."""
        ...

    def open(self, part: Part) -> IO[bytes]:
        """Open a part for seekable reading."""
        ...


def passed_over(name: str) -> bool:
    """Whether a name is hidden or temporary."""
    return name.startswith(".") or name.lower().endswith(_TEMPORARY)


def may_lie_behind(position: tuple[str, ...], after: tuple[str, ...]) -> bool:
    """Whether a directory at `position` may hold anything behind `after`."""
    return position >= after[: len(position)]
