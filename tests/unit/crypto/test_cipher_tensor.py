"""Encrypted arrays against Python integers and phe, and every refusal."""

from pathlib import Path
from typing import Any

import numpy as np
import phe
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from acie_native import ints_to_limbs, limbs_to_ints, pack_slots
from acie_pipelines.crypto.cipher_tensor import CipherTensor
from acie_pipelines.crypto.kept import KeptCiphertexts, check_ciphertexts
from acie_pipelines.crypto.keys import PaillierPrivateKey, PaillierPublicKey, generate_keypair
from acie_pipelines.crypto.packing import (
    PackingLayout,
    decode_fixed_point,
    layout_for,
    unpacked_layout,
)
from acie_pipelines.crypto.phe_exchange import (
    ciphertexts_from_phe,
    ciphertexts_to_phe,
    tensor_from_phe,
    tensor_to_phe,
)
from acie_pipelines.errors import CryptoError

relaxed = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def holding(
    public_key: PaillierPublicKey,
    layout: PackingLayout,
    shape: tuple[int, ...],
    limbs: NDArray[np.uint64],
    weight: int = 1,
) -> CipherTensor:
    return CipherTensor(
        public_key, layout, shape, KeptCiphertexts.of_rows(limbs, public_key), weight
    )


def layout_of(bits: int, additions: int = 64, fractional_bits: int = 0) -> PackingLayout:
    return layout_for(bits, key_bits=1024, additions=additions, fractional_bits=fractional_bits)


def test_2048_bit_key_round_trip() -> None:
    key = generate_keypair(2048)
    values = np.arange(-100, 100).reshape(10, 20)
    tensor = CipherTensor.encrypt(values, key.public_key, layout_for("i2", key_bits=2048))
    assert np.array_equal((tensor + tensor).decrypt(key), 2 * values)


@relaxed
@given(data=st.data(), bits=st.integers(2, 55))
def test_weighted_sums_equal_python_integers(
    private_key: PaillierPrivateKey, data: st.DataObject, bits: int
) -> None:
    layout = layout_of(bits)
    count = data.draw(st.integers(1, 50))
    edge = st.sampled_from([layout.minimum, layout.maximum, 0, -1])
    numbers = st.one_of(edge, st.integers(layout.minimum, layout.maximum))
    weights = data.draw(st.lists(st.integers(-20, 20).filter(bool), min_size=1, max_size=3))
    rows = [data.draw(st.lists(numbers, min_size=count, max_size=count)) for _ in weights]
    tensors = [
        CipherTensor.encrypt(np.array(row, dtype=np.int64), private_key.public_key, layout)
        for row in rows
    ]
    result = CipherTensor.sum_of(w * t for w, t in zip(weights, tensors, strict=True))
    assert result.weight == sum(map(abs, weights))
    expected = [sum(w * row[i] for w, row in zip(weights, rows, strict=True)) for i in range(count)]
    assert result.decrypt_integers(private_key).tolist() == expected


def test_bounds_hold_at_the_very_edge(private_key: PaillierPrivateKey) -> None:
    for bits, additions in ((8, 1), (8, 3), (62, 3), (33, 127)):
        layout = layout_of(bits, additions)
        heavy = layout.maximum_weight
        values = np.array([layout.minimum, layout.maximum, 0, -1], dtype=np.int64)
        tensor = CipherTensor.encrypt(values, private_key.public_key, layout)
        for weight in {heavy, -heavy, 1 - heavy or 1}:
            exact = [weight * int(value) for value in values]
            if all(-(2**63) <= number < 2**63 for number in exact):
                assert (tensor * weight).decrypt(private_key).tolist() == exact
            assert (tensor * weight * -1).weight == abs(weight)
        with pytest.raises(CryptoError, match="guard bits"):
            tensor * (heavy + 1)
        with pytest.raises(CryptoError, match="guard bits"):
            tensor * heavy + tensor


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1,), (3, 4, 5), (2, 61)])
def test_shapes_survive(private_key: PaillierPrivateKey, shape: tuple[int, ...]) -> None:
    values = np.asarray(np.arange(np.prod(shape, dtype=int)).reshape(shape))
    tensor = CipherTensor.encrypt(values, private_key.public_key, layout_of(12))
    assert np.array_equal(tensor.decrypt(private_key), values)
    strided = np.asarray(values.T)
    assert np.array_equal(
        CipherTensor.encrypt(strided, private_key.public_key, layout_of(12)).decrypt(private_key),
        strided,
    )


@relaxed
@given(st.lists(st.floats(-1e4, 1e4), min_size=1, max_size=30), st.integers(-3, 12))
def test_floats_decrypt_to_their_fixed_point(
    private_key: PaillierPrivateKey, values: list[float], bits: int
) -> None:
    layout = layout_of(40, fractional_bits=bits)
    tensor = CipherTensor.encrypt(np.array(values), private_key.public_key, layout)
    expected = np.rint(np.array(values) * 2.0**bits) / 2.0**bits
    assert np.array_equal(tensor.decrypt(private_key), expected)
    assert np.array_equal((tensor * -3).decrypt(private_key), -3 * expected)


