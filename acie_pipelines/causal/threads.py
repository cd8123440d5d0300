"""Threads of small operations.

Belongs here: how many threads one operation may use. Does not belong here: who runs in parallel.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["one_thread_each"]


@contextmanager
def one_thread_each() -> Iterator[None]:
    """Let every operation on the CPU use one thread, also in threads that start meanwhile.

    Operations on a few thousand rows last some microseconds. Threads that share one have to meet at
    its end, and where other programs hold a core they wait there for longer than all the work
    takes.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
