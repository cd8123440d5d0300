"""Linear features of images and tables as secure models.

Belongs here: weights of principal components, Zernike moments, matched filters and logistic
regression, and what the owner makes of the results.
Does not belong here: layers and rounding (`layers`), the polynomials (`zernike`).
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.errors import ModelError
from acie_pipelines.secure.layers import SecureLinear
from acie_pipelines.secure.models import SecureModel
from acie_pipelines.secure.signals import Signal
from acie_pipelines.secure.zernike import moment_weights

__all__ = [
    "logistic_head",
    "matched_filters",
    "principal_components",
    "zernike_magnitudes",
    "zernike_moments",
]


def principal_components(
    training: NDArray[Any], count: int, signal: Signal, *, weight_bits: int
) -> SecureModel:
    """Project on the directions in which public training samples vary most.

    Parameters
    ----------
    training
        Plaintext samples, shape ``(n, *signal.shape)``.
    count
        Components, the one of the greatest variance first.
    signal
        What goes in.
    weight_bits
        Width of the weights.

    Returns
    -------
    SecureModel
        Gives ``components (x - mean)``; each component has unit length, and its entry of the
        largest magnitude is positive.

    Raises
    ------
    ModelError
        If there are fewer samples or inputs than components.
    """
    flat = np.asarray(training, np.float64).reshape(len(training), -1)
    if flat.shape[1] != signal.size or not 1 <= count <= min(flat.shape):
        raise ModelError(
            f"{count} components of {flat.shape[0]} samples of {flat.shape[1]} numbers",
            f"cannot be had for {signal.size} inputs",
            "give samples of the inputs' shape, and at least as many as components",
        )
    mean = flat.mean(axis=0)
    components = np.linalg.svd(flat - mean, full_matrices=False)[2][:count]
    largest = np.abs(components).argmax(axis=1)
    components = components * np.sign(components[np.arange(count), largest])[:, None]
    return _linear(components, -components @ mean, signal, weight_bits)


def matched_filters(
    templates: NDArray[Any],
    signal: Signal,
    *,
    weight_bits: int,
    noise: NDArray[Any] | float = 1.0,
) -> SecureModel:
    """Estimate how much of each template an image holds, one template at a time.

    For Gaussian noise that is independent between pixels this is the unbiased linear estimate of
    the least variance, ``sum(t x / s^2) / sum(t^2 / s^2)`` (G. L. Turin, *An introduction to
    matched filters*, IRE Trans. Inf. Theory 6, 311, 1960).

    Parameters
    ----------
    templates
        Shape ``(count, *signal.shape)``, for instance a profile of unit flux.
    signal
        What goes in.
    weight_bits
        Width of the weights.
    noise
        Standard deviation s of every pixel, or of all.

    Raises
    ------
    ModelError
        If a template is zero everywhere or a deviation is not positive.
    """
    flat = np.asarray(templates, np.float64).reshape(len(templates), -1)
    deviation = np.broadcast_to(np.asarray(noise, np.float64), signal.shape).reshape(-1)
    if not (deviation > 0).all() or not flat.any(axis=1).all():
        raise ModelError(
            "matched filters", "have an empty template or noise that is not positive", "mask them"
        )
    weighted = flat / deviation**2
    weights = weighted / (weighted * flat).sum(axis=1, keepdims=True)
    return _linear(weights, np.zeros(len(flat)), signal, weight_bits)


def zernike_moments(degree: int, signal: Signal, *, weight_bits: int) -> SecureModel:
    """Zernike moments of a square image, up to a degree.

    Parameters
    ----------
    degree
        Greatest n.
    signal
        What goes in, of shape ``(side, side)``.
    weight_bits
        Width of the weights.

    Returns
    -------
    SecureModel
        Gives real and imaginary parts in turn, in the order of
        `acie_pipelines.secure.zernike.orders`; see `zernike_magnitudes`.

    Raises
    ------
    ModelError
        If the image is not square.
    """
    if len(signal.shape) != 2 or signal.shape[0] != signal.shape[1]:
        raise ModelError(f"image of shape {signal.shape}", "is not square", "cut it to a square")
    weights = moment_weights(signal.shape[0], degree).reshape(-1, signal.size)
    return _linear(weights, np.zeros(len(weights)), signal, weight_bits)


def zernike_magnitudes(moments: NDArray[np.float64]) -> NDArray[np.float64]:
    """Absolute values of decrypted moments, which turning the image does not change.

    Parameters
    ----------
    moments
        Shape ``(n, 2 moments)``, from `zernike_moments`.
    """
    return np.hypot(moments[:, 0::2], moments[:, 1::2])


def logistic_head(
    weights: NDArray[Any], bias: NDArray[Any], signal: Signal, *, weight_bits: int
) -> SecureModel:
    """Logistic regression whose non-linearity the owner applies after decryption.

    Parameters
    ----------
    weights
        Shape ``(outputs, inputs)``. One output gives the probability of a class (sigmoid); several
        give those of as many classes (softmax).
    bias
        Shape ``(outputs,)``.
    signal
        What goes in.
    weight_bits
        Width of the weights.
    """
    layer = SecureLinear.quantise(weights, bias, signal, weight_bits=weight_bits)
    return SecureModel((layer,), "sigmoid" if len(layer.weights) == 1 else "softmax")


def _linear(
    weights: NDArray[np.float64], bias: NDArray[np.float64], signal: Signal, weight_bits: int
) -> SecureModel:
    return SecureModel((SecureLinear.quantise(weights, bias, signal, weight_bits=weight_bits),))