def test_equal_arrays_encrypt_differently(private_key: PaillierPrivateKey) -> None:
    zeros = np.zeros(200, dtype=np.int64)
    first, second = (
        CipherTensor.encrypt(zeros, private_key.public_key, layout_of(8)) for _ in range(2)
    )
    rows = [*limbs_to_ints(first.ciphertexts), *limbs_to_ints(second.ciphertexts)]
    rows += limbs_to_ints(first.rerandomised().ciphertexts)
    assert len(set(rows)) == len(rows)
    assert np.array_equal(first.rerandomised().decrypt(private_key), zeros)


@pytest.fixture
def tensor(private_key: PaillierPrivateKey) -> CipherTensor:
    return CipherTensor.encrypt(np.arange(60), private_key.public_key, layout_of(8))


def test_tensors_that_do_not_match_are_refused(
    tensor: CipherTensor, private_key: PaillierPrivateKey, other_key: PaillierPrivateKey
) -> None:
    public = private_key.public_key
    others = {
        "keys": CipherTensor.encrypt(np.arange(60), other_key.public_key, layout_of(8)),
        "layouts": CipherTensor.encrypt(np.arange(60), public, layout_of(9)),
        "shapes": CipherTensor.encrypt(np.arange(60).reshape(6, 10), public, layout_of(8)),
    }
    for difference, other in others.items():
        with pytest.raises(CryptoError, match=difference):
            tensor + other
    with pytest.raises(CryptoError, match="cannot be decrypted"):
        tensor.decrypt(other_key)
    with pytest.raises(CryptoError, match="no terms"):
        CipherTensor.sum_of([])


@pytest.mark.parametrize("weight", [0, np.int64(0)])
def test_zero_weight_is_refused(tensor: CipherTensor, weight: Any) -> None:
    with pytest.raises(CryptoError, match="zero"):
        tensor * weight


@pytest.mark.parametrize("weight", [True, "2", None])
def test_other_factors_are_type_errors(tensor: CipherTensor, weight: Any) -> None:
    with pytest.raises(TypeError):
        tensor * weight
    with pytest.raises(TypeError):
        tensor + weight


@pytest.mark.parametrize(
    "values", [np.array([128]), np.array([np.nan]), np.array([np.inf]), np.array([-129.0])]
)
def test_values_that_do_not_fit_are_refused(
    private_key: PaillierPrivateKey, values: NDArray[Any]
) -> None:
    with pytest.raises(CryptoError):
        CipherTensor.encrypt(values, private_key.public_key, layout_of(8))


def test_layout_for_a_longer_key_is_refused(private_key: PaillierPrivateKey) -> None:
    with pytest.raises(CryptoError, match="do not fit a key"):
        CipherTensor.encrypt(np.arange(3), private_key.public_key, layout_for("i2", key_bits=2048))


def test_invalid_ciphertexts_are_refused(
    tensor: CipherTensor, private_key: PaillierPrivateKey
) -> None:
    public = private_key.public_key
    n = public.n
    width = tensor.ciphertexts.shape[1]
    wrong = [0, n, 7 * n, private_key.p, private_key.q * 12345, n * n, n * n + 5]
    for value in wrong:
        limbs = tensor.ciphertexts.copy()
        limbs[-1] = ints_to_limbs([value], width)[0]
        with pytest.raises(CryptoError, match=f"ciphertext {len(limbs) - 1} is zero") as caught:
            CipherTensor.from_ciphertexts(limbs, public, tensor.layout, tensor.shape)
        assert str(private_key.p) not in str(caught.value)
    with pytest.raises(CryptoError, match="limbs each"):
        check_ciphertexts(tensor.ciphertexts[:, 1:].copy(), public)
    good = CipherTensor.from_ciphertexts(
        tensor.ciphertexts, public, tensor.layout, tensor.shape, weight=1
    )
    assert np.array_equal(good.decrypt(private_key), np.arange(60))


def test_shapes_and_weights_must_agree_with_the_ciphertexts(tensor: CipherTensor) -> None:
    key, layout, limbs = tensor.public_key, tensor.layout, tensor.ciphertexts
    with pytest.raises(CryptoError, match="where its shape needs"):
        holding(key, layout, (6000,), limbs)
    with pytest.raises(CryptoError, match="uint64"):
        holding(key, layout, (60,), limbs.astype(np.int64))
    for weight in (0, -1, layout.maximum_weight + 1):
        with pytest.raises(CryptoError, match="overflow"):
            holding(key, layout, (60,), limbs, weight)


