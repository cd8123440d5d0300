"""Signals to a training: the first waits for the epoch, the second for nothing."""

import os
import signal
from typing import Any

import pytest

from acie_pipelines.storage import Store
from acie_pipelines.training.interruption import Interruption, TrainingInterrupted
from acie_pipelines.training.resumable import Checkpoint, run_epochs

BOTH = pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])


class Counting:
    """A fit of five epochs that sends its process signals in the third."""

    def __init__(self, *signals: int) -> None:
        self.history: list[int] = []
        self.signals = signals

    @property
    def finished(self) -> bool:
        return len(self.history) == 5

    def epoch(self) -> int:
        if len(self.history) == 2:
            for number in self.signals:
                os.kill(os.getpid(), number)
        self.history.append(len(self.history) + 1)
        return self.history[-1]

    def state(self) -> dict[str, Any]:
        return {"history": self.history}

    def restore(self, state: dict[str, Any]) -> None:
        self.history = state["history"]


@pytest.fixture
def checkpoint(store: Store) -> Checkpoint:
    return Checkpoint(store, "checkpoints", ["request"], seconds=1e9)


@BOTH
def test_the_epoch_is_finished_and_saved(checkpoint: Checkpoint, number: int) -> None:
    heard: list[None] = []
    seen: list[int] = []
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    with (
        pytest.raises(TrainingInterrupted) as stopped,
        Interruption(lambda: heard.append(None)) as interruption,
    ):
        run_epochs(Counting(number), checkpoint, None, seen.append, interruption)
    assert (stopped.value.number, stopped.value.saved) == (number, True)
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    assert len(heard) == 1
    resumed = Counting()
    checkpoint.restore(resumed)
    run_epochs(resumed, checkpoint, None, seen.append)
    assert seen == [1, 2, 3, 4, 5]


def test_a_second_signal_does_not_wait(checkpoint: Checkpoint) -> None:
    fit = Counting(signal.SIGTERM, signal.SIGINT)
    with pytest.raises(TrainingInterrupted) as stopped, Interruption(lambda: None) as interruption:
        run_epochs(fit, checkpoint, None, None, interruption)
    assert (stopped.value.number, stopped.value.saved) == (signal.SIGINT, False)
    assert fit.history == [1, 2]
    assert checkpoint.load("state.pt") is None


@BOTH
def test_outside_epochs_nothing_is_waited_for(number: int) -> None:
    with pytest.raises(TrainingInterrupted) as stopped, Interruption(lambda: None):
        os.kill(os.getpid(), number)
        signal.pause()
    assert (stopped.value.number, stopped.value.saved) == (number, False)
