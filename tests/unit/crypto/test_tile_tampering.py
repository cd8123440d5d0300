"""Whatever is done to stored ciphertexts: whoever uses them is told, by a typed error."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from acie_pipelines.crypto.cipher_planes import cipher_plane
from acie_pipelines.crypto.keys import PaillierPrivateKey
from acie_pipelines.crypto.tile_decryption import decrypt_tile, verify_decryption
from acie_pipelines.crypto.tile_encryption import encrypt_tiles
from acie_pipelines.crypto.totals import homomorphic_total
from acie_pipelines.errors import CryptoError, IntegrityError
from acie_pipelines.manifest import Output, array_sha256
from acie_pipelines.provenance import Manifest, current_manifest, verify_outputs
from acie_pipelines.storage import Store

TileUp = Callable[..., Manifest]
PLACE = "units/00000-1/flux"


def image(seed: int) -> NDArray[Any]:
    return np.random.default_rng(seed).normal(0, 3, (1, 32, 32)).astype("<f4")


def rows_of(store: Store, manifest: Manifest, what: str) -> "zarr.Array[Any]":
    array: zarr.Array[Any] = zarr.open_array(
        store.zarr(f"{manifest.prefix}/{PLACE}/{what}"), mode="r+"
    )
    return array


def chunk(store: Store, manifest: Manifest, what: str) -> Path:
    return store.local_path(f"{manifest.prefix}/{PLACE}/{what}/c/0/0")


def flip(store: Store, made: Manifest, other: Manifest, what: str) -> None:
    path = chunk(store, made, what)
    content = bytearray(path.read_bytes())
    content[100] ^= 4
    path.write_bytes(content)


def truncate(store: Store, made: Manifest, other: Manifest, what: str) -> None:
    path = chunk(store, made, what)
    path.write_bytes(path.read_bytes()[:-8])


def delete(store: Store, made: Manifest, other: Manifest, what: str) -> None:
    chunk(store, made, what).unlink()


def reorder(store: Store, made: Manifest, other: Manifest, what: str) -> None:
    array = rows_of(store, made, what)
    array[:] = np.roll(np.asarray(array[:]), 1, axis=0)


def swap_images(store: Store, made: Manifest, other: Manifest, what: str) -> None:
    for name in ("values", "validity"):
        source, target = (store.local_path(f"{m.prefix}/{PLACE}/{name}") for m in (other, made))
        shutil.rmtree(target)
        shutil.copytree(source, target)


ATTACKS = [flip, truncate, delete, reorder, swap_images]


@pytest.mark.parametrize("what", ["values", "validity"])
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_changed_files_are_noticed_by_every_reader(
    store: Store, tile_up: TileUp, private_key: PaillierPrivateKey, attack: Any, what: str
) -> None:
    """The other image is an earlier generation of the same observation: this is replay, too."""
    other = encrypt_tiles(
        store, tile_up({"flux": image(1)}), private_key.public_key, code_version="1"
    )
    tiles = tile_up({"flux": image(2)})
    made = encrypt_tiles(store, tiles, private_key.public_key, code_version="1")
    attack(store, made, other, what)
    with pytest.raises(IntegrityError):
        verify_outputs(store, made)
    with pytest.raises(IntegrityError):
        verify_decryption(store, made, tiles, private_key, None)
    with pytest.raises(IntegrityError):
        for tile in range(16):
            decrypt_tile(store, made, private_key, "flux", tile)
    if what == "values":
        with pytest.raises(IntegrityError):
            homomorphic_total(store, made, "flux", private_key.public_key)


def test_the_manifest_of_another_image_is_refused(
    store: Store, tile_up: TileUp, private_key: PaillierPrivateKey
) -> None:
    old = encrypt_tiles(
        store, tile_up({"flux": image(1)}), private_key.public_key, code_version="1"
    )
    tiles = tile_up({"flux": image(2)})
    made = encrypt_tiles(store, tiles, private_key.public_key, code_version="1")
    current = store.local_path(f"{made.prefix}/manifest.json")
    genuine = current.read_bytes()
    current.write_bytes(store.read_bytes(f"{old.prefix}/manifest.json"))
    with pytest.raises(IntegrityError, match="is the manifest of"):
        current_manifest(store, made.kind, made.key)
    current.write_bytes(genuine.replace(b'"rows"', b'"Rows"', 1))
    with pytest.raises(IntegrityError, match="its own digest"):
        current_manifest(store, made.kind, made.key)
    current.write_bytes(genuine)
    # Readers who follow a pointer put back to the old generation compare it with the tiles.
    pointer = store.local_path(f"{made.kind}/{made.key}/current.json")
    content = pointer.read_text().replace(made.generation, old.generation)
    pointer.write_text(content)
    with pytest.raises(IntegrityError, match="is not the manifest that was published"):
        current_manifest(store, made.kind, made.key)
    pointer.write_text(content.replace(made.digest, old.digest))
    replayed = current_manifest(store, made.kind, made.key)
    with pytest.raises(IntegrityError, match="was not made from"):
        verify_decryption(store, replayed, tiles, private_key, None)


def forged(store: Store, made: Manifest, what: str, rows: NDArray[np.uint64]) -> Manifest:
    """Put rows in the place of a tile's, with hashes that fit, as a writer of the store can."""
    tile = cipher_plane(made, "flux").tiles[0]
    place = (tile.array, tile.rows, tile.sha256) if what == "values" else tile.validity
    assert place is not None
    rows_of(store, made, what)[slice(*place[1])] = rows
    outputs = tuple(
        Output(o.path, array_sha256(rows), o.region, o.dtype) if o.sha256 == place[2] else o
        for o in made.outputs
    )
    return Manifest(**{**vars(made), "outputs": outputs})


