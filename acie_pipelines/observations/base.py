"""What all readers share: limits, safe names, JSON values, error and warning capture.

Belongs here: helpers every format needs, and the base class of the readers.
Does not belong here: knowledge of any one format.
"""

import math
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.errors import (
    AcieError,
    DecompressionBombError,
    InvalidGeometryError,
    UnreadableObservationError,
)
from acie_pipelines.observations.model import Plane, PlaneKind, Window

__all__ = [
    "ChecksumReport",
    "Limits",
    "NameRegister",
    "Reader",
    "check_expansion",
    "check_segment",
    "decoding_errors",
    "flattened",
    "json_value",
    "kind_from_names",
]

_MIB = 1 << 20
_MAX_WARNINGS = 100
_MAX_LIST = 64
_MAX_TEXT = 4096
# Below this size no expansion ratio is suspicious: sparse masks and blank frames are common.
_RATIO_FREE_BYTES = 64 * _MIB
_WEIGHT_WORDS = frozenset({"oow", "weight", "weights", "wht", "wtmap", "ivar", "invvar"})
_MASK_WORDS = frozenset({"ood", "mask", "dq", "dqm", "dqmask", "flags"})


@dataclass(frozen=True)
class Limits:
    """How much a file may expand to.

    Attributes
    ----------
    max_expanded_bytes
        Largest decompressed size of a compressed file or array.
    max_ratio
        Largest ratio of decompressed to stored size, applied above 64 MiB. A real mask of
        four 4k CCDs reaches 1223.
    max_segment_bytes
        Largest decoded size of one chunk, strip or tile, the unit that must fit in memory.
    max_header_bytes
        Largest header or metadata document.
    """

    max_expanded_bytes: int = 64 << 30
    max_ratio: float = 5000.0
    max_segment_bytes: int = 512 * _MIB
    max_header_bytes: int = 64 * _MIB


@dataclass(frozen=True)
class ChecksumReport:
    """Outcome of comparing the checksums a file stores with its content.

    Attributes
    ----------
    checked
        Number of checksums that were present; all of them agreed.
    """

    checked: int = 0


def check_expansion(subject: object, expanded: int, stored: int, limits: Limits) -> None:
    """Refuse data that would expand beyond the limits.

    Parameters
    ----------
    subject
        File named in the message.
    expanded, stored
        Bytes after and before decompression.

    Raises
    ------
    DecompressionBombError
        If the expanded size or the ratio is over its limit.
    """
    if expanded > limits.max_expanded_bytes:
        raise DecompressionBombError(
            subject,
            f"expands to {expanded} bytes, more than the permitted {limits.max_expanded_bytes}",
            "raise max_expanded_bytes if the file is genuine",
        )
    if expanded > _RATIO_FREE_BYTES and expanded > limits.max_ratio * max(stored, 1):
        raise DecompressionBombError(
            subject,
            f"{stored} stored bytes claim {expanded}, a ratio over {limits.max_ratio:g}",
            "raise max_ratio if the file is genuine",
        )


def check_segment(subject: object, size: int, what: str, limits: Limits) -> None:
    """Refuse a chunk, strip or tile too large to decode in memory.

    Raises
    ------
    DecompressionBombError
        If `size` is over ``limits.max_segment_bytes``.
    """
    if size > limits.max_segment_bytes:
        raise DecompressionBombError(
            subject,
            f"one {what} decodes to {size} bytes, more than {limits.max_segment_bytes}",
            f"save the file with smaller {what}s",
        )


def flattened(subject: object, shape: Sequence[int]) -> tuple[int, int, int]:
    """Fold all axes before the last two into depth.

    Raises
    ------
    InvalidGeometryError
        If an axis is not positive.
    """
    if any(length <= 0 for length in shape):
        raise InvalidGeometryError(
            subject,
            f"declares axes {list(shape)}, which hold no samples",
            "remove the empty array or export the data again",
        )
    lengths = [int(length) for length in shape]
    width = lengths[-1]
    height = lengths[-2] if len(lengths) > 1 else 1
    return math.prod(lengths[:-2]), height, width


def json_value(value: object) -> Any:
    """Turn a header value into something `json.dumps` accepts without NaN.

    Parameters
    ----------
    value
        Anything a format's library returns. Long text and lists are cut.
    """
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, bytes):
        return value[:_MAX_TEXT].decode("latin-1").rstrip("\0 ")
    if isinstance(value, str):
        # Lone surrogates cannot be encoded as UTF-8 later.
        return value[:_MAX_TEXT].encode("utf-8", "replace").decode()
    if isinstance(value, complex):
        return [json_value(value.real), json_value(value.imag)]
    if isinstance(value, np.generic):
        item = value.item()
        return str(item) if isinstance(item, np.generic) else json_value(item)
    if isinstance(value, np.ndarray):
        return [json_value(item) for item in value.ravel()[:_MAX_LIST].tolist()]
    if isinstance(value, Mapping):
        return {str(key): json_value(item) for key, item in list(value.items())[:_MAX_LIST]}
    if isinstance(value, list | tuple):
        return [json_value(item) for item in value[:_MAX_LIST]]
    return str(value)[:_MAX_TEXT]


