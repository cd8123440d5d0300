"""`acie secure difference`, `coadd` and `decrypt` on ingested observations."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS

from acie_pipelines.crypto.tile_encryption import encrypt_tiles
from acie_pipelines.crypto.vault import FileVault
from acie_pipelines.observations.ingest import ingest_observation, open_stored
from acie_pipelines.provenance import current_manifest
from acie_pipelines.settings import Settings
from acie_pipelines.storage import Store
from acie_pipelines.tiling.writer import write_tiles
from acie_pipelines.verification import verify_everything, verify_observation

Acie = Callable[..., tuple[int, str, str]]
SHAPE = (30, 50)


class Field:
    """Epochs of one field in the store, encrypted, and the vault put away."""

    def __init__(self, folder: Path, settings: Settings, vault: FileVault) -> None:
        self.folder, self.store, self.vault = folder, Store(settings.storage_url), vault
        self._file = settings.keys_file
        self._kept = self._file.read_bytes()
        self.document = folder / "public.json"
        self.document.write_bytes(vault.public_keys().to_json())

    def write(self, name: str, pixels: np.ndarray) -> Path:
        path = self.folder / name
        hdu = fits.PrimaryHDU(pixels)
        hdu.header.update(CTYPE1="RA---TAN", CTYPE2="DEC--TAN", CRPIX1=9.0, CRPIX2=4.0)
        hdu.header.update(CRVAL1=150.0, CRVAL2=2.0, CDELT1=-1e-4, CDELT2=1e-4, BUNIT="adu")
        hdu.writeto(path)
        return path

    def encrypted(self, name: str, pixels: np.ndarray) -> str:
        source = ingest_observation(self.store, self.write(name, pixels), code_version="1")
        with open_stored(self.store, source) as observation:
            tiles = write_tiles(self.store, source, observation, code_version="1", tile_size=20)
        encrypt_tiles(self.store, tiles, self.vault.public_key(), code_version="1")
        return tiles.key

    def hide_vault(self) -> None:
        self._file.unlink()

    def show_vault(self) -> None:
        self._file.write_bytes(self._kept)
        self._file.chmod(0o600)


@pytest.fixture
def field(tmp_path: Path, settings: Settings, vault: FileVault) -> Field:
    return Field(tmp_path, settings, vault)


def run(acie: Acie, *arguments: Any) -> str:
    code, said, err = acie("secure", *arguments)
    assert code == 0, err
    return said.strip()


def test_a_reference_is_subtracted_by_whoever_cannot_decrypt(acie: Acie, field: Field) -> None:
    rng = np.random.default_rng(3)
    science = rng.normal(100, 5, SHAPE).astype(np.float32)
    science[7, 3:9] = np.nan
    template = rng.normal(100, 1, SHAPE).astype(np.float32)
    key, out = field.encrypted("science.fits", science), field.folder / "difference.fits"
    reference = field.write("template.fits", template)
    field.hide_vault()
    command = ("difference", key, "--reference", reference, "--public-keys", field.document)
    made = run(acie, *command)
    assert made == f"encrypted_difference/{key}/primary"
    # The reference is in the store by now, under its key, and nothing is computed twice.
    assert run(acie, *command) == made
    [name] = [each for each in field.store.names("tiles") if each.startswith("template")]
    assert run(acie, *command[:3], name, *command[4:]) == made
    assert len(field.store.names(made)) == 2, "one generation and its pointer"
    assert verify_observation(field.store, name, lambda manifest: None) == 2
    walked: list[str] = []
    verify_observation(field.store, key, lambda manifest: walked.append(manifest.kind))
    assert "encrypted_difference" in walked
    field.show_vault()
    run(acie, "decrypt", made, "--out", out)
    with fits.open(out) as opened:
        [hdu] = opened
        opened.verify("exception")
        valid = np.isfinite(science)
        assert (np.isfinite(hdu.data) == valid).all()
        expected = science.astype(float) - template
        assert np.abs(hdu.data - expected)[valid].max() < 0.5
        assert np.corrcoef(hdu.data[valid], expected[valid])[0, 1] > 0.999
        assert hdu.header["BUNIT"] == "adu"
        assert WCS(hdu.header).wcs.crval.tolist() == [150.0, 2.0]


def test_epochs_are_added_up_exactly(acie: Acie, field: Field) -> None:
    rng = np.random.default_rng(4)
    epochs = [rng.integers(-900, 900, SHAPE).astype(np.int16) for _ in range(3)]
    keys = [field.encrypted(f"epoch{n}.fits", pixels) for n, pixels in enumerate(epochs)]
    weights, out = (1.0, -0.5, 2.25), field.folder / "coadd.fits"
    given = [word for weight in weights for word in ("--weight", weight)]
    field.hide_vault()
    made = run(acie, "coadd", *keys, *given, "--public-keys", field.document)
    field.show_vault()
    run(acie, "decrypt", made, "--out", out)
    with fits.open(out) as opened:
        opened.verify("exception")
        assert [hdu.name for hdu in opened] == ["SUM", "WEIGHT"]
        expected = sum(weight * pixels for weight, pixels in zip(weights, epochs, strict=True))
        assert (opened["SUM"].data == expected).all()
        assert (opened["WEIGHT"].data == sum(weights)).all()
    walked: list[str] = []
    verify_everything(field.store, lambda manifest: walked.append(manifest.kind))
    assert walked.count("encrypted_coadd") == 1
    # A single observation can be read as well, exactly.
    single = ("secure", "decrypt", f"ciphertexts/{keys[0]}", "--out", out)
    code, _, err = acie(*single)
    assert code == 0 and "not authenticated" in err
    assert (fits.getdata(out) == epochs[0]).all()
    # What its owner attested is authenticated, until an older state is put in its place.
    pointer = field.store.read_bytes(f"ciphertexts/{keys[0]}/current.json")
    run(acie, "attest", keys[0])
    code, _, err = acie(*single)
    assert (code, err) == (0, "")
    tiles = current_manifest(field.store, "tiles", keys[0])
    encrypt_tiles(field.store, tiles, field.vault.public_key(), code_version="2")
    run(acie, "attest", keys[0])
    field.store.write_bytes(f"ciphertexts/{keys[0]}/current.json", pointer)
    code, _, err = acie(*single)
    assert code == 1 and "was superseded" in err


def test_what_was_refused_can_be_discarded(acie: Acie, field: Field) -> None:
    pixels = np.arange(1500, dtype=np.int16).reshape(SHAPE)
    key = field.encrypted("science.fits", pixels)
    masked = pixels.astype(np.float32)
    masked[3, 3] = np.nan
    reference = field.write("masked.fits", masked)
    code, _, err = acie("secure", "difference", key, "--reference", reference)
    assert code == 1 and "not finite" in " ".join(err.split())
    [batch] = [json.loads(line) for line in run(acie, "queue", "--json").splitlines()]
    assert (batch["kind"], batch["failed"]) == ("encrypted_difference", 1)
    code, _, err = acie("secure", "queue", "--discard", batch["batch"] + 1)
    assert code == 1 and "is not in the queue" in " ".join(err.split())
    assert run(acie, "queue", "--discard", batch["batch"], "--json") == ""
    assert field.store.names(f"encrypted_difference/{key}/primary") == []


def test_what_is_wrong_is_one_line(acie: Acie, field: Field) -> None:
    pixels = np.arange(1500, dtype=np.int16).reshape(SHAPE)
    key = field.encrypted("science.fits", pixels)
    other = field.write("other.fits", pixels[:20])
    for arguments, message in (
        (("difference", key, "--reference", "nothing.fits"), "is neither a file nor tiled"),
        (("difference", key, "--reference", other), "has its tiles in other places"),
        (("coadd", key, key, "--weight", 1), "are not 2 numbers other than zero"),
        (("coadd", key, key, "--weight", 4000, "--weight", 4000), "overflow beyond"),
        (("coadd", key, "nothing"), "has not been materialised"),
        (("decrypt", f"tiles/{key}", "--out", other), "is no encrypted image"),
        (("decrypt", f"ciphertexts/{key}", "--out", other, "--plane", "x"), "choose one with"),
    ):
        code, _, err = acie("secure", *arguments)
        assert code == 1 and message in " ".join(err.split())
