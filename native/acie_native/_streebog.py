"""Streebog hash objects, GOST R 34.11-2012 (RFC 6986).

Belongs here: the Python face of the hash, shaped like `hashlib`.
Does not belong here: what is hashed and how fingerprints are stored.
"""

from typing import Any, ClassVar, Self

from acie_native._dispatch import chosen_isa
from acie_native._kernels import StreebogKernel

__all__ = ["Streebog256", "Streebog512"]


class _Streebog:
    digest_size: ClassVar[int]
    block_size: ClassVar[int] = 64
    name: ClassVar[str]

    def __init__(self, data: Any = b"", *, isa: str | None = None) -> None:
        self._isa = chosen_isa(isa)
        self._kernel = StreebogKernel(self.digest_size, self._isa)
        self.update(data)

    def update(self, data: Any) -> None:
        """Append bytes; large buffers are hashed without the interpreter lock.

        Parameters
        ----------
        data
            Any object with a C-contiguous buffer: bytes, memoryview, NumPy array.
        """
        self._kernel.update(data)

    def digest(self) -> bytes:
        """Return the hash of everything so far, least significant byte first.

        Returns
        -------
        bytes
            `digest_size` bytes in the order of the data (RFC 6986 prints them reversed).
        """
        return self._kernel.digest()

    def hexdigest(self) -> str:
        """Return `digest` as lower-case hexadecimal text.

        Returns
        -------
        str
            Two characters per byte.
        """
        return self.digest().hex()

    def copy(self) -> Self:
        """Return an independent hash of the same bytes.

        Returns
        -------
        Streebog256 or Streebog512
            Of the same kind as this one.
        """
        twin = type(self)(isa=self._isa)
        twin._kernel = StreebogKernel(self.digest_size, self._isa, self._kernel)
        return twin


class Streebog256(_Streebog):
    """Streebog with a 256-bit digest.

    Parameters
    ----------
    data
        First bytes to hash.
    isa
        Instruction set path, see `CpuFeatures`; the chosen one by default.
    """

    digest_size = 32
    name = "streebog256"


class Streebog512(_Streebog):
    """Streebog with a 512-bit digest.

    Parameters
    ----------
    data
        First bytes to hash.
    isa
        Instruction set path, see `CpuFeatures`; the chosen one by default.
    """

    digest_size = 64
    name = "streebog512"
