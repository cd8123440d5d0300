"""Positional reads of a file into memory the caller owns.

Belongs here: exact reads at an offset, without mapping and without moving a file position.
Does not belong here: what the bytes mean.
"""

import os

__all__ = ["read_exactly"]


def read_exactly(descriptor: int, target: memoryview, offset: int) -> None:
    """Fill `target` with the bytes at `offset`.

    Mapped pages count as resident memory until they are unmapped; positional reads do not, and
    several threads may share the descriptor.

    Parameters
    ----------
    descriptor
        Open file.
    target
        Writable bytes.
    offset
        Position in the file.

    Raises
    ------
    EOFError
        If the file ends first.
    """
    filled = 0
    while filled < len(target):
        count = os.preadv(descriptor, [target[filled:]], offset + filled)
        if count == 0:
            raise EOFError(f"the file ends at byte {offset + filled}")
        filled += count
