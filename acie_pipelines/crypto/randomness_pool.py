"""Encryption randomness computed ahead of time in the background.

Belongs here: the pool and its life: filling, single use, forks, erasure.
Does not belong here: the randomness itself, which is `PaillierPublicContext.random_factors`.
"""

import os
import threading
import weakref
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from acie_native import PaillierPublicContext
from acie_pipelines.crypto.keys import PaillierPublicKey
from acie_pipelines.errors import CryptoError

__all__ = ["RandomnessPool"]

# Factors computed between two looks at the lock: milliseconds.
_FILL_ROWS = 64


class RandomnessPool:
    """Factors base^a that a thread computes before they are needed.

    Encrypting with a factor costs one product instead of an exponentiation. Each factor is handed
    out once and overwritten at once; a forked child starts with an empty pool of its own. Pools can
    be used from many threads. Close them, or use them as context managers; those that nothing
    refers to any more close themselves.

    Parameters
    ----------
    public_key
        Key to encrypt under.
    capacity
        Factors kept ready.
    """

    def __init__(self, public_key: PaillierPublicKey, capacity: int = 1024) -> None:
        if capacity < 1:
            raise CryptoError(
                "randomness pool", f"cannot hold {capacity} factors", "hold 1 or more"
            )
        self._context = public_key.context
        self._state = _State(self._context, capacity)
        # Also runs when the interpreter exits.
        weakref.finalize(self, self._state.close)

    def __len__(self) -> int:
        """Return the number of factors ready."""
        return self._state.ready

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the thread and overwrite what is left; again is harmless."""
        self._state.close()

    def encrypt(self, plaintexts: NDArray[np.uint64]) -> NDArray[np.uint64]:
        """Encrypt, waiting for factors if there are not enough.

        Parameters
        ----------
        plaintexts
            ``uint64[k, plaintext_limbs]``, each below n.

        Returns
        -------
        NDArray
            ``uint64[k, ciphertext_limbs]``.

        Raises
        ------
        CryptoError
            If the pool is closed, or its thread failed.
        """
        parts = []
        done = 0
        while done < len(plaintexts):
            factors = self._state.take(len(plaintexts) - done)
            try:
                rows = plaintexts[done : done + len(factors)]
                parts.append(self._context.encrypt_with_factors(rows, factors))
            finally:
                factors.fill(0)
            done += len(factors)
        return np.concatenate(parts) if parts else self._context.encrypt(plaintexts)


class _State:
    """What a pool shares with its thread, which must not keep the pool itself alive."""

    def __init__(self, context: PaillierPublicContext, capacity: int) -> None:
        self._context = context
        self.factors: NDArray[np.uint64] = np.zeros(
            (capacity, context.ciphertext_limbs), dtype=np.uint64
        )
        self._closed = False
        self.begin()
        self._start()
        _states.add(self)

    def begin(self) -> None:
        """Start empty, with locks that no thread of a parent process holds."""
        self.factors.fill(0)
        self.ready = 0
        self._failure: Exception | None = None
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._fill, name="randomness-pool", daemon=True)
        self._thread.start()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            thread = self._thread
        # The garbage collector may call from the thread itself.
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        with self._changed:
            self.factors.fill(0)
            self.ready = 0

    def take(self, wanted: int) -> NDArray[np.uint64]:
        """Move up to `wanted` factors out of the pool, at least one."""
        with self._changed:
            if not self._closed and self._thread is None:
                # A fork leaves the thread behind.
                self._start()
            self._changed.wait_for(lambda: self.ready or self._closed or self._failure)
            if self._failure is not None:
                raise CryptoError(
                    "randomness pool", "its thread failed", "see the cause"
                ) from self._failure
            if self._closed:
                raise CryptoError("randomness pool", "is closed", "make a new one")
            first = max(0, self.ready - wanted)
            taken = self.factors[first : self.ready].copy()
            self.factors[first : self.ready] = 0
            self.ready = first
            self._changed.notify_all()
            return taken

    def _fill(self) -> None:
        changed = self._changed
        while True:
            with changed:
                changed.wait_for(lambda: self._closed or self.ready < len(self.factors))
                if self._closed:
                    return
                missing = len(self.factors) - self.ready
            try:
                made = self._context.random_factors(min(_FILL_ROWS, missing), threads=1)
            except Exception as error:  # handed to whoever waits
                with changed:
                    self._failure = error
                    changed.notify_all()
                return
            with changed:
                if not self._closed:
                    self.factors[self.ready : self.ready + len(made)] = made
                    self.ready += len(made)
                    changed.notify_all()
            made.fill(0)


_states: weakref.WeakSet[_State] = weakref.WeakSet()


def _begin_again() -> None:
    for state in _states:
        state.begin()


os.register_at_fork(after_in_child=_begin_again)
