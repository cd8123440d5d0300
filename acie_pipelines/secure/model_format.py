"""Secure models as bytes, for workers.

Belongs here: the format and its parser. Does not belong here: what a model computes (`models`).

Format, version 1::

    "ACIEMODL" | version u16 | header length u32 | header, JSON in UTF-8
    weights, int64 each, layer by layer | SHA-256 of everything before

all little-endian. A model holds no key. Its digest identifies it: who has it from somewhere
trustworthy passes it to `from_bytes`; without it, the hash finds damage, not malice.
"""

import hashlib
import json
import math
import struct
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.errors import IntegrityError, ModelError
from acie_pipelines.secure.layers import Layer, SecureAveragePool, SecureConv2d, SecureLinear
from acie_pipelines.secure.models import SecureModel
from acie_pipelines.secure.signals import Signal
from acie_pipelines.secure.windows import Window

__all__ = ["digest", "from_bytes", "to_bytes"]

_MAGIC: Final = b"ACIEMODL"
_VERSION: Final = 1
_HEADER: Final = struct.Struct("<8sHI")
_DIGEST_BYTES: Final = 32
_KINDS: Final = {"linear": SecureLinear, "conv2d": SecureConv2d, "average pool": SecureAveragePool}


def to_bytes(model: SecureModel) -> bytes:
    """Write a model.

    Parameters
    ----------
    model
        Of the layers in `acie_pipelines.secure.layers`.
    """
    records = [_record(layer) for layer in model.layers]
    header = json.dumps({"activation": model.activation, "layers": [r for r, _ in records]})
    encoded = header.encode()
    weights = b"".join(weights.astype("<i8").tobytes() for _, weights in records)
    body = _HEADER.pack(_MAGIC, _VERSION, len(encoded)) + encoded + weights
    return body + hashlib.sha256(body).digest()


def digest(data: bytes) -> str:
    """Identity of a serialised model, in hexadecimal.

    Parameters
    ----------
    data
        What `to_bytes` wrote.
    """
    return hashlib.sha256(data).hexdigest()


def from_bytes(data: bytes, *, expected: str | None = None) -> SecureModel:
    """Read a model; nothing is executed and nothing allocated before lengths have been checked.

    Parameters
    ----------
    data
        What `to_bytes` wrote.
    expected
        The `digest` it must have.

    Raises
    ------
    IntegrityError
        If it was damaged or is another model.
    ModelError
        If its layers do not fit together.
    """
    if expected is not None and digest(data) != expected:
        raise IntegrityError("secure model", f"is not {expected[:16]}", _FIX)
    if len(data) < _HEADER.size + _DIGEST_BYTES:
        raise IntegrityError("secure model", "is too short", _FIX)
    body, stated = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != stated:
        raise IntegrityError("secure model", "does not match its hash", _FIX)
    magic, version, length = _HEADER.unpack_from(body)
    if magic != _MAGIC or version != _VERSION or length > len(body) - _HEADER.size:
        raise IntegrityError("secure model", f"is not of version {_VERSION}", _FIX)
    start = _HEADER.size + length
    try:
        header = json.loads(body[_HEADER.size : start])
        layers, used = _layers(header["layers"], body[start:])
        model = SecureModel(layers, header["activation"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise IntegrityError("secure model", f"is malformed ({error})", _FIX) from error
    if used != len(body) - start:
        raise IntegrityError("secure model", "does not have the length that it states", _FIX)
    return model


_FIX: Final = "take another copy of what to_bytes wrote"


def _record(layer: Layer) -> tuple[dict[str, Any], NDArray[np.int64]]:
    kinds = {kind: name for name, kind in _KINDS.items()}
    if not isinstance(layer, SecureLinear | SecureConv2d | SecureAveragePool):
        raise ModelError("secure model", "has a layer of unknown kind", "use those of layers")
    record: dict[str, Any] = {
        "kind": kinds[type(layer)],
        "input": layer.input.to_json(),
        "shape": list(layer.weights.shape),
        "bias": layer.bias.tolist(),
        "fractional_bits": layer.fractional_bits,
        "divisor": layer.divisor,
        "error": layer.error,
    }
    if not isinstance(layer, SecureLinear):
        record["window"] = {
            name: getattr(layer.window, name) for name in ("kernel", "stride", "padding")
        }
    return record, layer.weights


def _layers(records: list[dict[str, Any]], data: bytes) -> tuple[tuple[Layer, ...], int]:
    layers: list[Layer] = []
    used = 0
    for record in records:
        rows, columns = record["shape"]
        count = 8 * rows * columns
        numbers = [rows, columns, record["fractional_bits"], record["divisor"], *record["bias"]]
        numbers += record.get("window", {}).values()
        if not all(type(number) is int for number in numbers) or not 0 < count <= len(data) - used:
            raise ValueError("a layer has no weights, or numbers that are no integers")
        error = float(record["error"])
        if record["divisor"] < 1 or not 0 <= error < math.inf:
            raise ValueError("a layer has an impossible scale or error")
        weights = np.frombuffer(data, "<i8", rows * columns, used).astype(np.int64)
        signal = Signal.from_json(record["input"])
        fields = (
            signal,
            weights.reshape(rows, columns),
            np.array(record["bias"], dtype=object),
            record["fractional_bits"],
            record["divisor"],
            error,
        )
        if record["kind"] == "linear":
            layers.append(SecureLinear(*fields))
        else:
            window = Window(*signal.shape, **record["window"])
            layers.append(_KINDS[record["kind"]](*fields, window))
        used += count
    return tuple(layers), used
