"""How two sides are timed against each other, and how a result is printed.

Belongs here: the result row, interleaved repetitions, the printers.
Does not belong here: any one benchmark (``bench_*`` beside this module).
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import IO, Literal

import numpy as np

__all__ = [
    "Emit",
    "Row",
    "compare",
    "json_printer",
    "median_and_spread",
    "one_core",
    "peer_version",
    "print_table",
    "processor_seconds_of",
    "seconds_of",
    "timed_row",
]

_PLAIN_WIDTH = 160

Emit = Callable[["Row"], None]


@dataclass(frozen=True)
class Row:
    """One measured comparison.

    Attributes
    ----------
    name
        What was measured, ``area/operation/size``.
    ours, peer
        Medians, in `unit`; of the ``counterfactual`` area, means over seeds.
    ratio
        How many times better ours is: above 1 is a win, whichever way the unit points.
    unit
        Unit of `ours` and `peer`.
    n
        Repetitions of each side.
    spread
        Half the interquartile range of ours over its median; of the ``counterfactual`` area, the
        standard deviation over seeds over their mean.
    peer_name, peer_version
        What ours was compared with.
    floor
        The best `ours` that the machine's instruction rate allows the algorithm, where counted; of
        counterfactual spectra, the error that what they leave open makes; of a table measured with
        errors, that of a fit to true values.
    fraction_of_floor
        How much of that was reached.
    peer_n, peer_spread
        Repetitions and spread of the peer, where they are not those of ours.
    goal
        What ours is to reach, where one is set.
    """

    name: str
    ours: float
    peer: float
    ratio: float
    unit: str
    n: int
    spread: float
    peer_name: str
    peer_version: str
    floor: float | None = None
    fraction_of_floor: float | None = None
    peer_n: int | None = None
    peer_spread: float | None = None
    goal: float | None = None


def peer_version(distribution: str) -> str:
    """Version of an installed distribution.

    Parameters
    ----------
    distribution
        Its name on the package index.
    """
    return version(distribution)


def median_and_spread(samples: Sequence[float]) -> tuple[float, float]:
    """Median, and half the interquartile range over it.

    Parameters
    ----------
    samples
        At least one measurement.
    """
    low, median, high = np.percentile(samples, [25, 50, 75])
    return float(median), float((high - low) / 2 / median) if median else 0.0


def seconds_of(work: Callable[[], object]) -> float:
    """Run something once and return the seconds it took.

    Parameters
    ----------
    work
        Called without arguments.
    """
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def processor_seconds_of(work: Callable[[], object]) -> float:
    """Run something once and return the seconds that processors spent on it, in all threads.

    Parameters
    ----------
    work
        Called without arguments.
    """
    start = time.process_time()
    work()
    return time.process_time() - start


@contextmanager
def one_core() -> Iterator[None]:
    """Leave this thread one core, and so the kernels it calls one thread."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def compare(
    ours: Callable[[], float],
    peer: Callable[[], float],
    *,
    name: str,
    unit: str,
    peer_name: str,
    peer_version: str,
    better: Literal["less", "more"],
    repetitions: int = 5,
) -> Row:
    """Measure both sides in turn, so that a busy machine slows both alike.

    Parameters
    ----------
    ours, peer
        Do the work once and return the measurement.
    name, unit, peer_name, peer_version
        See `Row`.
    better
        Whether less or more of the unit is better.
    repetitions
        Measurements of each side; at least 5.
    """
    if repetitions < 5:
        raise ValueError("at least 5 repetitions make a median")
    pairs = [(ours(), peer()) for _ in range(repetitions)]
    mine, spread = median_and_spread([pair[0] for pair in pairs])
    theirs, _ = median_and_spread([pair[1] for pair in pairs])
    ratio = theirs / mine if better == "less" else mine / theirs
    return Row(name, mine, theirs, ratio, unit, repetitions, spread, peer_name, peer_version)


def timed_row(
    ours: Callable[[], object],
    peer: Callable[[], object],
    *,
    name: str,
    peer_name: str,
    peer_version: str,
    repetitions: int = 5,
    calls: int = 1,
) -> Row:
    """Compare the seconds per call of two functions.

    Parameters
    ----------
    ours, peer
        The two functions; each runs once beforehand, unmeasured.
    name, peer_name, peer_version
        See `Row`.
    repetitions
        Measurements of each side.
    calls
        Calls per measurement.
    """

    def repeat(work: Callable[[], object]) -> None:
        for _ in range(calls):
            work()

    ours()
    peer()
    return compare(
        lambda: seconds_of(lambda: repeat(ours)) / calls,
        lambda: seconds_of(lambda: repeat(peer)) / calls,
        name=name,
        unit="s",
        peer_name=peer_name,
        peer_version=peer_version,
        better="less",
        repetitions=repetitions,
    )


def json_printer(stream: IO[str] | None = None) -> Emit:
    """Make a function that prints each row as one line of JSON when it is measured.

    Parameters
    ----------
    stream
        Where to print; standard output by default.
    """
    target = sys.stdout if stream is None else stream

    def emit(row: Row) -> None:
        target.write(json.dumps(asdict(row)) + "\n")
        target.flush()

    return emit


def print_table(rows: Iterable[Row], stream: IO[str] | None = None) -> None:
    """Print rows as a table for people.

    Parameters
    ----------
    rows
        The rows.
    stream
        Where to print; standard output by default.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "benchmark", "ours", "peer", "unit", "ratio", "of floor", "spread", "n", "goal", "against"
    )
    for column in table.columns[:-1]:
        column.no_wrap = True
    for column in table.columns[1:3]:
        column.justify = "right"
    for row in rows:
        table.add_row(
            row.name,
            f"{row.ours:.4g}",
            f"{row.peer:.4g}",
            row.unit,
            f"{row.ratio:.2f}x",
            "" if row.fraction_of_floor is None else f"{row.fraction_of_floor:.0%}",
            f"{row.spread:.0%}",
            str(row.n) if row.peer_n in (None, row.n) else f"{row.n}/{row.peer_n}",
            "" if row.goal is None else f"{row.goal:g}",
            f"{row.peer_name} {row.peer_version}",
        )
    target = sys.stdout if stream is None else stream
    # Files and pipes have no width of their own; names must not be cut there.
    Console(file=target, width=None if target.isatty() else _PLAIN_WIDTH).print(table)
