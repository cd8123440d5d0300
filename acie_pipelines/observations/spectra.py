"""One galaxy's spectrum out of a file, whichever survey wrote it.

Belongs here: which planes of an SDSS, DESI or simulated file are flux, inverse variance and mask,
and in what units. Does not belong here: the file formats themselves, or any other wavelength grid.

All these surveys state wavelengths in vacuum.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.errors import FormatMismatchError, InvalidGeometryError, ObservationError
from acie_pipelines.observations.base import Reader, decoding_errors
from acie_pipelines.observations.line_spread import spread_of_resolution
from acie_pipelines.observations.model import Window
from acie_pipelines.observations.opening import open_observation
from acie_pipelines.simulation.container import open_container

if TYPE_CHECKING:
    from acie_pipelines.observations.model import Plane

__all__ = ["SDSS_BAD_PIXEL", "Arm", "ObservedSpectrum", "read_spectrum"]

_FLUX_UNIT: Final = "1e-17 erg / (s cm2 Angstrom)"
_SIMULATED: Final = "acie.simulation/"
_ARMS: Final = ("B", "R", "Z")
SDSS_BAD_PIXEL: Final = (1 << 18) | (1 << 22) | (1 << 23) | (1 << 24)
"""Flags of SPPIXMASK that make a pixel useless: FULLREJECT, NOSKY, BRIGHTSKY, NODATA."""

_Planes = Mapping[str, "Plane"]


@dataclass(frozen=True)
class Arm:
    """Samples of one spectrograph.

    Attributes
    ----------
    wavelength_angstrom
        Centres of the pixels in vacuum, rising, shape ``(pixels,)``.
    flux
        [1e-17 erg/s/cm2/Angstrom].
    ivar
        Inverse variance of the flux; zero marks a pixel as missing.
    spread_angstrom
        Standard deviation of the line-spread function, with the pixel in it; ``None`` where the
        sharpness is taken to be the model's.
    """

    wavelength_angstrom: NDArray[np.float64]
    flux: NDArray[np.float64]
    ivar: NDArray[np.float64]
    spread_angstrom: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class ObservedSpectrum:
    """A galaxy's light as observed.

    Attributes
    ----------
    name
        Of the file, and the row in it if there are several.
    survey
        ``SDSS``, ``DESI`` or ``simulation``.
    arms
        One or more, in the order of wavelength; they may overlap.
    redshift
        As the survey states it; ``None`` if it does not.
    """

    name: str
    survey: str
    arms: tuple[Arm, ...]
    redshift: float | None


def read_spectrum(path: Path, *, row: int = 0) -> ObservedSpectrum:
    """Read an SDSS ``spec`` file, a DESI ``coadd`` or ``spectra`` file, or simulated galaxies.

    Parameters
    ----------
    path
        FITS, or HDF5 or Zarr written by ``acie simulate``.
    row
        Which spectrum of a file with several, from 0.

    Raises
    ------
    FormatMismatchError
        If the file holds no such spectrum.
    InvalidGeometryError
        If there is no such row, or arrays do not belong together.
    ObservationError
        If the file is damaged, or the object is a star or a quasar.
    """
    with open_observation(path) as reader:
        planes = {plane.name.lower(): plane for plane in reader.planes}
        if {"flux", "ivar", "loglam"} <= planes.keys():
            found = _sdss(reader, planes, row)
        elif all(f"{arm.lower()}_flux" in planes for arm in _ARMS):
            found = _desi(reader, planes, row)
        elif str(reader.header.get("schema", "")).startswith(_SIMULATED):
            found = _simulated(path, row)
        else:
            raise FormatMismatchError(
                path,
                f"holds no spectrum (its planes are {', '.join(list(planes)[:6])})",
                "give an SDSS spec file, a DESI coadd or spectra file, or one of acie simulate",
            )
    for arm in found.arms:
        _check(path, arm)
    if not any((arm.ivar > 0).any() for arm in found.arms):
        raise ObservationError(
            path, f"row {row} has no valid pixel", "choose another spectrum: every ivar is zero"
        )
    return found


def _line(reader: Reader, plane: "Plane", row: int) -> NDArray[np.float64]:
    depth, height, width = plane.shape
    if depth != 1 or not 0 <= row < height:
        raise InvalidGeometryError(
            reader.path,
            f"{plane.name} has {height} rows, row {row} was asked for",
            f"choose a row from 0 to {height - 1}",
        )
    samples: NDArray[np.float64] = reader.read(plane, Window(0, row, row + 1, 0, width))[0].astype(
        np.float64
    )
    return samples


def _scale(path: Path, unit: str | None) -> float:
    """Find the factor that turns a flux density in this unit into the common one."""
    import astropy.units as u

    try:
        return float(u.Unit(unit or _FLUX_UNIT).to(u.Unit(_FLUX_UNIT)))
    except (ValueError, TypeError) as error:
        raise ObservationError(
            path, f"has fluxes in {unit!r}", "give flux per wavelength, as erg/s/cm2/Angstrom"
        ) from error


def _arm(
    wavelength: NDArray[np.float64],
    flux: NDArray[np.float64],
    ivar: NDArray[np.float64],
    bad: NDArray[np.bool_],
    scale: float,
    spread: NDArray[np.float64] | None = None,
) -> Arm:
    usable = np.isfinite(flux) & np.isfinite(ivar) & (ivar > 0) & ~bad
    return Arm(
        wavelength,
        np.where(usable, flux * scale, 0.0),
        np.where(usable, ivar / scale**2, 0.0),
        spread,
    )


def _sdss(reader: Reader, planes: _Planes, row: int) -> ObservedSpectrum:
    kind = reader.header.get("class", "GALAXY")
    if kind != "GALAXY":
        raise ObservationError(reader.path, f"is a {kind}", "give the spectrum of a galaxy")
    flux, ivar, loglam = (_line(reader, planes[n], row) for n in ("flux", "ivar", "loglam"))
    bad = np.zeros(len(flux), dtype=np.bool_)
    if "and_mask" in planes:
        bad = (_line(reader, planes["and_mask"], row).astype(np.int64) & SDSS_BAD_PIXEL) != 0
    scale = _scale(reader.path, planes["flux"].unit)
    redshift = reader.header.get("redshift")
    return ObservedSpectrum(
        reader.path.name,
        "SDSS",
        (_arm(10.0**loglam, flux, ivar, bad, scale),),
        float(redshift) if isinstance(redshift, float) else None,
    )


def _desi(reader: Reader, planes: _Planes, row: int) -> ObservedSpectrum:
    redshift = _desi_redshift(reader.path, row)
    arms = []
    for arm in _ARMS:
        wave, flux, ivar, resolution = (
            planes.get(f"{arm}_{name}".lower())
            for name in ("WAVELENGTH", "FLUX", "IVAR", "RESOLUTION")
        )
        if wave is None or flux is None or ivar is None or resolution is None:
            raise FormatMismatchError(
                reader.path,
                f"lacks a part of arm {arm}",
                "give the whole coadd file: wavelength, flux, ivar and resolution",
            )
        mask = planes.get(f"{arm}_mask".lower())
        bad = np.zeros(flux.shape[2], dtype=np.bool_)
        if mask is not None:
            bad = _line(reader, mask, row) != 0
        wavelength = _line(reader, wave, 0)
        arms.append(
            _arm(
                wavelength,
                _line(reader, flux, row),
                _line(reader, ivar, row),
                bad,
                _scale(reader.path, flux.unit),
                _desi_spread(reader, resolution, row, wavelength),
            )
        )
    return ObservedSpectrum(f"{reader.path.name}[{row}]", "DESI", tuple(arms), redshift)


def _desi_spread(
    reader: Reader, plane: "Plane", row: int, wavelength: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Width of the line-spread function; every spectrum has its own matrix."""
    depth, diagonals, width = plane.shape
    if not 0 <= row < depth or width != len(wavelength):
        raise InvalidGeometryError(
            reader.path,
            f"{plane.name} has shape {plane.shape}, which is not that of the spectra",
            "obtain an undamaged copy",
        )
    bands = reader.read(plane, Window(row, 0, diagonals, 0, width)).astype(np.float64)
    return spread_of_resolution(bands, wavelength)


