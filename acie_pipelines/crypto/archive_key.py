"""The secret that archive files are sealed under.

Belongs here: its type. Does not belong here: where it is kept (`vault`) or used (`archive`).
"""

import re
from dataclasses import dataclass
from typing import NoReturn

from acie_pipelines.errors import KeyVaultError

__all__ = ["ARCHIVE_KEY_BYTES", "ArchiveKey"]

ARCHIVE_KEY_BYTES = 32


@dataclass(frozen=True, repr=False)
class ArchiveKey:
    """Secret that archive files are sealed under. It is neither printed nor pickled.

    Attributes
    ----------
    key_id
        Name of the vault entry it belongs to; written into every archive.
    secret
        32 random bytes.
    """

    key_id: str
    secret: bytes

    def __post_init__(self) -> None:
        if len(self.secret) != ARCHIVE_KEY_BYTES or not re.fullmatch("[0-9a-f]{16}", self.key_id):
            raise KeyVaultError(
                "archive key", "is not 32 bytes under a 16-digit key id", "take it from the vault"
            )

    def __repr__(self) -> str:
        return f"ArchiveKey(key_id={self.key_id!r})"

    def __reduce__(self) -> NoReturn:
        raise KeyVaultError(
            f"archive key {self.key_id}",
            "cannot be pickled or copied",
            "pass the key id and open the vault where the key is needed",
        )
