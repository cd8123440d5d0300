"""Asking an index which prototypes are nearest, without telling what is asked about.

Belongs here: the three steps - the data owner encrypts a vector (`ask`), the index's owner scores
every prototype against it (`answer`), the data owner decrypts and ranks (`rank`) - and both
messages as bytes.
Does not belong here: the index (`index`), processes (`worker`).

The worker computes E(X q) = X E(q) from its matrix X and the ciphertexts of q, subtracts the
squared norms for distances, packs the scores and re-randomises them. It learns neither query nor
scores nor ranking, under the decisional composite residuosity assumption of Paillier's scheme.

What it does learn: that a query was made, when, of which index and key, by which metric, and the
condition on the metadata, which is sent in the clear; leave it out to hide it. What the data owner
learns: the metadata and exact scores of all prototypes that meet the condition, from which as many
queries as there are dimensions give the vectors themselves: the index is not hidden from those who
may query it. Nothing proves that the worker scored honestly; the digest says which index it should
have used.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.crypto.cipher_tensor import CipherTensor
from acie_pipelines.crypto.keys import PaillierPrivateKey, PaillierPublicKey
from acie_pipelines.crypto.packing import unpacked_layout
from acie_pipelines.crypto.tensor_format import from_bytes, to_bytes
from acie_pipelines.crypto.tensor_packing import pack_tensor
from acie_pipelines.errors import CryptoError, IntegrityError
from acie_pipelines.secure.retrieval.index import PrototypeIndex
from acie_pipelines.secure.retrieval.messages import malformed, read_message, write_message
from acie_pipelines.secure.retrieval.prototypes import (
    METRICS,
    Condition,
    Metric,
    checked_vector,
    nearest_rows,
)
from acie_pipelines.secure.retrieval.public_part import IndexRecord
from acie_pipelines.secure.roles import ComputeWorker

__all__ = ["EncryptedQuery", "EncryptedScores", "Hit", "answer", "ask", "rank"]

_VALUE_BITS: Final = 8
_QUERY: Final = b"ACIEQURY"
_SCORES: Final = b"ACIESCOR"


@dataclass(frozen=True, eq=False)
class EncryptedQuery:
    """What the data owner sends.

    Attributes
    ----------
    index, digest
        Name and digest of the index that is asked.
    metric, condition
        How prototypes are scored, and which; both in the clear.
    tensor
        The vector, one component per ciphertext.
    """

    index: str
    digest: str
    metric: Metric
    condition: Condition
    tensor: CipherTensor

    def to_bytes(self) -> bytes:
        """Write it as a message."""
        header = {
            "index": self.index,
            "digest": self.digest,
            "metric": self.metric,
            "condition": self.condition.to_json(),
        }
        return write_message(_QUERY, header, [to_bytes(self.tensor)])

    @classmethod
    def from_bytes(cls, data: bytes, worker: ComputeWorker) -> "EncryptedQuery":
        """Read a message as the worker, under the public key that it names.

        Raises
        ------
        CryptoError
            If it is no query, or damaged, or under an unknown key.
        """
        header, parts = read_message(_QUERY, data)
        if header.keys() != {"index", "digest", "metric", "condition"} or len(parts) != 1:
            raise malformed("lacks fields")
        names = (header["index"], header["digest"])
        if not all(isinstance(name, str) for name in names) or header["metric"] not in METRICS:
            raise malformed("has fields of other types")
        condition = Condition.from_json(header["condition"])
        return cls(*names, header["metric"], condition, worker.receive(parts[0]))


@dataclass(frozen=True, eq=False)
class EncryptedScores:
    """What the worker sends back.

    Attributes
    ----------
    digest
        Of the index that was asked.
    prototypes
        Metadata of every prototype that was scored, by key.
    tensor
        Their scores in the same order, packed and re-randomised. For distances these are
        ``2 x.q - |x|^2``, from which `rank` takes the owner's ``|q|^2``; ``None`` if there is no
        prototype.
    """

    digest: str
    prototypes: tuple[dict[str, Any], ...]
    tensor: CipherTensor | None

    def to_bytes(self) -> bytes:
        """Write it as a message."""
        header = {"digest": self.digest, "prototypes": list(self.prototypes)}
        parts = [] if self.tensor is None else [to_bytes(self.tensor)]
        return write_message(_SCORES, header, parts)

    @classmethod
    def from_bytes(cls, data: bytes, public_key: PaillierPublicKey) -> "EncryptedScores":
        """Read a message as the data owner.

        Raises
        ------
        CryptoError
            If it is no such answer, or damaged, or under another key.
        """
        header, parts = read_message(_SCORES, data)
        prototypes = header.get("prototypes")
        if not isinstance(prototypes, list) or not isinstance(header.get("digest"), str):
            raise malformed("lacks fields")
        if not all(isinstance(p, dict) and isinstance(p.get("key"), str) for p in prototypes):
            raise malformed("lacks fields")
        tensors = [from_bytes(part, public_key) for part in parts[:1]]
        return cls(header["digest"], tuple(prototypes), tensors[0] if tensors else None)


@dataclass(frozen=True)
class Hit:
    """A prototype that the data owner found.

    Attributes
    ----------
    metadata
        See `acie_pipelines.secure.retrieval.prototypes.Prototype.metadata`.
    score
        See `acie_pipelines.secure.retrieval.prototypes.Neighbour.score`.
    """

    metadata: dict[str, Any]
    score: int


def ask(
    record: IndexRecord,
    vector: NDArray[np.int8],
    key: PaillierPublicKey | PaillierPrivateKey,
    *,
    metric: Metric = "distance",
    condition: Condition | None = None,
) -> EncryptedQuery:
    """Encrypt a query, as the data owner.

    Parameters
    ----------
    record
        The index to ask.
    vector
        ``int8[dimensions]``.
    key
        Either half of the owner's pair; the private one is faster.
    metric, condition
        See `EncryptedQuery`.

    Raises
    ------
    ModelError
        If the vector is none of this index.
    """
    checked_vector(vector, record.dimensions, "query")
    public_key = key.public_key if isinstance(key, PaillierPrivateKey) else key
    layout = unpacked_layout(key_bits=public_key.bits, value_bits=_VALUE_BITS)
    tensor = CipherTensor.encrypt(vector, key, layout)
    return EncryptedQuery(record.name, record.digest, metric, condition or Condition(), tensor)


def answer(index: PrototypeIndex, query: EncryptedQuery) -> EncryptedScores:
    """Score prototypes against a query, as the worker: only its public key is needed.

    Parameters
    ----------
    index
        The index that is asked, verified.
    query
        What the data owner sent.

    Raises
    ------
    IntegrityError
        If the query is for another index, or another state of it.
    CryptoError
        If the query is no vector of this index, or scores could overflow; nothing is computed then.
    """
    record = index.record
    if (query.index, query.digest) != (record.name, record.digest):
        raise IntegrityError(
            f"query of index {query.index}",
            f"asks for digest {query.digest[:16]} where {record.name} has {record.digest[:16]}",
            "ask again with the index's present digest",
        )
    tensor = query.tensor
    layout = unpacked_layout(key_bits=tensor.public_key.bits, value_bits=_VALUE_BITS)
    if (tensor.shape, tensor.layout, tensor.weight) != ((record.dimensions,), layout, 1):
        raise CryptoError(
            f"query under key {tensor.public_key.key_id}",
            f"has shape {tensor.shape} or a layout that no query of {record.dimensions} dimensions "
            "has",
            "make it with acie_pipelines.secure.retrieval.encrypted_query.ask",
        )
    found = index.select(query.condition)
    metadata = tuple(prototype.metadata() for prototype in found)
    if not found:
        return EncryptedScores(record.digest, metadata, None)
    matrix = np.stack([prototype.vector for prototype in found]).astype(np.int64)
    if query.metric == "inner product":
        return EncryptedScores(record.digest, metadata, pack_tensor(matrix @ tensor).rerandomised())
    # Room for two additions: the product, and the norm below it.
    packed = pack_tensor((2 * matrix) @ tensor, additions=2)
    shifted = packed - np.square(matrix).sum(axis=1)
    return EncryptedScores(record.digest, metadata, shifted.rerandomised())


def rank(
    scores: EncryptedScores,
    query: EncryptedQuery,
    vector: NDArray[np.int8],
    private_key: PaillierPrivateKey,
    k: int,
) -> list[Hit]:
    """Decrypt scores and take the k nearest, as the data owner; equal scores by key.

    Parameters
    ----------
    scores
        What the worker sent.
    query, vector
        What was asked.
    private_key
        The owner's.
    k
        How many at most.

    Returns
    -------
    list of Hit
        With the scores of `acie_pipelines.secure.retrieval.index.PrototypeIndex.nearest`.

    Raises
    ------
    IntegrityError
        If the answer is not about the index that was asked.
    CryptoError
        If it is under another key, or no answer can decrypt to this.
    """
    if scores.digest != query.digest:
        raise IntegrityError(
            f"answer about index {query.index}",
            f"is from digest {scores.digest[:16]}, not {query.digest[:16]}",
            "ask again",
        )
    count = len(scores.prototypes)
    if scores.tensor is None or scores.tensor.shape != (count,):
        if scores.tensor is None and not count:
            return []
        raise malformed("does not have one score per prototype")
    values = scores.tensor.decrypt_integers(private_key).astype(np.int64)
    if query.metric == "distance":
        values -= int(np.square(vector.astype(np.int64)).sum())
    keys = [prototype["key"] for prototype in scores.prototypes]
    return [Hit(scores.prototypes[row], int(values[row])) for row in nearest_rows(keys, values, k)]