def _desi_redshift(path: Path, row: int) -> float | None:
    """Redshift from the ``redrock`` file that DESI puts beside its spectra, if it is there.

    Raises
    ------
    ObservationError
        If the fibre saw the sky, or redrock found a star or a quasar.
    """
    from astropy.io import fits

    with decoding_errors(path, "the table of targets"), fits.open(path) as spectra:
        if "FIBERMAP" not in spectra:
            return None
        fibres: Any = spectra["FIBERMAP"].data
        if not 0 <= row < len(fibres):
            return None  # The planes say how many there are.
        target = int(fibres["TARGETID"][row])
        seen = str(fibres["OBJTYPE"][row]) if "OBJTYPE" in fibres.names else ""
    if seen == "SKY":
        raise ObservationError(path, f"row {row} is a fibre on the sky", "choose another row")
    stem = re.sub("^(coadd|spectra)-", "redrock-", path.name)
    companion = path.with_name(stem)
    if stem == path.name or not companion.exists():
        return None
    with decoding_errors(companion, "the redshift table"), fits.open(companion) as redshifts:
        table: Any = redshifts["REDSHIFTS"].data
        rows = np.flatnonzero((table["TARGETID"] == target) & (table["ZWARN"] == 0))
        if not len(rows):
            return None
        kind = str(table["SPECTYPE"][rows[0]]).strip()
        redshift = float(table["Z"][rows[0]])
    if kind != "GALAXY":
        raise ObservationError(path, f"row {row} is a {kind}", "give the spectrum of a galaxy")
    return redshift


def _simulated(path: Path, row: int) -> ObservedSpectrum:
    with open_container(path) as file:
        count = file.shape("spectra/flux")[0]
        if not 0 <= row < count:
            raise InvalidGeometryError(
                path, f"holds {count} galaxies, row {row} was asked for", "choose another row"
            )
        flux, ivar = (
            file.rows(f"spectra/{name}", row, row + 1)[0].astype(np.float64)
            for name in ("flux", "ivar")
        )
        wavelength = file.rows("wavelength", 0, len(flux)).astype(np.float64)
        redshift = float(file.rows("galaxies/redshift", row, row + 1)[0])
    bad = np.zeros(len(flux), dtype=np.bool_)
    arm = _arm(wavelength, flux, ivar, bad, 1.0)
    return ObservedSpectrum(f"{path.name}[{row}]", "simulation", (arm,), redshift)


def _check(path: Path, arm: Arm) -> None:
    wavelength = arm.wavelength_angstrom
    if not len(wavelength) == len(arm.flux) == len(arm.ivar) or len(wavelength) < 2:
        raise InvalidGeometryError(
            path, "has flux, ivar and wavelength of different lengths", "obtain an undamaged copy"
        )
    if not (
        np.isfinite(wavelength).all() and wavelength[0] > 0 and (np.diff(wavelength) > 0).all()
    ):
        raise InvalidGeometryError(
            path, "has wavelengths that do not rise", "obtain an undamaged copy"
        )
