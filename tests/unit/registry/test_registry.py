"""The registry: legal moves, races, rollback, crashes, and aliases that follow the log."""

import multiprocessing
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest

from acie_pipelines.errors import ConfigurationError, PromotionError, StorageError
from acie_pipelines.provenance import InputRef
from acie_pipelines.registry.aliases import MlflowModel
from acie_pipelines.registry.registry import ModelRegistry
from acie_pipelines.registry.states import LEGAL_MOVES, State

pytestmark = pytest.mark.filterwarnings(
    "ignore:The ``noload`` loader strategy is deprecated:sqlalchemy.exc.SADeprecationWarning"
)
PASSED = {"passed": True}


def aliases(registry: ModelRegistry) -> dict[str, int]:
    from mlflow import MlflowClient

    uri = registry._mlflow.tracking_uri
    found = MlflowClient(uri, registry_uri=uri).get_registered_model(registry.model).aliases
    return {alias: int(version) for alias, version in found.items()}


def states(registry: ModelRegistry) -> dict[int, str]:
    return {version.version: version.state.value for version in registry.list()}


def put_into(registry: ModelRegistry, trained: Callable[..., int], state: State) -> int:
    """Version 1 in a state."""
    if state is State.ARCHIVED:
        version = trained(1)
        registry.promote(version, "archived", "a", "r")
        return version
    return trained(1, state.value)


@pytest.mark.parametrize(("source", "target"), list(product(State, State)))
def test_every_move_is_allowed_or_refused_with_the_way_out(
    source: State, target: State, registry: ModelRegistry, trained: Callable[..., int]
) -> None:
    version = put_into(registry, trained, source)
    before = registry.history()
    if target in LEGAL_MOVES[source]:
        registry.promote(version, target, "a", "r", evidence=PASSED)
        assert states(registry) == {version: target.value}
        assert aliases(registry) == {target.value: version}
    else:
        with pytest.raises(PromotionError, match=f"cannot move from {source} to {target}") as error:
            registry.promote(version, target, "a", "r", evidence=PASSED)
        assert all(legal in error.value.fix for legal in LEGAL_MOVES[source])
        assert registry.history() == before


def test_the_whole_way_is_on_record(registry: ModelRegistry, trained: Callable[..., int]) -> None:
    first = trained(1, "production")
    second = trained(2, "canary")
    registry.promote(
        second, "production", "ada", "better", evidence={"passed": True, "n": 3}, metrics={"z": 1.5}
    )
    assert states(registry) == {first: "archived", second: "production"}
    assert aliases(registry) == {"archived": first, "production": second}
    records = registry.history()
    assert [record.sequence for record in records] == list(range(1, 10))
    archive, last = records[-2:]
    assert (archive.move.version, archive.move.to_state) == (first, State.ARCHIVED)
    assert archive.move.evidence == {"replaced_by": second}
    assert archive.at == last.at and archive.actor == "ada"
    assert (last.move.from_state, last.move.to_state) == (State.CANARY, State.PRODUCTION)
    assert (last.actor, last.reason) == ("ada", "better")
    assert (last.move.metrics, last.move.evidence) == ({"z": 1.5}, {"passed": True, "n": 3})
    assert last.move.manifest == InputRef("model", "m2", "g2", f"{2:064x}")
    assert abs(datetime.now(UTC) - last.at) < timedelta(seconds=60)
    assert [r.move.to_state.value for r in registry.history(first)] == [
        "candidate",
        "staging",
        "canary",
        "production",
        "archived",
    ]
    current = registry.current("production")
    assert current is not None
    assert (current.version, current.sequence, current.metrics) == (second, 9, {"z": 1.5})
    assert registry.current("staging") is None
    assert [version.version for version in registry.list()] == [second, first]


@pytest.mark.parametrize("evidence", [None, {}, {"passed": False}, {"passed": 1}])
def test_a_step_forward_needs_a_passed_validation(
    evidence: dict[str, object] | None, registry: ModelRegistry, trained: Callable[..., int]
) -> None:
    version = trained(1)
    with pytest.raises(PromotionError, match="no passed validation"):
        registry.promote(version, "staging", "a", "r", evidence=evidence)
    assert states(registry) == {version: "candidate"}


