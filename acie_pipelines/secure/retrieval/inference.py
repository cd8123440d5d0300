"""Features of an encrypted image, and the proof that no light was lost on the way.

Belongs here: cutting an image into the windows a model takes, evaluating them under encryption with
their total, and the physics check on that total.
Does not belong here: images larger than memory (`streaming`), which model to take (`conditioning`).

The windows cover the image without overlap; where they reach beyond it they hold zeros. So the sum
over all encrypted inputs is the image's total flux: the worker adds up the very ciphertexts that it
evaluates, and the data owner compares the decrypted sum with the plaintext's. What is exact here
is arithmetic on fixed-point numbers, so the two must be equal, not close.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.crypto.cipher_tensor import CipherTensor
from acie_pipelines.crypto.keys import PaillierPrivateKey, PaillierPublicKey
from acie_pipelines.crypto.totals import EncryptedTotal, RunningTotal
from acie_pipelines.errors import FluxConservationError, ModelError
from acie_pipelines.secure.models import Interface, SecureModel
from acie_pipelines.secure.signals import Signal

__all__ = [
    "EncryptedFeatures",
    "Evaluate",
    "check_flux",
    "encrypt_image",
    "evaluate_windows",
    "plaintext_total",
    "run",
    "windows",
]

Evaluate = Callable[[CipherTensor], CipherTensor]


@dataclass(frozen=True, eq=False)
class EncryptedFeatures:
    """What the worker made of an image.

    Attributes
    ----------
    places
        Rows and columns of windows.
    tensor
        The model's result, one sample per window in C order.
    total
        Sum of everything that was encrypted.
    """

    places: tuple[int, int]
    tensor: CipherTensor
    total: EncryptedTotal

    def decrypt(self, interface: Interface, private_key: PaillierPrivateKey) -> NDArray[Any]:
        """Decrypt the features, as the data owner.

        Parameters
        ----------
        interface
            Of the model.
        private_key
            The owner's.

        Returns
        -------
        NDArray
            ``float64``, shape ``(*places, *interface.output.shape)``.

        Raises
        ------
        CryptoError
            If the key is another one, or the result is not what the model makes.
        """
        count = self.places[0] * self.places[1]
        real = interface.finish(self.tensor, private_key, count)
        return real.reshape(*self.places, *real.shape[1:])


def windows(image: NDArray[Any], signal: Signal) -> tuple[NDArray[Any], tuple[int, int]]:
    """Cut an image into windows without overlap; beyond its edges they hold zeros.

    Parameters
    ----------
    image
        Shape ``(height, width)``; NaN and infinity become 0, as invalid samples do in encrypted
        tiles.
    signal
        What the model takes, of shape ``(height, width)``.

    Returns
    -------
    samples
        Shape ``(n, *signal.shape)``, in C order of the windows.
    places
        Rows and columns of windows.

    Raises
    ------
    ModelError
        If the image or the model's input does not have two axes.
    """
    if image.ndim != 2 or not image.size or len(signal.shape) != 2:
        raise ModelError(
            f"image of shape {image.shape}",
            f"cannot be cut into windows of shape {signal.shape}",
            "give a plane, and a model of windows (height, width)",
        )
    clean = np.where(np.isfinite(image), image, image.dtype.type(0))
    down, right = (-length % step for length, step in zip(image.shape, signal.shape, strict=True))
    padded = np.pad(clean, ((0, down), (0, right)))
    height, width = signal.shape
    rows, columns = padded.shape[0] // height, padded.shape[1] // width
    cut = padded.reshape(rows, height, columns, width).swapaxes(1, 2)
    return cut.reshape(-1, height, width), (rows, columns)


def encrypt_image(
    image: NDArray[Any], interface: Interface, key: PaillierPublicKey | PaillierPrivateKey
) -> tuple[CipherTensor, tuple[int, int]]:
    """Encrypt an image for a model, as the data owner.

    Parameters
    ----------
    image
        See `windows`.
    interface
        Of the model.
    key
        Either half of the owner's pair.

    Returns
    -------
    tensor
        For `evaluate_windows`.
    places
        Rows and columns of windows.

    Raises
    ------
    ModelError
        See `windows`, or if a sample is beyond what the model takes.
    """
    samples, places = windows(image, interface.input)
    return interface.encrypt(samples, key), places


def evaluate_windows(
    tensor: CipherTensor, evaluate: Evaluate
) -> tuple[CipherTensor, EncryptedTotal]:
    """Evaluate a model and add up what it was given, as the worker.

    Parameters
    ----------
    tensor
        From `encrypt_image`.
    evaluate
        `SecureModel.evaluate`, or the same in another process.

    Returns
    -------
    result
        Of the model, re-randomised.
    total
        Of the inputs, re-randomised.
    """
    result = evaluate(tensor)
    running = RunningTotal(tensor.public_key, tensor.layout)
    running.add(tensor.kept.array)
    return result, running.total()


def run(
    image: NDArray[Any],
    model: SecureModel,
    key: PaillierPublicKey | PaillierPrivateKey,
    *,
    evaluate: Evaluate | None = None,
) -> EncryptedFeatures:
    """Compute a model's features of one image under encryption.

    Parameters
    ----------
    image
        Shape ``(height, width)``.
    model
        Takes windows ``(height, width)``; see `acie_pipelines.secure.retrieval.conditioning` for
        how retrieved prototypes choose it.
    key
        Either half of the owner's pair.
    evaluate
        Where the model is evaluated; in this process by default.

    Returns
    -------
    EncryptedFeatures
        The data owner decrypts it, and its total with `check_flux`.

    Raises
    ------
    ModelError
        If the image does not fit the model.
    CryptoError
        If a result could overflow; nothing is computed then.
    """
    tensor, places = encrypt_image(image, model.interface, key)
    result, total = evaluate_windows(tensor, evaluate or model.evaluate)
    return EncryptedFeatures(places, result, total)


def plaintext_total(image: NDArray[Any], signal: Signal) -> int:
    """Sum an image's fixed-point values in the clear.

    Parameters
    ----------
    image
        Any shape; NaN and infinity count as 0.
    signal
        Whose scale the values are rounded to.

    Returns
    -------
    int
        In units of the scale.
    """
    finite = image[np.isfinite(image)].astype(np.float64)
    integers = np.rint(np.ldexp(finite, signal.fractional_bits)).astype(np.int64)
    # Two halves of 32 bits cannot overflow int64 below 2^31 samples.
    return (int((integers >> 32).sum()) << 32) + int((integers & 0xFFFFFFFF).sum())


def check_flux(
    total: EncryptedTotal, expected: int, private_key: PaillierPrivateKey, subject: object
) -> int:
    """Compare the decrypted total with the plaintext's, as the data owner.

    Parameters
    ----------
    total
        From the worker.
    expected
        From `plaintext_total`.
    private_key
        The owner's.
    subject
        Names the image in messages.

    Returns
    -------
    int
        The total, in units of the scale.

    Raises
    ------
    FluxConservationError
        If they differ at all.
    CryptoError
        If the key is another one, or the plaintexts are no such sums.
    """
    found = total.decrypt(private_key)
    if found != expected:
        # How much was lost would tell the image's total.
        raise FluxConservationError(
            subject,
            "the total of what was computed on is not the total of the image",
            "tiles were lost, added or changed on the way; run it again with another worker",
        )
    return found
