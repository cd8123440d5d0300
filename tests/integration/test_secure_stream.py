"""`acie secure filters` and `acie secure stream` on an ingested observation."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from astropy.io import fits

from acie_pipelines.crypto.vault import FileVault
from acie_pipelines.observations.ingest import ingest_observation, open_stored
from acie_pipelines.provenance import Manifest, current_manifest
from acie_pipelines.settings import Settings
from acie_pipelines.storage import Store
from acie_pipelines.tiling.writer import write_tiles

Acie = Callable[..., tuple[int, str, str]]


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 1000, (40, 60)).astype(np.int16)


@pytest.fixture
def tiles(settings: Settings, pixels: np.ndarray, tmp_path: Path) -> Manifest:
    """An observation of six tiles."""
    store = Store(settings.storage_url)
    fits.PrimaryHDU(pixels).writeto(tmp_path / "field.fits")
    source = ingest_observation(store, tmp_path / "field.fits", code_version="1")
    with open_stored(store, source) as observation:
        return write_tiles(store, source, observation, code_version="1", tile_size=20)


def test_a_plane_streams_through_a_model(
    acie: Acie,
    settings: Settings,
    vault: FileVault,
    tiles: Manifest,
    pixels: np.ndarray,
    tmp_path: Path,
) -> None:
    # Weights of a flat filter are all alike: it gives the mean of a window.
    np.save(tmp_path / "flat.npy", np.ones((1, 5, 5)))
    model, out = tmp_path / "flat.model", tmp_path / "features.h5"
    code, _, err = acie("secure", "filters", tiles.key, tmp_path / "flat.npy", "--out", model)
    assert code == 0, err
    document = tmp_path / "public.json"
    assert acie("keys", "export-public", document)[0] == 0
    # Without the vault: everything but what the owner does.
    kept = settings.keys_file.read_bytes()
    settings.keys_file.unlink()
    command = ("secure", "stream", tiles.key, "--model", model, "--public-keys", document)
    code, said, err = acie(*command)
    assert code == 0 and "6 tiles" in said, err
    made = current_manifest(
        Store(settings.storage_url), "encrypted_features", f"{tiles.key}/primary"
    )
    assert made.prefix in said
    settings.keys_file.write_bytes(kept)
    settings.keys_file.chmod(0o600)
    code, said, err = acie(*command, "--check", "--out", out)
    assert code == 0, err
    assert made.prefix in said and f"flux is conserved: {pixels.sum()}" in said
    with h5py.File(out) as file:
        assert len(file["features"]) == pixels.size // 25
        for (value,), (_, y0, y1, x0, x1) in zip(file["features"], file["place"], strict=True):
            assert value == pytest.approx(pixels[y0:y1, x0:x1].mean(), rel=0.01)
    assert not list(tmp_path.glob(".features*"))
    for arguments, message in (
        (("stream", tiles.key, "--model", tmp_path / "none"), "does not exist"),
        (("stream", tiles.key, "--model", model, "--plane", "flux"), "choose one with --plane"),
        (("stream", "nothing", "--model", model), "has not been materialised"),
        (("filters", tiles.key, document, "--out", model), "holds no templates"),
    ):
        code, _, err = acie("secure", *arguments)
        assert code == 1 and message in " ".join(err.split())
