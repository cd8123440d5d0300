"""Values gathered under encryption against the values that went in."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acie_pipelines.crypto.cipher_tensor import CipherTensor
from acie_pipelines.crypto.keys import PaillierPrivateKey
from acie_pipelines.crypto.packing import layout_for, unpacked_layout
from acie_pipelines.crypto.tensor_packing import pack_tensor
from acie_pipelines.errors import CryptoError

relaxed = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@relaxed
@given(
    size=st.integers(0, 140),
    value_bits=st.sampled_from([2, 8, 33, 61]),
    seed=st.integers(0, 2**32),
    extreme=st.booleans(),
)
def test_packing_changes_no_value(
    private_key: PaillierPrivateKey, size: int, value_bits: int, seed: int, extreme: bool
) -> None:
    bits = 3 if value_bits < 53 else 0
    layout = unpacked_layout(key_bits=1024, value_bits=value_bits, fractional_bits=bits)
    values = np.random.default_rng(seed).integers(layout.minimum, layout.maximum, size)
    if extreme:
        values[:] = layout.minimum
    numbers = np.ldexp(values, -bits) if bits else values
    tensor = CipherTensor.encrypt(numbers, private_key.public_key, layout)
    packed = pack_tensor(tensor)
    assert np.array_equal(packed.decrypt_integers(private_key), values)
    assert packed.layout.fractional_bits == bits
    assert len(packed.kept) == -(-size // (1023 // (value_bits + 2)))


def test_packed_results_are_computed_with_further(private_key: PaillierPrivateKey) -> None:
    rng = np.random.default_rng(1)
    weights, values = rng.integers(-127, 128, (90, 16)), rng.integers(-127, 128, 16)
    layout = unpacked_layout(key_bits=1024, value_bits=8)
    query = CipherTensor.encrypt(values, private_key.public_key, layout)
    scores = pack_tensor(weights @ query, additions=2)
    shift = rng.integers(-(2**17), 2**17, 90)
    moved = (scores + shift).rerandomised()
    assert np.array_equal(moved.decrypt_integers(private_key), weights @ values + shift)
    with pytest.raises(CryptoError, match="overflow guard bits"):
        moved + moved


def test_refusals(private_key: PaillierPrivateKey) -> None:
    public = private_key.public_key
    packed = CipherTensor.encrypt(np.arange(4), public, layout_for(8, key_bits=1024))
    with pytest.raises(CryptoError, match="packed already"):
        pack_tensor(packed)
    wide = CipherTensor.encrypt(np.arange(4), public, unpacked_layout(key_bits=1024, value_bits=62))
    with pytest.raises(CryptoError, match="more than 62 bits"):
        pack_tensor(wide * 3)
