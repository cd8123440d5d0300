"""Where each FITS header-data unit lies, checked before anything is allocated.

Belongs here: sizes and positions of HDUs, and the checksums over them.
Does not belong here: samples (see `acie_pipelines.observations.fits`).
"""

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from astropy.io import fits

from acie_pipelines.errors import (
    ChecksumMismatchError,
    InvalidGeometryError,
    TruncatedFileError,
    UnreadableObservationError,
    UnsupportedDtypeError,
)
from acie_pipelines.observations.base import Limits, Reader

__all__ = ["Hdu", "axis_lengths", "integer_card", "ones_complement_sum", "verify_hdu", "walk_hdus"]

_BLOCK = 2880
_BITPIX = (8, 16, 32, 64, -32, -64)
_ABSURD_BYTES = 1 << 50
_READ_BYTES = 1 << 22


@dataclass(frozen=True)
class Hdu:
    """Position and header of one header-data unit.

    Attributes
    ----------
    index
        0 for the primary HDU.
    header
        `astropy.io.fits.Header` as stored; a compressed image has its table's header.
    header_offset, data_offset, data_bytes
        Bytes; `data_bytes` leaves the padding out.
    """

    index: int
    header: Any
    header_offset: int
    data_offset: int
    data_bytes: int

    @property
    def end(self) -> int:
        """Offset of the next HDU."""
        return self.data_offset + -(-self.data_bytes // _BLOCK) * _BLOCK

    @property
    def is_image(self) -> bool:
        """Whether this is an uncompressed image (or an empty primary HDU)."""
        if self.index == 0:
            return not self.is_random_groups
        return str(self.header.get("XTENSION", "")).strip() in ("IMAGE", "IUEIMAGE")

    @property
    def is_table(self) -> bool:
        """Whether this is a binary table."""
        return str(self.header.get("XTENSION", "")).strip() in ("BINTABLE", "A3DTABLE")

    @property
    def is_compressed_image(self) -> bool:
        """Whether this is a tile-compressed image."""
        return self.is_table and self.header.get("ZIMAGE") is True

    @property
    def is_random_groups(self) -> bool:
        """Whether the primary HDU holds random groups, which are not images."""
        header = self.header
        return (
            self.index == 0
            and header.get("GROUPS") is True
            and header.get("NAXIS", 0) > 0
            and header.get("NAXIS1") == 0
        )


class _HeaderStream:
    """File view that stops a header without END from being read for ever."""

    def __init__(self, handle: IO[bytes], path: Path, limit: int) -> None:
        self._handle = handle
        self._path = path
        self._left = limit
        self.mode = "rb"

    def read(self, size: int = -1) -> bytes:
        self._left -= max(size, 0)
        if self._left < 0:
            raise InvalidGeometryError(
                self._path, "has a header without an end", "obtain an undamaged copy"
            )
        return self._handle.read(size)

    def tell(self) -> int:
        return self._handle.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._handle.seek(offset, whence)


def integer_card(path: Path, header: Any, keyword: str, default: int | None = None) -> int:
    """Integer value of a header card.

    Raises
    ------
    InvalidGeometryError
        If the card is missing (and there is no default), or not a whole number.
    """
    value = header.get(keyword, default)
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise InvalidGeometryError(
            path, f"{keyword} = {value!r} is not a whole number", "obtain an undamaged copy"
        )
    return int(value)


def axis_lengths(path: Path, header: Any, prefix: str = "NAXIS") -> list[int]:
    """Lengths of the axes, first FITS axis first.

    Raises
    ------
    InvalidGeometryError
        If there are more than 999 axes, or a negative one.
    """
    count = integer_card(path, header, prefix)
    if not 0 <= count <= 999:
        raise InvalidGeometryError(
            path, f"{prefix} = {count} is outside 0 to 999", "obtain an undamaged copy"
        )
    lengths = [integer_card(path, header, f"{prefix}{axis}") for axis in range(1, count + 1)]
    for axis, length in enumerate(lengths, start=1):
        if length < 0:
            raise InvalidGeometryError(
                path, f"{prefix}{axis} = {length} is negative", "obtain an undamaged copy"
            )
    return lengths


def _data_bytes(path: Path, index: int, header: Any) -> int:
    bitpix = integer_card(path, header, "BITPIX")
    if bitpix not in _BITPIX:
        raise UnsupportedDtypeError(
            path, f"BITPIX = {bitpix} is not a FITS sample type", "use one of 8, 16, 32, 64, -32"
        )
    lengths = axis_lengths(path, header)
    if not lengths:
        return 0
    groups = integer_card(path, header, "GCOUNT", 1)
    parameters = integer_card(path, header, "PCOUNT", 0)
    if groups < 0 or parameters < 0:
        raise InvalidGeometryError(
            path,
            f"HDU {index} has negative PCOUNT or GCOUNT",
            "obtain an undamaged copy",
        )
    random_groups = index == 0 and header.get("GROUPS") is True and lengths[0] == 0
    samples = math.prod(lengths[1:] if random_groups else lengths)
    if not random_groups and index == 0:
        groups, parameters = 1, 0
    size = abs(bitpix) // 8 * groups * (parameters + samples)
    if size > _ABSURD_BYTES:
        raise InvalidGeometryError(
            path, f"HDU {index} declares {size} bytes of data", "obtain an undamaged copy"
        )
    return size


def walk_hdus(path: Path, handle: IO[bytes], limits: Limits, reader: Reader) -> list[Hdu]:
    """Find every HDU and check that the file holds all the data they declare.

    Parameters
    ----------
    path
        File named in messages.
    handle
        Binary file positioned anywhere.
    reader
        Collects warnings about padding and trailing bytes.

    Raises
    ------
    TruncatedFileError
        If a header or its data end after the file does.
    InvalidGeometryError
        If axes are negative, missing or absurd.
    UnsupportedDtypeError
        If BITPIX is unknown.
    UnreadableObservationError
        If a header cannot be parsed.
    """
    total = handle.seek(0, os.SEEK_END)
    found: list[Hdu] = []
    offset = 0
    while offset < total:
        handle.seek(offset)
        head = handle.read(8)
        if found and head != b"XTENSION"[: len(head)]:
            reader.warn(f"{total - offset} bytes after the last HDU are ignored")
            break
        if total - offset < _BLOCK:
            raise TruncatedFileError(
                path, f"ends inside the header of HDU {len(found)}", "transfer the file again"
            )
        hdu = _read_hdu(path, handle, len(found), offset, limits, reader)
        if hdu.data_offset + hdu.data_bytes > total:
            raise TruncatedFileError(
                path,
                f"HDU {hdu.index} declares {hdu.data_bytes} bytes of data, "
                f"{max(total - hdu.data_offset, 0)} are there",
                "transfer the file again",
            )
        if hdu.end > total:
            reader.warn(f"HDU {hdu.index} lacks its final padding")
        found.append(hdu)
        offset = hdu.end
    return found


def _read_hdu(
    path: Path, handle: IO[bytes], index: int, offset: int, limits: Limits, reader: Reader
) -> Hdu:
    handle.seek(offset)
    with reader.collecting(f"header of HDU {index}"):
        try:
            header = fits.Header.fromfile(_HeaderStream(handle, path, limits.max_header_bytes))
        except (OSError, EOFError, ValueError) as error:
            # astropy's word for a last header block that is cut.
            if isinstance(error, ValueError) and "not multiple of" not in str(error):
                raise
            raise TruncatedFileError(
                path,
                f"the header of HDU {index} has no END ({error})",
                "transfer the file again",
            ) from error
        data_offset = handle.tell()
        if index == 0 and header.get("SIMPLE") not in (True, False):
            raise UnreadableObservationError(
                path, "does not start with SIMPLE = T", "obtain an undamaged copy"
            )
        fields = integer_card(path, header, "TFIELDS", 0)
        if not 0 <= fields <= 999:
            # astropy loops over this many keywords.
            raise InvalidGeometryError(
                path, f"TFIELDS = {fields} is outside 0 to 999", "obtain an undamaged copy"
            )
        return Hdu(index, header, offset, data_offset, _data_bytes(path, index, header))


def ones_complement_sum(handle: IO[bytes], offset: int, length: int, start: int = 0) -> int:
    """32-bit ones-complement sum of a byte range, as FITS checksums define it.

    Parameters
    ----------
    handle
        Binary file.
    offset, length
        Range in bytes; a last incomplete word is padded with zeros.
    start
        Sum so far.

    Returns
    -------
    int
        Sum between 0 and 2**32 - 1.
    """
    handle.seek(offset)
    total = start
    left = length
    while left > 0:
        block = handle.read(min(_READ_BYTES, left))
        if not block:
            break
        left -= len(block)
        if len(block) % 4:
            block += bytes(4 - len(block) % 4)
        # Swapping first and summing native words is several times faster than summing ">u4".
        words = np.frombuffer(block, "<u4").byteswap()
        total += int(words.sum(dtype=np.uint64))
        while total >> 32:
            total = (total & 0xFFFFFFFF) + (total >> 32)
    return total


def verify_hdu(path: Path, handle: IO[bytes], hdu: Hdu) -> int:
    """Check DATASUM and CHECKSUM of one HDU.

    Returns
    -------
    int
        Number of checksums that were present.

    Raises
    ------
    ChecksumMismatchError
        If one disagrees with the content.
    """
    declared_sum = str(hdu.header.get("DATASUM", "")).strip()
    has_checksum = bool(str(hdu.header.get("CHECKSUM", "")).strip())
    if not declared_sum and not has_checksum:
        return 0
    data_sum = ones_complement_sum(handle, hdu.data_offset, hdu.end - hdu.data_offset)
    if declared_sum:
        stated = int(declared_sum) if re.fullmatch(r"[0-9]{1,10}", declared_sum) else -1
        # Zero has two representations in ones-complement arithmetic.
        if stated % 0xFFFFFFFF != data_sum % 0xFFFFFFFF or stated < 0:
            raise ChecksumMismatchError(
                path,
                f"DATASUM of HDU {hdu.index} is {declared_sum}, its data sum to {data_sum}",
                "transfer the file again",
            )
    if has_checksum:
        whole = ones_complement_sum(
            handle, hdu.header_offset, hdu.data_offset - hdu.header_offset, data_sum
        )
        if whole % 0xFFFFFFFF:
            raise ChecksumMismatchError(
                path,
                f"CHECKSUM of HDU {hdu.index} disagrees with its content",
                "transfer the file again",
            )
    return bool(declared_sum) + has_checksum
