"""What every reader yields: planes of samples with units, WCS and masks, read by window.

Belongs here: the interface between file formats and everything behind them.
Does not belong here: any one format.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Observation", "Plane", "PlaneKind", "Window"]

PlaneKind = Literal["image", "weight", "mask", "spectrum"]


@dataclass(frozen=True)
class Window:
    """A rectangle of one channel of a plane, in pixels, ends excluded.

    Attributes
    ----------
    channel
        Index along the plane's depth; 0 for an ordinary image.
    y0, y1, x0, x1
        Bounds within the plane's height and width.
    """

    channel: int
    y0: int
    y1: int
    x0: int
    x1: int


@dataclass(frozen=True)
class Plane:
    """One stored array of samples.

    Attributes
    ----------
    name
        Unique within the observation and safe as a file name (``N26``, ``ccd1``, ``flux``).
    kind
        ``image``, ``weight`` (inverse variance), ``mask`` (integer flags) or ``spectrum``.
    shape
        ``(depth, height, width)``; a plain image has depth 1, a spectrum is ``(1, 1, n)``.
    dtype
        Little-endian dtype of the samples after BSCALE/BZERO or its like: the instrument's own
        when exact (uint16 stays uint16), float where blanks need NaN.
    unit
        Unit string as in the file, or ``None``.
    wcs
        FITS header text of the world coordinate system, or ``None``.
    pixel_scale_arcsec
        Mean pixel scale on the sky, or ``None``.
    header
        The plane's header cards as JSON values.
    """

    name: str
    kind: PlaneKind
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    unit: str | None = None
    wcs: str | None = None
    pixel_scale_arcsec: float | None = None
    header: Mapping[str, Any] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of all samples."""
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize


class Observation(Protocol):
    """An open observation file. Memory use depends on the window, never on the file."""

    @property
    def format(self) -> str:
        """Name of the format: ``FITS``, ``TIFF``, ``HDF5`` or ``Zarr``."""
        ...

    @property
    def header(self) -> Mapping[str, Any]:
        """Header cards of the file as JSON values; ``redshift`` if the file states one."""
        ...

    @property
    def planes(self) -> tuple[Plane, ...]:
        """Every plane, in file order."""
        ...

    def read(self, plane: Plane, window: Window) -> NDArray[Any]:
        """Read a window, shape ``(y1 - y0, x1 - x0)``, C-contiguous, of `Plane.dtype`.

        Raises
        ------
        ObservationError
            If the samples cannot be decoded.
        """
        ...

    def close(self) -> None:
        """Release the file."""
        ...
