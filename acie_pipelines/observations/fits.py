"""FITS observations: images, cubes, tile-compressed images and SDSS spectra.

Belongs here: reading windows of FITS planes with memory bounded by the window.
Does not belong here: HDU positions (`fits_layout`), sample arithmetic (`fits_samples`), tables of
spectra (`fits_spectra`).
"""

from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from acie_pipelines.errors import InvalidGeometryError, NoImagePlaneError
from acie_pipelines.observations.base import (
    ChecksumReport,
    Limits,
    NameRegister,
    Reader,
    flattened,
    json_value,
    kind_from_names,
)
from acie_pipelines.observations.byteio import read_exactly
from acie_pipelines.observations.fits_compressed import CompressedImage
from acie_pipelines.observations.fits_layout import Hdu, axis_lengths, verify_hdu, walk_hdus
from acie_pipelines.observations.fits_samples import Scaling, scaling_from_header
from acie_pipelines.observations.fits_spectra import object_class, read_rows, spectrum_columns
from acie_pipelines.observations.fits_wcs import read_wcs
from acie_pipelines.observations.model import Plane, PlaneKind, Window

__all__ = ["FitsReader"]

_PRODUCT_CARDS = ("PRODTYPE", "OBSTYPE")
_Source = Callable[[Plane, Window], NDArray[Any]]


def _header_values(reader: Reader, header: Any) -> dict[str, Any]:
    """Cards as JSON values; COMMENT and HISTORY become lists of lines."""
    values: dict[str, Any] = {}
    for card in header.cards:
        keyword = card.keyword
        try:
            value = card.value
        except (fits.VerifyError, ValueError) as error:
            reader.warn(f"card {keyword} is not readable: {error}")
            continue
        if isinstance(value, fits.card.Undefined):
            value = None
        if keyword in ("COMMENT", "HISTORY", ""):
            if keyword and str(value).strip():
                values.setdefault(keyword, []).append(json_value(str(value)))
        elif keyword not in values:
            values[keyword] = json_value(value)
    return values


