"""The audit log cannot be rewritten, and takes all moves of an append or none."""

from pathlib import Path

import pytest
import sqlalchemy as sa

from acie_pipelines.database import writing
from acie_pipelines.errors import PromotionError
from acie_pipelines.provenance import InputRef
from acie_pipelines.registry.audit import AuditLog, Move
from acie_pipelines.registry.states import State

REF = InputRef("model", "k", "g", "d")


@pytest.fixture
def log(tmp_path: Path) -> AuditLog:
    return AuditLog(f"sqlite:///{tmp_path}/acie.db", "m")


@pytest.mark.parametrize(
    "statement",
    ["UPDATE acie_promotions SET actor = 'eve'", "DELETE FROM acie_promotions"],
)
def test_records_cannot_be_changed(log: AuditLog, statement: str) -> None:
    log.append([Move(1, None, State.CANDIDATE, REF)], "ada", "new", after=0)
    before = log.records()
    with (
        pytest.raises(sa.exc.IntegrityError, match="append-only"),
        writing(log.engine) as connection,
    ):
        connection.execute(sa.text(statement))
    assert log.records() == before


def test_an_append_is_all_or_nothing(log: AuditLog) -> None:
    log.append([Move(1, None, State.CANDIDATE, REF)], "ada", "new", after=0)
    bad = Move(2, None, State.CANDIDATE, REF, evidence={"x": object()})
    with pytest.raises(PromotionError, match="cannot be recorded"):
        log.append([Move(3, None, State.CANDIDATE, REF), bad], "ada", "new", after=1)
    moves = [Move(n, None, State.CANDIDATE, REF) for n in (4, 5)]
    with pytest.raises(PromotionError, match="another move"):
        log.append(moves, "ada", "too late", after=0)
    assert [record.move.version for record in log.records()] == [1]
