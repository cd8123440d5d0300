"""What may leave the owner of an index, so that others can ask it without seeing a prototype.

Belongs here: name, dimensions and embedding of an index as one file, proved against its digest.
Does not belong here: prototypes (`index`), queries (`encrypted_query`).

The file tells how pictures become vectors: mean and principal axes of the labelled set's features,
in which no single galaxy can be seen, and how many prototypes there are. Its digest is the index's:
whoever has it from the index's owner knows that vectors are made as the index was.
"""

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Final, Self

from acie_pipelines.errors import IntegrityError
from acie_pipelines.manifest import canonical_json
from acie_pipelines.secure.retrieval.prototypes import index_digest

__all__ = ["IndexRecord", "PublicIndex"]

_SCHEMA: Final = "acie.index-public/1"


@dataclass(frozen=True)
class IndexRecord:
    """What identifies an index.

    Attributes
    ----------
    name
        Unique in its database.
    dimensions, prototypes
        Length of the vectors, and how many there are.
    digest
        SHA-256 over all of it.
    """

    name: str
    dimensions: int
    prototypes: int
    digest: str

    def expect(self, digest: str | None) -> None:
        """Compare with the digest that the caller knows, if any.

        Raises
        ------
        IntegrityError
            If it is another.
        """
        if digest is not None and self.digest != digest:
            raise IntegrityError(
                f"index {self.name}",
                f"has the digest {self.digest}, not {digest}",
                "ask its owner which one is current",
            )


@dataclass(frozen=True)
class PublicIndex:
    """What an encrypted query is made with.

    Attributes
    ----------
    record
        What identifies the index.
    embedding
        What turns a query into a vector; see `StampEmbedding.from_bytes`.
    prototypes_sha256
        Hash of the prototypes' hashes, which the digest covers.
    """

    record: IndexRecord
    embedding: bytes
    prototypes_sha256: str

    def to_bytes(self) -> bytes:
        """Write it as a file."""
        fields = {
            "schema": _SCHEMA,
            **vars(self.record),
            "prototypes_sha256": self.prototypes_sha256,
            "embedding": base64.b64encode(self.embedding).decode(),
        }
        return canonical_json(fields) + b"\n"

    @classmethod
    def from_bytes(cls, data: bytes, subject: object) -> Self:
        """Read what `to_bytes` wrote, and recompute its digest.

        Parameters
        ----------
        data
            The whole file.
        subject
            Its name, for messages.

        Raises
        ------
        IntegrityError
            If it is something else, or was changed.
        """
        try:
            fields = json.loads(data)
            if fields["schema"] != _SCHEMA:
                raise ValueError(fields["schema"])
            record = IndexRecord(
                *(fields[name] for name in ("name", "dimensions", "prototypes", "digest"))
            )
            embedding = base64.b64decode(fields["embedding"], validate=True)
            public = cls(record, embedding, fields["prototypes_sha256"])
            found = index_digest(
                record.name,
                record.dimensions,
                record.prototypes,
                embedding,
                public.prototypes_sha256,
            )
        except (ValueError, KeyError, TypeError, binascii.Error, RecursionError):
            found = None
        if found is None or found != record.digest:
            raise IntegrityError(
                subject, "is no public part of an index, or was changed", "ask its owner for it"
            )
        return public
