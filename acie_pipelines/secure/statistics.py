"""Statistics of encrypted tiles, computed with the public key and read with the private one.

Belongs here: sums, means and flux of planes, and the ``encrypted_statistics`` dataset, made in
units of tiles that any worker can do.
Does not belong here: images made of images (`encrypted_images`), the sums themselves
(`acie_pipelines.crypto.totals`).

Every result is exact: it equals the same sum of the fixed-point integers that were encrypted, at
the scale it states. Slots of a packed ciphertext can be scaled by one number only, so weights are
per tile or per epoch; per-pixel weights need `acie_pipelines.crypto.packing.unpacked_layout`,
whose tensors multiply by arrays, and packed tensors refuse them.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.crypto.cipher_planes import (
    CipherPlane,
    check_key,
    cipher_plane,
    public_key_of,
    verified_rows,
)
from acie_pipelines.crypto.cipher_rows import ciphertext_rows, row_range
from acie_pipelines.crypto.kept import check_ciphertexts
from acie_pipelines.crypto.keys import PaillierPrivateKey, PaillierPublicKey
from acie_pipelines.crypto.packing import PackingLayout, unpack_bits
from acie_pipelines.crypto.plaintexts import exact_weights
from acie_pipelines.crypto.totals import (
    EncryptedTotal,
    fixed_point_tile_totals,
    homomorphic_total,
    tile_total,
)
from acie_pipelines.errors import IntegrityError
from acie_pipelines.provenance import Generation, Manifest, Output
from acie_pipelines.secure.batches import Recipe, Work, input_of
from acie_pipelines.secure.queue_tables import Lease
from acie_pipelines.secure.tasks import Progress
from acie_pipelines.storage import Store

__all__ = [
    "KIND",
    "EncryptedMean",
    "TileSums",
    "check_coverage",
    "differing_planes",
    "do_unit",
    "encrypted_mean",
    "read_sums",
    "statistics_work",
]

KIND = "encrypted_statistics"
# A tile of 1024 x 1024 pixels is read and summed in some tenths of a second.
_TILES_PER_UNIT = 128
_PLACE = ("plane", "channel", "y0", "y1", "x0", "x1")


def check_coverage(ciphertexts: Manifest, plane: str) -> None:
    """Make sure that the tiles of a plane hold each of its pixels once, by global coordinates.

    Sums over tiles are the flux of the observation only if they do.

    Raises
    ------
    IntegrityError
        If tiles overlap, leave gaps or lie outside.
    """
    (shape,) = (p["shape"] for p in ciphertexts.attributes["planes"] if p["name"] == plane)
    tiles = cipher_plane(ciphertexts, plane).tiles
    area = sum((tile.y1 - tile.y0) * (tile.x1 - tile.x0) for tile in tiles)
    inside = all(
        0 <= tile.channel < shape[0]
        and 0 <= tile.y0 < tile.y1 <= shape[1]
        and 0 <= tile.x0 < tile.x1 <= shape[2]
        for tile in tiles
    )
    # Of equal area and with no pixel twice, none is missing. Bands of tiles are compared, then the
    # tiles of each band.
    bands = {(tile.channel, tile.y0, tile.y1) for tile in tiles}
    separate = _disjoint((channel, y0, y1) for channel, y0, y1 in bands) and all(
        _disjoint(
            (0, tile.x0, tile.x1) for tile in tiles if (tile.channel, tile.y0, tile.y1) == band
        )
        for band in bands
    )
    if not (inside and separate and area == shape[0] * shape[1] * shape[2]):
        raise IntegrityError(
            f"{ciphertexts.prefix}/{plane}",
            "its tiles do not hold every pixel once",
            "materialise the tiles and the ciphertexts again",
        )


def _disjoint(intervals: Iterable[tuple[int, int, int]]) -> bool:
    """Whether no two intervals of one group overlap; each is a group, a start and an end."""
    ordered = sorted(intervals)
    return all(a[0] != b[0] or a[2] <= b[1] for a, b in pairwise(ordered))


@dataclass(frozen=True, eq=False)
class EncryptedMean:
    """Weighted mean of a plane's valid samples: numerator and denominator, encrypted.

    Attributes
    ----------
    total
        Weighted sum of the samples.
    validity
        Per tile its validity bits, re-randomised; ``None`` where every sample is valid.
    pixels
        Samples per tile.
    weights
        Weight of each tile, as an exact fraction.
    """

    total: EncryptedTotal
    validity: tuple[NDArray[np.uint64] | None, ...]
    pixels: tuple[int, ...]
    weights: tuple[Fraction, ...]

    def decrypt(self, private_key: PaillierPrivateKey) -> Fraction:
        """Decrypt to the exact mean.

        Raises
        ------
        CryptoError
            See `EncryptedTotal.decrypt`.
        IntegrityError
            If no sample of weight is valid.
        """
        scale = Fraction(2) ** -self.total.layout.fractional_bits
        total = self.total.decrypt(private_key) * scale
        count = Fraction(0)
        for bits, pixels, weight in zip(self.validity, self.pixels, self.weights, strict=True):
            valid = pixels
            if bits is not None and weight:
                check_ciphertexts(bits, self.total.public_key)
                plain = private_key.context.decrypt(bits)
                key_bits = private_key.public_key.bits
                valid = int(unpack_bits(plain, pixels, key_bits=key_bits).sum())
            count += weight * valid
        if count == 0:
            raise IntegrityError("encrypted mean", "is over no valid sample", "choose other tiles")
        return total / count


def encrypted_mean(
    store: Store,
    ciphertexts: Manifest,
    plane: str,
    public_key: PaillierPublicKey,
    *,
    weights: Sequence[float] | NDArray[Any] | None = None,
) -> EncryptedMean:
    """Compute the mean of a plane under encryption, weighted per tile if wanted.

    Invalid samples count neither in the sum nor in the number; which they are stays encrypted.

    Parameters
    ----------
    store, ciphertexts, plane, public_key, weights
        See `acie_pipelines.crypto.totals.homomorphic_total`.
    """
    total = homomorphic_total(store, ciphertexts, plane, public_key, weights=weights)
    encrypted = cipher_plane(ciphertexts, plane)
    tiles = encrypted.tiles
    integers, bits = exact_weights(np.ones(len(tiles), np.int64) if weights is None else weights)
    validity: list[NDArray[np.uint64] | None] = []
    for tile in tiles:
        if not encrypted.has_validity:
            validity.append(None)
            continue
        rows = encrypted.read_rows(store, ciphertexts, tile, validity=True)
        check_ciphertexts(rows, public_key)
        validity.append(public_key.context.rerandomise(rows))
    return EncryptedMean(
        total,
        tuple(validity),
        tuple(tile.shape[0] * tile.shape[1] for tile in tiles),
        tuple(Fraction(int(weight), 1 << bits) for weight in integers),
    )


def statistics_work(ciphertexts: Manifest, code_version: str) -> Work:
    """Plan the sums of every tile of every plane of an observation.

    The dataset of kind ``encrypted_statistics`` has one output per tile, its sum in re-randomised
    ciphertexts; attributes are ``planes`` (name, unit, layout) and, in the order of the
    ciphertexts, ``tiles``: plane, place, and how many rows each ciphertext of the sum adds up.

    Parameters
    ----------
    ciphertexts
        Dataset of kind ``ciphertexts``.
    code_version
        Version of the code, recorded in the manifest.

    Raises
    ------
    IntegrityError
        If tiles do not cover their plane.
    """
    attributes, public_key = ciphertexts.attributes, public_key_of(ciphertexts)
    for plane in attributes["planes"]:
        check_coverage(ciphertexts, plane["name"])
    limbs, count = public_key.context.ciphertext_limbs, len(attributes["tiles"])

    def assemble(
        _: Generation, results: Sequence[Mapping[str, Any]]
    ) -> tuple[tuple[Output, ...], dict[str, Any]]:
        sums = [(result["array"], tile) for result in results for tile in result["tiles"]]
        outputs = tuple(
            Output(array, tile["sha256"], (tuple(tile["rows"]), (0, limbs)), "<u8")
            for array, tile in sums
        )
        tiles = [
            {field: record[field] for field in _PLACE} | {"weights": tile["weights"]}
            for record, (_, tile) in zip(attributes["tiles"], sums, strict=True)
        ]
        planes = [
            {field: plane[field] for field in ("name", "unit", "layout")}
            for plane in attributes["planes"]
        ]
        facts = {field: attributes[field] for field in ("key_id", "modulus")}
        return outputs, facts | {"planes": planes, "tiles": tiles}

    return Work(
        Recipe(
            KIND,
            ciphertexts.key,
            (ciphertexts.as_input(),),
            code_version,
            {"key_id": public_key.key_id},
        ),
        public_key,
        {"ciphertexts": vars(ciphertexts.as_input())},
        [
            {"tiles": [first, min(first + _TILES_PER_UNIT, count)]}
            for first in range(0, count, _TILES_PER_UNIT)
        ],
        assemble,
    )


def do_unit(store: Store, lease: Lease, progress: Progress) -> dict[str, Any]:
    """Sum the tiles of one unit.

    Parameters
    ----------
    store
        Holds the ciphertexts and receives the sums.
    lease
        Of a unit of `statistics_work`.
    progress
        Called after each tile.

    Returns
    -------
    dict
        ``array`` of the sums, and of each of the ``tiles`` its ``rows``, their ``sha256``, and the
        ``weights`` of its sum.

    Raises
    ------
    IntegrityError
        If ciphertexts are not those that were written.
    """
    ciphertexts = input_of(store, lease.batch.payload["ciphertexts"])
    public_key = PaillierPublicKey(int(lease.batch.payload["modulus"], 16))
    check_key(ciphertexts, public_key)
    first, stop = lease.payload["tiles"]
    # The place of every tile among those of its plane.
    places: dict[str, Iterator[int]] = {}
    wanted = []
    for record in ciphertexts.attributes["tiles"]:
        name = record["plane"]
        wanted.append((name, next(places.setdefault(name, itertools.count()))))
    planes: dict[str, CipherPlane] = {}
    totals = []
    for name, number in wanted[first:stop]:
        if name not in planes:
            planes[name] = cipher_plane(ciphertexts, name)
        plane = planes[name]
        totals.append(tile_total(store, ciphertexts, plane, plane.tiles[number], public_key))
        progress(len(totals), stop - first)
    array = f"{lease.directory}/sums"
    count = sum(len(total.ciphertexts) for total in totals)
    made = []
    with ciphertext_rows(store, lease.batch.prefix, array, count, public_key) as rows:
        for total in totals:
            output = rows.append(total.ciphertexts)
            made.append(
                {
                    "rows": list(row_range(output)),
                    "sha256": output.sha256,
                    "weights": list(total.weights),
                }
            )
    return {"array": array, "tiles": made}


@dataclass(frozen=True)
class TileSums:
    """Decrypted sums of a plane.

    Attributes
    ----------
    plane
        Its name.
    layout
        Scale of the sums.
    sums
        Per tile, in storage order, in units of the layout's quantum.
    """

    plane: str
    layout: PackingLayout
    sums: tuple[int, ...]

    @property
    def flux(self) -> Fraction:
        """Sum over the plane in its unit, exactly."""
        return sum(self.sums) * Fraction(2) ** -self.layout.fractional_bits


def read_sums(
    store: Store, statistics: Manifest, private_key: PaillierPrivateKey
) -> Iterator[TileSums]:
    """Decrypt a dataset of kind ``encrypted_statistics``, plane by plane.

    Raises
    ------
    IntegrityError
        If it is not what was written.
    CryptoError
        If the key is another one, or a number is no such sum.
    """
    public_key = private_key.public_key
    check_key(statistics, public_key)
    tiles = list(zip(statistics.attributes["tiles"], statistics.outputs, strict=True))
    for record in statistics.attributes["planes"]:
        layout = PackingLayout.from_json(record["layout"])
        sums = []
        for tile, output in tiles:
            if tile["plane"] != record["name"]:
                continue
            rows = verified_rows(store, statistics, output.path, row_range(output), output.sha256)
            check_ciphertexts(rows, public_key)
            total = EncryptedTotal(public_key, layout, rows, tuple(tile["weights"]))
            sums.append(total.decrypt(private_key))
        yield TileSums(record["name"], layout, tuple(sums))


def differing_planes(
    store: Store, statistics: Manifest, tiles: Manifest, private_key: PaillierPrivateKey
) -> list[str]:
    """Compare decrypted sums with those of the plaintext tiles, to the last bit.

    Parameters
    ----------
    store
        Holds both datasets.
    statistics, tiles
        Datasets of kind ``encrypted_statistics`` and ``tiles``.
    private_key
        Key of the owner.

    Returns
    -------
    list of str
        Planes of which any tile's sum, or their number, differs.
    """
    return [
        found.plane
        for found in read_sums(store, statistics, private_key)
        if found.sums != fixed_point_tile_totals(store, tiles, found.plane, found.layout)
    ]
