"""One observation from its file to its sealed form, through the job that the sensor requests."""

import shutil
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
from astropy.io import fits

from acie_pipelines.crypto.archive import unseal
from acie_pipelines.crypto.cipher_planes import cipher_plane
from acie_pipelines.crypto.tile_decryption import decrypt_tile
from acie_pipelines.crypto.totals import homomorphic_total
from acie_pipelines.crypto.vault import FileVault
from acie_pipelines.definitions import build_defs
from acie_pipelines.errors import IntegrityError
from acie_pipelines.jobs import PROCESS_OBSERVATION
from acie_pipelines.ledger import Ledger
from acie_pipelines.provenance import Manifest, current_manifest
from acie_pipelines.runs import JobOutcome, execute
from acie_pipelines.settings import Settings
from acie_pipelines.storage import Store
from acie_pipelines.tiling.reading import read_tile, tiles_of
from acie_pipelines.verification import verify_everything, verify_observation
from assets.ingestion.checks import observation_is_intact

DATASETS = {
    "raw_observation": "observation",
    "observation_tiles": "tiles",
    "observation_mosaic": "mosaic",
    "encrypted_tiles": "ciphertexts",
    "encrypted_statistics": "encrypted_statistics",
    "sealed_archive": "archive",
}
CHECKS = {
    ("raw_observation", "observation_is_intact"),
    ("observation_tiles", "tiles_match_hashes"),
    ("observation_mosaic", "flux_is_conserved"),
    ("encrypted_tiles", "decryption_is_exact"),
    ("encrypted_tiles", "totals_survive_encryption"),
    ("encrypted_statistics", "sums_equal_plaintext"),
    ("sealed_archive", "archive_restores_original"),
}


def metadata(
    instance: dg.DagsterInstance, asset: str, key: str, *, latest: bool = False
) -> dict[str, Any]:
    """Metadata of an asset's first (or latest) materialisation of a partition."""
    [record] = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey(asset), asset_partitions=[key]),
        limit=1,
        ascending=not latest,
    ).records
    event = record.asset_materialization
    assert event is not None
    return {name: value.value for name, value in event.metadata.items()}


def generations(store: Store, key: str) -> dict[str, str]:
    return {kind: current_manifest(store, kind, key).generation for kind in DATASETS.values()}


@pytest.fixture(params=["image", "spectrum"])
def key(request: pytest.FixtureRequest, sealed: Any) -> str:
    name: str = getattr(sealed, request.param)
    return name


def test_every_asset_is_made_and_every_check_passes(sealed: Any, key: str) -> None:
    outcome = sealed.outcomes[key]
    assert outcome.cause is None
    assert {(check.asset, check.name) for check in outcome.checks} == CHECKS
    assert all(check.passed for check in outcome.checks)
    for asset in DATASETS:
        materialized = sealed.instance.get_materialized_partitions(dg.AssetKey(asset))
        assert key in materialized, asset
    assert Ledger(sealed.settings.database_url).entry(key).status == "accepted"


def test_manifests_chain_back_to_the_bytes(sealed: Any, key: str) -> None:
    verified: list[Manifest] = []
    assert verify_observation(sealed.store, key, verified.append) == 6
    made = {manifest.kind: manifest for manifest in verified}
    assert [ref.digest for ref in made["tiles"].inputs] == [made["observation"].digest]
    assert [ref.digest for ref in made["ciphertexts"].inputs] == [made["tiles"].digest]
    assert [ref.digest for ref in made["archive"].inputs] == [made["observation"].digest]
    assert made["tiles"].digest in {ref.digest for ref in made["mosaic"].inputs}
    for asset, kind in DATASETS.items():
        shown = metadata(sealed.instance, asset, key)
        assert shown["manifest_digest"] == made[kind].digest
        assert asset in made[kind].code_version
    assert verify_everything(sealed.store, lambda manifest: None) == 12


