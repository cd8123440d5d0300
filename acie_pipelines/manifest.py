"""What a dataset's manifest says, and how its digest and its hashes are computed.

Belongs here: the record and its JSON form. Does not belong here: where manifests are kept and how
they are verified (`acie_pipelines.provenance`).
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.errors import IntegrityError
from acie_pipelines.storage import Store

__all__ = [
    "InputRef",
    "Manifest",
    "Output",
    "array_sha256",
    "canonical_json",
    "file_sha256",
]

_SCHEMA = "acie.manifest/1"


def canonical_json(value: Any) -> bytes:
    """Serialise JSON values so that equal values give equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def array_sha256(array: NDArray[Any]) -> str:
    """SHA-256 of an array's values in C order, little-endian.

    Parameters
    ----------
    array
        Any numeric array; its dtype and shape are not part of the hash.
    """
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return hashlib.sha256(little.reshape(-1).view(np.uint8).data).hexdigest()


def file_sha256(store: Store, name: str) -> str:
    """SHA-256 of a stored object, read as a stream."""
    digest = hashlib.sha256()
    with store.open(name) as handle:
        while block := handle.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


@dataclass(frozen=True)
class InputRef:
    """A dataset that went into another one.

    Attributes
    ----------
    kind, key, generation
        Where its manifest is.
    digest
        Digest of that manifest when it was used.
    """

    kind: str
    key: str
    generation: str
    digest: str


@dataclass(frozen=True)
class Output:
    """One hashed piece of a dataset.

    Attributes
    ----------
    path
        Relative to the generation: a file, or a Zarr array when `region` is set.
    sha256
        Of the file's bytes, or of the decoded region (see `array_sha256`).
    region
        ``((start, stop), ...)`` per axis of the Zarr array; ``None`` for a file.
    dtype
        Type of the decoded region (``<f4``), checked with the hash: the same bytes under another
        type are other values. ``None`` for a file.
    """

    path: str
    sha256: str
    region: tuple[tuple[int, int], ...] | None = None
    dtype: str | None = None


@dataclass(frozen=True)
class Manifest:
    """The record that makes a generation readable.

    Attributes
    ----------
    kind, key, generation
        Identity and place of the dataset.
    inputs
        Datasets it was made from.
    code_version
        Version of the code that made it.
    parameters
        Every parameter that influenced the result.
    outputs
        Hashes of everything it holds.
    attributes
        Facts about the content for readers (plane names, units, totals). JSON values only.
    created_at
        UTC time in ISO 8601; not part of the digest.
    """

    kind: str
    key: str
    generation: str
    inputs: tuple[InputRef, ...]
    code_version: str
    parameters: Mapping[str, Any]
    outputs: tuple[Output, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    created_at: str = ""

    @property
    def prefix(self) -> str:
        """Name of the generation's directory in the store."""
        return f"{self.kind}/{self.key}/{self.generation}"

    @property
    def digest(self) -> str:
        """SHA-256 over everything but the generation's name and the time."""
        return hashlib.sha256(
            canonical_json(
                {
                    "schema": _SCHEMA,
                    "kind": self.kind,
                    "key": self.key,
                    "inputs": [[ref.kind, ref.key, ref.digest] for ref in self.inputs],
                    "code_version": self.code_version,
                    "parameters": dict(self.parameters),
                    "outputs": [[o.path, o.sha256, o.region, o.dtype] for o in self.outputs],
                    "attributes": dict(self.attributes),
                }
            )
        ).hexdigest()

    def as_input(self) -> InputRef:
        """Refer to this dataset from another one's manifest."""
        return InputRef(self.kind, self.key, self.generation, self.digest)

    def to_json(self) -> bytes:
        """Serialise, with the digest."""
        body = {
            "schema": _SCHEMA,
            "kind": self.kind,
            "key": self.key,
            "generation": self.generation,
            "created_at": self.created_at,
            "digest": self.digest,
            "code_version": self.code_version,
            "parameters": dict(self.parameters),
            "inputs": [vars(ref) for ref in self.inputs],
            "attributes": dict(self.attributes),
            "outputs": [
                {"path": o.path, "sha256": o.sha256}
                | ({"region": o.region} if o.region is not None else {})
                | ({"dtype": o.dtype} if o.dtype is not None else {})
                for o in self.outputs
            ],
        }
        return json.dumps(body, indent=1, allow_nan=False).encode() + b"\n"

    @classmethod
    def from_json(cls, data: bytes, subject: str) -> "Manifest":
        """Parse and check a manifest against its own digest.

        Raises
        ------
        IntegrityError
            If it is not a manifest of this schema or was changed after it was written.
        """
        try:
            body = json.loads(data)
            if body["schema"] != _SCHEMA:
                raise IntegrityError(
                    subject, f"unknown schema {body['schema']!r}", "read it with a newer release"
                )
            manifest = cls(
                kind=body["kind"],
                key=body["key"],
                generation=body["generation"],
                inputs=tuple(InputRef(**ref) for ref in body["inputs"]),
                code_version=body["code_version"],
                parameters=body["parameters"],
                outputs=tuple(
                    Output(
                        o["path"],
                        o["sha256"],
                        tuple((int(a), int(b)) for a, b in o["region"]) if "region" in o else None,
                        o.get("dtype"),
                    )
                    for o in body["outputs"]
                ),
                attributes=body["attributes"],
                created_at=body["created_at"],
            )
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(
                subject, f"is not a manifest ({error!r})", "materialise the asset again"
            ) from error
        if manifest.digest != body["digest"]:
            raise IntegrityError(
                subject, "does not match its own digest", "it was edited; materialise it again"
            )
        return manifest
