"""Manifests: what a dataset holds, what it was made from, and the proof of both.

A dataset is a ``kind`` (``tiles``) and a ``key`` (an observation). Every time it is made it gets a
new *generation*, a directory of its own; its ``manifest.json`` is written after all data, and
``current.json`` moves to it last. Data without a manifest do not exist for readers.

Layout below the store's root::

    <kind>/<key>/<generation>/...            data files
    <kind>/<key>/<generation>/manifest.json  inputs, code version, parameters, output hashes
    <kind>/<key>/current.json                which generation readers use

Belongs here: generations, finding manifests, and the walk that verifies a chain.
Does not belong here: how any kind of dataset is computed.
"""

import hashlib
import json
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np

from acie_pipelines.errors import AcieError, IntegrityError
from acie_pipelines.manifest import (
    InputRef,
    Manifest,
    Output,
    array_sha256,
    canonical_json,
    file_sha256,
)
from acie_pipelines.storage import Store

__all__ = [
    "Generation",
    "InputRef",
    "Manifest",
    "Output",
    "array_sha256",
    "current_manifest",
    "file_sha256",
    "generation_name",
    "new_generation",
    "read_manifest",
    "request_digest",
    "resumed_generation",
    "reusable_manifest",
    "verify_chain",
    "verify_outputs",
]

_ORPHAN_AGE_S = 24 * 3600


