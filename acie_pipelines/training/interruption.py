"""SIGINT and SIGTERM while a training runs.

Belongs here: when a signal ends a training. Does not belong here: what is saved then
(`acie_pipelines.training.resumable`) or said (`acie_pipelines.cli_train`).
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Final

__all__ = ["Interruption", "TrainingInterrupted"]

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)


class TrainingInterrupted(KeyboardInterrupt):
    """A signal ended a training.

    Parameters
    ----------
    number
        Of the signal.
    saved
        Whether all that was trained is in a checkpoint.
    """

    def __init__(self, number: int, *, saved: bool) -> None:
        super().__init__(number)
        self.number, self.saved = number, saved


class Interruption:
    """Turns both signals into `TrainingInterrupted` inside a ``with`` block of the main thread.

    Parameters
    ----------
    heard
        Called when a signal has to wait for the end of an epoch.
    """

    def __init__(self, heard: Callable[[], None]) -> None:
        self._heard = heard
        self._waits = False
        self._before: dict[int, Any] = {}
        self.asked: int | None = None
        """Signal that waits."""

    def __enter__(self) -> "Interruption":
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextmanager
    def postponed(self) -> Iterator[None]:
        """Let the first signal wait until the block asks for it; a second one ends it at once."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if not self._waits or self.asked is not None:
            raise TrainingInterrupted(number, saved=False)
        self.asked = number
        self._heard()
