"""When assets ask for themselves to be made again.

Belongs here: automation conditions of our own. Does not belong here: sensors that watch the
outside world.
"""

import dagster as dg

from acie_pipelines.ledger import Ledger
from acie_pipelines.settings import Settings

__all__ = ["EnoughNewObservations"]


class EnoughNewObservations(dg.AutomationCondition[dg.AssetKey]):
    """True once enough observations were accepted since the last training table.

    Counts in the ledger, not in Dagster's event log, so that pruned runs are not forgotten. The
    automation sensor must run in the user code server, since the condition is our own.

    Parameters
    ----------
    minimum
        Number of newly accepted observations that makes a retraining worthwhile.
    """

    def __init__(self, minimum: int) -> None:
        self.minimum = minimum

    @property
    def name(self) -> str:
        """Label in the UI."""
        return f"enough_new_observations({self.minimum})"

    def evaluate(
        self, context: dg.AutomationContext[dg.AssetKey]
    ) -> dg.AutomationResult[dg.AssetKey]:
        """Compare the ledger's count with the minimum."""
        ledger = Ledger(Settings.from_environment().database_url)
        enough = ledger.new_since_training() >= self.minimum
        subset = context.candidate_subset if enough else context.get_empty_subset()
        return dg.AutomationResult(context=context, true_subset=subset)
