"""Stamps of labelled galaxies as an index: what a galaxy looks like, in 64 signed bytes.

Belongs here: the embedding of stamps, its bytes, and the prototypes made of a labelled set.
Does not belong here: reading pictures (`acie_pipelines.training.efigi`), the index (`index`).

The picture is cut into rings around its centre. Each ring gives its mean in every colour, the
scatter in it, and the amplitudes of the first four azimuthal Fourier modes of its luminance: what
survives when the galaxy is turned. Concentration and colour tell early from late types, the second
mode tells bars and inclined discs, all of them tell arms. Principal axes of the labelled set reduce
these to few numbers, which are rounded to signed bytes.
"""

import base64
import json
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.errors import ModelError
from acie_pipelines.manifest import canonical_json
from acie_pipelines.secure.retrieval.prototypes import (
    LARGEST_COMPONENT,
    MAXIMUM_DIMENSIONS,
    Prototype,
)
from acie_pipelines.training.efigi import HUBBLE_STAGE, ImageSet

__all__ = ["StampEmbedding", "ring_features", "stamp_prototypes"]

_SCHEMA: Final = "acie.stamp-embedding/1"
_RINGS: Final = 16
_MODES: Final = 4
_DISPLAY_MAXIMUM: Final = 255.0
_SURVEY: Final = "SDSS"
_BAND: Final = "gri"


def ring_features(stamps: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Measure rings of stamps.

    Parameters
    ----------
    stamps
        Display values, shape ``(n, channels, side, side)``.

    Returns
    -------
    NDArray
        Shape ``(n, 16 * (channels + 5))``, each between 0 and 1.

    Raises
    ------
    ModelError
        If the shape differs or the side is below 32 pixels.
    """
    if stamps.ndim != 4 or stamps.shape[2] != stamps.shape[3] or stamps.shape[2] < 2 * _RINGS:
        raise ModelError(
            f"stamps of shape {stamps.shape}",
            "are no square pictures of 32 pixels or more",
            "give (n, channels, side, side)",
        )
    # The root is what the display's eye needs too: faint outskirts get half of the range.
    brightness = np.sqrt(stamps.astype(np.float64) / _DISPLAY_MAXIMUM)
    luminance = brightness.mean(axis=1)
    half = (stamps.shape[2] - 1) / 2
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    radius, angle = np.hypot(y, x), np.arctan2(y, x)
    edges = np.linspace(0, half + 0.5, _RINGS + 1)
    columns = []
    for inner, outer in pairwise(edges):
        ring = (radius >= inner) & (radius < outer)
        within = luminance[:, ring]
        columns += list(brightness[:, :, ring].mean(axis=2).T)
        columns.append(within.std(axis=1))
        for mode in range(1, _MODES + 1):
            turned = within * np.exp(1j * mode * angle[ring])
            columns.append(np.abs(turned.mean(axis=1)))
    return np.stack(columns, axis=1)


@dataclass(frozen=True, eq=False)
class StampEmbedding:
    """From stamps to vectors of an index; public, so that who asks can embed by themselves.

    Attributes
    ----------
    mean
        Of the features, shape ``(features,)``.
    axes
        Principal axes in units of a byte's step, shape ``(dimensions, features)``.
    """

    mean: NDArray[np.float64]
    axes: NDArray[np.float64]

    @classmethod
    def fit(cls, stamps: NDArray[np.uint8], dimensions: int) -> Self:
        """Find the principal axes of a labelled set, and the scale that uses all of a byte.

        Parameters
        ----------
        stamps
            Shape ``(n, channels, side, side)``, more of them than dimensions.
        dimensions
            1 to 256, at most the number of features.

        Raises
        ------
        ModelError
            If there are too few stamps or features for so many dimensions.
        """
        features = ring_features(stamps)
        if not 1 <= dimensions <= min(MAXIMUM_DIMENSIONS, len(features) - 1, features.shape[1]):
            raise ModelError(
                f"{dimensions} dimensions",
                f"cannot be told from {len(features)} stamps of {features.shape[1]} features",
                "use fewer dimensions or more stamps",
            )
        mean = features.mean(axis=0)
        axes = np.linalg.svd(features - mean, full_matrices=False)[2][:dimensions]
        # The sign of an axis is arbitrary; its largest weight decides.
        largest = np.abs(axes).argmax(axis=1)
        axes = axes * np.sign(axes[np.arange(dimensions), largest])[:, None]
        reach = float(np.abs((features - mean) @ axes.T).max())
        if reach == 0.0:
            raise ModelError("stamps", "are all alike", "give stamps that differ")
        return cls(mean, axes * (LARGEST_COMPONENT / reach))

    def embed(self, stamps: NDArray[np.uint8]) -> NDArray[np.int8]:
        """Turn stamps into vectors.

        Parameters
        ----------
        stamps
            Shape ``(n, channels, side, side)``.

        Returns
        -------
        NDArray
            ``int8[n, dimensions]``; what lies beyond the labelled set's range is clipped.

        Raises
        ------
        ModelError
            If they have another number of channels.
        """
        features = ring_features(stamps)
        if features.shape[1] != len(self.mean):
            raise ModelError(
                f"stamps of {stamps.shape[1]} channels",
                "are not what the embedding was made for",
                f"give stamps with {len(self.mean)} features",
            )
        steps = np.rint((features - self.mean) @ self.axes.T)
        return np.clip(steps, -LARGEST_COMPONENT, LARGEST_COMPONENT).astype(np.int8)

    def to_bytes(self) -> bytes:
        """Write it down, alike for alike embeddings."""
        fields = {
            "schema": _SCHEMA,
            "shape": list(self.axes.shape),
            "mean": _encoded(self.mean),
            "axes": _encoded(self.axes),
        }
        return canonical_json(fields)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote.

        Raises
        ------
        ModelError
            If it is something else.
        """
        try:
            fields: dict[str, Any] = json.loads(data)
            dimensions, features = fields["shape"]
            mean = _decoded(fields["mean"])
            axes = _decoded(fields["axes"]).reshape(dimensions, features)
            fine = fields["schema"] == _SCHEMA and mean.shape == (features,)
        except (ValueError, TypeError, KeyError):
            fine = False
        if not fine or not (np.isfinite(mean).all() and np.isfinite(axes).all()):
            raise ModelError(
                "stamp embedding", "is not what to_bytes wrote", "use an index of stamps"
            )
        return cls(mean, axes)


def stamp_prototypes(images: ImageSet, embedding: StampEmbedding) -> list[Prototype]:
    """Make a prototype of every labelled galaxy that is on the Hubble sequence.

    Parameters
    ----------
    images
        Stamps of SDSS in the bands g, r and i with types.
    embedding
        From stamps to vectors.
    """
    classes = HUBBLE_STAGE.labels(images.types)
    vectors = embedding.embed(images.stamps)
    return [
        Prototype(
            key=name,
            vector=vector,
            survey=_SURVEY,
            band=_BAND,
            label=HUBBLE_STAGE.class_names[number],
            # EFIGI's table gives none.
            redshift=None,
            source_key=f"{name}-{digest[:12]}",
            source_sha256=digest,
        )
        for name, vector, number, digest in zip(
            images.names, vectors, classes, images.digests, strict=True
        )
        if number >= 0
    ]


def _encoded(array: NDArray[np.float64]) -> str:
    return base64.b64encode(array.astype("<f8").tobytes()).decode()


def _decoded(text: str) -> NDArray[np.float64]:
    return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f8").astype(np.float64)
