"""Fit of a structural causal model to a user's own table.

Belongs here: the split of its rows and the call of the fit. Does not belong here: the training of
the lineage graph (`acie_pipelines.training.fit`), which is tracked, resumable and registered.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from acie_pipelines.causal.fitting import FitConfig, Fitter, TensorRows
from acie_pipelines.causal.graph import CausalGraph
from acie_pipelines.causal.measurement import fit_with_errors
from acie_pipelines.causal.mechanisms import MechanismConfig
from acie_pipelines.causal.refitting import refit
from acie_pipelines.causal.scm import StructuralCausalModel
from acie_pipelines.causal.selection import fit_chosen_families
from acie_pipelines.causal.tables import read_errors, read_rows
from acie_pipelines.causal.weight_draws import draw_weights
from acie_pipelines.errors import ConfigurationError

__all__ = ["TableFit", "fit_table"]

_DRAWS: Final = 99


@dataclass(frozen=True)
class TableFit:
    """A fitted model and how well it predicts.

    Attributes
    ----------
    model
        Fitted.
    draws
        Of its weights, see `acie_pipelines.causal.weight_draws.draw_weights`; none where values
        have errors, whose effect on the weights is not known.
    losses
        Node to mean negative log-likelihood of the held-out rows [nats per unit of the node],
        before kernel mechanisms learned from these too.
    rows
        Node to number of rows that have it and all its causes.
    """

    model: StructuralCausalModel
    draws: dict[str, Tensor]
    losses: dict[str, float]
    rows: dict[str, int]


def fit_table(
    graph: CausalGraph,
    path: Path,
    *,
    missing: Collection[float],
    errors: Mapping[str, str],
    choose_families: bool,
    held_out: float,
    seed: int,
    max_epochs: int,
    progress: Callable[[str], None],
) -> TableFit:
    """Fit every mechanism to the rows that have its variable and its causes.

    Held-out rows stop the fit and give the loss that is reported; then kernel mechanisms learn from
    them too (`acie_pipelines.causal.refitting`), unless values have errors.

    Parameters
    ----------
    graph
        Without latent nodes.
    path, missing
        See `acie_pipelines.causal.tables.read_rows`.
    errors
        Node to the column with the standard deviations of its measured values; nodes without one
        are exact. See `acie_pipelines.causal.measurement.fit_with_errors`.
    choose_families
        Whether to choose families by held-out likelihood
        (`acie_pipelines.causal.selection.fit_chosen_families`) instead of those of the graph.
    held_out
        Fraction of rows, drawn at random, that stop the fit.
    seed, max_epochs
        See `FitConfig`.
    progress
        Called with a line about every epoch, family that is tried or round of true values.

    Raises
    ------
    ConfigurationError
        If the graph has latent nodes, the table does not fit it, or families shall be chosen by
        the likelihood of values with errors.
    ModelError
        If a node has no complete rows, or an error is negative, missing or given to a category.
    """
    latent = [name for name, node in graph.nodes.items() if node.latent]
    if latent:
        raise ConfigurationError(
            "causal graph",
            f"has latent nodes {latent}, whose mechanisms no table determines",
            "leave them out; `acie scm identify` says which effects they confound",
        )
    if errors and choose_families:
        raise ConfigurationError(
            "fit", "cannot choose families from values with errors", "declare them in the graph"
        )
    config = FitConfig(seed=seed, max_epochs=max_epochs)
    model = StructuralCausalModel(graph, MechanismConfig(), seed=seed)
    rows = model.tensor(read_rows(path, graph, missing=missing))
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    held = int(len(rows) * held_out)
    validation, train = rows[order[:held]], rows[order[held:]]
    if errors:
        scatter = torch.zeros_like(rows)
        for name, column in read_errors(path, graph, errors).items():
            scatter[:, model.column[name]] = torch.from_numpy(column)
        model = fit_with_errors(
            graph,
            (train, scatter[order[held:]]),
            (validation, scatter[order[:held]]),
            MechanismConfig(),
            config,
            progress=lambda turn, turns: progress(f"true values drawn, round {turn} of {turns}"),
        )
    elif choose_families:
        model = fit_chosen_families(
            graph,
            train,
            validation,
            MechanismConfig(),
            config,
            progress=lambda family: progress(f"fitting {family} mechanisms"),
        )
    else:
        fitter = Fitter(model, TensorRows(train), TensorRows(validation), config)
        while not fitter.finished:
            losses = fitter.epoch()
            total = sum(losses.validation.values())
            progress(f"epoch {losses.epoch}: held-out loss {total:.4f} nats")
        fitter.finish()
    with torch.no_grad():
        losses_by_node = {
            name: -float(model.node_log_prob(validation, name).double().mean())
            for name in model.names
        }
    complete = {name: len(model.node_rows(rows, name)[0]) for name in model.names}
    if errors:
        return TableFit(model, {}, losses_by_node, complete)
    refit(model, rows, seed=seed)
    return TableFit(model, draw_weights(model, rows, _DRAWS, seed=seed), losses_by_node, complete)
