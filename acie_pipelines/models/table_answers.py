"""Answers about the rows of a user's own table, with intervals.

Belongs here: how far the answer to each row may be off. Does not belong here: tables
(`acie_pipelines.causal.tables`), fits (`acie_pipelines.causal.own_table`), spectra.
"""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acie_pipelines.causal.interventions import Intervention
from acie_pipelines.causal.scm import StructuralCausalModel
from acie_pipelines.causal.weight_draws import with_weights
from acie_pipelines.models.intervals import central_interval

__all__ = ["intervals_of_answers"]

_SHARE: Final = 0.9
_BLOCK_ROWS: Final = 10_000

Interval = tuple[NDArray[np.float32], NDArray[np.float32]]


def intervals_of_answers(
    model: StructuralCausalModel,
    draws: Mapping[str, Tensor],
    batch: Tensor,
    do: Sequence[Intervention],
    *,
    seed: int,
) -> dict[str, Interval]:
    """Central 90 % intervals of what rows would have been, given that the values are exact.

    Parameters
    ----------
    model, draws
        Fitted model, and draws of its weights.
    batch
        Rows, shape ``(n, nodes)``.
    do
        Interventions.
    seed
        Of noise that a category only bounds; the same for all draws, so that the intervals hold
        the error of the mechanisms alone.

    Returns
    -------
    dict[str, Interval]
        Continuous effect to lower and upper ends, shape ``(n,)``, NaN where there is no answer.
        Without draws, empty.
    """
    count = max((len(drawn) for drawn in draws.values()), default=0)
    if not count:
        return {}
    members = [with_weights(model, draws, k) for k in range(count)]
    reached = model.graph.descendants(*(each.node for each in do))
    effects = [n for n in model.names if n in reached and not model.graph.nodes[n].categories]
    columns = [model.column[name] for name in effects]
    ends = []
    for rows in torch.split(batch, _BLOCK_ROWS):
        found = torch.stack(
            [member.counterfactual(rows, do, seed=seed)[:, columns] for member in members]
        )
        ends.append(torch.stack(central_interval(found, _SHARE)))
    low, high = torch.cat(ends, dim=1).float().numpy()
    return {name: (low[:, k], high[:, k]) for k, name in enumerate(effects)}
