"""Runs that failed, with their causes."""

import dagster as dg

run_failures = dg.AssetSpec(
    "run_failures",
    group_name="operations",
    kinds={"table"},
    owners=["team:survey-data"],
    description="One observation event per failed run: job, step, partition, error type and cause. "
    "Written by the sensor record_failures; `acie status` prints the same list.",
)
