"""Decrypted features of a stream as one HDF5 file, for their owner.

Belongs here: the layout of that file. Does not belong here: decryption (`streaming`).

``features`` holds one row per window, ``place`` the window's channel, y0, y1, x0 and x1 in pixels,
ends excluded; windows at the edge of a tile may reach beyond it, where they hold zeros.
"""

from pathlib import Path

import numpy as np

from acie_pipelines.crypto.keys import PaillierPrivateKey
from acie_pipelines.provenance import Manifest
from acie_pipelines.secure.models import Interface
from acie_pipelines.secure.retrieval.streaming import read_features
from acie_pipelines.storage import Store, atomic_writer

__all__ = ["write_features"]


def write_features(
    store: Store, features: Manifest, private_key: PaillierPrivateKey, path: Path
) -> int:
    """Decrypt features tile by tile into a file that appears whole.

    Parameters
    ----------
    store, features, private_key
        As of `read_features`.
    path
        The file; one of that name is replaced.

    Returns
    -------
    int
        Windows written.

    Raises
    ------
    IntegrityError, CryptoError
        See `read_features`; there is no file then.
    StorageError
        If it cannot be written.
    """
    import h5py

    interface = Interface.from_json(features.attributes["interface"])
    height, width = interface.input.shape
    shape = interface.output.shape
    with atomic_writer(path) as handle, h5py.File(handle, "w") as file:
        values = file.create_dataset("features", (0, *shape), "<f8", maxshape=(None, *shape))
        places = file.create_dataset("place", (0, 5), "<i8", maxshape=(None, 5))
        for field in ("plane", "model", "key_id"):
            file.attrs[field] = features.attributes[field]
        file.attrs["observation"] = features.key.partition("/")[0]
        file.attrs["generation"] = features.prefix
        for tile, found in read_features(store, features, private_key):
            rows, columns = np.indices(found.shape[:2]).reshape(2, -1)
            y0, x0 = tile["y0"] + rows * height, tile["x0"] + columns * width
            channel = np.full_like(y0, tile["channel"])
            start, stop = len(values), len(values) + len(y0)
            values.resize(stop, 0)
            places.resize(stop, 0)
            values[start:] = found.reshape(-1, *shape)
            places[start:] = np.stack([channel, y0, y0 + height, x0, x0 + width], axis=1)
        return len(values)
