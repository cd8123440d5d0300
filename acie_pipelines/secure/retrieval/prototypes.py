"""Reference prototypes: short integer vectors with what is known about their sources.

Belongs here: the prototype, conditions on its metadata, scores, and the hashes that prove an index.
Does not belong here: where an index is kept (`index`), how vectors are made (`stamp_embedding`).

Vectors are signed bytes of at most 256 dimensions. So every inner product and squared distance is
an integer below 2^24, exact in the float32 arithmetic of pgvector as in any other, whatever the
order of summation: all stores, and the arithmetic on ciphertexts, rank alike to the last bit.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.errors import ModelError
from acie_pipelines.manifest import canonical_json

__all__ = [
    "LARGEST_COMPONENT",
    "MAXIMUM_DIMENSIONS",
    "METRICS",
    "Condition",
    "Described",
    "Metric",
    "Neighbour",
    "Prototype",
    "checked_vector",
    "index_digest",
    "nearest_rows",
    "prototypes_digest",
    "scores",
]

LARGEST_COMPONENT: Final = 127
MAXIMUM_DIMENSIONS: Final = 256

Metric = Literal["distance", "inner product"]
METRICS: Final[tuple[Metric, ...]] = get_args(Metric)

_DOMAIN: Final = b"acie.prototype/1\0"
_PROTOTYPES_DOMAIN: Final = b"acie.prototypes/1\0"
_INDEX_DOMAIN: Final = b"acie.prototype-index/2\0"


@dataclass(frozen=True, eq=False)
class Prototype:
    """One reference and its metadata.

    Attributes
    ----------
    key
        Name, unique in its index; ties are broken by it, in the order of code points.
    vector
        ``int8[dimensions]``, from -127 to 127.
    survey, band, label
        Where it comes from and what it is.
    redshift
        Interval it stands for, ends included; ``None`` if unknown.
    source_key, source_sha256
        The observation it was made from, and the hash of its bytes.
    """

    key: str
    vector: NDArray[np.int8]
    survey: str
    band: str
    label: str
    redshift: tuple[float, float] | None
    source_key: str
    source_sha256: str

    def __post_init__(self) -> None:
        checked_vector(self.vector, len(self.vector), f"prototype {self.key}")
        if self.redshift is not None and not -1 < self.redshift[0] <= self.redshift[1] < np.inf:
            raise ModelError(
                f"prototype {self.key}",
                f"has the redshift interval {self.redshift}",
                "give two finite numbers above -1, the lower first",
            )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Prototype) and self.sha256 == other.sha256

    def __hash__(self) -> int:
        return hash(self.sha256)

    @property
    def sha256(self) -> str:
        """Hash over everything above."""
        return hashlib.sha256(
            _DOMAIN + canonical_json(self.metadata()) + b"\0" + self.vector.tobytes()
        ).hexdigest()

    def metadata(self) -> dict[str, Any]:
        """Everything but the vector, as a JSON object."""
        redshift = None if self.redshift is None else list(self.redshift)
        names = ("key", "survey", "band", "label", "source_key", "source_sha256")
        return {name: getattr(self, name) for name in names} | {"redshift": redshift}


class Described(Protocol):
    """What conditions look at."""

    @property
    def survey(self) -> str:
        """Where it comes from."""

    @property
    def band(self) -> str:
        """Band."""

    @property
    def label(self) -> str:
        """What it is."""

    @property
    def redshift(self) -> tuple[float, float] | None:
        """Interval it stands for; ``None`` if unknown."""


@dataclass(frozen=True)
class Condition:
    """What a prototype's metadata must be; fields that are ``None`` allow everything.

    Attributes
    ----------
    survey, band, label
        Equal to these.
    redshift
        The prototype's interval overlaps this one, ends included; unknown redshifts do not.
    """

    survey: str | None = None
    band: str | None = None
    label: str | None = None
    redshift: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.redshift is not None and not self.redshift[0] <= self.redshift[1]:
            raise ModelError(
                f"redshift interval {self.redshift}", "is empty", "give the lower end first"
            )

    def allows(self, described: Described) -> bool:
        """Whether a prototype, or what several have in common, meets it."""
        for name in ("survey", "band", "label"):
            wanted = getattr(self, name)
            if wanted is not None and getattr(described, name) != wanted:
                return False
        if self.redshift is None:
            return True
        if described.redshift is None:
            return False
        (low, high), (least, greatest) = described.redshift, self.redshift
        return low <= greatest and high >= least

    def to_json(self) -> dict[str, Any]:
        """Fields as a JSON object."""
        redshift = None if self.redshift is None else list(self.redshift)
        return {
            "survey": self.survey,
            "band": self.band,
            "label": self.label,
            "redshift": redshift,
        }

    @classmethod
    def from_json(cls, fields: Any) -> "Condition":
        """Read what `to_json` wrote.

        Raises
        ------
        ModelError
            If it is something else.
        """
        malformed = ModelError("condition", "is not valid", "write it with Condition.to_json")
        try:
            names = {name: fields[name] for name in ("survey", "band", "label")}
            interval = fields["redshift"]
            redshift = None if interval is None else (float(interval[0]), float(interval[1]))
        except (TypeError, KeyError, IndexError, ValueError):
            raise malformed from None
        if not all(value is None or isinstance(value, str) for value in names.values()):
            raise malformed
        return cls(**names, redshift=redshift)


@dataclass(frozen=True)
class Neighbour:
    """A prototype that was found.

    Attributes
    ----------
    prototype
        Which one.
    score
        Inner product, or minus the squared Euclidean distance: the greater the nearer.
    """

    prototype: Prototype
    score: int


def checked_vector(vector: NDArray[Any], dimensions: int, subject: str) -> NDArray[np.int8]:
    """Refuse what is no vector of an index.

    Raises
    ------
    ModelError
        If it is not ``int8[dimensions]`` without -128.
    """
    if vector.dtype != np.int8 or vector.shape != (dimensions,):
        raise ModelError(
            subject,
            f"is {vector.dtype}{list(vector.shape)}, not int8[{dimensions}]",
            "embed it with the embedding of the index",
        )
    if not 1 <= dimensions <= MAXIMUM_DIMENSIONS or (vector == -128).any():
        raise ModelError(
            subject,
            f"has {dimensions} dimensions, or a component of -128",
            f"use 1 to {MAXIMUM_DIMENSIONS} dimensions of -{LARGEST_COMPONENT} to "
            f"{LARGEST_COMPONENT}",
        )
    return vector


def scores(vectors: NDArray[np.int8], query: NDArray[np.int8], metric: Metric) -> NDArray[np.int64]:
    """Score vectors against a query, exactly.

    Parameters
    ----------
    vectors
        Shape ``(n, dimensions)``.
    query
        Shape ``(dimensions,)``.
    metric
        See `Neighbour.score`.

    Returns
    -------
    NDArray
        ``int64[n]``.
    """
    wide, point = vectors.astype(np.int64), query.astype(np.int64)
    if metric == "inner product":
        return np.asarray(wide @ point, dtype=np.int64)
    return np.asarray(-np.square(wide - point).sum(axis=1), dtype=np.int64)


def nearest_rows(keys: list[str], found: NDArray[np.int64], k: int) -> list[int]:
    """Rows of the k greatest scores, equal ones by key."""
    order = sorted(range(len(keys)), key=lambda row: (-int(found[row]), keys[row]))
    return order[:k]


def prototypes_digest(hashes: Iterable[str]) -> str:
    """Hash of all prototypes of an index.

    Parameters
    ----------
    hashes
        Of the prototypes, in the order of their keys.
    """
    digest = hashlib.sha256(_PROTOTYPES_DOMAIN)
    for sha256 in hashes:
        digest.update(bytes.fromhex(sha256))
    return digest.hexdigest()


def index_digest(
    name: str, dimensions: int, prototypes: int, embedding: bytes, prototypes_sha256: str
) -> str:
    """Hash of a whole index, which can be recomputed without its prototypes.

    Parameters
    ----------
    name
        Of the index.
    dimensions, prototypes
        Length of the vectors, and how many there are.
    embedding
        How queries become vectors, as bytes.
    prototypes_sha256
        From `prototypes_digest`.
    """
    sha256 = hashlib.sha256(embedding).hexdigest()
    said = canonical_json([name, dimensions, prototypes, sha256, prototypes_sha256])
    return hashlib.sha256(_INDEX_DOMAIN + said).hexdigest()
