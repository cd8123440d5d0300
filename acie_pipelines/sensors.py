"""What runs because something happened: files arrived, data piled up, a run failed.

Belongs here: sensors, thin over the library. Does not belong here: scanning (`arrivals`) or what
counts as enough (`automation`).
"""

import warnings
from pathlib import Path

import dagster as dg

from acie_pipelines.arrivals import scan
from acie_pipelines.causes import first_cause
from acie_pipelines.jobs import PROCESS_OBSERVATION, RETRAINING_TAGS
from acie_pipelines.partitions import observation_partitions
from acie_pipelines.resources import InboxResource, LedgerResource

__all__ = [
    "RUN_FAILURES",
    "keep_observations_current",
    "new_observations",
    "record_failures",
    "retrain_when_enough_new",
]

RUN_FAILURES = dg.AssetKey("run_failures")

# A sensor is killed after 60 s; one tick stays far below that and the next goes on from there.
_FILES_PER_TICK = 100
_SECONDS_PER_TICK = 25.0
_SETTLE_SECONDS = 5.0
# Registered longer ago than this without a result: the daemon died before it requested the run.
_LOST_AFTER_SECONDS = 600.0


@dg.sensor(
    job_name=PROCESS_OBSERVATION,
    minimum_interval_seconds=15,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Watches the inbox. Files that have stopped growing and whose content is new "
    "become partitions, each with one run.",
)
def new_observations(
    context: dg.SensorEvaluationContext, inbox: InboxResource, ledger: LedgerResource
) -> dg.SensorResult | dg.SkipReason:
    """Request one run for every new content in the inbox."""
    book = ledger.open()
    if "://" not in inbox.url:
        Path(inbox.url).mkdir(parents=True, exist_ok=True)
    found = scan(
        inbox.url,
        book,
        cursor=context.cursor,
        limit=_FILES_PER_TICK,
        settle_seconds=_SETTLE_SECONDS,
        time_budget_s=_SECONDS_PER_TICK,
    )
    lost = book.pending(_LOST_AFTER_SECONDS, limit=_FILES_PER_TICK)
    run_keys = {entry.key: entry.run_key for entry in lost}
    run_keys |= {arrival.key: arrival.run_key for arrival in found.ready}
    for refusal in found.refused:
        context.log.warning("%s", refusal)
    if not run_keys:
        context.update_cursor(found.cursor)
        return dg.SkipReason(f"nothing new in {inbox.url}")
    return dg.SensorResult(
        # The content's hash as run key: a second request for the same bytes is no second run.
        run_requests=[
            dg.RunRequest(run_key=run_key, partition_key=key) for key, run_key in run_keys.items()
        ],
        dynamic_partitions_requests=[observation_partitions.build_add_request(list(run_keys))],
        cursor=found.cursor,
    )


with warnings.catch_warnings():
    # Conditions of our own run in the user code server only, which Dagster still calls beta.
    warnings.simplefilter("ignore", dg.BetaWarning)
    retrain_when_enough_new = dg.AutomationConditionSensorDefinition(
        name="retrain_when_enough_new",
        target=dg.AssetSelection.assets("galaxy_catalogue")
        | dg.AssetSelection.groups("training", "validation", "promotion"),
        run_tags=RETRAINING_TAGS,
        default_status=dg.DefaultSensorStatus.RUNNING,
        minimum_interval_seconds=30,
        use_user_code_server=True,
        description="Retrains, validates and promotes when enough new observations have arrived.",
    )


keep_observations_current = dg.AutomationConditionSensorDefinition(
    name="keep_observations_current",
    target=dg.AssetSelection.groups("tiling", "encryption"),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
    description="Tiles and seals an observation again when it was materialised anew in the UI.",
)


@dg.run_failure_sensor(
    name="record_failures",
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=15,
    monitor_all_code_locations=False,
    description="Writes every failed run with its cause to the ledger (`acie status`) and to the "
    "asset run_failures.",
)
def record_failures(context: dg.RunFailureSensorContext, ledger: LedgerResource) -> None:
    """Record the first failed step of a run and its root cause."""
    run = context.dagster_run
    cause = first_cause(context.get_step_failure_events(), context.failure_event)
    partition = run.tags.get("dagster/partition", "")
    ledger.open().record_failure(
        run_id=run.run_id,
        job=run.job_name,
        step=cause.step,
        error_type=cause.error_type,
        cause=f"{partition}: {cause.reason}" if partition else cause.reason,
    )
    context.instance.report_runless_asset_event(
        dg.AssetObservation(
            RUN_FAILURES,
            metadata={
                "run": run.run_id,
                "job": run.job_name,
                "step": cause.step,
                "partition": partition,
                "error_type": cause.error_type,
                "cause": cause.reason,
            },
        )
    )
