"""Line widths of sealed SDSS spectra, read from their tiles.

Belongs here: which planes and flags of an SDSS spectrum mean what, and which of our measurements
are the catalogue's quantities. Does not belong here: the line fit (`acie_pipelines.physics.lines`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.errors import IntegrityError
from acie_pipelines.observations.spectra import SDSS_BAD_PIXEL
from acie_pipelines.physics.constants import LINE_WAVELENGTHS_ANGSTROM
from acie_pipelines.physics.lines import measure_equivalent_widths
from acie_pipelines.provenance import Manifest, read_manifest
from acie_pipelines.storage import Store
from acie_pipelines.tiling.reading import iter_tiles

__all__ = ["MEASURED_LINES", "SealedSpectrum", "holds_spectrum", "measure_sealed", "require_seal"]

_PLANES: Final = ("flux", "ivar", "loglam", "and_mask")

MEASURED_LINES: Final = tuple(n for n in LINE_WAVELENGTHS_ANGSTROM if not n.startswith("h_"))
"""Our Balmer widths are net of stellar absorption, the catalogue's are corrected for it: other
quantities (H alpha differs by about 2 Angstrom), so they are left missing."""


@dataclass(frozen=True)
class SealedSpectrum:
    """What one sealed observation adds to the table.

    Attributes
    ----------
    key
        Observation key.
    tiles, ciphertexts
        Manifests it was read from.
    widths
        Node name to equivalent width [Angstrom]; NaN where not measured.
    reason
        Why it adds nothing; empty if it adds a row.
    """

    key: str
    tiles: Manifest
    ciphertexts: Manifest
    widths: Mapping[str, float]
    reason: str


def holds_spectrum(tiles: Manifest) -> bool:
    """Whether the planes are those of an SDSS spectrum."""
    return set(_PLANES) <= {plane["name"] for plane in tiles.attributes["planes"]}


def require_seal(tiles: Manifest, ciphertexts: Manifest) -> None:
    """Refuse tiles that were not encrypted.

    Raises
    ------
    IntegrityError
        If the ciphertexts were not made from just these tiles.
    """
    sources = {(ref.kind, ref.key, ref.digest) for ref in ciphertexts.inputs}
    if ciphertexts.kind != "ciphertexts" or (tiles.kind, tiles.key, tiles.digest) not in sources:
        raise IntegrityError(
            f"{tiles.kind}/{tiles.key}",
            "is not sealed: its ciphertexts were made from other tiles",
            "encrypt and archive the observation first",
        )


def _plane(store: Store, tiles: Manifest, name: str) -> NDArray[np.float64]:
    """All samples of a one-dimensional plane, each tile checked against its hash."""
    parts = sorted(
        ((tile.x0, pixels[0]) for tile, pixels in iter_tiles(store, tiles, name)),
        key=lambda part: part[0],
    )
    return np.concatenate([samples for _, samples in parts]).astype(np.float64)


def measure_sealed(
    store: Store, sealed: Sequence[tuple[Manifest, Manifest]]
) -> list[SealedSpectrum]:
    """Measure galaxy spectra.

    Parameters
    ----------
    store
        Where datasets live.
    sealed
        Pairs (tiles, ciphertexts) for which `holds_spectrum` and `require_seal` hold.

    Raises
    ------
    IntegrityError
        If tiles do not match their manifest.
    """
    found = []
    for tiles, ciphertexts in sealed:
        source = tiles.inputs[0]
        observation = read_manifest(store, source.kind, source.key, source.generation)
        redshift = observation.attributes.get("redshift")
        widths = dict.fromkeys(MEASURED_LINES, float("nan"))
        if observation.attributes.get("class", "GALAXY") != "GALAXY":
            reason = "is not a galaxy"
        elif not isinstance(redshift, float) or not 0.0 < redshift < 1.0:
            reason = "states no usable redshift"
        else:
            flux, ivar, loglam, flags = (_plane(store, tiles, name) for name in _PLANES)
            bad = (flags.astype(np.int64) & SDSS_BAD_PIXEL) != 0
            measured = measure_equivalent_widths(10.0**loglam, flux, ivar, redshift, bad)
            widths = {name: measured[name][0] for name in MEASURED_LINES}
            reason = "" if np.isfinite(list(widths.values())).any() else "no line is covered"
        found.append(SealedSpectrum(tiles.key, tiles, ciphertexts, widths, reason))
    return found
