"""Encryption of tiles: the pass that writes the ``ciphertexts`` dataset.

Belongs here: encrypting tile by tile, and what the manifest says about the result.
Does not belong here: layouts and groups (`encryption_plan`), decryption (`tile_decryption`),
arithmetic on the result (`totals`), sharing the groups out (`acie_pipelines.secure`).

What the dataset reveals without the private key: the geometry and dtype of every plane, which tiles
are theirs on the sky, and per float plane its scale and value width, which tell noise and largest
magnitude to within a factor of two (for 64-bit integers, the largest magnitude). Neither values nor
their statistics, nor which samples are invalid: float planes always carry encrypted validity bits.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from acie_pipelines.crypto.cipher_rows import ciphertext_rows, row_range
from acie_pipelines.crypto.cipher_tensor import CipherTensor
from acie_pipelines.crypto.encryption_plan import EncryptionPlan, PlanePlan, plan_encryption
from acie_pipelines.crypto.keys import PaillierPublicKey
from acie_pipelines.crypto.packing import DEFAULT_ADDITIONS, pack_bits
from acie_pipelines.provenance import (
    InputRef,
    Manifest,
    Output,
    new_generation,
    reusable_manifest,
)
from acie_pipelines.storage import Store
from acie_pipelines.tiling.reading import Tile, open_plane, read_tile, tiles_of

__all__ = [
    "KIND",
    "EncryptedTile",
    "EncryptionReport",
    "Request",
    "assemble",
    "encrypt_group",
    "encrypt_tiles",
    "request",
]

KIND = "ciphertexts"
_LIMB_DTYPE = "<u8"


@dataclass(frozen=True)
class Request:
    """What decides the content of a dataset of ciphertexts, as its manifest records it."""

    inputs: tuple[InputRef, ...]
    code_version: str
    parameters: Mapping[str, Any]


def request(tiles: Manifest, public_key: PaillierPublicKey, code_version: str) -> Request:
    """State what a dataset of ciphertexts is made from.

    Parameters
    ----------
    tiles, public_key, code_version
        As of `encrypt_tiles`.
    """
    parameters = {"key_id": public_key.key_id, "additions": DEFAULT_ADDITIONS}
    return Request((tiles.as_input(),), code_version, parameters)


@dataclass(frozen=True)
class EncryptedTile:
    """Where the ciphertexts of one tile were written.

    Attributes
    ----------
    values
        Samples.
    array, rows, sha256
        Zarr array relative to the generation, range of its rows, and the hash of those rows.
    validity
        The same for the validity bits, if the plane has any.
    """

    values: int
    array: str
    rows: tuple[int, int]
    sha256: str
    validity: tuple[str, tuple[int, int], str] | None

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "EncryptedTile":
        """Read what `to_json` made."""
        start, stop = record["rows"]
        validity = record["validity"]
        return cls(
            int(record["values"]),
            str(record["array"]),
            (int(start), int(stop)),
            str(record["sha256"]),
            None
            if validity is None
            else (str(validity[0]), (int(validity[1][0]), int(validity[1][1])), str(validity[2])),
        )

    def to_json(self) -> dict[str, Any]:
        """JSON form."""
        return asdict(self)

    @property
    def ciphertexts(self) -> int:
        """Ciphertexts of values and validity bits."""
        bits = (0, 0) if self.validity is None else self.validity[1]
        return self.rows[1] - self.rows[0] + bits[1] - bits[0]

    def outputs(self, limbs: int) -> tuple[Output, ...]:
        """List the hashed pieces of the dataset that hold the tile."""
        pieces = [(self.array, self.rows, self.sha256)]
        if self.validity is not None:
            pieces.append(self.validity)
        return tuple(
            Output(path, sha256, (rows, (0, limbs)), _LIMB_DTYPE) for path, rows, sha256 in pieces
        )


@dataclass(frozen=True)
class EncryptionReport:
    """How far an encryption is; the last one says what it cost.

    Attributes
    ----------
    tiles, tiles_total
        Tiles encrypted so far and in all.
    values, ciphertexts
        Samples encrypted so far, and ciphertexts they take with their validity bits.
    seconds
        Since the start.
    """

    tiles: int
    tiles_total: int
    values: int
    ciphertexts: int
    seconds: float


def encrypt_tiles(
    store: Store,
    tiles: Manifest,
    public_key: PaillierPublicKey,
    *,
    code_version: str,
    progress: Callable[[EncryptionReport], None] | None = None,
) -> Manifest:
    """Encrypt every tile of an observation.

    Integer planes are encrypted without loss. Float images are rounded to a fixed-point scale far
    below their noise, spectra and weights to 2^-32 of their largest value if that is finer, see
    `acie_pipelines.crypto.packing.choose_fractional_bits`; the noise is the median of the tiles'
    background rms, so that an empty corner does not widen every slot. NaN and both infinities are
    invalid samples: they are encrypted as 0 and decrypt to NaN.

    Parameters
    ----------
    store
        Holds the tiles and receives the ciphertexts.
    tiles
        Dataset of kind ``tiles``; every tile read is checked against its hash.
    public_key
        Key of the future reader.
    code_version
        Version of the code, recorded in the manifest.
    progress
        Called after each tile.

    Returns
    -------
    Manifest
        Of kind ``ciphertexts`` under the observation's key. Its attributes are ``key_id``,
        ``modulus`` (hexadecimal), ``key_bits``, ``planes`` (name, kind, shape, dtype, unit,
        ``layout``, ``has_validity``), ``tiles`` (place, ``rows`` and ``validity_rows`` in the
        arrays that the outputs name), ``values``, ``ciphertexts`` and ``bytes``. The current
        manifest is returned when it was made from the same input, code and key and is undamaged.

    Raises
    ------
    CryptoError
        If a plane needs more than 62 bits per value, or has a dtype that cannot be encrypted.
    IntegrityError
        If tiles are not what their manifest states.
    StorageError
        If the store is full or unreachable; earlier ciphertexts are intact.
    """
    made_from = request(tiles, public_key, code_version)
    reusable = reusable_manifest(store, KIND, tiles.key, **vars(made_from))
    if reusable is not None:
        return reusable
    started = time.monotonic()
    plan = plan_encryption(tiles, public_key)
    total = len(tiles.attributes["tiles"])
    with new_generation(store, KIND, tiles.key, **vars(made_from)) as generation:
        records: list[EncryptedTile] = []
        values = ciphertexts = 0
        for number, group in enumerate(plan.groups):
            directory = f"units/{number:05d}-1"
            for record in encrypt_group(store, plan, group, generation.prefix, directory):
                records.append(record)
                values += record.values
                ciphertexts += record.ciphertexts
                if progress is not None:
                    seconds = time.monotonic() - started
                    progress(EncryptionReport(len(records), total, values, ciphertexts, seconds))
        return generation.commit(*assemble(plan, records))


def encrypt_group(
    store: Store, plan: EncryptionPlan, group: tuple[int, int], prefix: str, directory: str
) -> Iterator[EncryptedTile]:
    """Encrypt the tiles of one group, one after the other.

    Memory does not depend on the number of tiles. Nothing is published.

    Parameters
    ----------
    store, plan
        What to encrypt.
    group
        Range ``(first, stop)`` of tiles in storage order.
    prefix, directory
        The generation's directory in the store, and a directory in it that nobody else writes to.

    Yields
    ------
    EncryptedTile
        In storage order, each once it is encrypted; all are in the store when the last one has
        been taken and the iterator is exhausted.

    Raises
    ------
    IntegrityError
        If tiles are not what their manifest states.
    StorageError
        If the store is full or unreachable.
    """
    wanted = tuple(tiles_of(plan.tiles))[slice(*group)]
    for name, plane in plan.planes.items():
        of_plane = [tile for tile in wanted if tile.plane == name]
        if of_plane:
            yield from _encrypt_plane(store, plan, plane, of_plane, prefix, f"{directory}/{name}")


def _encrypt_plane(
    store: Store,
    plan: EncryptionPlan,
    plane: PlanePlan,
    tiles: list[Tile],
    prefix: str,
    directory: str,
) -> Iterator[EncryptedTile]:
    context = plan.public_key.context
    source = open_plane(store, plan.tiles, plane.name)
    rows = sum(plane.rows(tile) for tile in tiles)
    validity_rows = sum(plane.validity_rows(tile) for tile in tiles)
    values_path, validity_path = f"{directory}/values", f"{directory}/validity"
    key = plan.public_key
    with (
        ciphertext_rows(store, prefix, values_path, rows, key) as values,
        ciphertext_rows(store, prefix, validity_path, validity_rows, key) as validity,
    ):
        for tile in tiles:
            pixels = read_tile(store, plan.tiles, tile, array=source)
            bits = None
            if plane.has_validity:
                valid = np.isfinite(pixels)
                pixels = np.where(valid, pixels, pixels.dtype.type(0))
                plaintexts = pack_bits(
                    valid, key_bits=plan.public_key.bits, limbs=context.plaintext_limbs
                )
                written = validity.append(context.encrypt(plaintexts))
                bits = (written.path, row_range(written), written.sha256)
            tensor = CipherTensor.encrypt(pixels, plan.public_key, plane.layout)
            written = values.append(tensor.ciphertexts)
            yield EncryptedTile(pixels.size, written.path, row_range(written), written.sha256, bits)


def assemble(
    plan: EncryptionPlan, records: Iterable[EncryptedTile]
) -> tuple[tuple[Output, ...], dict[str, Any]]:
    """Make the manifest's outputs and attributes from what was written for every tile.

    Parameters
    ----------
    records
        One for each tile, in storage order.
    """
    limbs = plan.public_key.context.ciphertext_limbs
    outputs: list[Output] = []
    tiles: list[dict[str, Any]] = []
    values = ciphertexts = 0
    for tile, record in zip(tiles_of(plan.tiles), records, strict=True):
        outputs.extend(record.outputs(limbs))
        values += record.values
        ciphertexts += record.ciphertexts
        place = {
            field: getattr(tile, field) for field in ("plane", "channel", "y0", "y1", "x0", "x1")
        }
        tiles.append(
            place
            | {
                "rows": list(record.rows),
                "validity_rows": None if record.validity is None else list(record.validity[1]),
            }
        )
    return tuple(outputs), {
        "key_id": plan.public_key.key_id,
        "modulus": f"{plan.public_key.n:x}",
        "key_bits": plan.public_key.bits,
        "planes": [plane.describe() for plane in plan.planes.values()],
        "tiles": tiles,
        "values": values,
        "ciphertexts": ciphertexts,
        "bytes": ciphertexts * limbs * 8,
    }
