"""Secure models written and read again, and what is refused."""

import hashlib
import json

import numpy as np
import pytest

from acie_pipelines.errors import IntegrityError, ModelError
from acie_pipelines.secure.layers import SecureAveragePool, SecureConv2d, SecureLinear
from acie_pipelines.secure.model_format import digest, from_bytes, to_bytes
from acie_pipelines.secure.models import Interface, SecureModel
from acie_pipelines.secure.signals import Signal


@pytest.fixture(scope="module")
def model() -> SecureModel:
    rng = np.random.default_rng(1)
    taken = Signal.inputs((1, 6, 6), maximum=1.0, fractional_bits=7)
    first = SecureConv2d.quantise(
        rng.normal(size=(2, 1, 3, 3)), [2.0**70, 0.0], taken, weight_bits=6, padding=1
    )
    second = SecureAveragePool.of(first.output, size=3)
    third = SecureLinear.quantise(rng.normal(size=(3, 8)), [1, 2, 3], second.output, weight_bits=6)
    return SecureModel((first, second, third), "softmax")


def test_a_model_is_read_as_it_was_written(model: SecureModel) -> None:
    data = to_bytes(model)
    read = from_bytes(data, expected=digest(data))
    x = np.random.default_rng(2).uniform(-1, 1, (3, 1, 6, 6))
    assert np.array_equal(read.integers(x), model.integers(x))
    assert read.interface == model.interface
    assert to_bytes(read) == data
    text = json.dumps(model.interface.to_json())
    assert Interface.from_json(json.loads(text)) == model.interface


def resealed(data: bytes, old: bytes, new: bytes) -> bytes:
    """Change the header and everything that a forger can compute from it."""
    assert len(old) == len(new)
    assert old in data
    body = data[:-32].replace(old, new, 1)
    return body + hashlib.sha256(body).digest()


def test_every_changed_byte_is_found(model: SecureModel) -> None:
    data = to_bytes(model)
    for position in range(0, len(data), 37):
        changed = bytearray(data)
        changed[position] ^= 1
        with pytest.raises(IntegrityError):
            from_bytes(bytes(changed))
    for cut in (0, 13, len(data) // 2, len(data) - 1):
        with pytest.raises(IntegrityError):
            from_bytes(data[:cut])
    with pytest.raises(IntegrityError):
        from_bytes(data + b"\0")


def test_a_forged_model_is_found_by_its_digest(model: SecureModel) -> None:
    data = to_bytes(model)
    forged = resealed(data, b'"softmax"', b'"sigmoid"')
    assert from_bytes(forged).activation == "sigmoid"
    with pytest.raises(IntegrityError, match="is not"):
        from_bytes(forged, expected=digest(data))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"softmax"', b'"xoftmax"'),
        (b'"kind": "conv2d"', b'"kind": "conv3d"'),
        (b'"shape": [2, 9]', b'"shape": [2, 8]'),
        (b'"shape": [2, 9]', b'"shape": [-2,9]'),
        (b'"kernel": 3', b'"kernel": 0'),
        (b'"kernel": 3', b'"kernel":"3'),
        (b'"weight": 1}', b'"weight": 0}'),
        (b'"divisor": 9', b'"divisor": 0'),
        (b'"bias": [', b'"bios": ['),
    ],
)
def test_headers_that_lie_are_refused(model: SecureModel, old: bytes, new: bytes) -> None:
    with pytest.raises((IntegrityError, ModelError)):
        from_bytes(resealed(to_bytes(model), old, new))