def test_refusals_name_the_fault(registry: ModelRegistry, trained: Callable[..., int]) -> None:
    version = trained(1)

    def promote(match: str, version: int = version, to: str = "staging", **changes: object) -> None:
        arguments: dict[str, object] = {"actor": "a", "reason": "r", "evidence": PASSED} | changes
        with pytest.raises(PromotionError, match=match):
            registry.promote(version, to, **arguments)  # type: ignore[arg-type]

    promote("known versions: 1", version=9)
    promote("is not a state; use candidate, staging", to="latest")
    promote("no actor or no reason", actor=" ")
    promote("no actor or no reason", reason="")
    promote("is in candidate, not in canary", expected_state="canary")
    promote("metric loss is nan", metrics={"loss": float("nan")})
    promote("cannot be recorded", evidence={"passed": True, "x": object()})
    promote("cannot be recorded", evidence={"passed": True, "x": float("inf")})
    promote("after number 0", expected_sequence=0)
    with pytest.raises(PromotionError, match="no earlier production"):
        registry.rollback("a", "r")
    assert len(registry.history()) == 1
    registry.promote(version, "staging", "a", "r", evidence=PASSED, expected_state="candidate")


def test_a_bad_model_name_is_the_callers_fault(place: tuple[str, str, str]) -> None:
    registry = ModelRegistry(*place[:2], "a/b")
    with pytest.raises(ConfigurationError, match="a/b"):
        registry.register(
            "r", "s3://m", InputRef("m", "k", "g", "d"), metrics={}, actor="a", reason="r"
        )


