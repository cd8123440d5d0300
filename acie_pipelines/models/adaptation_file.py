"""What `acie adapt` learned as a file, bound to the engine that it was learned with.

Belongs here: the format and every check on the way back. Does not belong here: learning.

A file is one line of JSON, then its parts one after the other: the residual, and the weights of a
fine-tuned network if there is one. The line has the length and the hash of each, and the
fingerprint of the network that the adaptation started from.
"""

import json
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from acie_pipelines.errors import IntegrityError, ModelError
from acie_pipelines.models.adaptation import adapted
from acie_pipelines.models.counterfactual import SpectralEngine
from acie_pipelines.models.posterior import AmortisedPosterior
from acie_pipelines.models.residual import LearnedResidual

__all__ = ["from_bytes", "network_fingerprint", "to_bytes"]

_FORMAT: Final = "acie.spectral-adaptation/1"
_RESIDUAL: Final = "residual"
_NETWORK: Final = "network"
_FIX: Final = "write it again with acie adapt"
_LONGEST_LINE: Final = 10_000


@dataclass(frozen=True)
class _Part:
    """Where a part lies and what its bytes are."""

    length: int
    sha256: str


def network_fingerprint(engine: SpectralEngine) -> str:
    """SHA-256 of grid, shape and weights of an engine's network."""
    digest = sha256(engine.decoder.preset.name.encode() + b"\0")
    digest.update(json.dumps(engine.posterior.spec(), sort_keys=True).encode())
    for name, tensor in sorted(engine.posterior.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def to_bytes(
    engine: SpectralEngine, residual: LearnedResidual, network: AmortisedPosterior | None = None
) -> bytes:
    """Write an adaptation.

    Parameters
    ----------
    engine
        What was adapted, as it was before.
    residual
        Learned from the survey.
    network
        Fine-tuned, if it was.
    """
    parts = {_RESIDUAL: residual.to_bytes()}
    if network is not None:
        parts[_NETWORK] = network.weights()
    head = {
        "format": _FORMAT,
        "engine": network_fingerprint(engine),
        "parts": {
            name: {"length": len(data), "sha256": sha256(data).hexdigest()}
            for name, data in parts.items()
        },
    }
    return json.dumps(head).encode() + b"\n" + b"".join(parts.values())


def from_bytes(engine: SpectralEngine, data: bytes, name: object) -> SpectralEngine:
    """Adapt an engine as a file says.

    Parameters
    ----------
    engine
        The one that the adaptation was learned with.
    data
        From `to_bytes`.
    name
        Of the file, for messages.

    Raises
    ------
    ModelError
        If it is something else, cut off, or belongs to another engine.
    IntegrityError
        If a part does not match its hash.
    """
    line, _, _ = data[:_LONGEST_LINE].partition(b"\n")
    try:
        head = json.loads(line)
        if head["format"] != _FORMAT:
            raise ValueError(f"unknown format {head['format']!r}")
        stated = str(head["engine"])
        parts = {
            str(part): _Part(int(body["length"]), str(body["sha256"]))
            for part, body in head["parts"].items()
        }
        if not {_RESIDUAL} <= set(parts) <= {_RESIDUAL, _NETWORK}:
            raise ValueError(f"unknown parts {sorted(parts)}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(name, f"is no adaptation ({error})", _FIX) from error
    rest = data[len(line) + 1 :]
    if len(rest) != sum(part.length for part in parts.values()):
        raise ModelError(name, "is cut off or has more than it states", _FIX)
    content = {}
    for part, where in parts.items():
        content[part], rest = rest[: where.length], rest[where.length :]
        if sha256(content[part]).hexdigest() != where.sha256:
            raise IntegrityError(name, f"has a {part} that does not match its hash", _FIX)
    if stated != network_fingerprint(engine):
        raise ModelError(
            name,
            "was learned with another engine",
            "give that one as --model, or run acie adapt with this one",
        )
    network = None
    if _NETWORK in content:
        spec = json.dumps(engine.posterior.spec()).encode()
        network = AmortisedPosterior.load(spec, content[_NETWORK])
    return adapted(engine, LearnedResidual.from_bytes(content[_RESIDUAL]), network)
