"""Labelled stamps of the EFIGI catalogue.

Belongs here: reading the archive, which morphological types make a class, splits that never share a
picture. Does not belong here: batches and training (`acie_pipelines.training.image_training`).

EFIGI: Baillard et al. 2011, A&A 532, A74, doi:10.1051/0004-6361/201016423.
"""

import csv
import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.errors import ConfigurationError, IntegrityError

__all__ = [
    "FOLDS",
    "HUBBLE_STAGE",
    "SPIRAL_OR_ELLIPTICAL",
    "TASKS",
    "ImageSet",
    "Task",
    "read_efigi",
    "split",
]

FOLDS: Final = 5

IMAGES_FILE: Final = "efigi_jpg_88px.zip"
LABELS_FILE: Final = "labels.csv"

_SHAPE: Final = (88, 88, 3)
# Two buckets are held out per fold, one is for validation.
_BUCKETS: Final = 2 * FOLDS

SplitName = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Task:
    """Classes as ranges of the morphological type T.

    Attributes
    ----------
    name
        For reports.
    classes
        Name, least and greatest T of each, from early to late.
    """

    name: str
    classes: tuple[tuple[str, int, int], ...]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names, from early to late."""
        return tuple(name for name, _, _ in self.classes)

    @property
    def centres(self) -> NDArray[np.float64]:
        """Middle T of each class."""
        return np.array([(low + high) / 2 for _, low, high in self.classes])

    def labels(self, types: NDArray[np.int64]) -> NDArray[np.int64]:
        """Class number of each T; -1 for types that the task leaves out."""
        found = np.full(types.shape, -1, dtype=np.int64)
        for number, (_, low, high) in enumerate(self.classes):
            found[(types >= low) & (types <= high)] = number
        return found


SPIRAL_OR_ELLIPTICAL: Final = Task(
    "spiral or elliptical", (("elliptical", -5, -4), ("spiral", 1, 9))
)
"""E and cD galaxies against Sa to Sm; lenticulars and irregulars are neither."""

HUBBLE_STAGE: Final = Task(
    "hubble stage",
    (
        ("E", -6, -4),
        ("S0", -3, -1),
        ("S0/a-Sa", 0, 1),
        ("Sab-Sb", 2, 3),
        ("Sbc-Sc", 4, 5),
        ("Scd-Sd", 6, 7),
        ("Sdm-Im", 8, 10),
    ),
)
"""The sequence in steps of about the scatter between human classifiers; dwarf ellipticals (T 11)
are not on it."""


TASKS: Final = MappingProxyType({"morphology": SPIRAL_OR_ELLIPTICAL, "stage": HUBBLE_STAGE})
"""By the name a user gives."""


@dataclass(frozen=True)
class ImageSet:
    """Stamps with types.

    Attributes
    ----------
    names
        Of the galaxies.
    digests
        SHA-256 of each picture file.
    types
        Morphological type T, int64, shape ``(n,)``.
    stamps
        Display values, uint8, shape ``(n, 3, 88, 88)``.
    """

    names: tuple[str, ...]
    digests: tuple[str, ...]
    types: NDArray[np.int64]
    stamps: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.names)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> "ImageSet":
        """Give the named rows, in that order."""
        chosen = [int(row) for row in rows]
        return ImageSet(
            tuple(self.names[row] for row in chosen),
            tuple(self.digests[row] for row in chosen),
            self.types[chosen],
            self.stamps[chosen],
        )

    def of_task(self, task: Task) -> "ImageSet":
        """Give the galaxies that belong to a class of the task."""
        return self.take(np.flatnonzero(task.labels(self.types) >= 0))


def read_efigi(directory: Path) -> ImageSet:
    """Read the pictures that have a label, sorted by name.

    Parameters
    ----------
    directory
        Holds ``efigi_jpg_88px.zip`` (JPEG of 88x88 pixels named by galaxy) and ``labels.csv``
        (columns ``PGC_name`` and ``T``).

    Raises
    ------
    ConfigurationError
        If one of the files is missing.
    IntegrityError
        If a galaxy appears twice, has no picture, or its picture has another size.
    """
    import imagecodecs

    for file in (IMAGES_FILE, LABELS_FILE):
        if not (directory / file).is_file():
            raise ConfigurationError(
                directory / file,
                "does not exist",
                "give the directory of the EFIGI stamps and labels (Baillard et al. 2011, "
                "https://www.astromatic.net/projects/efigi)",
            )
    with (directory / LABELS_FILE).open(newline="") as stream:
        rows = sorted((row["PGC_name"], int(row["T"])) for row in csv.DictReader(stream))
    names = [name for name, _ in rows]
    stamps = np.empty((len(rows), _SHAPE[2], *_SHAPE[:2]), dtype=np.uint8)
    digests = []
    with zipfile.ZipFile(directory / IMAGES_FILE) as archive:
        members = [m for m in archive.namelist() if m.endswith(".jpg")]
        by_name = {PurePosixPath(member).stem: member for member in members}
        if len(set(names)) < len(names) or len(by_name) < len(members):
            raise IntegrityError(directory, "names a galaxy twice", "remove the duplicates")
        for number, name in enumerate(names):
            if name not in by_name:
                raise IntegrityError(
                    directory / IMAGES_FILE, f"has no picture of {name}", "remove its label"
                )
            data = archive.read(by_name[name])
            picture = imagecodecs.jpeg_decode(data)
            if picture.shape != _SHAPE:
                raise IntegrityError(
                    f"{directory / IMAGES_FILE}:{by_name[name]}",
                    f"has shape {picture.shape}",
                    f"give pictures of shape {_SHAPE}",
                )
            stamps[number] = picture.transpose(2, 0, 1)
            digests.append(hashlib.sha256(data).hexdigest())
    types = np.array([t for _, t in rows], dtype=np.int64)
    return ImageSet(tuple(names), tuple(digests), types, stamps)


def split(images: ImageSet, fold: int) -> dict[SplitName, ImageSet]:
    """Divide by content: 70 % train, 10 % validation, 20 % test.

    A picture's split depends on its bytes alone, so copies under other names stay together and new
    galaxies move no others. Over the folds every galaxy is tested once.

    Parameters
    ----------
    images
        The whole set.
    fold
        0 to 4.

    Raises
    ------
    ConfigurationError
        If there is no such fold.
    """
    if not 0 <= fold < FOLDS:
        raise ConfigurationError("fold", f"{fold} does not exist", f"use 0 to {FOLDS - 1}")
    bucket = np.array([int(digest[:8], 16) % _BUCKETS for digest in images.digests])
    test = bucket // 2 == fold
    validation = bucket == (2 * fold + 2) % _BUCKETS
    return {
        "train": images.take(np.flatnonzero(~test & ~validation)),
        "validation": images.take(np.flatnonzero(validation)),
        "test": images.take(np.flatnonzero(test)),
    }
