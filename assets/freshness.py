"""How old an asset may become; one policy for everything that retraining refreshes."""

from datetime import timedelta

import dagster as dg

__all__ = ["WEEKLY"]

WEEKLY = dg.FreshnessPolicy.time_window(
    fail_window=timedelta(days=14), warn_window=timedelta(days=8)
)
