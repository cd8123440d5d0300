"""Classifying stamps whose pixels the worker never sees.

Belongs here: the classifier's first stage as a secure model, and the owner's part around it.
Does not belong here: the classifier (`acie_pipelines.models.images`), processes (`model_worker`).

The owner scales the pixels and encrypts them; the worker computes the first convolution, for all
eight symmetric views of a stamp at once because a view of the stamp is a view of the kernel; the
owner decrypts and runs the rest of the network.

A ciphertext holds the same pixel of many squares. Squares overlap so that each can be computed by
itself: small ones make few stamps fill ciphertexts, large ones repeat fewer pixels.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acie_pipelines.crypto.cipher_tensor import CipherTensor
from acie_pipelines.crypto.keys import PaillierPrivateKey, PaillierPublicKey
from acie_pipelines.models.images import (
    STAMP_PIXELS,
    StampClassifier,
    scale_stamps,
    symmetric_views,
)
from acie_pipelines.secure.layers import SecureConv2d
from acie_pipelines.secure.models import SecureModel
from acie_pipelines.secure.signals import Signal

__all__ = ["INPUT_FRACTIONAL_BITS", "WEIGHT_BITS", "SplitClassifier"]

INPUT_FRACTIONAL_BITS: Final = 7
"""Scaled pixels lie between -1 and 1, and come from 256 levels."""

WEIGHT_BITS: Final = 9
"""With fewer, stamps between two of seven classes begin to change theirs."""

# A result is re-randomised and decrypted, and comes of 192 products: together about as long as so
# many encryptions of an input.
_OUTPUT_COST: Final = 8


@dataclass(frozen=True, eq=False)
class SplitClassifier:
    """A classifier with its first stage made ready for ciphertexts; make it with `of`.

    Attributes
    ----------
    classifier
        Whole; stays with the owner.
    model
        For the worker: a convolution of one square.
    side
        Windows along a side of a square.
    symmetric
        Average over eight views, as `StampClassifier.probabilities` does, or look at the stamp
        once.
    """

    classifier: StampClassifier
    model: SecureModel
    side: int
    symmetric: bool

    @classmethod
    def of(
        cls,
        classifier: StampClassifier,
        *,
        stamps: int,
        key_bits: int,
        symmetric: bool = True,
        weight_bits: int = WEIGHT_BITS,
        fractional_bits: int = INPUT_FRACTIONAL_BITS,
    ) -> "SplitClassifier":
        """Split a classifier, with squares that suit so many stamps at once.

        Parameters
        ----------
        classifier
            Trained.
        stamps
            How many will be encrypted together.
        key_bits
            Length of the modulus.
        symmetric
            See above.
        weight_bits, fractional_bits
            Width of the weights and scale of the pixels.

        Raises
        ------
        ModelError
            If a weight is not finite.
        CryptoError
            If the numbers do not fit a slot.
        """
        made = []
        places = _places(classifier)
        for side in (side for side in range(1, places + 1) if places % side == 0):
            model = _stem(classifier, side, symmetric, weight_bits, fractional_bits)
            slots = model.interface.layout(key_bits).slots_per_plaintext
            groups = -(-stamps * (places // side) ** 2 // slots)
            signals = model.interface
            cost = groups * (signals.input.size + _OUTPUT_COST * signals.output.size)
            made.append((cost, side, model))
        _, side, model = min(made, key=lambda each: each[:2])
        return cls(classifier, model, side, symmetric)

    @property
    def squares_per_stamp(self) -> int:
        """Squares that cover a stamp."""
        return (_places(self.classifier) // self.side) ** 2

    def encrypt(
        self, stamps: NDArray[np.uint8], key: PaillierPublicKey | PaillierPrivateKey
    ) -> CipherTensor:
        """Encrypt stamps, as the owner.

        Parameters
        ----------
        stamps
            Display values, shape ``(n, 3, 88, 88)``.
        key
            Either half of the owner's pair; the private one is faster.
        """
        return self.model.interface.encrypt(self._squares(stamps), key)

    def finish(
        self, result: CipherTensor, private_key: PaillierPrivateKey, stamps: int
    ) -> NDArray[np.float64]:
        """Decrypt the worker's result and run the rest of the network, as the owner.

        Parameters
        ----------
        result
            What `model` made of what `encrypt` made.
        private_key
            The owner's.
        stamps
            How many went in.

        Returns
        -------
        NDArray
            Probabilities, shape ``(n, classes)``.
        """
        squares = stamps * self.squares_per_stamp
        return self._classes(self.model.interface.finish(result, private_key, squares), stamps)

    def plain_probabilities(self, stamps: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Give what `finish` gives, from the same integers without encryption.

        Parameters
        ----------
        stamps
            Display values, shape ``(n, 3, 88, 88)``.
        """
        integers = self.model.integers(self._squares(stamps))
        real = np.moveaxis(integers.astype(np.float64) * self.model.interface.output.unit, -1, 0)
        return self._classes(real, len(stamps))

    def _squares(self, stamps: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Cut scaled stamps into overlapping squares ``(n squares, 3, pixels, pixels)``."""
        scaled = scale_stamps(torch.from_numpy(stamps)).numpy()
        stride, pixels = self.classifier.first.stride[0], self.model.interface.input.shape[-1]
        view = np.lib.stride_tricks.sliding_window_view(scaled, (pixels, pixels), axis=(2, 3))
        step = stride * self.side
        cut = view[:, :, ::step, ::step].transpose(0, 2, 3, 1, 4, 5)
        return cut.reshape(-1, *self.model.interface.input.shape)

    @torch.no_grad()
    def _classes(self, squares: NDArray[np.float64], stamps: int) -> NDArray[np.float64]:
        """Put squares ``(squares, features, side, side)`` together and classify."""
        places, side = _places(self.classifier), self.side
        across, features = places // side, squares.shape[1]
        grid = squares.reshape(stamps, across, across, features, side, side)
        planes = torch.from_numpy(
            grid.transpose(0, 3, 1, 4, 2, 5).reshape(stamps, features, places, places)
        ).float()
        views = [planes]
        if self.symmetric:
            parts = planes.chunk(len(symmetric_views(planes[:0])), dim=1)
            views = [symmetric_views(part)[number] for number, part in enumerate(parts)]
        logits = [self.classifier.from_stem(view.flatten(2).transpose(1, 2)) for view in views]
        return torch.stack([each.softmax(1) for each in logits]).mean(0).double().numpy()


def _places(classifier: StampClassifier) -> int:
    """Windows of the first stage along a side of a stamp."""
    kernel, stride = classifier.first.kernel_size[0], classifier.first.stride[0]
    return (STAMP_PIXELS - int(kernel)) // int(stride) + 1


def _stem(
    classifier: StampClassifier,
    side: int,
    symmetric: bool,
    weight_bits: int,
    fractional_bits: int,
) -> SecureModel:
    stem = classifier.stem()
    stride, kernel = classifier.first.stride[0], classifier.first.kernel_size[0]
    channels = stem.weight.shape[1] // kernel**2
    kernels = stem.weight.reshape(-1, channels, kernel, kernel)
    bias = stem.bias
    if symmetric:
        # Convolving a view of the stamp gives the view of what the kernel gives, seen backwards.
        kernels = torch.cat(_seen_backwards(kernels))
        bias = bias.repeat(len(kernels) // len(bias))
    pixels = (side - 1) * stride + kernel
    signal = Signal.inputs(
        (channels, pixels, pixels),
        maximum=max(map(abs, stem.input_range)),
        fractional_bits=fractional_bits,
    )
    layer = SecureConv2d.quantise(
        kernels.numpy(), bias.numpy(), signal, weight_bits=weight_bits, stride=stride
    )
    return SecureModel((layer,))


def _seen_backwards(squares: Tensor) -> list[Tensor]:
    """Undo each of the eight symmetric views."""
    turned = [torch.rot90(squares, -turns, (2, 3)) for turns in range(4)]
    return turned + [square.flip(3) for square in turned]
