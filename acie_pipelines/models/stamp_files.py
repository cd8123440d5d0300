"""Pictures of galaxies as stamps.

Belongs here: decoding picture files to display values. Does not belong here: labels
(`acie_pipelines.training.efigi`), scaling for a network (`images`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.errors import FormatMismatchError, InvalidGeometryError

__all__ = ["decode_stamp", "read_stamps"]

_SHAPE: Final = (88, 88, 3)
_JPEG: Final = b"\xff\xd8\xff"
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_TIFF: Final = (b"II*\0", b"MM\0*")


def read_stamps(paths: Sequence[Path]) -> NDArray[np.uint8]:
    """Decode JPEG, PNG and TIFF files.

    Parameters
    ----------
    paths
        RGB pictures of 88 x 88 pixels.

    Returns
    -------
    NDArray
        Display values, shape ``(n, 3, 88, 88)``.

    Raises
    ------
    FormatMismatchError
        If a file is no such picture, or damaged.
    InvalidGeometryError
        If it has another size.
    """
    stamps = np.empty((len(paths), _SHAPE[2], *_SHAPE[:2]), dtype=np.uint8)
    for number, path in enumerate(paths):
        try:
            data = path.read_bytes()
        except OSError as error:
            raise FormatMismatchError(
                path, f"cannot be read ({error.strerror})", "give the path of a picture"
            ) from error
        stamps[number] = decode_stamp(data, path)
    return stamps


def decode_stamp(data: bytes, subject: object) -> NDArray[np.uint8]:
    """Decode one JPEG, PNG or TIFF; errors are those of `read_stamps`.

    Parameters
    ----------
    data
        The whole file.
    subject
        Its name, for messages.

    Returns
    -------
    NDArray
        Display values, shape ``(3, 88, 88)``.
    """
    import imagecodecs

    decoders = {_JPEG: imagecodecs.jpeg_decode, _PNG: imagecodecs.png_decode}
    decoders |= dict.fromkeys(_TIFF, imagecodecs.tiff_decode)
    decode = next((each for magic, each in decoders.items() if data.startswith(magic)), None)
    if decode is None:
        raise FormatMismatchError(subject, "is no JPEG, PNG or TIFF", "convert it to one of them")
    try:
        picture = decode(data)
    except Exception as error:  # a damaged picture can fail in any way
        raise FormatMismatchError(subject, "cannot be decoded", "take another copy") from error
    if picture.shape != _SHAPE or picture.dtype != np.uint8:
        raise InvalidGeometryError(
            subject,
            f"has shape {picture.shape} and dtype {picture.dtype}",
            f"give an RGB picture of shape {_SHAPE} and 8 bits",
        )
    return np.ascontiguousarray(picture.transpose(2, 0, 1))
