"""Encrypted layers against torch and NumPy on integers, error bounds, and what is refused."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acie_pipelines.crypto.cipher_tensor import CipherTensor
from acie_pipelines.crypto.keys import PaillierPrivateKey
from acie_pipelines.errors import CryptoError, ModelError
from acie_pipelines.secure.layers import SecureAveragePool, SecureConv2d, SecureLinear, folded
from acie_pipelines.secure.models import SecureModel
from acie_pipelines.secure.signals import Signal, quantised

relaxed = settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def signal(*shape: int, maximum: float = 1.0, fractional_bits: int = 7) -> Signal:
    return Signal.inputs(shape, maximum=maximum, fractional_bits=fractional_bits)


def samples(given: Signal, count: int, rng: np.random.Generator) -> np.ndarray:
    return rng.uniform(-1, 1, (count, *given.shape)) * given.bound * given.unit


def through_encryption(model: SecureModel, x: np.ndarray, key: PaillierPrivateKey) -> np.ndarray:
    interface = model.interface
    result = model.evaluate(interface.encrypt(x, key.public_key))
    return interface.decrypt_integers(result, key, len(x))


@relaxed
@given(data=st.data())
def test_linear_layers_give_the_integers_of_numpy(
    private_key: PaillierPrivateKey, data: st.DataObject
) -> None:
    k, m, n = (data.draw(st.integers(1, 6)) for _ in range(3))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    bits = data.draw(st.sampled_from([2, 5, 8, 16]))
    weights, bias = rng.normal(size=(m, k)), 100 * rng.normal(size=m)
    taken = signal(k)
    layer = SecureLinear.quantise(weights, bias, taken, weight_bits=bits)
    assert np.abs(layer.weights).max() < 2 ** (bits - 1)
    x = samples(taken, n, rng)
    integers = np.rint(x * 2**7).astype(int)
    expected = layer.weights @ integers.T + layer.bias[:, None]
    found = through_encryption(SecureModel((layer,)), x, private_key)
    assert np.array_equal(found, expected)
    assert np.abs(expected).max() <= layer.output.bound
    real = weights @ x.T + bias[:, None]
    assert np.abs(expected.astype(float) * layer.output.unit - real).max() <= layer.output.error


@relaxed
@given(data=st.data())
def test_convolutions_give_the_integers_of_torch(
    private_key: PaillierPrivateKey, data: st.DataObject
) -> None:
    kernel, stride = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    padding = data.draw(st.integers(0, kernel - 1))
    channels, outputs = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    height, width = data.draw(st.integers(4, 7)), data.draw(st.integers(4, 7))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    weights, bias = rng.normal(size=(outputs, channels, kernel, kernel)), rng.normal(size=outputs)
    taken = signal(channels, height, width)
    layer = SecureConv2d.quantise(
        weights, bias, taken, weight_bits=6, stride=stride, padding=padding
    )
    x = samples(taken, 3, rng)
    integers = torch.from_numpy(np.rint(x * 2**7))
    kernels = torch.from_numpy(layer.weights.reshape(weights.shape).astype(float))
    added = torch.from_numpy(layer.bias.astype(float))
    expected = torch.nn.functional.conv2d(integers, kernels, added, stride, padding)
    model = SecureModel((layer,))
    found = through_encryption(model, x, private_key)
    assert np.array_equal(np.moveaxis(found, -1, 0), expected.numpy())
    assert np.array_equal(model.integers(x), found)
    dense = folded([layer])
    assert np.array_equal(SecureModel((dense,)).integers(x.reshape(3, *taken.shape)).ravel(),
                          found.reshape(-1, 3).ravel())  # fmt: skip


@pytest.mark.parametrize(("size", "divisor"), [(2, 1), (3, 9)])
def test_average_pooling_leaves_the_division_to_the_scale(
    private_key: PaillierPrivateKey, size: int, divisor: int
) -> None:
    taken = signal(2, 6, 6)
    layer = SecureAveragePool.of(taken, size=size)
    x = np.rint(samples(taken, 2, np.random.default_rng(1)) * 2**7) / 2**7
    interface = SecureModel((layer,)).interface
    encrypted = interface.encrypt(x, private_key.public_key)
    found = interface.finish(SecureModel((layer,)).evaluate(encrypted), private_key, 2)
    expected = torch.nn.functional.avg_pool2d(torch.from_numpy(x), size).numpy()
    assert layer.output.divisor == divisor
    assert np.abs(found - expected).max() < 1e-12


def chain(rng: np.random.Generator) -> tuple[SecureModel, list[np.ndarray]]:
    taken = signal(1, 6, 6)
    kernel, head = rng.normal(size=(2, 1, 3, 3)), rng.normal(size=(3, 8))
    bias, offset = rng.normal(size=2), rng.normal(size=3)
    first = SecureConv2d.quantise(kernel, bias, taken, weight_bits=6, padding=1)
    second = SecureAveragePool.of(first.output, size=3)
    third = SecureLinear.quantise(head, offset, second.output, weight_bits=6)
    return SecureModel((first, second, third)), [kernel, bias, head, offset]


def test_a_chain_is_one_matrix_and_within_its_bound(private_key: PaillierPrivateKey) -> None:
    rng = np.random.default_rng(3)
    model, (kernel, bias, head, offset) = chain(rng)
    x = samples(model.interface.input, 4, rng)
    found = through_encryption(model, x, private_key)
    assert np.array_equal(found, model.integers(x))
    matrix = SecureModel((folded(model.layers),))
    # One matrix may need less guard, and gives the same integers.
    assert matrix.interface.weight <= model.interface.weight
    assert np.array_equal(through_encryption(matrix, x, private_key), found)
    image = torch.nn.functional.conv2d(*map(torch.from_numpy, (x, kernel, bias)), padding=1)
    pooled = torch.nn.functional.avg_pool2d(image, 3).numpy().reshape(4, -1)
    real = pooled @ head.T + offset
    output = model.interface.output
    error = np.abs(found.T.astype(float) * output.unit - real).max()
    assert 0 < error <= output.error < 100 * error
    assert matrix.interface.output.error == pytest.approx(output.error)


def test_the_error_bound_is_reached() -> None:
    # The weight rounds down by 2^-9 and the input by 2^-8, about as much as they can.
    weight = 0.75 + 2.0**-9
    layer = SecureLinear.quantise([[weight]], [0.0], signal(1), weight_bits=9)
    x = 126.5 / 2**7
    found = layer.integers(np.array([[round(x * 2**7)]]))[0, 0] * layer.output.unit
    assert abs(found - weight * x) <= layer.output.error
    assert abs(found - weight * x) > 0.99 * layer.output.error


@pytest.mark.parametrize("bits", [2, 3, 8, 32])
def test_weights_use_their_bits_and_never_more(bits: int) -> None:
    rng = np.random.default_rng(bits)
    for scale in (1e-9, 1.0, 3.99999, 1e9):
        weights = scale * rng.uniform(-1, 1, 50)
        integers, fractional = quantised(weights, bits)
        limit = 2 ** (bits - 1) - 1
        assert limit / 2 - 1 < np.abs(integers).max() <= limit
        assert np.abs(integers * 2.0**-fractional - weights).max() <= 2.0**-fractional / 2


def test_what_could_overflow_is_refused_before_it_is_computed(
    private_key: PaillierPrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = chain(np.random.default_rng(4))
    interface = model.interface
    weaker = SecureModel(model.layers[:1]).interface
    tensor = weaker.encrypt(np.zeros((2, 1, 6, 6)), private_key.public_key)
    computed = []
    monkeypatch.setattr(CipherTensor, "affine", lambda *a, **k: computed.append(1))
    with pytest.raises(CryptoError, match="guard bits"):
        model.evaluate(tensor)
    with pytest.raises(CryptoError, match="more than 64"):
        huge = SecureLinear.quantise(np.ones((1, 9)), [0.0], signal(9), weight_bits=32)
        huger = SecureLinear.quantise([[1.0]], [2.0**40], huge.output, weight_bits=32)
        SecureModel((huge, huger)).interface.layout(private_key.public_key.bits)
    assert not computed
    assert interface.layout(2048).maximum_weight >= interface.weight


def test_wrong_scales_shapes_and_keys_are_refused(
    private_key: PaillierPrivateKey, other_key: PaillierPrivateKey
) -> None:
    rng = np.random.default_rng(5)
    layer = SecureLinear.quantise(rng.normal(size=(2, 3)), [0, 1], signal(3), weight_bits=8)
    finer = SecureLinear.quantise(
        rng.normal(size=(2, 3)), [0, 1], signal(3, fractional_bits=9), weight_bits=4
    )
    model, other = SecureModel((layer,)), SecureModel((finer,))
    x = samples(layer.input, 2, rng)
    tensor = model.interface.encrypt(x, private_key)
    with pytest.raises(CryptoError, match="scale"):
        layer.encrypted(other.interface.encrypt(x, private_key))
    with pytest.raises(CryptoError, match="shape"):
        model.evaluate(tensor[:2])
    with pytest.raises(CryptoError, match="weight"):
        layer.encrypted(tensor * 3)
    result = model.evaluate(tensor)
    with pytest.raises(CryptoError, match="cannot be decrypted with key"):
        model.interface.finish(result, other_key, 2)
    with pytest.raises(CryptoError, match="where the model makes"):
        model.interface.finish(tensor, private_key, 2)
    with pytest.raises(ModelError, match="beyond"):
        model.interface.encrypt(x + 5, private_key)
    with pytest.raises(ModelError, match="not finite"):
        model.interface.encrypt(x * np.nan, private_key)
    with pytest.raises(ModelError, match="do not fit"):
        SecureModel((layer, layer))


def test_results_do_not_tell_the_weights(private_key: PaillierPrivateKey) -> None:
    # Without re-randomisation, a row of zeros is a ciphertext that anyone can read.
    layer = SecureLinear.quantise([[1.0, 0.0], [0.0, 0.0]], [0, 0], signal(2), weight_bits=4)
    model = SecureModel((layer,))
    tensor = model.interface.encrypt(np.ones((1, 2)), private_key)
    first, second = model.evaluate(tensor), model.evaluate(tensor)
    assert not (first.ciphertexts == second.ciphertexts).all(axis=1).any()
    assert np.array_equal(model.interface.finish(first, private_key, 1), [[1.0, 0.0]])


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_the_owner_applies_the_activation(private_key: PaillierPrivateKey, activation: str) -> None:
    layer = SecureLinear.quantise(np.eye(3) * 700, [0, 0, 0], signal(3), weight_bits=12)
    model = SecureModel((layer,), activation)
    x = np.array([[-1.0, 0.5, 1.0], [0.0, 0.0, 0.0]])
    found = model.interface.finish(
        model.evaluate(model.interface.encrypt(x, private_key)), private_key, 2
    )
    logits = torch.from_numpy(700 * x)
    expected = logits.sigmoid() if activation == "sigmoid" else logits.softmax(1)
    assert np.allclose(found, expected.numpy(), atol=1e-12)
