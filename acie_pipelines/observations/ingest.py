"""Take an observation file into the store: copy, hash, validate, describe, publish.

Belongs here: the steps from a source file to a committed generation of kind ``observation``.
Does not belong here: what happens to a file that is refused (see `quarantine`).
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from acie_pipelines.errors import EmptyFileError, IntegrityError
from acie_pipelines.observations.base import Limits, Reader
from acie_pipelines.observations.identity import (
    ContentHasher,
    Fingerprint,
    blocks,
    content_files,
    content_sha256,
    member_prefix,
    observation_key,
    unchanged,
)
from acie_pipelines.observations.model import Plane
from acie_pipelines.observations.opening import open_observation
from acie_pipelines.observations.quality import plane_quality
from acie_pipelines.provenance import (
    Generation,
    Manifest,
    Output,
    new_generation,
    reusable_manifest,
)
from acie_pipelines.storage import Store

__all__ = ["KIND", "ingest_observation", "open_stored", "planes_of"]

KIND = "observation"
_NAME_LENGTH = 128


def safe_file_name(name: str) -> str:
    """File name that is safe in any store; the suffixes, which tell the format, stay."""
    return re.sub(r"[^A-Za-z0-9._+-]+", "_", name)[-_NAME_LENGTH:].lstrip(".") or "observation"


def ingest_observation(
    store: Store,
    source: Path,
    *,
    code_version: str,
    limits: Limits = Limits(),  # noqa: B008
    key: str | None = None,
    expected_sha256: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Manifest:
    """Copy an observation into the store and publish its description.

    The source is read once when `expected_sha256` is known, else once more to name it. Nothing
    is readable before the copy has been hashed and validated.

    Parameters
    ----------
    store
        Where the generation goes.
    source
        FITS, TIFF or HDF5 file, Zarr directory or zip.
    code_version
        Recorded in the manifest; another version ingests again.
    limits
        How much compressed data may expand to.
    key
        Name of the dataset; made from the file's name and content by default. A content keeps the
        key it was first registered under, whatever its file is called by now.
    expected_sha256
        Digest of the content that was announced, as of `identity.fingerprint`.
    progress
        Called with the bytes copied and the bytes in total.

    Returns
    -------
    Manifest
        The new one, or the current one if it was made from the same content and is undamaged.

    Raises
    ------
    ObservationError
        If the file cannot become an observation.
    IntegrityError
        If the content changes meanwhile or is not what was announced.
    StorageError
        If the source cannot be read or the store not written.
    """
    if source.is_file() and source.stat().st_size == 0:
        raise EmptyFileError(source, "holds no bytes", "transfer the file again")
    sha256 = expected_sha256 or content_sha256(source)
    key = key or observation_key(source.name, sha256)
    parameters = {"sha256": sha256, "limits": asdict(limits)}
    current = reusable_manifest(
        store, KIND, key, inputs=(), code_version=code_version, parameters=parameters
    )
    if current is not None:
        return current
    with new_generation(
        store, KIND, key, inputs=(), code_version=code_version, parameters=parameters
    ) as generation:
        found, outputs = _copy(generation, source, progress)
        if found.sha256 != sha256:
            raise IntegrityError(
                source,
                f"has SHA-256 {found.sha256}, {sha256} was announced",
                "wait until it is complete and try again",
            )
        return _describe(generation, source, found, outputs, limits)


def _copy(
    generation: Generation, source: Path, progress: Callable[[int, int], None] | None
) -> tuple[Fingerprint, list[Output]]:
    """Copy the content while hashing it."""
    base = f"original/{safe_file_name(source.name)}"
    outputs = []
    with unchanged(source), ContentHasher() as hasher:
        files = content_files(source)
        total = sum(file.stat().st_size for _, file in files)
        done = 0
        for name, file in files:
            path = f"{base}/{name}" if source.is_dir() else base
            if source.is_dir():
                hasher.update(member_prefix(name, file.stat().st_size))
            own = hashlib.sha256()
            with generation.store.writer(f"{generation.prefix}/{path}") as target:
                for block in blocks(file):
                    hasher.update(block)
                    if source.is_dir():
                        own.update(block)
                    target.write(block)
                    done += len(block)
                    if progress is not None:
                        progress(done, total)
            outputs.append(Output(path, own.hexdigest()))
        found = hasher.fingerprint()
    if not source.is_dir():
        outputs = [Output(base, found.sha256)]
    return found, outputs


def _describe(
    generation: Generation,
    source: Path,
    found: Fingerprint,
    outputs: list[Output],
    limits: Limits,
) -> Manifest:
    """Validate the copy, write its header and commit."""
    original = f"original/{safe_file_name(source.name)}"
    store = generation.store
    with (
        store.local_copy(f"{generation.prefix}/{original}") as path,
        open_observation(path, limits=limits) as observation,
    ):
        checked = observation.verify_checksums().checked
        quality = {plane.name: plane_quality(observation, plane) for plane in observation.planes}
        attributes: dict[str, Any] = {
            "source_name": source.name,
            "original": original,
            "format": observation.format,
            "bytes": found.size,
            "sha256": found.sha256,
            "streebog256": found.streebog256,
            "planes": [_plane_facts(plane) for plane in observation.planes],
            "quality": {
                "planes": quality,
                "has_checksum": checked > 0,
                "checksum_ok": True if checked else None,
            },
            "warnings": list(observation.warnings),
        }
        for fact in ("redshift", "class"):
            if fact in observation.header:
                attributes[fact] = observation.header[fact]
        header = _header_document(observation)
    store.write_bytes(f"{generation.prefix}/header.json", header)
    outputs = [*outputs, Output("header.json", hashlib.sha256(header).hexdigest())]
    return generation.commit(tuple(outputs), attributes)


def _plane_facts(plane: Plane) -> dict[str, Any]:
    return {
        "name": plane.name,
        "kind": plane.kind,
        "shape": list(plane.shape),
        "dtype": plane.dtype.str,
        "unit": plane.unit,
        "wcs": plane.wcs,
        "pixel_scale_arcsec": plane.pixel_scale_arcsec,
    }


def _header_document(observation: Reader) -> bytes:
    document = {
        "header": dict(observation.header),
        "planes": {
            plane.name: {"header": dict(plane.header), "wcs": plane.wcs}
            for plane in observation.planes
        },
    }
    return json.dumps(document, indent=1, allow_nan=False).encode() + b"\n"


def planes_of(manifest: Manifest) -> tuple[Plane, ...]:
    """Planes of a stored observation, without opening it.

    Parameters
    ----------
    manifest
        As `ingest_observation` returns it.

    Returns
    -------
    tuple of Plane
        With empty headers; those are in ``header.json``.
    """
    return tuple(
        Plane(
            name=facts["name"],
            kind=facts["kind"],
            shape=tuple(facts["shape"]),
            dtype=np.dtype(facts["dtype"]),
            unit=facts["unit"],
            wcs=facts["wcs"],
            pixel_scale_arcsec=facts["pixel_scale_arcsec"],
        )
        for facts in manifest.attributes["planes"]
    )


@contextmanager
def open_stored(store: Store, manifest: Manifest) -> Iterator[Reader]:
    """Open a stored observation under the limits it was ingested with.

    Parameters
    ----------
    store
        Where `manifest` was read from. Unless it is local, the file is downloaded for the time
        of the block.
    manifest
        As `ingest_observation` returns it.

    Yields
    ------
    Reader
        The open observation.

    Raises
    ------
    ObservationError, StorageError
        If the stored file was damaged or removed.
    """
    name = f"{manifest.prefix}/{manifest.attributes['original']}"
    limits = Limits(**manifest.parameters["limits"])
    with store.local_copy(name) as path, open_observation(path, limits=limits) as observation:
        yield observation
