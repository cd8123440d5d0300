"""Whether the table can be learnt from."""

import dagster as dg

from acie_pipelines.materialization import check
from acie_pipelines.provenance import Manifest

__all__ = ["TABLE_CHECKS", "splits_are_filled"]

TABLE_CHECKS = [
    dg.AssetCheckSpec(
        "splits_are_filled",
        asset="training_table",
        description="Training, validation and test splits hold enough galaxies to fit and judge.",
    )
]

_FEWEST_ROWS = 500


def splits_are_filled(table: Manifest) -> dg.AssetCheckResult:
    """Compare the size of every split with the least that scores can be computed on."""
    rows = table.attributes["rows_by_split"]
    return check("splits_are_filled", min(rows.values()) >= _FEWEST_ROWS, **rows)