def test_metadata_are_numbers_that_plot(sealed: Any, image_file: Path) -> None:
    pixels = fits.getdata(image_file)
    tiles = metadata(sealed.instance, "observation_tiles", sealed.image)
    assert (tiles["tiles"], tiles["pixels"], tiles["bytes"]) == (1, pixels.size, pixels.nbytes)
    encrypted = metadata(sealed.instance, "encrypted_tiles", sealed.image)
    assert encrypted["values"] == pixels.size
    assert encrypted["ciphertexts"] > 0
    assert encrypted["values_per_second"] == pytest.approx(pixels.size / encrypted["seconds"])
    raw = metadata(sealed.instance, "raw_observation", sealed.image)
    assert raw["bytes"] == image_file.stat().st_size
    assert raw["preview"].startswith("![Plane ") and "data:image/png;base64," in raw["preview"]
    assert len(raw["preview"]) < 100_000
    mosaic = metadata(sealed.instance, "observation_mosaic", sealed.image)
    [plane] = mosaic["planes"].records
    assert plane.data["mean"] == pytest.approx(float(pixels.mean(dtype=np.float64)), rel=1e-6)


def test_both_paths_give_the_same_numbers(sealed: Any, key: str) -> None:
    """Every sample and every total of two real observations, against Python's own integers."""
    ciphertexts = current_manifest(sealed.store, "ciphertexts", key)
    tiles = current_manifest(sealed.store, "tiles", key)
    private_key = sealed.vault.private_key()
    for record in ciphertexts.attributes["planes"]:
        plane = cipher_plane(ciphertexts, record["name"])
        quantum = Fraction(plane.layout.quantum)
        total = 0
        for number, tile in enumerate(tiles_of(tiles, plane.name)):
            pixels = read_tile(sealed.store, tiles, tile)
            expected = [
                None if not np.isfinite(value) else round(Fraction(value) / quantum)
                for value in pixels.ravel().tolist()
            ]
            found = decrypt_tile(sealed.store, ciphertexts, private_key, plane.name, number)
            decrypted = [
                None if not np.isfinite(value) else Fraction(value) / quantum
                for value in found.ravel().tolist()
            ]
            assert decrypted == expected
            total += sum(value for value in expected if value is not None)
        encrypted = homomorphic_total(sealed.store, ciphertexts, plane.name, private_key.public_key)
        assert encrypted.decrypt(private_key) == total


def test_sealed_pixels_are_the_telescopes(sealed: Any, image_file: Path, tmp_path: Path) -> None:
    """Independently of our readers: astropy reads the file, the private key opens the seal."""
    pixels = fits.getdata(image_file)
    tiles = current_manifest(sealed.store, "tiles", sealed.image)
    [tile] = tiles_of(tiles)
    assert np.array_equal(read_tile(sealed.store, tiles, tile), pixels)
    ciphertexts = current_manifest(sealed.store, "ciphertexts", sealed.image)
    private_key = sealed.vault.private_key()
    decrypted = decrypt_tile(sealed.store, ciphertexts, private_key, tile.plane, 0)
    quantum = 2.0 ** -ciphertexts.attributes["planes"][0]["layout"]["fractional_bits"]
    assert np.abs(decrypted - pixels.astype(np.float64)).max() <= quantum / 2
    archive = current_manifest(sealed.store, "archive", sealed.image)
    [entry] = archive.attributes["files"]
    opened = tmp_path / "opened.fits"
    with (
        sealed.store.open(f"{archive.prefix}/{entry['archive']}") as source,
        opened.open("wb") as target,
    ):
        unseal(source, target, archive_key=sealed.vault.archive_key())
    assert opened.read_bytes() == image_file.read_bytes()


