"""What the record of promotions amounts to: the present state of every version.

Belongs here: pure functions of the records.
Does not belong here: the database or MLflow.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from acie_pipelines.errors import PromotionError
from acie_pipelines.registry.audit import Record
from acie_pipelines.registry.states import State

__all__ = ["Standing"]


@dataclass(frozen=True)
class Standing:
    """The states of all versions of a model at one point of its history.

    Attributes
    ----------
    latest
        Last record of every version, in the order of the versions.
    sequence
        Number of the last record of all; 0 for an empty history.
    productions
        Versions that a rollback would step back through; the last one is in production.
    """

    latest: dict[int, Record]
    sequence: int
    productions: tuple[int, ...]

    @classmethod
    def of(cls, records: Sequence[Record]) -> "Standing":
        """Work out the standing after some records, the oldest first."""
        latest: dict[int, Record] = {}
        productions: list[int] = []
        for record in records:
            move = record.move
            if move.to_state is State.PRODUCTION:
                if move.from_state is State.ARCHIVED:  # a rollback
                    productions.pop()
                else:
                    productions.append(move.version)
            latest[move.version] = record
        sequence = records[-1].sequence if records else 0
        return cls(dict(sorted(latest.items())), sequence, tuple(productions))

    def record(self, model: str, version: int) -> Record:
        """Last record of a version.

        Raises
        ------
        PromotionError
            If it was never registered.
        """
        found = self.latest.get(version)
        if found is None:
            known = ", ".join(map(str, self.latest)) or "none"
            raise PromotionError(
                f"{model} version {version}", "is not registered", f"known versions: {known}"
            )
        return found

    def holders(self) -> dict[State, int]:
        """Version that carries the alias of each state: the one that entered it last."""
        entered: dict[State, Record] = {}
        for record in self.latest.values():
            held = entered.get(record.move.to_state)
            if held is None or record.sequence > held.sequence:
                entered[record.move.to_state] = record
        return {state: record.move.version for state, record in entered.items()}