def test_registering_the_same_model_again_is_the_same_version(
    registry: ModelRegistry, trained: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (trained(1), trained(2), trained(1)) == (1, 2, 1)
    assert len(registry.history()) == 2
    with monkeypatch.context() as patch:
        patch.setattr(registry._log, "append", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            trained(3)  # killed after MLflow made the version
    assert states(registry) == {1: "candidate", 2: "candidate"}
    assert trained(3) == 3
    from mlflow import MlflowClient

    uri = registry._mlflow.tracking_uri
    version = MlflowClient(uri, registry_uri=uri).get_model_version(registry.model, "3")
    assert version.tags["acie.manifest.digest"] == f"{3:064x}"
    assert (version.run_id, version.source) == ("run3", "s3://models/3")


def test_aliases_point_to_the_last_version_that_entered(
    registry: ModelRegistry, trained: Callable[..., int]
) -> None:
    first, second = trained(1, "staging"), trained(2, "staging")
    assert aliases(registry) == {"staging": second}
    registry.promote(second, "canary", "a", "r", evidence=PASSED)
    assert aliases(registry) == {"staging": first, "canary": second}


def test_rollback_steps_back_through_productions(
    registry: ModelRegistry, trained: Callable[..., int]
) -> None:
    for number in (1, 2, 3):
        trained(number, "production")
    assert states(registry) == {1: "archived", 2: "archived", 3: "production"}
    assert registry.rollback("a", "bad") == 2
    assert states(registry) == {1: "archived", 2: "production", 3: "archived"}
    assert aliases(registry) == {"production": 2, "archived": 3}
    retired, restored = registry.history()[-2:]
    assert (retired.move.version, retired.move.evidence) == (3, {"replaced_by": 2})
    assert (restored.move.version, restored.move.evidence) == (2, {"rollback_of": 3})
    assert registry.rollback("a", "worse") == 1
    with pytest.raises(PromotionError, match="no earlier production"):
        registry.rollback("a", "r")
    trained(4, "production")
    assert registry.rollback("a", "r") == 1
    seen = registry.sequence()
    trained(5, "production")
    with pytest.raises(PromotionError, match="another move"):
        registry.rollback("a", "double click", expected_sequence=seen)


def test_models_have_histories_of_their_own(
    place: tuple[str, str, str], trained: Callable[..., int]
) -> None:
    trained(1)
    other = ModelRegistry(*place[:2], "classifier")
    assert (other.list(), other.sequence(), other.reconcile()) == ([], 0, False)
    assert other.current("production") is None


def race(
    place: tuple[str, str, str], version: int, seen: int, barrier: object, results: object
) -> None:
    registry = ModelRegistry(*place)
    barrier.wait()  # type: ignore[attr-defined]
    try:
        registry.promote(
            version, "production", "p", "race", evidence=PASSED, expected_sequence=seen
        )
        results.put(("won", version))  # type: ignore[attr-defined]
    except PromotionError as error:
        results.put(("lost", str(error)))  # type: ignore[attr-defined]


def check_race(registry: ModelRegistry, results: list[tuple[str, object]], former: int) -> None:
    [winner] = [value for outcome, value in results if outcome == "won"]
    assert all("another move" in str(value) for outcome, value in results if outcome == "lost")
    current = registry.current("production")
    assert current is not None and current.version == winner
    assert states(registry)[former] == "archived"
    assert list(states(registry).values()).count("production") == 1
    assert aliases(registry)["production"] == winner
    sequences = [record.sequence for record in registry.history()]
    assert sequences == list(range(1, len(sequences) + 1))


def test_eight_threads_racing_to_production_have_one_winner(
    place: tuple[str, str, str], registry: ModelRegistry, trained: Callable[..., int]
) -> None:
    import queue

    former = trained(1, "production")
    versions = [trained(number, "canary") for number in range(2, 10)]
    seen, barrier = registry.sequence(), threading.Barrier(8)
    results: queue.Queue[tuple[str, object]] = queue.Queue()
    with ThreadPoolExecutor(8) as pool:
        for version in versions:
            pool.submit(race, place, version, seen, barrier, results)
    assert results.qsize() == 8
    check_race(registry, [results.get() for _ in versions], former)


def test_four_processes_racing_to_production_have_one_winner(
    place: tuple[str, str, str], registry: ModelRegistry, trained: Callable[..., int]
) -> None:
    former = trained(1, "production")
    versions = [trained(number, "canary") for number in range(2, 6)]
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(4), context.Queue()
    seen = registry.sequence()
    workers = [
        context.Process(target=race, args=(place, version, seen, barrier, results))
        for version in versions
    ]
    for worker in workers:
        worker.start()
    outcomes = [results.get(timeout=400) for _ in workers]
    for worker in workers:
        worker.join()
    check_race(registry, outcomes, former)


def test_overlapping_promotions_conflict_without_being_told(
    registry: ModelRegistry, trained: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = trained(1, "canary"), trained(2, "canary")
    real = registry._log.append

    def overtaken(*args: object, **kwargs: object) -> None:
        monkeypatch.undo()
        registry.promote(second, "production", "b", "faster", evidence=PASSED)
        real(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(registry._log, "append", overtaken)
    with pytest.raises(PromotionError, match="another move"):
        registry.promote(first, "production", "a", "slower", evidence=PASSED)
    assert states(registry) == {first: "canary", second: "production"}


def die_before_aliases(place: tuple[str, str, str], version: int) -> None:
    import os
    from unittest.mock import patch

    with patch.object(MlflowModel, "project", lambda *_: os._exit(9)):
        ModelRegistry(*place).promote(version, "staging", "a", "killed", evidence=PASSED)


def test_a_process_killed_before_the_aliases_is_repaired(
    place: tuple[str, str, str], registry: ModelRegistry, trained: Callable[..., int]
) -> None:
    version = trained(1)
    worker = multiprocessing.get_context("spawn").Process(
        target=die_before_aliases, args=(place, version)
    )
    worker.start()
    worker.join()
    assert worker.exitcode == 9
    assert states(registry) == {version: "staging"}
    assert aliases(registry) == {"candidate": version}
    assert registry.reconcile() is True
    assert aliases(registry) == {"staging": version}
    assert registry.reconcile() is False


def test_an_unreachable_mlflow_leaves_the_move_on_record(
    registry: ModelRegistry, trained: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow.exceptions import MlflowException

    version = trained(1, "staging")

    class Down:
        def get_registered_model(self, name: str) -> None:
            raise MlflowException("no connection to http://user:secret@host")

    with monkeypatch.context() as patch:
        patch.setattr(registry._mlflow, "_client", Down())
        with pytest.raises(StorageError, match="then reconcile") as error:
            registry.promote(version, "canary", "a", "r", evidence=PASSED)
        assert "secret" not in str(error.value)
        assert states(registry) == {version: "canary"}
    second = trained(2)  # the next move repairs what the last one left behind
    assert aliases(registry) == {"canary": version, "candidate": second}


def test_aliases_of_other_people_are_left_alone(
    registry: ModelRegistry, trained: Callable[..., int]
) -> None:
    version = trained(1)
    registry._mlflow._client.set_registered_model_alias(registry.model, "mine", "1")  # type: ignore[union-attr]
    registry._mlflow._client.set_registered_model_alias(registry.model, "canary", "1")  # type: ignore[union-attr]
    registry.reconcile()
    assert aliases(registry) == {"mine": 1, "candidate": version}


def test_a_slow_process_cannot_leave_an_old_picture(
    registry: ModelRegistry, trained: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    version = trained(1)
    real = registry._mlflow.project

    def held_up(holders: dict[State, int]) -> bool:
        monkeypatch.undo()
        registry.promote(version, "staging", "b", "meanwhile", evidence=PASSED)
        return real(holders)

    monkeypatch.setattr(registry._mlflow, "project", held_up)
    registry.reconcile()
    assert aliases(registry) == {"staging": version}