def test_running_again_makes_nothing_new(sealed: Any) -> None:
    before = generations(sealed.store, sealed.image)
    files = {path: path.stat().st_mtime_ns for path in Path(sealed.store.url).rglob("*")}
    defs = build_defs(settings=sealed.settings)
    outcome = execute(defs, PROCESS_OBSERVATION, sealed.instance, partition_key=sealed.image)
    assert outcome.success
    assert {(check.asset, check.name) for check in outcome.checks} == CHECKS
    assert generations(sealed.store, sealed.image) == before
    assert {p: p.stat().st_mtime_ns for p in Path(sealed.store.url).rglob("*")} == files
    # Nothing was encrypted, so there is no rate to plot.
    shown = metadata(sealed.instance, "encrypted_tiles", sealed.image, latest=True)
    assert shown["values"] > 0 and "values_per_second" not in shown


@pytest.fixture
def damaged(sealed: Any, tmp_path: Path) -> Callable[[str], tuple[Store, Path]]:
    """Copy the store and flip one bit of a file of the image's dataset of this kind."""

    def damage(kind: str) -> tuple[Store, Path]:
        copy = tmp_path / "store"
        shutil.copytree(sealed.store.url, copy)
        store = Store(str(copy))
        folder = copy / current_manifest(store, kind, sealed.image).prefix
        largest = max(
            (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".json"),
            key=lambda path: path.stat().st_size,
        )
        content = bytearray(largest.read_bytes())
        content[len(content) // 2] ^= 1
        largest.write_bytes(content)
        return store, largest

    return damage


@pytest.mark.parametrize("kind", sorted(DATASETS.values()))
def test_one_flipped_bit_anywhere_is_found_and_named(
    sealed: Any, damaged: Callable[[str], tuple[Store, Path]], kind: str
) -> None:
    store, file = damaged(kind)
    verified: list[str] = []
    with pytest.raises(IntegrityError) as found:
        verify_observation(store, sealed.image, lambda manifest: verified.append(manifest.kind))
    assert found.value.subject.startswith(current_manifest(store, kind, sealed.image).prefix)
    named = str(file.relative_to(store.url))
    assert named.startswith(found.value.subject.partition("[")[0])
    assert kind not in verified
    if kind == "observation":
        result = observation_is_intact(
            store, current_manifest(store, kind, sealed.image), sealed.image
        )
        assert not result.passed
        assert result.severity is dg.AssetCheckSeverity.ERROR
        assert named in (result.description or "")


def test_content_under_another_name_is_not_intact(sealed: Any) -> None:
    manifest = current_manifest(sealed.store, "observation", sealed.image)
    assert observation_is_intact(sealed.store, manifest, sealed.image).passed
    other = observation_is_intact(sealed.store, manifest, sealed.spectrum)
    assert not other.passed
    assert "named after" in (other.description or "")


def test_damage_after_ingest_stops_everything_downstream(
    settings: Settings,
    vault: FileVault,
    instance: dg.DagsterInstance,
    image_file: Path,
    process_file: Callable[..., tuple[str, JobOutcome]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A disk that corrupts what it was given: the blocking check catches it in the same run."""
    import assets.ingestion.observation as module

    real = module.take_in

    def corrupting(store: Store, *args: Any, **kwargs: Any) -> Manifest:
        manifest = real(store, *args, **kwargs)
        name = next(o.path for o in manifest.outputs if o.path != "header.json")
        path = store.local_path(f"{manifest.prefix}/{name}")
        path.write_bytes(path.read_bytes()[:-1] + b"\x01")
        return manifest

    with monkeypatch.context() as patch:
        patch.setattr(module, "take_in", corrupting)
        key, outcome = process_file(image_file, settings, instance)
    assert outcome.cause is not None
    assert outcome.cause.step == "raw_observation"
    assert "observation_is_intact" in outcome.cause.reason
    assert [check.passed for check in outcome.checks] == [False]
    store = Store(settings.storage_url)
    assert not store.exists(f"tiles/{key}") and not store.exists(f"archive/{key}")
    # The file is still there: the next run takes it in again.
    _, repaired = process_file(image_file, settings, instance)
    assert repaired.success
    assert verify_observation(store, key, lambda manifest: None) == 6
