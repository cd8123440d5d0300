"""Tensors as bytes: round trips, and a parser that refuses everything else."""

import hashlib
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acie_pipelines.crypto.cipher_tensor import CipherTensor
from acie_pipelines.crypto.keys import PaillierPrivateKey
from acie_pipelines.crypto.packing import layout_for, unpacked_layout
from acie_pipelines.crypto.tensor_format import from_bytes, to_bytes
from acie_pipelines.errors import CryptoError

relaxed = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
_OFFSETS = {"axes": 10, "slot": 20, "slots": 28, "weight": 36, "limbs": 40, "rows": 44}


@pytest.fixture(scope="module")
def blob(private_key: PaillierPrivateKey) -> bytes:
    layout = unpacked_layout(key_bits=1024, fractional_bits=-3)
    values = np.arange(-3, 3).reshape(2, 3) * 8.0
    return to_bytes(CipherTensor.encrypt(values, private_key.public_key, layout) * 12345)


def sealed(body: bytes) -> bytes:
    return body + hashlib.sha256(body).digest()


@pytest.mark.parametrize("shape", [(), (0,), (7,), (2, 0, 3), (3, 4, 5)])
@pytest.mark.parametrize("packed", [True, False])
def test_round_trips(private_key: PaillierPrivateKey, shape: tuple[int, ...], packed: bool) -> None:
    key = private_key.public_key
    layout = layout_for(20, key_bits=1024) if packed else unpacked_layout(key_bits=1024)
    values = np.asarray(np.arange(np.prod(shape, dtype=int)).reshape(shape))
    tensor = CipherTensor.encrypt(values, key, layout) * -300
    data = to_bytes(tensor)
    for given_bytes in (data, bytearray(data), memoryview(data)):
        back = from_bytes(given_bytes, key)
        assert (back.layout, back.shape, back.weight) == (layout, shape, 300)
        assert np.array_equal(back.ciphertexts, tensor.ciphertexts)
    assert np.array_equal(back.decrypt(private_key), values * -300)
    assert to_bytes(back) == data


@relaxed
@given(data=st.data())
def test_damage_is_refused(
    private_key: PaillierPrivateKey, blob: bytes, data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from(["cut", "flip", "header", "grow", "noise"]))
    place = data.draw(st.integers(0, len(blob) - 1))
    if kind == "cut":
        damaged = blob[:place]
    elif kind == "grow":
        damaged = blob + data.draw(st.binary(min_size=1, max_size=64))
    elif kind == "noise":
        damaged = data.draw(st.binary(max_size=200))
    else:
        body = bytearray(blob[:-32])
        place %= 120 if kind == "header" else len(body)
        body[place] ^= data.draw(st.integers(1, 255))
        # A valid hash, so that the parser itself has to object or cope.
        damaged = sealed(bytes(body))
    try:
        back = from_bytes(damaged, private_key.public_key)
    except CryptoError:
        return
    # What still parses is some tensor of this form, and writes itself back to the same bytes.
    assert to_bytes(back) == damaged
    assert kind in ("flip", "header")


@relaxed
@given(place=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_a_flipped_bit_never_passes(
    private_key: PaillierPrivateKey, blob: bytes, place: int, bit: int
) -> None:
    body = bytearray(blob)
    body[place % len(body)] ^= 1 << bit
    with pytest.raises(CryptoError):
        from_bytes(bytes(body), private_key.public_key)


@pytest.mark.parametrize("field", _OFFSETS)
@pytest.mark.parametrize("value", [0, 1, 2**16, 2**31, 2**32 - 1])
def test_lengths_are_checked_before_anything_is_allocated(
    private_key: PaillierPrivateKey, blob: bytes, field: str, value: int
) -> None:
    body = bytearray(blob[:-32])
    if field == "axes":
        struct.pack_into("<H", body, _OFFSETS[field], value % 2**16)
    elif field == "rows":
        struct.pack_into("<Q", body, _OFFSETS[field], value << 32 | value)
    else:
        struct.pack_into("<I", body, _OFFSETS[field], value)
    if sealed(bytes(body)) != blob:
        with pytest.raises(CryptoError):
            from_bytes(sealed(bytes(body)), private_key.public_key)


def test_keys_and_ciphertexts_are_checked(
    private_key: PaillierPrivateKey, other_key: PaillierPrivateKey, blob: bytes
) -> None:
    with pytest.raises(CryptoError, match="cannot be read with key"):
        from_bytes(blob, other_key.public_key)
    body = bytearray(blob[:-32])
    body[-256:] = bytes(256)
    with pytest.raises(CryptoError, match="ciphertext 5 is zero"):
        from_bytes(sealed(bytes(body)), private_key.public_key)
