"""Classifier of galaxy stamps whose first stage is one linear map.

Belongs here: the network, its first stage as a matrix, averaging over the symmetries of a square.
Does not belong here: labels and training (`acie_pipelines.training.image_training`).
"""

import json
from dataclasses import dataclass
from io import BytesIO
from typing import Final

import torch
from torch import Tensor, nn

from acie_pipelines.errors import ModelError

__all__ = ["STAMP_PIXELS", "LinearStem", "StampClassifier", "scale_stamps", "symmetric_views"]

STAMP_PIXELS: Final = 88
"""Side of a stamp."""

_CHANNELS: Final = 3
_KERNEL: Final = 8
_STRIDE: Final = 4
_PATCHES: Final = ((STAMP_PIXELS - _KERNEL) // _STRIDE + 1) ** 2
_DISPLAY_MAXIMUM: Final = 255.0
_WIDTHS: Final = (24, 48, 96, 128)


def scale_stamps(stamps: Tensor) -> Tensor:
    """Bring display values into the range of the network.

    Parameters
    ----------
    stamps
        Values between 0 and 255 of any dtype, shape ``(n, 3, 88, 88)``.

    Returns
    -------
    Tensor
        Between -1 and 1, float32, same shape.

    Raises
    ------
    ModelError
        If the shape differs.
    """
    if stamps.shape[1:] != (_CHANNELS, STAMP_PIXELS, STAMP_PIXELS):
        raise ModelError(
            "stamps", f"have shape {tuple(stamps.shape)}", "give (n, 3, 88, 88) in 0 to 255"
        )
    # Faint outskirts tell arms from halos; the root gives them half of the range.
    return 2 * torch.sqrt(stamps.float() / _DISPLAY_MAXIMUM) - 1


def symmetric_views(stamps: Tensor) -> tuple[Tensor, ...]:
    """Give the eight rotations and mirror images of square stamps."""
    return tuple(
        torch.rot90(side, turns, (2, 3)) for side in (stamps, stamps.flip(3)) for turns in range(4)
    )


@dataclass(frozen=True)
class LinearStem:
    """First stage of a classifier as plain numbers, for instance for encrypted evaluation.

    Attributes
    ----------
    weight
        Float32, shape ``(features, 192)``.
    bias
        Float32, shape ``(features,)``.
    input_range
        Least and greatest value of a scaled pixel.
    """

    weight: Tensor
    bias: Tensor
    input_range: tuple[float, float] = (-1.0, 1.0)

    def patches(self, scaled: Tensor) -> Tensor:
        """Overlapping 8x8 squares of scaled stamps, shape ``(n, 441, 192)``."""
        columns = nn.functional.unfold(scaled, _KERNEL, stride=_STRIDE)
        return columns.transpose(1, 2)

    def __call__(self, scaled: Tensor) -> Tensor:
        """Features of scaled stamps, shape ``(n, 441, features)``."""
        return self.patches(scaled) @ self.weight.T + self.bias


class StampClassifier(nn.Module):
    """Convolutional network from stamps to classes.

    Parameters
    ----------
    classes
        Names, at least two.
    seed
        Of the initial weights.

    Notes
    -----
    The first stage, an 8x8 convolution of stride 4, is linear: whoever holds the stamp can have it
    computed on ciphertexts (`stem`) and go on from its output (`from_stem`).
    """

    def __init__(self, classes: tuple[str, ...], *, seed: int) -> None:
        super().__init__()
        if len(classes) < 2:
            raise ModelError("classifier", "has fewer than two classes", "name two or more")
        self.classes = classes
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            first, *others = _WIDTHS
            self.first = nn.Conv2d(_CHANNELS, first, _KERNEL, stride=_STRIDE)
            self.rest = nn.Sequential(
                nn.BatchNorm2d(first),
                nn.SiLU(),
                *_block(first, others[0]),
                nn.AvgPool2d(2),
                *_block(others[0], others[1]),
                nn.AvgPool2d(2),
                *_block(others[1], others[2]),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Dropout(0.3),
                nn.Linear(others[2], len(classes)),
            )

    def forward(self, scaled: Tensor) -> Tensor:
        """Logits of scaled stamps, shape ``(n, classes)``."""
        logits: Tensor = self.rest(self.first(scaled))
        return logits

    @torch.no_grad()
    def probabilities(self, stamps: Tensor, *, batch: int = 256) -> Tensor:
        """Class probabilities, averaged over rotations and mirror images.

        Parameters
        ----------
        stamps
            Display values, see `scale_stamps`.
        batch
            Stamps at once.

        Returns
        -------
        Tensor
            Shape ``(n, classes)``.
        """
        self.eval()
        means = []
        for some in torch.split(stamps, batch):
            views = symmetric_views(scale_stamps(some))
            means.append(torch.stack([self(view).softmax(1) for view in views]).mean(0))
        return torch.cat(means)

    def stem(self) -> LinearStem:
        """Return the first stage as a matrix."""
        weight = self.first.weight.detach().flatten(1).clone()
        bias = self.first.bias
        if bias is None:
            raise ModelError("first stage", "has no bias", "build it with one")
        return LinearStem(weight, bias.detach().clone())

    @torch.no_grad()
    def from_stem(self, features: Tensor) -> Tensor:
        """Logits from the output of the first stage.

        Parameters
        ----------
        features
            As from `LinearStem`, shape ``(n, 441, features)``.
        """
        self.eval()
        side = int(_PATCHES**0.5)
        planes = features.transpose(1, 2).reshape(len(features), -1, side, side)
        logits: Tensor = self.rest(planes)
        return logits

    def save(self) -> bytes:
        """Serialise classes and weights."""
        buffer = BytesIO()
        torch.save({"classes": json.dumps(self.classes), "weights": self.state_dict()}, buffer)
        return buffer.getvalue()

    @classmethod
    def load(cls, data: bytes) -> "StampClassifier":
        """Read what `save` wrote.

        Raises
        ------
        ModelError
            If the bytes are no classifier.
        """
        try:
            saved = torch.load(BytesIO(data), map_location="cpu", weights_only=True)
            model = cls(tuple(json.loads(saved["classes"])), seed=0)
            model.load_state_dict(saved["weights"])
        except Exception as error:  # a damaged archive can fail in any way
            raise ModelError(
                "classifier", f"cannot be loaded ({error})", "train it again"
            ) from error
        return model.eval()


def _block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.SiLU(),
    )
