"""Kernel mechanisms learned from all rows, once none of the rows has to judge any more.

Belongs here: the last steps of a fit, on training and validation rows together.
Does not belong here: the fit that stops by validation rows (`acie_pipelines.causal.fitting`), or
the choice of families by them (`acie_pipelines.causal.selection`).
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import torch
from torch import Tensor

from acie_pipelines.causal.kernel import KernelMechanism
from acie_pipelines.causal.newton import NewtonTrainer
from acie_pipelines.causal.scm import StructuralCausalModel
from acie_pipelines.causal.threads import one_thread_each

__all__ = ["refit"]

_MOST_STEPS: Final = 12


def refit(model: StructuralCausalModel, rows: Tensor, *, seed: int) -> None:
    """Move the weights of kernel mechanisms to their optimum on all rows.

    Families, bases and standardisations stay as they were chosen. Of mechanisms of other families,
    which have no prior that keeps them from following the noise, validation rows remain the judge.

    Parameters
    ----------
    model
        Fitted; changed in place.
    rows
        Training and validation rows, shape ``(n, nodes)``.
    seed
        Of the rows that give the curvature.
    """
    rows = rows.to(model.device)

    def improve(k: int) -> None:
        mechanism = model.mechanism(model.names[k])
        if not isinstance(mechanism, KernelMechanism):
            return
        trainer = NewtonTrainer(mechanism, seed + k, resume=True)
        pairs = model.node_rows(rows, model.names[k])

        def blocks() -> Iterator[tuple[Tensor, Tensor]]:
            yield pairs

        for _ in range(_MOST_STEPS):
            trainer.step(blocks)
            if trainer.converged:
                return

    threads = torch.get_num_threads()
    with one_thread_each(), ThreadPoolExecutor(threads) as pool:
        # Taking the results is what raises an error of a thread.
        list(pool.map(improve, range(len(model.names))))
