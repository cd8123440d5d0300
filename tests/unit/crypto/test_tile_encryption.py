"""Encrypted observations: exact round trips, no leaks, and refusal of damage."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray

from acie_pipelines.crypto import cipher_rows, encryption_plan, tile_encryption
from acie_pipelines.crypto.cipher_planes import cipher_plane, public_key_of
from acie_pipelines.crypto.keys import PaillierPrivateKey, PaillierPublicKey
from acie_pipelines.crypto.packing import layout_for
from acie_pipelines.crypto.tile_decryption import DecryptionCheck, decrypt_tile, verify_decryption
from acie_pipelines.crypto.tile_encryption import EncryptionReport, encrypt_tiles
from acie_pipelines.crypto.totals import EncryptedTotal, fixed_point_total, homomorphic_total
from acie_pipelines.errors import AcieError, CryptoError, IntegrityError
from acie_pipelines.provenance import Manifest, current_manifest, verify_chain
from acie_pipelines.storage import Store
from acie_pipelines.tiling.reading import read_tile

TileUp = Callable[..., Manifest]


def sky(shape: tuple[int, int, int] = (1, 19, 21), dtype: str = "<f4") -> NDArray[Any]:
    rng = np.random.default_rng(7)
    pixels = rng.normal(-3, 2.5, shape).astype(dtype)
    pixels[0, 3, 4] = 54321.125
    return pixels


def encrypted(store: Store, tiles: Manifest, key: PaillierPrivateKey) -> Manifest:
    return encrypt_tiles(store, tiles, key.public_key, code_version="1")


def assembled(
    store: Store, manifest: Manifest, key: PaillierPrivateKey, name: str, shape: tuple[int, ...]
) -> NDArray[Any]:
    plane = cipher_plane(manifest, name)
    whole = np.empty(shape, dtype=plane.dtype)
    for index, tile in enumerate(plane.tiles):
        pixels = decrypt_tile(store, manifest, key, name, index)
        assert pixels.dtype == plane.dtype
        whole[tile.channel, tile.y0 : tile.y1, tile.x0 : tile.x1] = pixels
    return whole


@pytest.mark.parametrize("dtype", ["?", "u1", "i1", "<u2", "<i2", "<u4", "<i4", "<i8", "<u8"])
def test_integer_planes_come_back_bit_for_bit(
    store: Store, tile_up: TileUp, private_key: PaillierPrivateKey, dtype: str
) -> None:
    low, high = (0, 1) if dtype == "?" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    low, high = max(low, -(2**40)), min(high, 2**40)
    pixels = np.random.default_rng(1).integers(low, high, (2, 9, 11), endpoint=True).astype(dtype)
    pixels[0, 0, :2] = low, high
    tiles = tile_up({"counts": pixels})
    manifest = encrypted(store, tiles, private_key)
    found = assembled(store, manifest, private_key, "counts", pixels.shape)
    assert np.array_equal(found, pixels)
    assert manifest.attributes["planes"][0]["has_validity"] is False
    check = verify_decryption(store, manifest, tiles, private_key, None)
    assert check == DecryptionCheck(tiles=8, values=198, worst_error_quanta=0.0)


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8"])
def test_float_planes_come_back_at_their_scale(
    store: Store, tile_up: TileUp, private_key: PaillierPrivateKey, dtype: str
) -> None:
    pixels = sky(dtype=dtype)
    tiles = tile_up({"flux": pixels})
    manifest = encrypted(store, tiles, private_key)
    layout = cipher_plane(manifest, "flux").layout
    rms = np.median([t["statistics"]["background_rms"] for t in tiles.attributes["tiles"]])
    assert rms / 128 < layout.quantum <= rms / 64
    found = assembled(store, manifest, private_key, "flux", pixels.shape)
    expected = np.rint(pixels.astype("f8") / layout.quantum) * layout.quantum
    assert np.array_equal(found, expected.astype(dtype))
    check = verify_decryption(store, manifest, tiles, private_key, None)
    assert 0 < check.worst_error_quanta <= 0.5


def test_invalid_samples_decrypt_to_nan(
    store: Store, tile_up: TileUp, private_key: PaillierPrivateKey
) -> None:
    pixels = sky()
    pixels[0, ::3, ::2] = np.nan
    pixels[0, 1, 1], pixels[0, 2, 1] = np.inf, -np.inf
    pixels[0, 8:16, 8:16] = np.nan
    tiles = tile_up({"flux": pixels})
    manifest = encrypted(store, tiles, private_key)
    found = assembled(store, manifest, private_key, "flux", pixels.shape)
    assert np.array_equal(np.isnan(found), ~np.isfinite(pixels))
    verify_decryption(store, manifest, tiles, private_key, None)


@pytest.mark.parametrize("fill", [np.nan, 0.0, 1.5e-17, -3e20])
def test_planes_without_noise_or_without_samples(
    store: Store, tile_up: TileUp, private_key: PaillierPrivateKey, fill: float
) -> None:
    pixels = np.full((1, 9, 9), fill, dtype="<f4")
    tiles = tile_up({"flat": pixels})
    manifest = encrypted(store, tiles, private_key)
    found = assembled(store, manifest, private_key, "flat", pixels.shape)
    np.testing.assert_allclose(found, pixels, rtol=2**-32)
    total = homomorphic_total(store, manifest, "flat", private_key.public_key)
    assert total.decrypt(private_key) == fixed_point_total(store, tiles, "flat", total.layout)


def test_several_planes_share_a_dataset(
    store: Store, tile_up: TileUp, private_key: PaillierPrivateKey
) -> None:
    planes = {
        "flux": sky((2, 17, 9)),
        "mask": (np.arange(17 * 9).reshape(1, 17, 9) % 250).astype("u1"),
        "spectrum": sky((1, 5, 40), "<f8"),
    }
    tiles = tile_up(planes)
    reports: list[EncryptionReport] = []
    manifest = encrypt_tiles(
        store, tiles, private_key.public_key, code_version="1", progress=reports.append
    )
    assert [plane["name"] for plane in manifest.attributes["planes"]] == list(planes)
    mask = assembled(store, manifest, private_key, "mask", planes["mask"].shape)
    assert np.array_equal(mask, planes["mask"])
    total_tiles = len(tiles.attributes["tiles"])
    assert [report.tiles for report in reports] == list(range(1, total_tiles + 1))
    last = reports[-1]
    values = sum(pixels.size for pixels in planes.values())
    assert last.values == manifest.attributes["values"] == values
    assert last.ciphertexts == manifest.attributes["ciphertexts"]
    assert verify_decryption(store, manifest, tiles, private_key, 3).tiles == 3
    assert verify_decryption(store, manifest, tiles, private_key, 10**6).tiles == total_tiles


def test_the_dataset_is_verifiable_and_remade_only_for_a_reason(
    store: Store,
    tile_up: TileUp,
    private_key: PaillierPrivateKey,
    other_key: PaillierPrivateKey,
) -> None:
    tiles = tile_up({"flux": sky()})
    manifest = encrypted(store, tiles, private_key)
    assert manifest.kind == "ciphertexts"
    assert verify_chain(store, manifest) == 3
    assert current_manifest(store, "ciphertexts", tiles.key) == manifest
    assert encrypted(store, tiles, private_key) == manifest
    assert encrypted(store, tiles, other_key) != manifest
    assert public_key_of(manifest) == private_key.public_key


def test_rows_cross_chunks_without_loss(
    store: Store,
    tile_up: TileUp,
    private_key: PaillierPrivateKey,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cipher_rows, "_CHUNK_ROWS", 7)
    pixels = sky((2, 40, 37))
    tiles = tile_up({"flux": pixels}, tile_size=16)
    manifest = encrypted(store, tiles, private_key)
    tiles_of_plane = cipher_plane(manifest, "flux").tiles
    [path] = {tile.array for tile in tiles_of_plane}
    array = zarr.open_array(store.zarr(f"{manifest.prefix}/{path}"), mode="r")
    assert array.shape == (tiles_of_plane[-1].rows[1], 32)
    assert array.chunks == (7, 32)
    assert np.asarray(array[:]).any(axis=1).all()
    verify_decryption(store, manifest, tiles, private_key, None)


def test_the_manifest_holds_no_statistics(
    store: Store, tile_up: TileUp, private_key: PaillierPrivateKey
) -> None:
    pixels = sky()
    tiles = tile_up({"flux": pixels})
    text = json.dumps(encrypted(store, tiles, private_key).attributes)
    for word in ("statistics", "mean", "minimum", "maximum", "background", "invalid", "seconds"):
        assert word not in text
    assert str(private_key.p) not in text
    assert f"{private_key.p:x}" not in text
    # Which samples are invalid shows neither in sizes nor in places.
    pixels[0, 0, ::3] = np.nan
    again = encrypted(store, tile_up({"flux": pixels}), private_key).attributes
    assert again == json.loads(text)


@pytest.mark.parametrize(
    ("pixels", "dtype", "reason"),
    [
        (np.full((1, 4, 4), 2**62, dtype="<i8"), "<i8", "62 bits"),
        (np.full((1, 4, 4), 2**64 - 1, dtype="<u8"), "<u8", "62 bits"),
        (np.ones((1, 4, 4), dtype="<f4"), "<c8", "cannot be encrypted"),
        (np.ones((1, 4, 4), dtype="<f4"), "<f16", "cannot be encrypted"),
    ],
)
def test_planes_that_do_not_fit_are_refused_and_leave_nothing(
    store: Store,
    tile_up: TileUp,
    private_key: PaillierPrivateKey,
    pixels: NDArray[Any],
    dtype: str,
    reason: str,
) -> None:
    tiles = tile_up({"wide": pixels})
    tiles.attributes["planes"][0]["dtype"] = dtype
    with pytest.raises(CryptoError, match=reason):
        encrypted(store, tiles, private_key)
    assert not store.exists("ciphertexts/field-0123456789ab/current.json")


def test_a_sample_that_drowns_the_others_is_refused(
    store: Store, tile_up: TileUp, private_key: PaillierPrivateKey
) -> None:
    pixels = sky()
    pixels[0, 0, 0] = 1e30
    with pytest.raises(CryptoError, match="extreme samples"):
        encrypted(store, tile_up({"flux": pixels}), private_key)


def test_an_interrupted_encryption_leaves_nothing(
    store: Store, tile_up: TileUp, private_key: PaillierPrivateKey
) -> None:
    tiles = tile_up({"flux": sky()})

    def interrupt(report: EncryptionReport) -> None:
        if report.tiles == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        encrypt_tiles(store, tiles, private_key.public_key, code_version="1", progress=interrupt)
    assert store.names(f"ciphertexts/{tiles.key}") == []


def test_wrong_keys_planes_and_tiles_are_refused(
    store: Store,
    tile_up: TileUp,
    private_key: PaillierPrivateKey,
    other_key: PaillierPrivateKey,
) -> None:
    tiles = tile_up({"flux": sky()})
    manifest = encrypted(store, tiles, private_key)
    with pytest.raises(CryptoError, match="is encrypted under key"):
        decrypt_tile(store, manifest, other_key, "flux", 0)
    with pytest.raises(CryptoError, match="is encrypted under key"):
        verify_decryption(store, manifest, tiles, other_key, 1)
    with pytest.raises(CryptoError, match="is encrypted under key"):
        homomorphic_total(store, manifest, "flux", other_key.public_key)
    with pytest.raises(IntegrityError, match="no plane"):
        decrypt_tile(store, manifest, private_key, "none", 0)
    for index in (-1, 9):
        with pytest.raises(IntegrityError, match="no tile"):
            decrypt_tile(store, manifest, private_key, "flux", index)
    others = tile_up({"flux": sky() + 1})
    with pytest.raises(IntegrityError, match="was not made from"):
        verify_decryption(store, manifest, others, private_key, None)


@pytest.mark.parametrize("what", ["values", "validity"])
def test_changed_ciphertexts_are_refused(
    store: Store, tile_up: TileUp, private_key: PaillierPrivateKey, what: str
) -> None:
    tiles = tile_up({"flux": sky()})
    manifest = encrypted(store, tiles, private_key)
    path = f"{manifest.prefix}/units/00000-1/flux/{what}"
    array = zarr.open_array(store.zarr(path), mode="r+")
    row = np.asarray(array[0])
    array[0] = row ^ np.uint64(1)
    for use in (
        lambda: decrypt_tile(store, manifest, private_key, "flux", 0),
        lambda: verify_decryption(store, manifest, tiles, private_key, None),
    ):
        with pytest.raises(IntegrityError, match="does not match the hash"):
            use()
    store.delete(path)
    with pytest.raises(IntegrityError, match="cannot be read"):
        decrypt_tile(store, manifest, private_key, "flux", 0)


def test_another_plaintext_under_the_right_hash_is_noticed(
    store: Store, tile_up: TileUp, private_key: PaillierPrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = sky()
    tiles = tile_up({"flux": pixels})

    def shifted(*args: Any, **kwargs: Any) -> NDArray[Any]:
        found: NDArray[Any] = read_tile(*args, **kwargs)
        found[0, 0] += 1
        return found

    monkeypatch.setattr(tile_encryption, "read_tile", shifted)
    manifest = encrypted(store, tiles, private_key)
    with pytest.raises(IntegrityError, match="does not decrypt"):
        verify_decryption(store, manifest, tiles, private_key, None)


def test_a_manifest_with_a_false_modulus_is_refused(
    store: Store, tile_up: TileUp, private_key: PaillierPrivateKey
) -> None:
    manifest = encrypted(store, tile_up({"flux": sky()}), private_key)
    for change in ({"modulus": "zz"}, {"modulus": "ff01"}, {"key_id": "0" * 16}):
        forged = Manifest(**{**vars(manifest), "attributes": {**manifest.attributes, **change}})
        with pytest.raises(AcieError, match=r"public key|modulus"):
            decrypt_tile(store, forged, private_key, "flux", 0)


@pytest.mark.parametrize("limit", [None, 5, 1])
@pytest.mark.parametrize("dtype", ["<f4", "<u2", "<i4"])
def test_homomorphic_totals_are_exact(
    store: Store,
    tile_up: TileUp,
    private_key: PaillierPrivateKey,
    monkeypatch: pytest.MonkeyPatch,
    limit: int | None,
    dtype: str,
) -> None:
    pixels = sky((2, 30, 31)) if dtype == "<f4" else np.abs(sky((2, 30, 31)) * 7).astype("<i4")
    if dtype == "<f4":
        pixels[0, 5:9] = np.nan
    elif dtype == "<u2":
        pixels = (pixels % 65536).astype(dtype)
    tiles = tile_up({"plane": pixels}, tile_size=16)
    if limit is not None:
        monkeypatch.setattr(encryption_plan, "DEFAULT_ADDITIONS", limit)
        monkeypatch.setattr(
            encryption_plan,
            "layout_for",
            lambda *args, **kwargs: layout_for(*args, **{"additions": limit, **kwargs}),
        )
    manifest = encrypted(store, tiles, private_key)
    total = homomorphic_total(store, manifest, "plane", private_key.public_key)
    tiles_of_plane = cipher_plane(manifest, "plane").tiles
    assert sum(total.weights) == sum(tile.rows[1] - tile.rows[0] for tile in tiles_of_plane)
    assert max(total.weights) <= total.layout.maximum_weight
    quanta = np.rint(np.where(np.isfinite(pixels), pixels, 0) / np.float64(total.layout.quantum))
    assert total.decrypt(private_key) == sum(int(value) for value in quanta.ravel())
    assert total.decrypt(private_key) == fixed_point_total(store, tiles, "plane", total.layout)


def test_false_totals_are_noticed(
    store: Store,
    tile_up: TileUp,
    private_key: PaillierPrivateKey,
    other_key: PaillierPrivateKey,
) -> None:
    manifest = encrypted(store, tile_up({"plane": sky()}), private_key)
    total = homomorphic_total(store, manifest, "plane", private_key.public_key)
    with pytest.raises(CryptoError, match="cannot be decrypted"):
        total.decrypt(other_key)
    understated = EncryptedTotal(total.public_key, total.layout, total.ciphertexts, (1,))
    with pytest.raises(CryptoError, match="no such sum"):
        understated.decrypt(private_key)
    context = private_key.public_key.context
    noise = context.load(total.ciphertexts).scalar_mul(np.array([2**62])).store()
    with pytest.raises(CryptoError, match="no such sum"):
        EncryptedTotal(total.public_key, total.layout, noise, total.weights).decrypt(private_key)


def test_public_key_survives_the_manifest(
    store: Store, tile_up: TileUp, private_key: PaillierPrivateKey
) -> None:
    manifest = encrypted(store, tile_up({"plane": sky()}), private_key)
    read = current_manifest(store, manifest.kind, manifest.key)
    key = PaillierPublicKey(int(read.attributes["modulus"], 16))
    assert key.key_id == read.attributes["key_id"] == private_key.key_id
