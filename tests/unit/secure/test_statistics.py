"""Statistics and images of encrypted tiles equal those of the plaintext, to the last bit."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from acie_pipelines.crypto.cipher_planes import cipher_plane
from acie_pipelines.crypto.cipher_tensor import CipherTensor
from acie_pipelines.crypto.keys import PaillierPrivateKey
from acie_pipelines.crypto.packing import encode_fixed_point, layout_for, unpacked_layout
from acie_pipelines.crypto.tile_decryption import decrypt_tile
from acie_pipelines.crypto.tile_encryption import encrypt_tiles
from acie_pipelines.crypto.totals import fixed_point_tile_totals, homomorphic_total, tile_total
from acie_pipelines.errors import CryptoError, IntegrityError, LostKeyError
from acie_pipelines.observations.ingest import ingest_observation, open_stored
from acie_pipelines.provenance import Manifest, current_manifest, verify_chain
from acie_pipelines.samples import OBSERVATIONS
from acie_pipelines.secure.batches import Work
from acie_pipelines.secure.encrypted_images import (
    coadd_work,
    difference_work,
    subtract_reference,
)
from acie_pipelines.secure.image_reading import decrypt_coadd
from acie_pipelines.secure.queue import WorkQueue
from acie_pipelines.secure.statistics import (
    check_coverage,
    differing_planes,
    encrypted_mean,
    read_sums,
    statistics_work,
)
from acie_pipelines.storage import Store
from acie_pipelines.tiling.reading import iter_tiles
from acie_pipelines.tiling.writer import write_tiles

TileUp = Callable[..., Manifest]
Made = Callable[[Work], Manifest]
REAL = ["unwise-1866p257-w1-img-m.fits", "c4d_170316_062107_ood_z_ls9.N2.fits"]


def encrypted(store: Store, tiles: Manifest, key: PaillierPrivateKey) -> Manifest:
    return encrypt_tiles(store, tiles, key.public_key, code_version="1")


def real_tiles(store: Store, name: str) -> Manifest:
    source = ingest_observation(store, OBSERVATIONS / name, code_version="1")
    with open_stored(store, source) as observation:
        return write_tiles(store, source, observation, code_version="1", tile_size=128)


def sky(seed: int, shape: tuple[int, int, int] = (2, 21, 25)) -> NDArray[np.float32]:
    pixels = np.random.default_rng(seed).normal(3, 5, shape).astype(np.float32)
    pixels[0, 3, 4:9] = np.nan
    pixels[1, 0, 0] = 40 + seed
    return pixels


def counts(seed: int, shape: tuple[int, int, int] = (2, 21, 25)) -> NDArray[np.int16]:
    return np.random.default_rng(seed).integers(-500, 32768, shape).astype(np.int16)


def integers(store: Store, tiles: Manifest, ciphertexts: Manifest, plane: str) -> list[Any]:
    """What was encrypted, tile by tile: fixed-point integers with invalid samples as 0."""
    layout = cipher_plane(ciphertexts, plane).layout
    return [
        encode_fixed_point(np.where(np.isfinite(pixels), pixels, pixels.dtype.type(0)), layout)
        for _, pixels in iter_tiles(store, tiles, plane)
    ]


@pytest.mark.parametrize("name", REAL)
def test_sums_of_real_tiles_are_exact(
    name: str, store: Store, private_key: PaillierPrivateKey, made: Made
) -> None:
    tiles = real_tiles(store, name)
    ciphertexts = encrypted(store, tiles, private_key)
    statistics = made(statistics_work(ciphertexts, "1"))
    assert statistics.kind == "encrypted_statistics"
    assert made(statistics_work(ciphertexts, "1")) == statistics
    assert differing_planes(store, statistics, tiles, private_key) == []
    for found in read_sums(store, statistics, private_key):
        expected = [
            sum(int(value) for value in image.ravel())
            for image in integers(store, tiles, ciphertexts, found.plane)
        ]
        assert list(found.sums) == expected
        # Flux is conserved: the tiles add up to what the whole plane adds up to.
        total = homomorphic_total(store, ciphertexts, found.plane, private_key.public_key)
        assert total.decrypt(private_key) == sum(found.sums)
        assert found.flux == Fraction(sum(expected)) / 2**found.layout.fractional_bits
    assert verify_chain(store, statistics) == 4


def test_stored_statistics_hold_no_secret_and_are_fresh(
    store: Store, tile_up: TileUp, private_key: PaillierPrivateKey, made: Made
) -> None:
    ciphertexts = encrypted(store, tile_up({"flux": sky(1)}), private_key)
    statistics = made(statistics_work(ciphertexts, "1"))
    text = statistics.to_json()
    for secret in (private_key.p, private_key.q):
        assert f"{secret:x}"[:40].encode() not in text
        assert str(secret)[:40].encode() not in text
    # Without fresh randomness a worker's sums could be recomputed and linked by anyone.
    plane = cipher_plane(ciphertexts, "flux")
    again = [
        tile_total(store, ciphertexts, plane, tile, private_key.public_key) for tile in plane.tiles
    ]
    rows = zarr.open_array(
        store.zarr(f"{statistics.prefix}/{statistics.outputs[0].path}"), mode="r"
    )
    fresh = np.concatenate([total.ciphertexts for total in again])
    assert rows.shape == fresh.shape
    assert not (np.asarray(rows[:]) == fresh).all(axis=1).any()


def test_changed_sums_are_noticed(
    store: Store,
    tile_up: TileUp,
    private_key: PaillierPrivateKey,
    other_key: PaillierPrivateKey,
    made: Made,
) -> None:
    tiles = tile_up({"flux": sky(1)})
    ciphertexts = encrypted(store, tiles, private_key)
    statistics = made(statistics_work(ciphertexts, "1"))
    with pytest.raises(CryptoError, match="is encrypted under key"):
        list(read_sums(store, statistics, other_key))
    with pytest.raises(LostKeyError, match=other_key.key_id):
        made(statistics_work(encrypted(store, tiles, other_key), "1"))
    other = tile_up({"flux": sky(1) + 1})
    assert differing_planes(store, statistics, other, private_key) == ["flux"]
    array = zarr.open_array(
        store.zarr(f"{statistics.prefix}/{statistics.outputs[0].path}"), mode="r+"
    )
    first, second = np.asarray(array[0]), np.asarray(array[1])
    array[0], array[1] = second, first  # swapped between tiles
    with pytest.raises(IntegrityError, match="does not match the hash"):
        list(read_sums(store, statistics, private_key))


def test_a_gap_or_overlap_of_tiles_is_noticed(
    store: Store, tile_up: TileUp, private_key: PaillierPrivateKey
) -> None:
    ciphertexts = encrypted(store, tile_up({"counts": counts(1)}), private_key)
    check_coverage(ciphertexts, "counts")
    records = ciphertexts.attributes["tiles"]
    for field, change in (("x0", 1), ("y1", -1), ("y0", -9), ("channel", 1), ("x1", 1)):
        records[5][field] += change
        with pytest.raises(IntegrityError, match="every pixel once"):
            check_coverage(ciphertexts, "counts")
        records[5][field] -= change


@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(data=st.data())
def test_weighted_sums_and_means_are_exact(
    data: st.DataObject, store: Store, tile_up: TileUp, private_key: PaillierPrivateKey
) -> None:
    shape = data.draw(st.tuples(st.integers(1, 2), st.integers(1, 20), st.integers(1, 20)))
    seed = data.draw(st.integers(0, 2**31))
    image = np.random.default_rng(seed).normal(0, 50, shape).astype(np.float32)
    image[..., 0] = np.nan if shape[2] > 1 else 1
    tiles = tile_up({"flux": image})
    ciphertexts = encrypted(store, tiles, private_key)
    count = len(ciphertexts.attributes["tiles"])
    quarters = data.draw(st.lists(st.integers(-255, 255), min_size=count, max_size=count))
    quarters[0] = quarters[0] or 1
    weights = np.array(quarters) / 4
    total = homomorphic_total(store, ciphertexts, "flux", private_key.public_key, weights=weights)
    sums = fixed_point_tile_totals(store, tiles, "flux", cipher_plane(ciphertexts, "flux").layout)
    scale = Fraction(2) ** -total.layout.fractional_bits
    exact = sum(Fraction(w) * s for w, s in zip(weights.tolist(), sums, strict=True))
    unit = Fraction(2) ** -cipher_plane(ciphertexts, "flux").layout.fractional_bits
    assert total.decrypt(private_key) * scale == exact * unit
    assert max(total.weights) <= total.layout.maximum_weight

    valid = [int(np.isfinite(p).sum()) for _, p in iter_tiles(store, tiles, "flux")]
    number = sum(Fraction(w) * n for w, n in zip(weights.tolist(), valid, strict=True))
    mean = encrypted_mean(store, ciphertexts, "flux", private_key.public_key, weights=weights)
    if number:
        assert mean.decrypt(private_key) == exact * unit / number
    else:
        with pytest.raises(IntegrityError, match="no valid sample"):
            mean.decrypt(private_key)


def test_means_of_integers_need_no_validity(
    store: Store, tile_up: TileUp, private_key: PaillierPrivateKey
) -> None:
    image = counts(3)
    ciphertexts = encrypted(store, tile_up({"counts": image}), private_key)
    mean = encrypted_mean(store, ciphertexts, "counts", private_key.public_key)
    assert mean.decrypt(private_key) == Fraction(int(image.astype(np.int64).sum()), image.size)


@pytest.mark.parametrize("weights", [[0] * 24, [1] * 23, [1] * 23 + [5000], [1] * 23 + [2.0**-40]])
def test_weights_that_do_not_fit_are_refused(
    weights: list[float], store: Store, tile_up: TileUp, private_key: PaillierPrivateKey
) -> None:
    ciphertexts = encrypted(store, tile_up({"counts": counts(1)}), private_key)
    assert len(ciphertexts.attributes["tiles"]) == 24
    with pytest.raises(CryptoError, match="weight"):
        homomorphic_total(store, ciphertexts, "counts", private_key.public_key, weights=weights)


def test_weights_per_pixel_need_the_unpacked_layout(private_key: PaillierPrivateKey) -> None:
    image, weights = counts(1)[0].astype(np.int64), np.arange(-200, 325).reshape(21, 25)
    packed = CipherTensor.encrypt(image, private_key.public_key, layout_for("<i2", key_bits=1024))
    with pytest.raises(CryptoError, match="unpacked_layout"):
        packed * weights
    layout = unpacked_layout(key_bits=1024, value_bits=17)
    single = CipherTensor.encrypt(image[:3], private_key.public_key, layout)
    weights = weights[:3] + 1000
    assert int((single * weights).sum().decrypt(private_key)) == int((image[:3] * weights).sum())


@pytest.mark.parametrize("name", REAL[:1])
def test_the_difference_of_a_real_image_is_exact(
    name: str, store: Store, private_key: PaillierPrivateKey, tile_up: TileUp, made: Made
) -> None:
    tiles = real_tiles(store, name)
    ciphertexts = encrypted(store, tiles, private_key)
    (record,) = ciphertexts.attributes["planes"]
    plane = record["name"]
    template = np.random.default_rng(5).normal(0, 20, record["shape"]).astype(np.float32)
    reference = tile_up({plane: template}, tile_size=128)
    found = made(difference_work(ciphertexts, plane, reference, "1"))
    assert verify_chain(store, found) == 6
    layout = cipher_plane(found, plane).layout
    pairs = zip(
        integers(store, tiles, ciphertexts, plane),
        integers(store, reference, ciphertexts, plane),
        iter_tiles(store, tiles, plane),
        strict=True,
    )
    for index, (science, subtracted, (_, pixels)) in enumerate(pairs):
        decrypted = decrypt_tile(store, found, private_key, plane, index)
        valid = np.isfinite(pixels)
        assert (np.isfinite(decrypted) == valid).all()
        expected = (science - subtracted) * layout.quantum
        assert (decrypted[valid] == expected[valid]).all()


image16 = st.lists(
    st.integers(-(2**15), 2**15 - 1) | st.sampled_from([-(2**15), 2**15 - 1, 0]),
    min_size=1,
    max_size=70,
)


@settings(max_examples=25, deadline=None)
@given(image16, st.data())
def test_differences_of_any_images_are_exact(
    private_key: PaillierPrivateKey, science: list[int], data: st.DataObject
) -> None:
    values = st.integers(-(2**15), 2**15 - 1) | st.just(-(2**15))
    other = data.draw(st.lists(values, min_size=len(science), max_size=len(science)))
    a, b = np.array(science, dtype=np.int16), np.array(other, dtype=np.int16)
    tensor = CipherTensor.encrypt(a, private_key.public_key, layout_for("<i2", key_bits=1024))
    found = subtract_reference(tensor, b).decrypt_integers(private_key)
    assert (found == a.astype(np.int64) - b.astype(np.int64)).all()


def test_references_that_do_not_match_are_refused(
    store: Store, queue: WorkQueue, tile_up: TileUp, private_key: PaillierPrivateKey, made: Made
) -> None:
    ciphertexts = encrypted(store, tile_up({"flux": sky(1)}), private_key)

    def subtract(reference: Manifest) -> Manifest:
        return made(difference_work(ciphertexts, "flux", reference, "1"))

    clean = np.nan_to_num(sky(2))
    with pytest.raises(IntegrityError, match="other places"):
        subtract(tile_up({"flux": clean}, tile_size=16))
    with pytest.raises(CryptoError, match="not finite"):
        subtract(tile_up({"flux": sky(2)}))
    with pytest.raises(CryptoError, match="do not fit"):
        subtract(tile_up({"flux": clean + 1e6}))
    # What was refused is not published, and nothing of it is left.
    for batch, counts in queue.batches():
        assert (counts.failed, store.names(f"{batch.prefix}/units")) == (1, [])
    assert not store.exists(f"encrypted_difference/{ciphertexts.key}/flux/current.json")


@pytest.mark.parametrize("weights", [[3, -1, 2], [0.5, 0.25, -1.75]])
@pytest.mark.parametrize("kind", ["counts", "flux"])
def test_coadded_epochs_are_exact(
    kind: str,
    weights: list[float],
    store: Store,
    tile_up: TileUp,
    private_key: PaillierPrivateKey,
    made: Made,
) -> None:
    images: list[NDArray[Any]] = [counts(e) if kind == "counts" else sky(e) for e in range(3)]
    if kind == "flux":
        # One layout for all: the same range, and invalid samples at other places.
        for epoch, image in enumerate(images):
            image[0, 10, epoch] = np.nan
            image[1, 0, 0] = 63
    epochs, plain = [], []
    for image in images:
        tiles = tile_up({kind: image})
        epochs.append(encrypted(store, tiles, private_key))
        plain.append(integers(store, tiles, epochs[-1], kind))
    if len({str(cipher_plane(epoch, kind).layout) for epoch in epochs}) > 1:
        pytest.fail("the epochs drawn differ in layout")
    found = made(coadd_work(epochs, kind, weights, "1"))
    assert current_manifest(store, found.kind, found.key) == found
    (record,) = found.attributes["planes"]
    steps = 2 ** record["weight_bits"]
    flux = 0
    for index, place in enumerate(cipher_plane(found, kind).tiles):
        total, weight = decrypt_coadd(store, found, private_key, index)
        expected = sum(int(w * steps) * p[index] for w, p in zip(weights, plain, strict=True))
        assert (total == expected).all()
        window = (place.channel, slice(place.y0, place.y1), slice(place.x0, place.x1))
        mask = sum(
            int(w * steps) * np.isfinite(image[window])
            for w, image in zip(weights, images, strict=True)
        )
        assert (weight == mask).all()
        flux += int(total.sum())
    # What goes in comes out: the flux of the sum is the weighted sum of the epochs' fluxes.
    sums = [
        homomorphic_total(store, e, kind, private_key.public_key).decrypt(private_key)
        for e in epochs
    ]
    assert flux == sum(int(w * steps) * s for w, s in zip(weights, sums, strict=True))


def test_epochs_that_do_not_match_are_refused(
    store: Store, tile_up: TileUp, private_key: PaillierPrivateKey, other_key: PaillierPrivateKey
) -> None:
    first = encrypted(store, tile_up({"counts": counts(1)}), private_key)
    foreign = encrypted(store, tile_up({"counts": counts(2)}), other_key)
    elsewhere = encrypted(store, tile_up({"counts": counts(3)}, tile_size=16), private_key)
    wider = encrypted(store, tile_up({"counts": counts(4).astype(np.int32)}), private_key)
    for epochs, weights, error, reason in (
        ([first, foreign], [1, 1], CryptoError, "is encrypted under key"),
        ([first, elsewhere], [1, 1], IntegrityError, "other places"),
        ([first, wider], [1, 1], CryptoError, "another layout"),
        ([first, first], [1, 0], CryptoError, "other than zero"),
        ([first, first], [1], CryptoError, "other than zero"),
        ([], [], CryptoError, "other than zero"),
        ([first, first], [4000, 4000], CryptoError, "overflow"),
    ):
        with pytest.raises(error, match=reason):
            coadd_work(epochs, "counts", weights, "1")
