"""The class of a picture file, as a note for whoever keeps the file.

Belongs here: classifying one open file. Does not belong here: the network (`images`), pictures
(`stamp_files`), where notes are kept (`acie_pipelines.crypto.archive`).
"""

import hashlib
from pathlib import Path
from typing import IO, Any, Final

import torch

from acie_pipelines.errors import ConfigurationError, FormatMismatchError, InvalidGeometryError
from acie_pipelines.models.images import StampClassifier
from acie_pipelines.models.stamp_files import decode_stamp

__all__ = ["FileClassifier", "load_classifier"]

# Of 88 x 88 pixels no picture is longer, however badly compressed.
_LARGEST_BYTES: Final = 1 << 20
_DECIMALS: Final = 6


def load_classifier(path: Path) -> tuple[StampClassifier, str]:
    """Read a classifier and the SHA-256 of its file.

    Parameters
    ----------
    path
        Written by `acie train-images`.

    Raises
    ------
    ConfigurationError
        If there is no such file.
    ModelError
        If it is no classifier.
    """
    if not path.is_file():
        raise ConfigurationError(path, "does not exist", "train one with `acie train-images`")
    data = path.read_bytes()
    return StampClassifier.load(data), hashlib.sha256(data).hexdigest()


class FileClassifier:
    """Says of which class a galaxy stamp is; of other files, that they are none.

    Parameters
    ----------
    path
        See `load_classifier`.
    """

    def __init__(self, path: Path) -> None:
        self.classifier, self.sha256 = load_classifier(path)

    def __call__(self, path: Path, source: IO[bytes]) -> tuple[dict[str, Any] | None, str]:
        """Classify an open file.

        Parameters
        ----------
        path
            Its name, for messages.
        source
            Read from where it is.

        Returns
        -------
        note
            ``class``, its ``probability`` and ``model_sha256``; ``None`` if it is no stamp.
        reason
            Why it is none; empty if it is one.
        """
        try:
            stamp = decode_stamp(source.read(_LARGEST_BYTES), path)
        except (FormatMismatchError, InvalidGeometryError) as error:
            return None, f"not classified: {error.reason}"
        [chances] = self.classifier.probabilities(torch.from_numpy(stamp[None]))
        best = int(chances.argmax())
        return {
            "class": self.classifier.classes[best],
            "probability": round(float(chances[best]), _DECIMALS),
            "model_sha256": self.sha256,
        }, ""