class FitsReader(Reader):
    """An open FITS file.

    Parameters
    ----------
    path
        Name of the observation in messages; its name also helps to tell weights from images.
    handle
        The uncompressed file, opened unbuffered or buffered for reading. The reader closes it.
    limits
        How much compressed images may expand to.

    Raises
    ------
    ObservationError
        If the file is damaged or holds nothing that can be read as a plane.
    """

    format = "FITS"

    def __init__(self, path: Path, handle: IO[bytes], limits: Limits) -> None:
        super().__init__(path)
        self._handle = handle
        self._limits = limits
        self._names = NameRegister()
        self._sources: dict[str, _Source] = {}
        self._opened: Any = None
        try:
            self._hdus = walk_hdus(path, handle, limits, self)
            with self.collecting("the FITS headers"):
                self.header = _header_values(self, self._hdus[0].header)
                planes: list[Plane] = []
                for hdu in self._hdus:
                    planes.extend(self._planes_of(hdu))
                self.planes = tuple(planes)
        except BaseException:
            self.close()
            raise
        if not self.planes:
            self.close()
            raise NoImagePlaneError(
                path,
                f"none of its {len(self._hdus)} HDUs holds an image or a known spectrum table",
                "ingest the file that holds the pixels",
            )
        redshift = self.header.get("REDSHIFT")
        if isinstance(redshift, float) and "redshift" not in self.header:
            self.header["redshift"] = redshift

    def _astropy(self) -> Any:
        if self._opened is None:
            self._opened = fits.open(
                self._handle, memmap=False, lazy_load_hdus=True, do_not_scale_image_data=True
            )
        return self._opened

    def _planes_of(self, hdu: Hdu) -> list[Plane]:
        if hdu.is_compressed_image:
            return [self._compressed(hdu)]
        if hdu.is_image:
            return self._image(hdu)
        if hdu.is_table:
            return self._table(hdu)
        return []

    def _image(self, hdu: Hdu) -> list[Plane]:
        lengths = axis_lengths(self.path, hdu.header)
        if not lengths:
            return []
        if 0 in lengths:
            raise InvalidGeometryError(
                self.path,
                f"HDU {hdu.index} declares axes {lengths}, which hold no samples",
                "remove the empty image or export the data again",
            )
        bitpix = hdu.header["BITPIX"]
        scaling, warning = scaling_from_header(self.path, hdu.header, bitpix)
        if warning:
            self.warn(warning)

        def source(plane: Plane, window: Window) -> NDArray[Any]:
            return scaling.apply(self._raw_window(hdu, scaling, plane, window))

        return [self._plane(hdu, hdu.header, tuple(reversed(lengths)), scaling, source)]

    def _compressed(self, hdu: Hdu) -> Plane:
        image = CompressedImage(self.path, hdu, lambda: self._astropy()[hdu.index], self._limits)
        header = image.image_header
        scaling, warning = scaling_from_header(self.path, header, image.bitpix)
        if warning:
            self.warn(warning)

        def source(plane: Plane, window: Window) -> NDArray[Any]:
            return scaling.apply(image.window(window))

        return self._plane(hdu, header, image.shape, scaling, source)

    def _table(self, hdu: Hdu) -> list[Plane]:
        columns = spectrum_columns(self.path, hdu, lambda: self._astropy()[hdu.index])
        planes = []
        for column in columns:
            name = self._names.claim(column.name)

            def source(plane: Plane, window: Window, column: Any = column) -> NDArray[Any]:
                rows = read_rows(self._handle.fileno(), hdu, column, window.x0, window.x1)
                return np.expand_dims(column.scaling.apply(rows), 0)

            planes.append(
                Plane(
                    name=name,
                    kind=column.kind,
                    shape=(1, 1, column.rows),
                    dtype=column.scaling.dtype,
                    unit=column.unit,
                    header=_header_values(self, hdu.header),
                )
            )
            self._sources[name] = source
        if not planes:
            self._note_object(hdu)
        return planes

    def _note_object(self, hdu: Hdu) -> None:
        """Copy redshift and class from the table that SDSS puts beside a spectrum."""
        if str(hdu.header.get("EXTNAME", "")).strip().upper() == "SPECOBJ":
            self.header.update(object_class(hdu, lambda: self._astropy()[hdu.index]))

    def _plane(
        self,
        hdu: Hdu,
        header: Any,
        axes: tuple[int, ...],
        scaling: Scaling,
        source: _Source,
    ) -> Plane:
        extension = str(header.get("EXTNAME", "")).strip()
        if extension.upper() == "COMPRESSED_IMAGE":
            extension = ""
        name = self._names.claim(extension or ("primary" if hdu.index == 0 else f"hdu{hdu.index}"))
        self._sources[name] = source
        coordinates = read_wcs(header)
        for note in coordinates.warnings:
            self.warn(f"{name}: {note}")
        unit = str(header.get("BUNIT") or "").strip()
        return Plane(
            name=name,
            kind=self._kind(header, extension, axes, scaling.dtype),
            shape=flattened(self.path, axes),
            dtype=scaling.dtype,
            unit=unit or None,
            wcs=coordinates.text,
            pixel_scale_arcsec=coordinates.pixel_scale_arcsec,
            header=_header_values(self, header),
        )

    def _kind(
        self, header: Any, extension: str, axes: tuple[int, ...], dtype: np.dtype[Any]
    ) -> PlaneKind:
        primary = self._hdus[0].header
        names = [extension]
        names += [
            str(source.get(key, "")) for source in (header, primary) for key in _PRODUCT_CARDS
        ]
        names.append(self.path.name)
        told = kind_from_names(names, dtype)
        return told or ("spectrum" if len(axes) == 1 else "image")

    def _raw_window(self, hdu: Hdu, scaling: Scaling, plane: Plane, window: Window) -> NDArray[Any]:
        """Read the stored big-endian samples of a window without mapping the file."""
        _, height, width = plane.shape
        rows, columns = window.y1 - window.y0, window.x1 - window.x0
        size = scaling.stored.itemsize
        samples = np.empty((rows, columns), scaling.stored.newbyteorder(">"))
        target = samples.view(np.uint8).reshape(-1).data
        first = (window.channel * height + window.y0) * width + window.x0
        start = hdu.data_offset + first * size
        if columns == width:
            read_exactly(self._handle.fileno(), target, start)
            return samples
        span = columns * size
        for row in range(rows):
            piece = target[row * span : (row + 1) * span]
            read_exactly(self._handle.fileno(), piece, start + row * width * size)
        return samples

    def _read(self, plane: Plane, window: Window) -> NDArray[Any]:
        return self._sources[plane.name](plane, window)

    def verify_checksums(self) -> ChecksumReport:
        """Compare every DATASUM and CHECKSUM with the content, in constant memory.

        Raises
        ------
        ChecksumMismatchError
            If one disagrees.
        """
        return ChecksumReport(sum(verify_hdu(self.path, self._handle, hdu) for hdu in self._hdus))

    def close(self) -> None:
        """Release the file."""
        self._sources.clear()
        if self._opened is not None:
            self._opened.close()
            self._opened = None
        self._handle.close()