def _words(text: str) -> frozenset[str]:
    return frozenset(re.split(r"[^a-z0-9]+", text.lower()))


def kind_from_names(names: Sequence[str], dtype: np.dtype[Any]) -> PlaneKind | None:
    """Tell weights and masks from images by name; the first telling name decides.

    Parameters
    ----------
    names
        Most specific first: extension name, product type, file name.
    dtype
        Of the samples; only integers can be a mask.

    Returns
    -------
    str or None
        ``weight``, ``mask``, or ``None`` when no name tells.
    """
    for name in names:
        words = _words(name)
        if words & _WEIGHT_WORDS:
            return "weight"
        if words & _MASK_WORDS and dtype.kind in "iu":
            return "mask"
    return None


class NameRegister:
    """Hands out plane names that are unique and safe as file names."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def claim(self, wanted: str) -> str:
        """Make `wanted` safe, and unique regardless of letter case."""
        base = re.sub(r"[^A-Za-z0-9._-]+", "_", wanted).strip("._-")[:64] or "plane"
        name, count = base, 1
        while name.lower() in self._taken:
            count += 1
            name = f"{base}_{count}"
        self._taken.add(name.lower())
        return name


@contextmanager
def decoding_errors(subject: object, what: str) -> Iterator[None]:
    """Turn whatever a format's library raises on damaged input into one typed error.

    Raises
    ------
    UnreadableObservationError
        Instead of any exception that is not already an `AcieError`.
    """
    try:
        yield
    except AcieError:
        raise
    except Exception as error:  # the libraries raise anything, from KeyError to MemoryError
        detail = str(error)[:300] or type(error).__name__
        raise UnreadableObservationError(
            subject, f"{what} cannot be decoded ({detail})", "obtain an undamaged copy"
        ) from error


class Reader(ABC):
    """Base of the open observations.

    Parameters
    ----------
    path
        File or directory named in messages.
    """

    format: str = ""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.header: dict[str, Any] = {}
        self.planes: tuple[Plane, ...] = ()
        self._warnings: dict[str, None] = {}

    @property
    def warnings(self) -> tuple[str, ...]:
        """Oddities met so far that do not stop reading, without repeats."""
        return tuple(self._warnings)

    def warn(self, message: str) -> None:
        """Record an oddity for the quality report."""
        if len(self._warnings) < _MAX_WARNINGS:
            self._warnings[" ".join(message.split())[:500]] = None

    @contextmanager
    def collecting(self, what: str) -> Iterator[None]:
        """Run library code: its warnings are recorded, its exceptions become typed."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                with decoding_errors(self.path, what):
                    yield
            finally:
                for item in caught:
                    self.warn(str(item.message))

    def read(self, plane: Plane, window: Window) -> NDArray[Any]:
        """Read the samples of a window.

        Parameters
        ----------
        plane
            One of `planes`, or its equal read from a manifest.
        window
            Must lie within the plane and hold at least one sample.

        Returns
        -------
        ndarray
            Shape ``(y1 - y0, x1 - x0)``, C-contiguous, of ``plane.dtype``.

        Raises
        ------
        ObservationError
            If the samples cannot be decoded.
        ValueError
            If the window does not lie within the plane.
        """
        depth, height, width = plane.shape
        inside = (
            0 <= window.channel < depth
            and 0 <= window.y0 < window.y1 <= height
            and 0 <= window.x0 < window.x1 <= width
        )
        if not inside:
            raise ValueError(f"{window} is not inside plane {plane.name} of shape {plane.shape}")
        with self.collecting(f"plane {plane.name}"):
            samples = self._read(plane, window)
            return np.ascontiguousarray(samples, dtype=plane.dtype)

    @abstractmethod
    def _read(self, plane: Plane, window: Window) -> NDArray[Any]:
        """Read a window that is known to lie within the plane."""

    def verify_checksums(self) -> ChecksumReport:
        """Compare stored checksums with the content, in constant memory.

        Raises
        ------
        ChecksumMismatchError
            If one disagrees.
        """
        return ChecksumReport()

    @abstractmethod
    def close(self) -> None:
        """Release the file."""
