"""Which inputs meet which weights in a convolution.

Belongs here: the geometry of windows on a padded image, as index arrays.
Does not belong here: arithmetic (`layers`).

Padding is left out instead of encrypted: a window at the border meets the weights of the pixels
that exist, and windows that miss the same pixels are computed together.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.errors import ModelError

__all__ = ["Meeting", "Window"]


@dataclass(frozen=True, eq=False)
class Meeting:
    """A part of a layer as one matrix product.

    Attributes
    ----------
    columns
        Columns of the layer's weights, shape ``(k,)``.
    inputs
        Numbers of the sample that they meet, shape ``(k, places)``.
    outputs
        Numbers of the result that come of it, shape ``(m, places)``.
    """

    columns: NDArray[np.int64]
    inputs: NDArray[np.int64]
    outputs: NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """Square windows on an image ``(channels, height, width)``.

    Attributes
    ----------
    channels, height, width
        Of the image.
    kernel, stride, padding
        Of the windows, in pixels, along both axes.
    """

    channels: int
    height: int
    width: int
    kernel: int
    stride: int
    padding: int

    def __post_init__(self) -> None:
        fits = min(self.height, self.width) + 2 * self.padding >= self.kernel
        positive = min(self.channels, self.height, self.width, self.kernel, self.stride) > 0
        if not (positive and 0 <= self.padding < self.kernel and fits):
            raise ModelError(
                "convolution",
                f"windows of {self.kernel} pixels, stride {self.stride} and padding {self.padding} "
                f"do not fit {self.height} x {self.width} pixels",
                "use a smaller kernel, and padding below the kernel",
            )

    @property
    def places(self) -> tuple[int, int]:
        """Rows and columns of windows."""
        grown = 2 * self.padding - self.kernel
        return (
            (self.height + grown) // self.stride + 1,
            (self.width + grown) // self.stride + 1,
        )

    def meetings(self, outputs: int, limit: int) -> Iterator[Meeting]:
        """Meet all channels in every window with `outputs` rows of weights.

        Parameters
        ----------
        outputs
            Channels of the result.
        limit
            Inputs in one meeting, about; a window is never cut.
        """
        count = self.places[0] * self.places[1]
        plane = np.arange(self.channels)[:, None] * (self.height * self.width)
        taps = np.arange(self.channels)[:, None] * self.kernel**2
        for chosen, pixels, windows in self._alike(max(1, limit // self.channels)):
            yield Meeting(
                (taps + chosen).reshape(-1),
                (plane[:, :, None] + pixels).reshape(-1, len(windows)),
                np.arange(outputs)[:, None] * count + windows,
            )

    def meetings_by_channel(self, limit: int) -> Iterator[Meeting]:
        """Meet every channel by itself in every window with one row of weights.

        Parameters
        ----------
        limit
            See `meetings`.
        """
        count = self.places[0] * self.places[1]
        planes = np.arange(self.channels)[:, None]
        for chosen, pixels, windows in self._alike(max(1, limit // self.channels)):
            shifted = planes[:, :, None] * (self.height * self.width) + pixels
            yield Meeting(
                chosen,
                shifted.transpose(1, 0, 2).reshape(len(chosen), -1),
                (planes * count + windows).reshape(1, -1),
            )

    def _alike(
        self, limit: int
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]]:
        """Give taps, pixels ``(taps, windows)`` and windows that reach the same taps."""
        offsets = np.arange(self.kernel)
        y = np.arange(self.places[0])[:, None] * self.stride - self.padding + offsets
        x = np.arange(self.places[1])[:, None] * self.stride - self.padding + offsets
        rows, row_class = np.unique((y >= 0) & (y < self.height), axis=0, return_inverse=True)
        columns, column_class = np.unique((x >= 0) & (x < self.width), axis=0, return_inverse=True)
        for i, row in enumerate(rows):
            for j, column in enumerate(columns):
                taps = np.flatnonzero(row[:, None] & column)
                down, right = np.divmod(taps, self.kernel)
                top = np.flatnonzero(row_class == i)
                left = np.flatnonzero(column_class == j)
                windows = (top[:, None] * self.places[1] + left).reshape(-1)
                block = max(1, limit // len(taps))
                for start in range(0, len(windows), block):
                    some = windows[start : start + block]
                    ys, xs = np.divmod(some, self.places[1])
                    pixels = y[ys][:, down].T * self.width + x[xs][:, right].T
                    yield taps, pixels, some
