"""World coordinates of a FITS header, or the reason there are none.

Belongs here: turning header cards into a clean WCS header text and a pixel scale.
Does not belong here: use of the coordinates.
"""

import re
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales

__all__ = ["HeaderWcs", "read_wcs"]

_TABLE_CARD = re.compile(r"(CPDIS|CPERR|D2IMDIS|D2IMERR|CQDIS|CQERR|DP|DQ)[0-9]|AXISCORR")


@dataclass(frozen=True)
class HeaderWcs:
    """World coordinates of one plane.

    Attributes
    ----------
    text
        80-column header cards with nothing but the WCS, or ``None``.
    pixel_scale_arcsec
        Mean over the two celestial axes, or ``None``.
    warnings
        What was wrong or left out.
    """

    text: str | None
    pixel_scale_arcsec: float | None
    warnings: tuple[str, ...]


def read_wcs(header: Any) -> HeaderWcs:
    """Extract celestial and spectral coordinates.

    Parameters
    ----------
    header
        `astropy.io.fits.Header` of an image.

    Returns
    -------
    HeaderWcs
        Without a text when the header has no usable celestial or spectral axis; a broken WCS
        is a warning, never an error.
    """
    if not any(header.get(f"CTYPE{axis}") for axis in (1, 2, 3)):
        return HeaderWcs(None, None, ())
    notes: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            text, scale = _convert(header, notes)
        except Exception as error:  # wcslib reports damage through many types
            notes.append(f"the WCS is unusable: {error}")
            text, scale = None, None
    return HeaderWcs(text, scale, (*notes, *(str(item.message) for item in caught)))


def _convert(header: Any, notes: list[str]) -> tuple[str | None, float | None]:
    tables = sorted({key for key in header if _TABLE_CARD.match(key)})
    if tables:
        # Look-up tables live in other HDUs and cannot travel in a header text.
        notes.append("the WCS distortion look-up tables are left out")
        header = header.copy()
        for key in tables:
            header.remove(key, ignore_missing=True, remove_all=True)
    wcs = WCS(header)
    if not (wcs.has_celestial or wcs.has_spectral):
        return None, None
    scale = None
    if wcs.has_celestial:
        mean = float(np.mean(proj_plane_pixel_scales(wcs.celestial))) * 3600.0
        scale = mean if np.isfinite(mean) and mean > 0 else None
    text = wcs.to_header(relax=True).tostring(sep="", endcard=False, padding=False)
    return text, scale
