"""The stages of the pipeline as functions that a child process can run and a test can kill."""

import dataclasses
import resource
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from acie_pipelines.crypto.keys import PaillierPublicKey
from acie_pipelines.crypto.tile_encryption import encrypt_tiles
from acie_pipelines.errors import StorageError
from acie_pipelines.observations.ingest import ingest_observation, open_stored
from acie_pipelines.provenance import Manifest, current_manifest
from acie_pipelines.storage import Store
from acie_pipelines.tiling.aggregate import aggregate_tiles
from acie_pipelines.tiling.writer import write_tiles


@dataclasses.dataclass(frozen=True)
class Setting:
    """What every stage may need."""

    store_url: str
    source: Path
    key: str = ""
    tile_size: int = 256
    modulus: int = 0


def ingest(setting: Setting, code_version: str) -> Manifest:
    return ingest_observation(Store(setting.store_url), setting.source, code_version=code_version)


def tile(setting: Setting, code_version: str) -> Manifest:
    store = Store(setting.store_url)
    source = current_manifest(store, "observation", setting.key)
    with open_stored(store, source) as observation:
        return write_tiles(
            store, source, observation, code_version=code_version, tile_size=setting.tile_size
        )


def aggregate(setting: Setting, code_version: str) -> Manifest:
    store = Store(setting.store_url)
    source = current_manifest(store, "observation", setting.key)
    tiles = current_manifest(store, "tiles", setting.key)
    with open_stored(store, source) as observation:
        return aggregate_tiles(store, tiles, observation, code_version=code_version)


def encrypt(setting: Setting, code_version: str) -> Manifest:
    store = Store(setting.store_url)
    tiles = current_manifest(store, "tiles", setting.key)
    key = PaillierPublicKey(setting.modulus)
    return encrypt_tiles(store, tiles, key, code_version=code_version)


STAGES: dict[str, Callable[[Setting, str], Manifest]] = {
    "ingest": ingest,
    "tile": tile,
    "aggregate": aggregate,
    "encrypt": encrypt,
}
# The dataset that each stage makes.
KINDS = {
    "ingest": "observation",
    "tile": "tiles",
    "aggregate": "mosaic",
    "encrypt": "ciphertexts",
}
# Stages that come before each, and itself.
UP_TO = {
    "ingest": ("ingest",),
    "tile": ("ingest", "tile"),
    "aggregate": ("ingest", "tile", "aggregate"),
    "encrypt": ("ingest", "tile", "encrypt"),
}


def prepare(stage: str, setting: Setting, code_version: str) -> tuple[Setting, Manifest]:
    """Run everything up to and including a stage."""
    manifest = ingest(setting, code_version)
    setting = dataclasses.replace(setting, key=manifest.key)
    for name in UP_TO[stage][1:]:
        manifest = STAGES[name](setting, code_version)
    return setting, manifest


def write_fits(path: Path, *, seed: int, height: int, width: int) -> None:
    """A noisy float32 image with WCS, unit and blanks."""
    from astropy.io import fits

    rng = np.random.default_rng(seed)
    pixels = rng.normal(100, 5, (height, width)).astype(np.float32)
    pixels[5, 7:20] = np.nan
    hdu = fits.PrimaryHDU(pixels)
    hdu.header.update(
        BUNIT="adu",
        CTYPE1="RA---TAN",
        CTYPE2="DEC--TAN",
        CRPIX1=1.0,
        CRPIX2=1.0,
        CRVAL1=150.0,
        CRVAL2=2.0,
        CDELT1=-1e-4,
        CDELT2=1e-4,
    )
    hdu.writeto(path, overwrite=True)


def child(
    stage: str, setting: Setting, code_version: str, file_limit: int | None, link: Connection
) -> None:
    """Run a stage; say when it starts and how it ended."""
    if file_limit is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    link.send("started")
    try:
        STAGES[stage](setting, code_version)
    except StorageError as error:
        link.send(f"StorageError: {error}")
    else:
        link.send("finished")
