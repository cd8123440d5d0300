"""The three sensors as the daemon evaluates them, tick by tick."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from acie_pipelines import sensors
from acie_pipelines.arrivals import scan
from acie_pipelines.crypto.vault import FileVault
from acie_pipelines.definitions import build_defs
from acie_pipelines.jobs import PROCESS_OBSERVATION, RETRAIN
from acie_pipelines.ledger import Ledger
from acie_pipelines.partitions import observation_partitions
from acie_pipelines.runs import execute, open_instance
from acie_pipelines.sensors import RUN_FAILURES, new_observations, record_failures
from acie_pipelines.settings import Settings

RETRAINING = sensors.retrain_when_enough_new.asset_selection


class Daemon:
    """Evaluates the inbox sensor and does with its results what the daemon would do."""

    def __init__(self, settings: Settings, instance: dg.DagsterInstance) -> None:
        self.defs = build_defs(settings=settings)
        self.instance = instance
        self.cursor: str | None = None

    def tick(self) -> list[dg.RunRequest]:
        resources = self.defs.resources or {}
        with dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursor,
            resources={name: resources[name] for name in ("inbox", "ledger")},
        ) as context:
            result = new_observations(context)
            if isinstance(result, dg.SkipReason):
                self.cursor = context.cursor
                return []
        assert isinstance(result, dg.SensorResult)
        self.cursor = result.cursor
        for request in result.dynamic_partitions_requests or ():
            assert request.partitions_def_name == observation_partitions.name
            self.instance.add_dynamic_partitions(
                request.partitions_def_name, list(request.partition_keys)
            )
        return list(result.run_requests or ())

    def run(self, request: dg.RunRequest) -> bool:
        return execute(
            self.defs, PROCESS_OBSERVATION, self.instance, partition_key=request.partition_key
        ).success


@pytest.fixture
def daemon(settings: Settings, instance: dg.DagsterInstance) -> Daemon:
    return Daemon(settings, instance)


@pytest.fixture
def inbox(settings: Settings) -> Path:
    path = Path(settings.inbox_url)
    path.mkdir(parents=True)
    return path


def drop(path: Path, content: bytes, *, age: float = 60) -> None:
    """Put a file there that was last written so many seconds ago."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    then = time.time() - age
    os.utime(path, (then, then))


def partitions(instance: dg.DagsterInstance) -> list[str]:
    return list(instance.get_dynamic_partitions(observation_partitions.name or ""))


@pytest.mark.slow
def test_a_thousand_files_at_once_are_processed_exactly_once(
    daemon: Daemon,
    settings: Settings,
    vault: FileVault,
    inbox: Path,
    make_fits: Callable[..., bytes],
) -> None:
    template = make_fits(0)
    contents = [
        template[:2880] + number.to_bytes(4, "big") + template[2884:] for number in range(1000)
    ]
    for number, content in enumerate(contents):
        drop(inbox / f"night{number % 7}" / f"frame{number:04}.fits", content)
    drop(inbox / "night0" / "copy.fits", contents[5])

    requests: list[dg.RunRequest] = []
    ticks = 0
    while ticks == 0 or daemon.cursor:
        requests += daemon.tick()
        ticks += 1
    assert ticks >= 10  # bounded work per tick
    assert len({request.run_key for request in requests}) == 1000
    assert len({request.partition_key for request in requests}) == 1000
    assert len(requests) == 1000
    assert sorted(partitions(daemon.instance)) == sorted(str(r.partition_key) for r in requests)
    assert new_observations.job_name == PROCESS_OBSERVATION

    for request in requests[::250]:
        assert daemon.run(request)
    ledger = Ledger(settings.database_url)
    assert ledger.counts() | {"forgotten": 0} == {
        "registered": 996,
        "accepted": 4,
        "quarantined": 0,
        "forgotten": 0,
    }
    # The cursor is lost, runs are pruned, and everything is restarted: nothing is requested again.
    for run in daemon.instance.get_runs():
        daemon.instance.delete_run(run.run_id)
    ledger.engine.dispose()
    with open_instance() as instance:
        restarted = Daemon(settings, instance)
        again = restarted.tick()
        while restarted.cursor:
            again += restarted.tick()
        assert again == []


