"""How an observation's tiles will be encrypted: packing of each plane, and groups of tiles.

Belongs here: everything that follows from the tiles' manifest and the public key alone, so that
every process that works on a dataset comes to the same plan.
Does not belong here: reading or writing samples (`tile_encryption`).
"""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from acie_pipelines.crypto.keys import PaillierPublicKey
from acie_pipelines.crypto.packing import (
    DEFAULT_ADDITIONS,
    MAXIMUM_SLOT_BITS,
    PackingLayout,
    choose_fractional_bits,
    layout_for,
    rows_for_bits,
    value_bits_for,
)
from acie_pipelines.errors import CryptoError
from acie_pipelines.provenance import Manifest
from acie_pipelines.tiling.reading import Tile, tiles_of

__all__ = ["EncryptionPlan", "PlanePlan", "plan_encryption"]

# A step that starts a process, or a pod, should have a minute's work to do; more of it would be
# lost when the step is killed.
_GROUP_CORE_SECONDS = 60.0
# One core with AVX-512 IFMA encrypts about 5,000 plaintexts a second under a 3072-bit key, and time
# grows with the power 2.6 of the key's length (`acie bench crypto`).
_CIPHERTEXTS_PER_SECOND = 5000.0
_REFERENCE_BITS = 3072
_EXPONENT = 2.6


@dataclass(frozen=True)
class PlanePlan:
    """How one plane will be encrypted.

    Attributes
    ----------
    record
        The plane in the tiles' manifest.
    layout
        Packing and scale of its values.
    has_validity
        Whether bits that tell valid from invalid samples are encrypted beside the values.
    key_bits
        Size of the public key.
    """

    record: dict[str, Any]
    layout: PackingLayout
    has_validity: bool
    key_bits: int

    @property
    def name(self) -> str:
        """Name of the plane."""
        return str(self.record["name"])

    def describe(self) -> dict[str, Any]:
        """Describe the plane for the manifest of the ciphertexts."""
        public = ("name", "kind", "shape", "dtype", "unit")
        return {field: self.record[field] for field in public} | {
            "layout": self.layout.to_json(),
            "has_validity": self.has_validity,
        }

    def rows(self, tile: Tile) -> int:
        """Ciphertexts that a tile's values take."""
        return self.layout.rows((tile.y1 - tile.y0) * (tile.x1 - tile.x0))

    def validity_rows(self, tile: Tile) -> int:
        """Ciphertexts that a tile's validity bits take."""
        if not self.has_validity:
            return 0
        return rows_for_bits((tile.y1 - tile.y0) * (tile.x1 - tile.x0), self.key_bits)


@dataclass(frozen=True)
class EncryptionPlan:
    """How a dataset will be encrypted.

    Attributes
    ----------
    tiles
        Dataset of kind ``tiles``.
    public_key
        Key of the future reader.
    planes
        By name, in the dataset's order.
    groups
        Ranges ``(first, stop)`` of tiles in storage order, none empty, together all of them.
    """

    tiles: Manifest
    public_key: PaillierPublicKey
    planes: dict[str, PlanePlan]
    groups: tuple[tuple[int, int], ...]


def plan_encryption(tiles: Manifest, public_key: PaillierPublicKey) -> EncryptionPlan:
    """Choose a layout for every plane and cut the tiles into groups of about equal work.

    Parameters
    ----------
    tiles
        Dataset of kind ``tiles``.
    public_key
        Key of the future reader.

    Raises
    ------
    CryptoError
        If a plane needs more than 62 bits per value, or has a dtype that cannot be encrypted.
    """
    planes = {
        record["name"]: PlanePlan(
            record,
            _layout(record, tuple(tiles_of(tiles, record["name"])), public_key.bits),
            np.dtype(record["dtype"]).kind == "f",
            public_key.bits,
        )
        for record in tiles.attributes["planes"]
    }
    costs = [
        planes[tile.plane].rows(tile) + planes[tile.plane].validity_rows(tile)
        for tile in tiles_of(tiles)
    ]
    rate = _CIPHERTEXTS_PER_SECOND * (_REFERENCE_BITS / public_key.bits) ** _EXPONENT
    return EncryptionPlan(tiles, public_key, planes, _groups(costs, _GROUP_CORE_SECONDS * rate))


def _groups(costs: list[int], least: float) -> tuple[tuple[int, int], ...]:
    """Cut a sequence into runs that cost at least so much each, as equally as whole tiles allow."""
    share = sum(costs) / max(1, int(sum(costs) // least))
    groups: list[tuple[int, int]] = []
    first, done = 0, 0
    for number, cost in enumerate(costs, start=1):
        done += cost
        if done >= share * (len(groups) + 1) * (1 - 1e-9) or number == len(costs):
            groups.append((first, number))
            first = number
    return tuple(groups)


def _layout(record: dict[str, Any], tiles: Iterable[Tile], key_bits: int) -> PackingLayout:
    name, dtype = record["name"], np.dtype(record["dtype"])
    if dtype.kind in "iub" and dtype.itemsize < 8:
        return layout_for(dtype, key_bits=key_bits)
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise CryptoError(
            f"plane {name!r}",
            f"samples of dtype {dtype} cannot be encrypted",
            "store integers or floats of up to 64 bits",
        )
    measured = [tile.statistics for tile in tiles]
    extremes = [
        abs(found[field])
        for found in measured
        for field in ("minimum", "maximum")
        if found[field] is not None
    ]
    max_abs = max(extremes, default=0.0)
    fractional_bits = 0
    if dtype.kind == "f":
        noise = [found["background_rms"] for found in measured if found["background_rms"]]
        fractional_bits = choose_fractional_bits(statistics.median(noise or [0.0]), max_abs)
        if record["kind"] != "image":
            # What scatters along a wavelength grid or a weight map is not noise.
            fractional_bits = max(fractional_bits, choose_fractional_bits(0.0, max_abs))
    value_bits = value_bits_for(max_abs, fractional_bits)
    # Wide values leave fewer guard bits; the layout says how many, and every sum is held to it.
    guard_bits = min(DEFAULT_ADDITIONS.bit_length(), max(1, MAXIMUM_SLOT_BITS - value_bits))
    return layout_for(
        value_bits,
        key_bits=key_bits,
        additions=(1 << guard_bits) - 1,
        fractional_bits=fractional_bits,
    )
