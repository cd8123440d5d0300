"""What runs by the clock.

Belongs here: schedules. Does not belong here: anything that reacts to data (sensors).
"""

import dagster as dg

from acie_pipelines.jobs import RETRAIN

__all__ = ["weekly_retraining"]

weekly_retraining = dg.ScheduleDefinition(
    name="weekly_retraining",
    job_name=RETRAIN,
    cron_schedule="0 3 * * 1",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Retrain, validate and promote every Monday at 03:00 UTC. Off until switched on.",
)
