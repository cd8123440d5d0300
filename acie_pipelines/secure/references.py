"""Plaintext reference images for differences: found in the store, or taken in from a file.

Belongs here: tiles of a reference that lie where an observation's ciphertexts do.
Does not belong here: subtracting them (`encrypted_images`).
"""

from pathlib import Path

from acie_pipelines import __version__
from acie_pipelines.errors import IntegrityError
from acie_pipelines.observations.identity import content_sha256, observation_key
from acie_pipelines.observations.ingest import ingest_observation, open_stored
from acie_pipelines.provenance import Manifest, current_manifest, read_manifest
from acie_pipelines.storage import Store
from acie_pipelines.tiling.writer import write_tiles

__all__ = ["reference_tiles"]


def reference_tiles(store: Store, ciphertexts: Manifest, reference: str) -> Manifest:
    """Give the tiles of a reference image, made as those of an observation if need be.

    Parameters
    ----------
    store
        Holds the reference, or receives it: what a difference is made from can be traced.
    ciphertexts
        Dataset of kind ``ciphertexts``; of the tiles that it was made from, only the manifest is
        read.
    reference
        Key of an observation in the store, or path of a FITS, TIFF, HDF5 or Zarr file.

    Raises
    ------
    IntegrityError
        If there is neither.
    ObservationError
        If the file cannot be read.
    """
    key, path = reference, Path(reference)
    if path.exists():
        key = observation_key(path.name, content_sha256(path))
    elif not store.exists(f"tiles/{key}/current.json"):
        raise IntegrityError(reference, "is neither a file nor tiled", "see `acie status`")
    if store.exists(f"tiles/{key}/current.json"):
        return current_manifest(store, "tiles", key)
    version = f"acie {__version__}, reference"
    (used,) = ciphertexts.inputs
    tiles = read_manifest(store, used.kind, used.key, used.generation)
    source = ingest_observation(store, path, code_version=version)
    with open_stored(store, source) as observation:
        return write_tiles(
            store,
            source,
            observation,
            code_version=version,
            tile_size=tiles.attributes["tile_size"],
        )
