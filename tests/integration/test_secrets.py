"""Keys stay in the vault, and samples in the owner's store: neither is in logs or databases."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pytest
from astropy.io import fits

from acie_pipelines import definitions
from acie_pipelines.crypto.vault import FileVault
from acie_pipelines.settings import Settings

Leaks = Callable[[Path, Path], list[str]]


def test_the_search_finds_what_it_should(
    tmp_path: Path, vault_document: bytes, key_leaks: Leaks
) -> None:
    key = next(iter(json.loads(vault_document)["keys"].values()))["secrets"]
    p = int(key["p"], 16)
    (tmp_path / "vault").write_bytes(vault_document)
    assert key_leaks(tmp_path, tmp_path / "vault") == []
    (tmp_path / "a.log").write_text(f"PaillierPrivateKey(p={p})")
    (tmp_path / "b.zarr").write_bytes(b"x" + p.to_bytes(200, "little"))
    (tmp_path / "c.json").write_text(json.dumps({"key": key["archive_key"]}))
    assert key_leaks(tmp_path, tmp_path / "vault") == [
        "p in decimal in a.log",
        "p in limbs in b.zarr",
        "archive key in base64 in c.json",
    ]


def test_only_the_archive_is_given_the_vault() -> None:
    given = {
        item.key.to_user_string()
        for item in definitions.defs.assets or ()
        if isinstance(item, dg.AssetsDefinition) and "vault" in item.required_resource_keys
    }
    assert given == {"sealed_archive"}


def planted() -> np.ndarray[Any, np.dtype[np.int16]]:
    """An image that starts with samples that nothing else holds in this order."""
    pixels = np.random.default_rng(11).integers(1000, 9000, (40, 48)).astype(np.int16)
    pixels[0, :8] = 31337, 27183, 16180, 14142, 17320, 22360, 26457, 31623
    return pixels


def sample_leaks(folder: Path) -> list[str]:
    """Files that hold the planted samples, in any spelling."""
    samples = planted()[0, :8]
    needles = [",".join(map(str, samples)), " ".join(map(str, samples))]
    needles += [", ".join(map(str, samples[:4])), " ".join(f"{v:x}" for v in samples[:4])]
    found = [needle.encode() for needle in needles]
    for dtype in ("<i2", ">i2", "<i4", "<i8", "<f4", "<f8"):
        raw = samples.astype(dtype).tobytes()
        found += [raw, raw.hex().encode()]
        # Base64 spells the same bytes in three ways, by their place modulo three.
        found += [base64.b64encode(raw[skip:])[4:-4] for skip in range(3)]
    return [
        str(path.relative_to(folder))
        for path in sorted(folder.rglob("*"))
        if path.is_file() and any(needle in path.read_bytes() for needle in found)
    ]


def test_the_search_finds_samples(tmp_path: Path) -> None:
    raw = planted().astype(">i2").tobytes()
    (tmp_path / "raw").write_bytes(b"x" + raw)
    (tmp_path / "text.log").write_text(f"pixels {planted()[0, :8].tolist()}")
    for skip in range(3):
        (tmp_path / f"base64-{skip}").write_bytes(base64.b64encode(b"y" * skip + raw))
    (tmp_path / "other").write_bytes(np.arange(4000, dtype="<i2").tobytes())
    assert set(sample_leaks(tmp_path)) == {"raw", "text.log", "base64-0", "base64-1", "base64-2"}


@pytest.mark.slow
def test_keys_stay_in_the_vault(
    home: Path,
    settings: Settings,
    vault: FileVault,
    vault_document: bytes,
    image_file: Path,
    spectrum_file: Path,
    bad_files: dict[str, tuple[bytes, str]],
    key_leaks: Leaks,
) -> None:
    """Also when something goes wrong: bad input, a vault for everyone to read, a broken vault."""
    (home / "cut.fits").write_bytes(bad_files["cut.fits"][0])
    fits.PrimaryHDU(planted()).writeto(home / "planted.fits")
    names = [image_file, spectrum_file, home / "cut.fits", home / "planted.fits"]
    files = [str(name) for name in names]
    acie = str(Path(sys.executable).with_name("acie"))

    def run(name: str, *arguments: str) -> int:
        done = subprocess.run(
            [acie, *arguments],
            capture_output=True,
            env=os.environ | {"TMPDIR": str(home), "PYTHONFAULTHANDLER": "1"},
        )
        (home / f"{name}.out").write_bytes(done.stdout)
        (home / f"{name}.err").write_bytes(done.stderr)
        return done.returncode

    assert run("ingest", "ingest", *files) == 1
    assert run("verify", "verify") == 0
    assert run("models", "models", "list") == 0
    assert run("keys", "keys", "list") == 0

    settings.keys_file.chmod(0o644)
    (home / "third.fits").write_bytes(image_file.read_bytes() + bytes(2880))
    assert run("readable", "ingest", str(home / "third.fits")) == 1
    assert "can be read by others" in (home / "readable.out").read_text()
    settings.keys_file.chmod(0o600)
    damaged = json.loads(vault_document)
    entry = next(iter(damaged["keys"].values()))["secrets"]
    entry["p"] = entry["p"][:-1] + ("0" if entry["p"][-1] != "0" else "1")
    settings.keys_file.write_text(json.dumps(damaged))
    assert run("broken", "ingest", str(home / "third.fits")) == 1

    made = {path.name for path in home.rglob("*")}
    assert {"ingest.out", "acie.db", "runs.db"} <= made
    assert any(path.stat().st_size > 100_000 for path in (home / "acie" / "store").rglob("*"))
    assert key_leaks(home, settings.keys_file) == []
    # The file itself, and what the owner's store keeps in the clear; tiles are compressed.
    leaks = set(sample_leaks(home)) - {"planted.fits"}
    places = {Path(name).parts[:3] for name in leaks}
    assert places == {("acie", "store", "observation"), ("acie", "store", "mosaic")}, leaks
