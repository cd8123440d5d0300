"""A file in DESI's format: three arms, linear in wavelength, with matrices of resolution."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray
from scipy.special import ndtr

RANGES = {"B": (3600.0, 5800.0), "R": (5760.0, 7620.0), "Z": (7520.0, 9824.0)}
STEP = 0.8
# Standard deviation of the optics' line spread [Angstrom]; resolving power 2100 to 5400.
SPREAD = {"B": 0.70, "R": 0.62, "Z": 0.72}
_REACH = 5

Light = Callable[[str, NDArray[np.float64]], NDArray[np.float64]]


def wavelengths(arm: str) -> NDArray[np.float64]:
    return np.arange(*RANGES[arm], STEP)


def resolution(arm: str, *, spread: float | None = None) -> NDArray[np.float32]:
    """Diagonals +5 to -5: how light of one wavelength falls on the pixels around."""
    offset = np.arange(_REACH, -_REACH - 1, -1)[:, None] * np.ones(len(wavelengths(arm)))
    sigma = (SPREAD[arm] if spread is None else spread) / STEP
    return (ndtr((offset + 0.5) / sigma) - ndtr((offset - 0.5) / sigma)).astype(np.float32)


def write_desi(
    path: Path,
    flux: dict[str, NDArray[np.float64]],
    ivar: dict[str, NDArray[np.float64]],
    *,
    masks: dict[str, NDArray[np.int32]] | None = None,
    objects: Sequence[str] = (),
    unit: str = "10**-17 erg/(s cm2 Angstrom)",
    spread: float | None = None,
) -> Path:
    """Spectra in rows, target identifiers from 7 on."""
    hdus = [fits.PrimaryHDU()]
    for arm in RANGES:
        count = len(flux[arm])
        bands = np.repeat(resolution(arm, spread=spread)[None], count, axis=0)
        mask = np.zeros(flux[arm].shape, np.int32) if masks is None else masks[arm]
        hdus += [
            fits.ImageHDU(wavelengths(arm), name=f"{arm}_WAVELENGTH"),
            fits.ImageHDU(flux[arm].astype(np.float32), name=f"{arm}_FLUX"),
            fits.ImageHDU(ivar[arm].astype(np.float32), name=f"{arm}_IVAR"),
            fits.ImageHDU(mask, name=f"{arm}_MASK"),
            fits.ImageHDU(bands, name=f"{arm}_RESOLUTION"),
        ]
        hdus[-4].header["BUNIT"] = unit
    count = len(flux["B"])
    columns = [fits.Column("TARGETID", "K", array=np.arange(7, 7 + count))]
    if objects:
        columns.append(fits.Column("OBJTYPE", "3A", array=np.array(objects)))
    hdus.append(fits.BinTableHDU.from_columns(columns, name="FIBERMAP"))
    fits.HDUList(hdus).writeto(path)
    return path


def write_redshifts(
    path: Path,
    targets: Sequence[int],
    z: Sequence[float],
    kinds: Sequence[str],
    warn: Sequence[int],
) -> None:
    columns = [
        fits.Column("TARGETID", "K", array=np.array(targets)),
        fits.Column("Z", "D", array=np.array(z)),
        fits.Column("ZWARN", "K", array=np.array(warn)),
        fits.Column("SPECTYPE", "6A", array=np.array(kinds)),
    ]
    table = fits.BinTableHDU.from_columns(columns, name="REDSHIFTS")
    fits.HDUList([fits.PrimaryHDU(), table]).writeto(path)