def test_files_that_grow_or_repeat(
    daemon: Daemon, vault: FileVault, inbox: Path, make_fits: Callable[..., bytes]
) -> None:
    content = make_fits(1)
    drop(inbox / "growing.fits", content[:3000], age=0)
    assert daemon.tick() == []
    drop(inbox / "growing.fits", content[:4000], age=0)
    assert daemon.tick() == []
    drop(inbox / "growing.fits", content)
    [request] = daemon.tick()
    assert str(request.partition_key).startswith("growing-")
    assert daemon.run(request)
    drop(inbox / "renamed.fits", content)
    drop(inbox / "growing.fits", content)
    assert daemon.tick() == []
    # Changed content under the same name is another observation.
    drop(inbox / "growing.fits", make_fits(2))
    [other] = daemon.tick()
    assert other.partition_key != request.partition_key
    assert str(other.partition_key).startswith("growing-")


def test_a_daemon_killed_before_the_request_asks_again(
    daemon: Daemon,
    settings: Settings,
    vault: FileVault,
    inbox: Path,
    make_fits: Callable[..., bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drop(inbox / "lost.fits", make_fits(3))
    [claimed] = scan(
        settings.inbox_url,
        Ledger(settings.database_url),
        cursor=None,
        limit=10,
        settle_seconds=5,
        time_budget_s=5,
    ).ready
    assert daemon.tick() == []
    monkeypatch.setattr(sensors, "_LOST_AFTER_SECONDS", 0.0)
    [request] = daemon.tick()
    assert (request.run_key, request.partition_key) == (claimed.run_key, claimed.key)
    # As long as there is no verdict it is asked for under the same run key, which Dagster knows.
    [same] = daemon.tick()
    assert same.run_key == request.run_key
    assert daemon.run(request)
    assert daemon.tick() == []


def test_an_inbox_that_is_not_there_yet(daemon: Daemon, settings: Settings) -> None:
    assert daemon.tick() == []
    assert Path(settings.inbox_url).is_dir()


def record(instance: dg.DagsterInstance, settings: Settings, run_id: str) -> None:
    """Evaluate the failure sensor for a run."""
    run = instance.get_run_by_id(run_id)
    [failed] = instance.all_logs(run_id, of_type=dg.DagsterEventType.RUN_FAILURE)
    assert run is not None and failed.dagster_event is not None
    defs = build_defs(settings=settings)
    context = dg.build_run_status_sensor_context(
        sensor_name="record_failures",
        dagster_event=failed.dagster_event,
        dagster_instance=instance,
        dagster_run=run,
        resources={"ledger": (defs.resources or {})["ledger"]},
    ).for_run_failure()
    record_failures(context)


def observed(instance: dg.DagsterInstance) -> list[dict[str, Any]]:
    records = instance.fetch_observations(RUN_FAILURES, limit=10).records
    return [
        {name: value.value for name, value in entry.asset_observation.metadata.items()}
        for entry in records
        if entry.asset_observation is not None
    ]


def test_failures_are_recorded_with_their_cause(
    daemon: Daemon,
    settings: Settings,
    vault: FileVault,
    inbox: Path,
    bad_files: dict[str, tuple[bytes, str]],
    acie: Any,
) -> None:
    for name, (content, _) in bad_files.items():
        drop(inbox / name, content)
    requests = daemon.tick()
    assert len(requests) == len(bad_files)
    ledger = Ledger(settings.database_url)
    for request in requests:
        assert not daemon.run(request)
        [run] = daemon.instance.get_runs(limit=1)
        record(daemon.instance, settings, run.run_id)
        record(daemon.instance, settings, run.run_id)  # an event seen twice is one failure
    failures = {failure.run_id: failure for failure in ledger.failures()}
    assert len(failures) == len(bad_files)
    seen = observed(daemon.instance)
    assert {entry["run"] for entry in seen} == set(failures)
    for entry in seen:
        failure = failures[entry["run"]]
        name = Path(ledger.source_of(entry["partition"])).name
        assert failure.error_type == entry["error_type"] == bad_files[name][1]
        assert failure.step == entry["step"] == "raw_observation"
        assert failure.job == entry["job"] == PROCESS_OBSERVATION
        assert failure.cause.startswith(entry["partition"])
        assert name in entry["cause"]
    code, out, _ = acie("status")
    assert code == 0 and "Failed runs" in out and "EmptyFileError" in out


def test_runs_that_fail_outside_their_steps(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    """A process that was killed leaves a message; a resource that breaks leaves an error."""
    job = build_defs(settings=settings).resolve_job_def(PROCESS_OBSERVATION)
    killed = instance.create_run_for_job(job)
    instance.report_run_failed(killed, "the run worker was killed by the system")
    record(instance, settings, killed.run_id)

    class Broken(dg.ConfigurableResource[Any]):
        url: str = ""

        def setup_for_execution(self, context: dg.InitResourceContext) -> None:
            raise PermissionError("no access to the disk")

    @dg.op
    def needs(storage: Broken) -> None: ...

    @dg.job(resource_defs={"storage": Broken()})
    def broken() -> None:
        needs()

    failed = broken.execute_in_process(instance=instance, raise_on_error=False)
    record(instance, settings, failed.run_id)
    found = {failure.run_id: failure for failure in Ledger(settings.database_url).failures()}
    first, second = found[killed.run_id], found[failed.run_id]
    assert first.error_type == "RunFailure" and "killed by the system" in first.cause
    assert (second.error_type, second.cause) == ("PermissionError", "no access to the disk")


def accept(ledger: Ledger, count: int) -> None:
    start = ledger.accepted_count()
    for number in range(start, start + count):
        ledger.register(f"{number:064x}", f"k{number}", f"/in/{number}", 1)
        ledger.accept(f"k{number}")


def requested(result: dg.EvaluateAutomationConditionsResult) -> set[str]:
    keys = ("galaxy_catalogue", "training_table", "galaxy_scm", "validation_report")
    keys += ("simulated_galaxies", "counterfactual_model", "counterfactual_report")
    keys += ("candidate_model", "staging_model", "canary_model", "production_model")
    return {key for key in keys if result.get_num_requested(dg.AssetKey(key))}


def test_retraining_is_requested_once_there_is_enough(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    defs, ledger = build_defs(settings=settings), Ledger(settings.database_url)
    cursor = None

    def tick() -> set[str]:
        nonlocal cursor
        result = dg.evaluate_automation_conditions(defs, instance, RETRAINING, cursor=cursor)
        cursor = result.cursor
        return requested(result)

    def made(name: str) -> None:
        instance.report_runless_asset_event(dg.AssetMaterialization(name))

    chain = {"training_table", "galaxy_scm", "validation_report"}
    chain |= {"counterfactual_model", "counterfactual_report"}
    chain |= {"candidate_model", "staging_model", "canary_model", "production_model"}
    accept(ledger, 9)
    # There have to be galaxies to learn from; nobody needs to remember to make them.
    assert tick() == {"galaxy_catalogue", "simulated_galaxies"}
    made("galaxy_catalogue")
    made("simulated_galaxies")
    assert tick() == set()
    accept(ledger, 1)
    assert tick() == chain
    ledger.mark_trained(ledger.accepted_count())
    assert tick() == set()
    accept(ledger, 9)
    assert tick() == set()
    accept(ledger, 1)
    assert tick() == chain


def test_a_training_that_fails_is_not_requested_for_ever(
    settings: Settings, instance: dg.DagsterInstance
) -> None:
    defs, ledger = build_defs(settings=settings), Ledger(settings.database_url)
    for name in ("galaxy_catalogue", "simulated_galaxies"):
        instance.report_runless_asset_event(dg.AssetMaterialization(name))
    accept(ledger, 10)
    first = dg.evaluate_automation_conditions(defs, instance, RETRAINING)
    assert "training_table" in requested(first)
    # The catalogue's dataset is missing from the store.
    job = defs.resolve_job_def(RETRAIN)
    failed = job.execute_in_process(
        instance=instance, asset_selection=[dg.AssetKey("training_table")], raise_on_error=False
    )
    assert not failed.success
    cursor = first.cursor
    for _ in range(2):
        later = dg.evaluate_automation_conditions(defs, instance, RETRAINING, cursor=cursor)
        cursor = later.cursor
        assert requested(later) == set()
