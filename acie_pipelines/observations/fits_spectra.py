"""SDSS one-object spectra stored as binary tables.

Belongs here: recognising the coadded spectrum table and its object table.
Does not belong here: tables of many objects, which are catalogues.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.errors import InvalidGeometryError
from acie_pipelines.observations.byteio import read_exactly
from acie_pipelines.observations.fits_layout import Hdu
from acie_pipelines.observations.fits_samples import Scaling
from acie_pipelines.observations.model import PlaneKind

__all__ = ["SpectrumColumn", "object_class", "read_rows", "spectrum_columns"]

_REQUIRED = ("flux", "loglam", "ivar")
_FLUX_UNIT = "1e-17 erg / (s cm2 Angstrom)"
_UNITS = {
    "flux": _FLUX_UNIT,
    "model": _FLUX_UNIT,
    "sky": _FLUX_UNIT,
    "ivar": "1e34 s2 cm4 Angstrom2 / erg2",
    "loglam": "log10(Angstrom)",
    "wdisp": "pixel",
}
_BITPIX = {"u1": 8, "i2": 16, "i4": 32, "i8": 64, "f4": -32, "f8": -64}
_OBJECT_BYTES = 1 << 20
_ROWS_AT_ONCE_BYTES = 1 << 22


@dataclass(frozen=True)
class SpectrumColumn:
    """One column of a spectrum table.

    Attributes
    ----------
    name, kind, unit, rows, scaling
        As in `acie_pipelines.observations.model.Plane`.
    row
        dtype of a whole table row, big-endian.
    field
        Name of the column in `row`.
    """

    name: str
    kind: PlaneKind
    unit: str | None
    rows: int
    scaling: Scaling
    row: np.dtype[Any]
    field: str


def _kind(name: str) -> PlaneKind:
    if name == "ivar":
        return "weight"
    return "mask" if name.endswith("_mask") else "spectrum"


def spectrum_columns(path: Path, hdu: Hdu, open_hdu: Callable[[], Any]) -> list[SpectrumColumn]:
    """Columns of a coadded SDSS spectrum; none if the table is something else.

    Parameters
    ----------
    path
        File named in messages.
    hdu
        A binary table.
    open_hdu
        Returns astropy's table HDU; called only for a table with the right columns.

    Raises
    ------
    InvalidGeometryError
        If the row length contradicts the columns.
    """
    header = hdu.header
    count = header.get("TFIELDS", 0)
    count = count if isinstance(count, int) and 0 <= count <= 999 else 0
    names = {str(header.get(f"TTYPE{i}", "")).strip().lower() for i in range(1, count + 1)}
    rows = header.get("NAXIS2", 0)
    if not names.issuperset(_REQUIRED) or rows <= 0:
        return []
    columns = open_hdu().columns
    row = columns.dtype.newbyteorder(">")
    if row.itemsize != header["NAXIS1"]:
        raise InvalidGeometryError(
            path,
            f"HDU {hdu.index} has rows of {header['NAXIS1']} bytes, its columns take "
            f"{row.itemsize}",
            "obtain an undamaged copy",
        )
    found = []
    for column, field in zip(columns, row.names, strict=True):
        sample = row[field]
        bitpix = _BITPIX.get(sample.str[1:])
        if bitpix is None or sample.shape:
            continue
        name = column.name.strip().lower()
        scale = 1 if column.bscale in (None, "") else column.bscale
        zero = 0 if column.bzero in (None, "") else column.bzero
        null = column.null if bitpix > 0 and column.null not in (None, "") else None
        found.append(
            SpectrumColumn(
                name=name,
                kind=_kind(name),
                unit=str(column.unit) if column.unit else _UNITS.get(name),
                rows=rows,
                scaling=Scaling.of(bitpix, scale, zero, null),
                row=row,
                field=field,
            )
        )
    return found


def read_rows(
    descriptor: int, hdu: Hdu, column: SpectrumColumn, start: int, stop: int
) -> NDArray[Any]:
    """Read one column for a range of rows, in bounded memory."""
    samples = np.empty(stop - start, column.row[column.field])
    step = max(1, _ROWS_AT_ONCE_BYTES // column.row.itemsize)
    for first in range(start, stop, step):
        last = min(first + step, stop)
        buffer = bytearray((last - first) * column.row.itemsize)
        read_exactly(descriptor, memoryview(buffer), hdu.data_offset + first * column.row.itemsize)
        samples[first - start : last - start] = np.frombuffer(buffer, column.row)[column.field]
    return samples


def object_class(hdu: Hdu, open_hdu: Callable[[], Any]) -> dict[str, Any]:
    """Redshift and class of the one object of an SDSS ``SPECOBJ`` table.

    Returns
    -------
    dict
        ``redshift`` (float) and ``class`` (``GALAXY``, ``QSO``, ``STAR``) where stated.
    """
    if hdu.header.get("NAXIS2") != 1 or hdu.data_bytes > _OBJECT_BYTES:
        return {}
    table = open_hdu().data
    names = {name.upper(): name for name in table.columns.names}
    stated: dict[str, Any] = {}
    if "Z" in names:
        redshift = float(table[names["Z"]][0])
        if math.isfinite(redshift):
            stated["redshift"] = redshift
    if "CLASS" in names:
        stated["class"] = str(table[names["CLASS"]][0]).strip()
    return stated