def test_ciphertexts_of_another_key_are_noticed_behind_a_forged_manifest(
    store: Store,
    tile_up: TileUp,
    private_key: PaillierPrivateKey,
    other_key: PaillierPrivateKey,
) -> None:
    tiles = tile_up({"flux": image(2)})
    foreign = encrypt_tiles(store, tiles, other_key.public_key, code_version="1")
    tile = cipher_plane(foreign, "flux").tiles[0]
    rows = np.asarray(rows_of(store, foreign, "values")[slice(*tile.rows)])
    made = encrypt_tiles(store, tiles, private_key.public_key, code_version="1")
    false = forged(store, made, "values", rows)
    verify_outputs(store, false)
    with pytest.raises(CryptoError):
        decrypt_tile(store, false, private_key, "flux", 0)


def test_another_tiles_ciphertexts_are_noticed_behind_a_forged_manifest(
    store: Store, tile_up: TileUp, private_key: PaillierPrivateKey
) -> None:
    tiles = tile_up({"flux": image(2)})
    made = encrypt_tiles(store, tiles, private_key.public_key, code_version="1")
    second = cipher_plane(made, "flux").tiles[1]
    rows = np.asarray(rows_of(store, made, "values")[slice(*second.rows)])
    false = forged(store, made, "values", rows)
    with pytest.raises(IntegrityError, match="does not decrypt to the tile"):
        verify_decryption(store, false, tiles, private_key, None)


@pytest.mark.parametrize("number", [0, 1])
def test_numbers_that_are_no_ciphertexts_are_noticed_behind_a_forged_manifest(
    store: Store, tile_up: TileUp, private_key: PaillierPrivateKey, number: int
) -> None:
    """Zero is no ciphertext; one is that of a plaintext that no packed tile has."""
    tiles = tile_up({"flux": image(2)})
    made = encrypt_tiles(store, tiles, private_key.public_key, code_version="1")
    tile = cipher_plane(made, "flux").tiles[0]
    rows = np.zeros((tile.rows[1] - tile.rows[0], 32), dtype=np.uint64)
    rows[:, 0] = number
    with pytest.raises((CryptoError, IntegrityError)):
        verify_decryption(store, forged(store, made, "values", rows), tiles, private_key, None)
