"""Writing ciphertexts to the store, row after row.

Belongs here: Zarr arrays of ciphertexts as they are filled.
Does not belong here: reading them back (`cipher_planes`), making ciphertexts.
"""

from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.crypto.keys import PaillierPublicKey
from acie_pipelines.provenance import Output, array_sha256
from acie_pipelines.storage import Store, storage_errors

if TYPE_CHECKING:
    from zarr import Array

__all__ = ["CiphertextRows", "ciphertext_rows", "row_count", "row_range"]

# 3 MiB under a 3072-bit key: large enough for object stores, small beside a tile's ciphertexts.
_CHUNK_ROWS = 4096
_LIMB_DTYPE = "<u8"


class CiphertextRows:
    """Zarr array filled from the top in whole chunks; at most one chunk waits in memory."""

    def __init__(self, array: "Array[Any] | None", path: str) -> None:
        self._array = array
        self._path = path
        self._waiting: list[NDArray[np.uint64]] = []
        self._written = 0
        self._received = 0

    def append(self, rows: NDArray[np.uint64]) -> Output:
        """Take rows and say where they will be."""
        start, self._received = self._received, self._received + len(rows)
        self._waiting.append(rows)
        if self._received - self._written >= _CHUNK_ROWS:
            self._flush((self._received - self._written) // _CHUNK_ROWS * _CHUNK_ROWS)
        region = ((start, self._received), (0, rows.shape[1]))
        return Output(self._path, array_sha256(rows), region, _LIMB_DTYPE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None and self._received > self._written:
            self._flush(self._received - self._written)

    def _flush(self, count: int) -> None:
        if self._array is None:
            raise ValueError("a plane without validity bits received some")
        ready = np.concatenate(self._waiting)
        with storage_errors(self._array.store_path):
            self._array[self._written : self._written + count] = ready[:count]
        self._written += count
        # A copy, so that the rows already written are freed.
        self._waiting = [ready[count:].copy()]


def ciphertext_rows(
    store: Store,
    prefix: str,
    path: str | None,
    rows: int,
    public_key: PaillierPublicKey,
) -> CiphertextRows:
    """Create an array of ciphertexts, uncompressed: they look random.

    Parameters
    ----------
    store, prefix, path
        Where it belongs: the generation's directory, and the array relative to it.
    rows
        Length; without a path or rows there is no array.
    public_key
        Key of the ciphertexts.
    """
    import zarr

    if path is None or rows == 0:
        return CiphertextRows(None, "")
    limbs = public_key.context.ciphertext_limbs
    name = f"{prefix}/{path}"
    with storage_errors(f"{store.url}/{name}"):
        array: Array[Any] = zarr.create_array(
            store.zarr(name),
            shape=(rows, limbs),
            dtype=_LIMB_DTYPE,
            chunks=(min(rows, _CHUNK_ROWS), limbs),
            compressors=None,
            fill_value=0,
            dimension_names=("ciphertext", "limb"),
        )
    return CiphertextRows(array, path)


def row_count(output: Output) -> int:
    """Length of a range of rows."""
    start, stop = row_range(output)
    return stop - start


def row_range(output: Output) -> tuple[int, int]:
    """First row and the one after the last."""
    if output.region is None:
        raise ValueError(f"{output.path} is not a range of rows")
    return output.region[0]