def test_false_weights_and_layouts_are_noticed(private_key: PaillierPrivateKey) -> None:
    public = private_key.public_key
    layout = layout_of(8, additions=15)
    full = CipherTensor.encrypt(np.full(60, 127), public, layout)
    claimed_fresh = holding(public, layout, (60,), (full * 15).ciphertexts)
    with pytest.raises(CryptoError, match="no such tensor"):
        claimed_fresh.decrypt(private_key)
    # A plaintext with bits above the last slot.
    above = public.context.encrypt(ints_to_limbs([1 << 1022], public.context.plaintext_limbs))
    with pytest.raises(CryptoError, match="no such tensor"):
        holding(public, layout_of(8), (3,), above).decrypt(private_key)
    # A slot that no int64 holds, once its bias is taken away.
    widest = layout_of(62, additions=3)
    ones = public.context.encrypt(ints_to_limbs([(1 << 64) - 1], public.context.plaintext_limbs))
    with pytest.raises(CryptoError, match="no such tensor"):
        holding(public, widest, (1,), ones).decrypt(private_key)


def test_phe_decrypts_our_ciphertexts(private_key: PaillierPrivateKey) -> None:
    public = private_key.public_key
    values = [0, 1, 12345678901234567890, public.n // 3 - 1]
    limbs = public.context.encrypt(ints_to_limbs(values, public.context.plaintext_limbs))
    theirs = ciphertexts_to_phe(limbs, public)
    secret = private_key.to_phe()
    assert [secret.decrypt(number) for number in theirs] == values
    assert secret.decrypt(theirs[1] * -7 + theirs[2]) == 12345678901234567890 - 7
    scaled = ciphertexts_to_phe(limbs[1:2], public, exponent=-2)
    assert secret.decrypt(scaled[0]) == 1 / 256


def test_we_decrypt_ciphertexts_of_phe(
    private_key: PaillierPrivateKey, other_key: PaillierPrivateKey
) -> None:
    public = private_key.public_key
    theirs = public.to_phe()
    numbers = [theirs.encrypt(5), theirs.encrypt(7) * 3, theirs.encrypt(0.5)]
    limbs, exponents = ciphertexts_from_phe(numbers, public)
    plain = limbs_to_ints(private_key.context.decrypt(limbs))
    assert [k * 16.0**e for k, e in zip(plain, exponents, strict=True)] == [5, 21, 0.5]
    stranger = other_key.public_key.to_phe().encrypt(1)
    with pytest.raises(CryptoError, match="not under key"):
        ciphertexts_from_phe([stranger], public)
    for value in (0, public.n**2):
        with pytest.raises(CryptoError, match=r"not between|zero"):
            ciphertexts_from_phe([phe.EncryptedNumber(theirs, value, 0)], public)
    with pytest.raises(CryptoError, match="is zero"):
        ciphertexts_to_phe(np.zeros_like(limbs), public)


def test_packed_tensors_survive_a_journey_through_phe(private_key: PaillierPrivateKey) -> None:
    public = private_key.public_key
    layout = layout_of(20, fractional_bits=4)
    values = np.linspace(-1000, 1000, 77)
    tensor = CipherTensor.encrypt(values, public, layout)
    doubled = [number + number for number in ciphertexts_to_phe(tensor.ciphertexts, public)]
    limbs, _ = ciphertexts_from_phe(doubled, public)
    back = CipherTensor.from_ciphertexts(limbs, public, layout, (77,), weight=2)
    assert np.array_equal(back.decrypt(private_key), 2 * np.rint(values * 16) / 16)


def test_keys_of_phe_work_here() -> None:
    _, theirs = phe.generate_paillier_keypair(n_length=1024)
    key = PaillierPrivateKey.from_phe(theirs)
    layout = layout_for(16, key_bits=key.public_key.bits)
    values = np.arange(-50, 50)
    tensor = CipherTensor.encrypt(values, PaillierPublicKey.from_phe(theirs.public_key), layout)
    assert np.array_equal(tensor.decrypt(key), values)
    # Slot by slot, from what phe decrypts.
    plain = theirs.raw_decrypt(limbs_to_ints(tensor.ciphertexts)[0])
    slot = (plain >> (3 * layout.slot_bits)) & ((1 << layout.slot_bits) - 1)
    assert slot - (1 << 15) == values[3]


def test_packing_agrees_with_python_integers(private_key: PaillierPrivateKey) -> None:
    layout = layout_of(13, fractional_bits=0)
    values = np.random.default_rng(3).integers(layout.minimum, layout.maximum + 1, 100)
    rows = pack_slots(
        values,
        slot_bits=layout.slot_bits,
        value_bits=layout.value_bits,
        slots_per_plaintext=layout.slots_per_plaintext,
        limbs=16,
    )
    bias = 1 << (layout.value_bits - 1)
    for index, plaintext in enumerate(limbs_to_ints(rows)):
        start = index * layout.slots_per_plaintext
        chunk = values[start : start + layout.slots_per_plaintext].tolist()
        chunk += [0] * (layout.slots_per_plaintext - len(chunk))
        assert plaintext == sum(
            (value + bias) << (i * layout.slot_bits) for i, value in enumerate(chunk)
        )


def test_wide_sums_round_only_on_the_way_to_float(private_key: PaillierPrivateKey) -> None:
    layout = layout_of(58, additions=60, fractional_bits=10)
    tensor = CipherTensor.encrypt(np.array([2.0**46 + 1]), private_key.public_key, layout) * 3
    exact = 3 * ((1 << 56) + 1024)
    assert tensor.decrypt_integers(private_key).tolist() == [exact]
    assert decode_fixed_point(np.array([exact]), layout)[0] == tensor.decrypt(private_key)[0]


def test_tensors_become_phe_numbers(private_key: PaillierPrivateKey) -> None:
    secret = private_key.to_phe()
    for bits in (-3, 0, 1, 4, 10):
        layout = unpacked_layout(key_bits=1024, value_bits=40, fractional_bits=bits)
        values = np.array([[-1000.0, 0.0, 8.0], [2.5, -0.375, 1e4]])
        tensor = CipherTensor.encrypt(values, private_key.public_key, layout) * -3
        numbers = tensor_to_phe(tensor)
        decrypted = np.array([secret.decrypt(number) for number in numbers]).reshape(2, 3)
        assert np.array_equal(decrypted, tensor.decrypt(private_key))
        assert secret.decrypt(numbers[2] + numbers[4] * 2) == decrypted[0, 2] + 2 * decrypted[1, 1]
        back = tensor_from_phe(numbers, private_key.public_key, (2, 3))
        assert np.array_equal(back.decrypt(private_key), decrypted)


@relaxed
@given(st.lists(st.one_of(st.integers(-(10**9), 10**9), st.floats(-1e6, 1e6)), max_size=6))
def test_numbers_of_phe_become_tensors(
    private_key: PaillierPrivateKey, values: list[float]
) -> None:
    theirs = private_key.public_key.to_phe()
    numbers = [theirs.encrypt(round(value * 1024) / 1024) for value in values]
    tensor = tensor_from_phe(numbers, private_key.public_key, (len(values),))
    expected = [round(value * 1024) / 1024 for value in values]
    assert tensor.decrypt(private_key).tolist() == expected
    if values:
        assert (tensor.sum() * 0.5).decrypt(private_key) == sum(expected) * 0.5


def test_what_phe_cannot_take_or_give_is_refused(
    tensor: CipherTensor, private_key: PaillierPrivateKey, other_key: PaillierPrivateKey
) -> None:
    public = private_key.public_key
    theirs = public.to_phe()
    one = CipherTensor.encrypt(np.array([1]), public, unpacked_layout(key_bits=1024))
    with pytest.raises(CryptoError, match="several values"):
        tensor_to_phe(tensor)
    heavy = CipherTensor(public, one.layout, (1,), one.kept, one.layout.maximum_weight)
    assert heavy.bound < public.n // 3
    assert private_key.to_phe().decrypt(tensor_to_phe(heavy)[0]) == 1
    with pytest.raises(CryptoError, match="do not fit a key"):
        CipherTensor(public, PackingLayout(1023, 32, 1, 0), (1,), one.kept)
    with pytest.raises(CryptoError, match="apart"):
        tensor_from_phe([theirs.encrypt(1), theirs.encrypt(1e-30)], public, (2,))
    with pytest.raises(CryptoError, match="where its shape needs"):
        tensor_from_phe([theirs.encrypt(1)], public, (2,))
    with pytest.raises(CryptoError, match="not under key"):
        tensor_from_phe([other_key.public_key.to_phe().encrypt(1)], public, (1,))
    wide = tensor_from_phe([theirs.encrypt(2**70)], public, (1,))
    with pytest.raises(CryptoError, match="no such tensor"):
        wide.decrypt(private_key)


def test_tensors_survive_zarr(private_key: PaillierPrivateKey, tmp_path: Path) -> None:
    layout = unpacked_layout(key_bits=1024)
    values = np.arange(-6, 6).reshape(3, 4)
    tensor = CipherTensor.encrypt(values, private_key.public_key, layout) + 1
    array = zarr.create_array(str(tmp_path / "limbs"), data=tensor.ciphertexts)
    stored = np.asarray(array[:])
    back = CipherTensor.from_ciphertexts(
        stored, private_key.public_key, layout, (3, 4), weight=tensor.weight
    )
    assert back.ciphertexts is stored
    assert np.array_equal((back @ np.ones(4)).decrypt(private_key), (values + 1).sum(1))
