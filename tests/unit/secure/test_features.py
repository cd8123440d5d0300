"""Features on ciphertexts against SciPy and what is known of them."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.special import eval_jacobi

from acie_pipelines.crypto.keys import PaillierPrivateKey
from acie_pipelines.errors import ModelError
from acie_pipelines.models.images import STAMP_PIXELS
from acie_pipelines.samples import GALAXY_IMAGES
from acie_pipelines.secure.features import (
    logistic_head,
    matched_filters,
    principal_components,
    zernike_magnitudes,
    zernike_moments,
)
from acie_pipelines.secure.models import SecureModel
from acie_pipelines.secure.signals import Signal
from acie_pipelines.secure.zernike import moment_weights, orders, radial
from acie_pipelines.training.efigi import read_efigi


def finished(model: SecureModel, x: np.ndarray, key: PaillierPrivateKey) -> np.ndarray:
    interface = model.interface
    return interface.finish(model.evaluate(interface.encrypt(x, key)), key, len(x))


@pytest.fixture(scope="module")
def galaxies() -> np.ndarray:
    """Thirty galaxies of 22 x 22 pixels, 8 bits."""
    grey = read_efigi(GALAXY_IMAGES).stamps[::10].mean(axis=1)
    blocks = grey[:28].reshape(28, 22, STAMP_PIXELS // 22, 22, STAMP_PIXELS // 22)
    return np.rint(blocks.mean(axis=(2, 4)))


def pixels(side: int) -> Signal:
    return Signal.inputs((side, side), maximum=255.0, fractional_bits=0, exact=True)


@pytest.mark.parametrize(("n", "m"), orders(8))
def test_radial_polynomials_are_those_of_jacobi(n: int, m: int) -> None:
    r = np.linspace(0, 1, 50)
    jacobi = (-1) ** ((n - m) // 2) * r**m * eval_jacobi((n - m) // 2, m, 0, 1 - 2 * r**2)
    assert np.allclose(radial(n, m, r), jacobi, atol=1e-12)
    assert radial(n, m, np.array([1.0])) == pytest.approx(1.0)


def test_radial_polynomials_are_orthogonal() -> None:
    for m in range(4):
        for n in range(m, 8, 2):
            for other in range(m, 8, 2):
                found = quad(
                    lambda r, n=n, other=other, m=m: float(
                        radial(n, m, np.array(r)) * radial(other, m, np.array(r)) * r
                    ),
                    0, 1,
                )[0]  # fmt: skip
                assert found == pytest.approx((n == other) / (2 * (n + 1)), abs=1e-12)
    assert np.array_equal(
        radial(4, 2, np.array([0.5])), 4 * np.array([0.5]) ** 4 - 3 * np.array([0.5]) ** 2
    )
    with pytest.raises(ModelError, match="does not exist"):
        radial(3, 2, np.zeros(1))


def test_moments_of_a_polynomial_are_its_coefficients() -> None:
    side = 200
    centres = (2 * np.arange(side) + 1 - side) / side
    radius, angle = np.hypot(centres, centres[:, None]), np.arctan2(centres[:, None], centres)
    image = 3 * radial(4, 2, np.minimum(radius, 1)) * np.cos(2 * angle) * (radius <= 1)
    found = np.einsum("mcyx,yx->mc", moment_weights(side, 5), image)
    # 3 cos(2 theta) holds half of its amplitude in m = 2 and half in m = -2.
    for (n, m), (real, imaginary) in zip(orders(5), found, strict=True):
        expected = 1.5 if (n, m) == (4, 2) else 0.0
        assert real == pytest.approx(expected, abs=0.03)
        assert imaginary == pytest.approx(0.0, abs=0.03)


def test_encrypted_moments_do_not_change_when_the_galaxy_turns(
    private_key: PaillierPrivateKey, galaxies: np.ndarray
) -> None:
    model = zernike_moments(4, pixels(22), weight_bits=12)
    turned = np.concatenate([galaxies[:2], np.rot90(galaxies[:2], 1, (1, 2))])
    moments = finished(model, turned, private_key)
    direct = np.einsum("mcyx,nyx->nmc", moment_weights(22, 4), turned).reshape(4, -1)
    error = model.interface.output.error
    assert np.abs(moments - direct).max() <= error
    sizes = zernike_magnitudes(moments)
    assert np.abs(sizes[:2] - sizes[2:]).max() <= 2 * np.sqrt(2) * error
    assert sizes.max() > 100 * error
    with pytest.raises(ModelError, match="not square"):
        zernike_moments(2, Signal.inputs((3, 4), maximum=1, fractional_bits=0), weight_bits=8)


def test_encrypted_components_are_those_of_the_covariance(
    private_key: PaillierPrivateKey, galaxies: np.ndarray
) -> None:
    model = principal_components(galaxies, 3, pixels(22), weight_bits=14)
    found = finished(model, galaxies, private_key)
    values, vectors = np.linalg.eigh(np.cov(galaxies.reshape(len(galaxies), -1).T))
    assert np.allclose(found.var(axis=0, ddof=1), values[:-4:-1], rtol=1e-2)
    expected = (galaxies - galaxies.mean(axis=0)).reshape(len(galaxies), -1) @ vectors[:, :-4:-1]
    expected *= np.sign((expected * found).sum(axis=0))
    assert np.abs(found - expected).max() <= model.interface.output.error
    with pytest.raises(ModelError, match="components"):
        principal_components(galaxies, 29, pixels(22), weight_bits=14)


def test_a_matched_filter_weighs_pixels_by_their_noise(private_key: PaillierPrivateKey) -> None:
    rng = np.random.default_rng(6)
    y, x = np.mgrid[:9, :9] - 4
    template = np.exp(-(x**2 + y**2) / 4.0)
    template /= template.sum()
    deviation = np.where(x > 0, 8.0, 1.0)
    signal = Signal.inputs((9, 9), maximum=1000.0, fractional_bits=4)
    images = 500 * template + deviation * rng.normal(size=(40, 9, 9))
    model = matched_filters(template[None], signal, weight_bits=12, noise=deviation)
    fluxes = finished(model, images, private_key)[:, 0]
    # Generalised least squares with one column.
    design, inverse = template.reshape(-1, 1), np.diag(deviation.reshape(-1) ** -2)
    covariance = np.linalg.inv(design.T @ inverse @ design)
    expected = (covariance @ design.T @ inverse @ images.reshape(40, -1).T)[0]
    assert np.abs(fluxes - expected).max() <= model.interface.output.error
    assert abs(fluxes.mean() - 500) < 4 * np.sqrt(covariance[0, 0] / 40)
    with pytest.raises(ModelError, match="empty template"):
        matched_filters(np.zeros((1, 9, 9)), signal, weight_bits=8)


@pytest.mark.parametrize("classes", [1, 3])
def test_logistic_heads(private_key: PaillierPrivateKey, classes: int) -> None:
    rng = np.random.default_rng(classes)
    weights, bias = rng.normal(size=(classes, 5)), rng.normal(size=classes)
    signal = Signal.inputs((5,), maximum=4.0, fractional_bits=12)
    x = rng.uniform(-4, 4, (6, 5))
    found = finished(logistic_head(weights, bias, signal, weight_bits=16), x, private_key)
    logits = x @ weights.T + bias
    if classes == 1:
        expected = 1 / (1 + np.exp(-logits))
    else:
        expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert np.abs(found - expected).max() < 1e-2
    assert np.abs(found - expected).max() > 0