@dataclass
class Generation:
    """A dataset being written.

    Attributes
    ----------
    store
        Where it is written.
    prefix
        Name of its directory in the store.
    """

    store: Store
    kind: str
    key: str
    name: str
    request: str
    inputs: tuple[InputRef, ...]
    code_version: str
    parameters: Mapping[str, Any]
    published: bool = False

    @property
    def prefix(self) -> str:
        """Name of the generation's directory in the store."""
        return f"{self.kind}/{self.key}/{self.name}"

    def commit(
        self, outputs: tuple[Output, ...], attributes: Mapping[str, Any] | None = None
    ) -> Manifest:
        """Publish: data to stable storage, then the manifest, then the pointer readers follow."""
        manifest = Manifest(
            kind=self.kind,
            key=self.key,
            generation=self.name,
            inputs=self.inputs,
            code_version=self.code_version,
            parameters=self.parameters,
            outputs=outputs,
            attributes=attributes or {},
            created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        self.store.sync(self.prefix)
        self.store.write_bytes(f"{self.prefix}/manifest.json", manifest.to_json())
        pointer = {"generation": self.name, "request": self.request, "digest": manifest.digest}
        # Whatever fails from here on, readers may already follow the pointer: keep the data.
        self.published = True
        self.store.write_bytes(
            f"{self.kind}/{self.key}/current.json", canonical_json(pointer) + b"\n"
        )
        return manifest


def request_digest(
    kind: str,
    key: str,
    inputs: tuple[InputRef, ...],
    code_version: str,
    parameters: Mapping[str, Any],
) -> str:
    """SHA-256 of everything that decides a dataset's content: equal requests, equal content.

    Parameters
    ----------
    kind, key, inputs, code_version, parameters
        As of `new_generation`.
    """
    return hashlib.sha256(
        canonical_json(
            [kind, key, [[r.kind, r.key, r.digest] for r in inputs], code_version, dict(parameters)]
        )
    ).hexdigest()


def _remove_orphans(store: Store, kind: str, key: str) -> None:
    """Delete generations that a killed writer left without a manifest a day or more ago."""
    for name in store.names(f"{kind}/{key}"):
        stamp, _, _ = name.partition("-")
        if not (name.startswith("g") and stamp[1:].isdigit()):
            continue
        old = time.time() - int(stamp[1:]) > _ORPHAN_AGE_S
        if old and not store.exists(f"{kind}/{key}/{name}/manifest.json"):
            store.delete(f"{kind}/{key}/{name}")


@contextmanager
def new_generation(
    store: Store,
    kind: str,
    key: str,
    *,
    inputs: tuple[InputRef, ...],
    code_version: str,
    parameters: Mapping[str, Any],
) -> Iterator[Generation]:
    """Write a dataset in a directory of its own; the block calls `Generation.commit` last.

    Parameters
    ----------
    store, kind, key
        Where the dataset belongs.
    inputs, code_version, parameters
        What decides its content; recorded in the manifest.

    Yields
    ------
    Generation
        Write below ``generation.prefix``. If the block fails, what it wrote is removed and
        earlier generations stay as they are.
    """
    _remove_orphans(store, kind, key)
    generation = resumed_generation(
        store,
        kind,
        key,
        generation_name(),
        inputs=inputs,
        code_version=code_version,
        parameters=parameters,
    )
    try:
        yield generation
    except BaseException:
        if not generation.published or not _is_current(store, kind, key, generation.name):
            store.delete(generation.prefix)
        raise


def generation_name() -> str:
    """Make a name for a new generation."""
    # The time makes orphans recognisable; the random part keeps concurrent writers apart.
    return f"g{int(time.time())}-{secrets.token_hex(4)}"


def resumed_generation(
    store: Store,
    kind: str,
    key: str,
    name: str,
    *,
    inputs: tuple[InputRef, ...],
    code_version: str,
    parameters: Mapping[str, Any],
) -> Generation:
    """Continue a generation that several processes, one after the other or at once, write to.

    Whoever gave it its name sees to it that it is published or deleted; see `new_generation` for
    datasets that one process writes from beginning to end.

    Parameters
    ----------
    store, kind, key, inputs, code_version, parameters
        As of `new_generation`.
    name
        From `generation_name`.
    """
    request = request_digest(kind, key, inputs, code_version, parameters)
    return Generation(store, kind, key, name, request, inputs, code_version, parameters)


def _is_current(store: Store, kind: str, key: str, generation: str) -> bool:
    """Whether readers follow the pointer to this generation, or might."""
    try:
        pointer = _pointer(store, kind, key)
    except AcieError:
        return True
    return pointer is not None and pointer["generation"] == generation


def read_manifest(store: Store, kind: str, key: str, generation: str) -> Manifest:
    """Read the manifest of one generation.

    Raises
    ------
    IntegrityError
        If there is none, it was changed, or it belongs to another generation.
    """
    name = f"{kind}/{key}/{generation}/manifest.json"
    if not store.exists(name):
        raise IntegrityError(name, "there is no such manifest", "materialise the asset again")
    manifest = Manifest.from_json(store.read_bytes(name), name)
    if (manifest.kind, manifest.key, manifest.generation) != (kind, key, generation):
        raise IntegrityError(
            name, f"is the manifest of {manifest.prefix}", "materialise the asset again"
        )
    return manifest


def _pointer(store: Store, kind: str, key: str) -> dict[str, str] | None:
    name = f"{kind}/{key}/current.json"
    if not store.exists(name):
        return None
    try:
        pointer = json.loads(store.read_bytes(name))
        return {field: str(pointer[field]) for field in ("generation", "request", "digest")}
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(
            name, "is not a dataset pointer", "materialise the asset again"
        ) from error


def current_manifest(store: Store, kind: str, key: str) -> Manifest:
    """Manifest of the generation readers use.

    Raises
    ------
    IntegrityError
        If the dataset was never completed, or its manifest was changed.
    """
    pointer = _pointer(store, kind, key)
    if pointer is None:
        raise IntegrityError(
            f"{kind}/{key}", "has not been materialised", "materialise the asset first"
        )
    return _follow(store, kind, key, pointer)


def _follow(store: Store, kind: str, key: str, pointer: Mapping[str, str]) -> Manifest:
    manifest = read_manifest(store, kind, key, pointer["generation"])
    if manifest.digest != pointer["digest"]:
        raise IntegrityError(
            f"{manifest.prefix}/manifest.json",
            "is not the manifest that was published",
            "it was edited; materialise it again",
        )
    return manifest


def reusable_manifest(
    store: Store,
    kind: str,
    key: str,
    *,
    inputs: tuple[InputRef, ...],
    code_version: str,
    parameters: Mapping[str, Any],
) -> Manifest | None:
    """Return the current manifest if it was made from just these inputs and is undamaged."""
    pointer = _pointer(store, kind, key)
    request = request_digest(kind, key, inputs, code_version, parameters)
    if pointer is None or pointer["request"] != request:
        return None
    try:
        manifest = _follow(store, kind, key, pointer)
        verify_outputs(store, manifest)
    except IntegrityError:
        return None
    made_by = (manifest.inputs, manifest.code_version, manifest.parameters)
    return manifest if request_digest(kind, key, *made_by) == request else None


def verify_outputs(store: Store, manifest: Manifest) -> None:
    """Recompute every hash a manifest states.

    Raises
    ------
    IntegrityError
        Names the first piece that is missing or differs.
    """
    arrays: dict[str, Any] = {}
    for output in manifest.outputs:
        name = f"{manifest.prefix}/{output.path}"
        where = name if output.region is None else f"{name}{list(output.region)}"
        try:
            if output.region is None:
                actual = file_sha256(store, name)
            else:
                import zarr

                if output.path not in arrays:
                    arrays[output.path] = zarr.open_array(store.zarr(name), mode="r")
                window = tuple(slice(start, stop) for start, stop in output.region)
                values = np.asarray(arrays[output.path][window])
                same_type = output.dtype is None or values.dtype == np.dtype(output.dtype)
                actual = array_sha256(values) if same_type else f"of {values.dtype}"
        except Exception as error:  # decoding damaged bytes can fail in any way
            raise IntegrityError(
                where, f"cannot be read ({error})", "materialise the asset again"
            ) from error
        if actual != output.sha256:
            raise IntegrityError(
                where,
                "content does not match the hash in its manifest",
                "it was changed or damaged; materialise the asset again",
            )


def verify_chain(
    store: Store,
    *manifests: Manifest,
    kinds: Collection[str] | None = None,
    report: Callable[[Manifest], None] | None = None,
) -> int:
    """Verify datasets and everything they were made from, inputs first, each once.

    Parameters
    ----------
    *manifests
        Where the walk ends.
    kinds
        Kinds of datasets whose contents are read and hashed; of others only the manifests are
        verified. All kinds by default.
    report
        Called with each dataset once it has been verified.

    Returns
    -------
    int
        Number of datasets verified.

    Raises
    ------
    IntegrityError
        Names the first thing that does not match.
    """
    seen: set[str] = set()

    def visit(current: Manifest) -> None:
        # By place, not by digest: two generations of equal content can be damaged one by one.
        if current.prefix in seen:
            return
        for ref in current.inputs:
            source = read_manifest(store, ref.kind, ref.key, ref.generation)
            if source.digest != ref.digest:
                raise IntegrityError(
                    f"{ref.kind}/{ref.key}/{ref.generation}",
                    f"is not the dataset that {current.kind}/{current.key} was made from",
                    "materialise both again",
                )
            visit(source)
        if kinds is None or current.kind in kinds:
            verify_outputs(store, current)
        seen.add(current.prefix)
        if report is not None:
            report(current)

    for manifest in manifests:
        visit(manifest)
    return len(seen)
