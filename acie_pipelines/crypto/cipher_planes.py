"""Reading ciphertexts back from the store, through their manifest and checked against it.

Belongs here: the records of a ``ciphertexts`` manifest and verified reads of its rows.
Does not belong here: encryption (`tile_encryption`) and decryption (`tile_decryption`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.crypto.cipher_tensor import CipherTensor
from acie_pipelines.crypto.keys import PaillierPublicKey
from acie_pipelines.crypto.packing import PackingLayout
from acie_pipelines.errors import CryptoError, IntegrityError
from acie_pipelines.provenance import Manifest, array_sha256
from acie_pipelines.storage import Store

if TYPE_CHECKING:
    from zarr import Array

__all__ = [
    "CipherPlane",
    "CipherTile",
    "check_key",
    "cipher_plane",
    "public_key_of",
    "verified_rows",
]

_FIX = "materialise the ciphertexts again"


@dataclass(frozen=True)
class CipherTile:
    """Where the ciphertexts of one tile are.

    Attributes
    ----------
    channel, y0, y1, x0, x1
        The tile's place in its plane, in pixels, ends excluded.
    array, rows, sha256
        Zarr array relative to the generation, range of its rows, and the hash of those rows.
    validity, validity_rows, validity_sha256
        The same for the validity bits; ``None`` for planes that cannot hold invalid samples.
    weight
        Of its values, see `acie_pipelines.crypto.cipher_tensor.CipherTensor`: 1 when fresh.
    """

    channel: int
    y0: int
    y1: int
    x0: int
    x1: int
    array: str
    rows: tuple[int, int]
    sha256: str
    validity: str | None
    validity_rows: tuple[int, int] | None
    validity_sha256: str | None
    weight: int = 1

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.y1 - self.y0, self.x1 - self.x0


@dataclass(frozen=True)
class CipherPlane:
    """One encrypted plane.

    Attributes
    ----------
    name, dtype
        Of the plane that was encrypted.
    layout
        Packing and scale of its values.
    has_validity
        Whether encrypted bits tell valid from invalid samples.
    tiles
        In storage order.
    """

    name: str
    dtype: np.dtype[Any]
    layout: PackingLayout
    has_validity: bool
    tiles: tuple[CipherTile, ...]

    def read_tensor(
        self,
        store: Store,
        manifest: Manifest,
        tile: CipherTile,
        public_key: PaillierPublicKey,
    ) -> CipherTensor:
        """Read a tile as an encrypted image; see `read_rows`.

        Raises
        ------
        IntegrityError
            If it cannot be read or is not what was written.
        CryptoError
            If a row is no ciphertext of the key.
        """
        rows = self.read_rows(store, manifest, tile)
        return CipherTensor.from_ciphertexts(
            rows, public_key, self.layout, tile.shape, weight=tile.weight
        )

    def read_rows(
        self, store: Store, manifest: Manifest, tile: CipherTile, *, validity: bool = False
    ) -> NDArray[np.uint64]:
        """Read a tile's ciphertexts, or those of its validity bits, and check their hash.

        Raises
        ------
        IntegrityError
            If they cannot be read or are not those that were written.
        """
        path, rows, sha256 = (
            (tile.validity, tile.validity_rows, tile.validity_sha256)
            if validity
            else (tile.array, tile.rows, tile.sha256)
        )
        if path is None or rows is None:
            raise IntegrityError(f"{manifest.prefix}/{self.name}", "has no validity bits", _FIX)
        return verified_rows(store, manifest, path, rows, sha256)


def verified_rows(
    store: Store, manifest: Manifest, path: str, rows: tuple[int, int], sha256: str | None
) -> NDArray[np.uint64]:
    """Read a range of rows of an array of ciphertexts and check its hash.

    Raises
    ------
    IntegrityError
        If it cannot be read or is not what was written.
    """
    where = f"{manifest.prefix}/{path}[{rows[0]}:{rows[1]}]"
    try:
        stored = np.ascontiguousarray(_open(store, manifest, path)[rows[0] : rows[1]])
    except Exception as error:  # decoding damaged bytes can fail in any way
        raise IntegrityError(where, f"cannot be read ({error})", _FIX) from error
    if stored.dtype != np.uint64 or array_sha256(stored) != sha256:
        raise IntegrityError(where, "content does not match the hash in its manifest", _FIX)
    return stored


def _open(store: Store, manifest: Manifest, path: str) -> "Array[Any]":
    import zarr

    array: Array[Any] = zarr.open_array(store.zarr(f"{manifest.prefix}/{path}"), mode="r")
    return array


def public_key_of(ciphertexts: Manifest) -> PaillierPublicKey:
    """Public key that a ``ciphertexts`` dataset is encrypted under.

    Raises
    ------
    IntegrityError
        If modulus and key id in its manifest do not belong together.
    """
    try:
        public_key = PaillierPublicKey(int(ciphertexts.attributes["modulus"], 16))
        stated = ciphertexts.attributes["key_id"]
    except (KeyError, TypeError, ValueError) as error:
        raise IntegrityError(ciphertexts.prefix, "states no public key", _FIX) from error
    if public_key.key_id != stated:
        raise IntegrityError(ciphertexts.prefix, "states a modulus of another key id", _FIX)
    return public_key


def check_key(ciphertexts: Manifest, public_key: PaillierPublicKey) -> None:
    """Refuse a key that a dataset is not encrypted under.

    Raises
    ------
    CryptoError
        Names both keys.
    """
    expected = public_key_of(ciphertexts)
    if expected != public_key:
        raise CryptoError(
            ciphertexts.prefix,
            f"is encrypted under key {expected.key_id}, not {public_key.key_id}",
            "take the key of that id from the vault",
        )


def cipher_plane(ciphertexts: Manifest, name: str) -> CipherPlane:
    """Look up an encrypted plane and its tiles.

    Raises
    ------
    IntegrityError
        If there is no such plane or the manifest is not of this kind.
    """
    planes = {plane["name"]: plane for plane in ciphertexts.attributes["planes"]}
    if name not in planes:
        raise IntegrityError(
            ciphertexts.prefix, f"has no plane {name!r}", f"choose one of {', '.join(planes)}"
        )
    record = planes[name]
    return CipherPlane(
        name=name,
        dtype=np.dtype(record["dtype"]),
        layout=PackingLayout.from_json(record["layout"]),
        has_validity=bool(record["has_validity"]),
        tiles=tuple(_tiles(ciphertexts, name)),
    )


def _tiles(ciphertexts: Manifest, name: str) -> Iterator[CipherTile]:
    # Outputs follow the tiles' order: the rows of a tile, then those of its validity bits.
    outputs = iter(ciphertexts.outputs)
    for record in ciphertexts.attributes["tiles"]:
        output = next(outputs)
        validity_rows = record["validity_rows"]
        validity = next(outputs) if validity_rows is not None else None
        if record["plane"] == name:
            yield CipherTile(
                channel=record["channel"],
                y0=record["y0"],
                y1=record["y1"],
                x0=record["x0"],
                x1=record["x1"],
                array=output.path,
                rows=(record["rows"][0], record["rows"][1]),
                sha256=output.sha256,
                validity=None if validity is None else validity.path,
                validity_rows=None
                if validity_rows is None
                else (validity_rows[0], validity_rows[1]),
                validity_sha256=None if validity is None else validity.sha256,
                weight=int(record.get("weight", 1)),
            )
