"""How the ``secure`` benchmark times both sides.

Belongs here: processor time on one core, and rows of work that has several parts.
Does not belong here: any measurement, or what single operations cost the peer (`phe_costs`).

Both sides are timed in processor seconds, which a busy machine lengthens far less than the time on
the wall; on an idle one they are the same.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from acie_pipelines.evaluation.bench import (
    Row,
    compare,
    median_and_spread,
    one_core,
    processor_seconds_of,
)
from acie_pipelines.evaluation.phe_costs import PEER_NAME, peer_versions

__all__ = ["EXTRAPOLATED", "Parts", "core_seconds", "secure_row"]

EXTRAPOLATED: Final = f"{PEER_NAME}, extrapolated"
"""Name of a peer whose time is measured on a slice."""

_OURS: Final = "ours"


def core_seconds(work: Callable[[], object]) -> float:
    """Run something once on one core and return the processor seconds it took."""
    with one_core():
        return processor_seconds_of(work)


def secure_row(
    ours: Callable[[], object],
    peer: Callable[[], float],
    *,
    name: str,
    repetitions: int,
    per: float = 1.0,
    peer_name: str = EXTRAPOLATED,
) -> Row:
    """Compare work of ours with a peer's seconds, in turn.

    Parameters
    ----------
    ours
        Does the work.
    peer
        Measures the peer at the same work, in processor seconds.
    name, peer_name
        See `acie_pipelines.evaluation.bench.Row`.
    repetitions
        Measurements of each side.
    per
        How much work it is, in the unit that the row is about.
    """
    return compare(
        lambda: core_seconds(ours) / per,
        lambda: peer() / per,
        name=name,
        unit="s",
        peer_name=peer_name,
        peer_version=peer_versions(),
        better="less",
        repetitions=repetitions,
    )


class Parts:
    """Seconds of work that has parts, by side; their sum is a part too, ``all``."""

    def __init__(self) -> None:
        self._sides: dict[str, dict[str, list[float]]] = {}

    def add(
        self, ours: Mapping[str, float], *, per: float = 1.0, **peers: Mapping[str, float]
    ) -> None:
        """Add one measurement of every side.

        Parameters
        ----------
        ours
            Seconds of each part.
        per
            How much work it was.
        **peers
            The same of each peer.
        """
        for side, parts in {_OURS: ours, **peers}.items():
            times = self._sides.setdefault(side, {})
            for part, seconds in (dict(parts) | {"all": sum(parts.values())}).items():
                times.setdefault(part, []).append(seconds / per)

    def rows(self, prefix: str, suffix: str, peer_names: Mapping[str, str]) -> Iterator[Row]:
        """Make a row of each part against each peer.

        The first measurement is left out: it builds tables and fills caches.

        Parameters
        ----------
        prefix, suffix
            Of the rows' names, around the part's.
        peer_names
            What the rows call each peer.
        """
        for part, times in self._sides[_OURS].items():
            mine, spread = median_and_spread(times[1:])
            for side, name in peer_names.items():
                theirs, _ = median_and_spread(self._sides[side][part][1:])
                yield Row(
                    f"{prefix}{part}{suffix}",
                    mine,
                    theirs,
                    theirs / mine,
                    "s",
                    len(times) - 1,
                    spread,
                    name,
                    peer_versions(),
                )
