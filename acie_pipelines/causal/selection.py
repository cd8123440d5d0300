"""Mechanism families chosen by held-out likelihood.

Belongs here: which kernel family each continuous variable gets when nobody knows its equation.
Does not belong here: the families (`acie_pipelines.causal.kernel`) or how one is fitted
(`acie_pipelines.causal.fitting`).
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from acie_pipelines.causal.fitting import FitConfig, Fitter, TensorRows
from acie_pipelines.causal.graph import CausalGraph, MechanismFamily
from acie_pipelines.causal.kernel import KernelMechanism
from acie_pipelines.causal.mechanisms import MechanismConfig
from acie_pipelines.causal.scm import StructuralCausalModel

__all__ = ["fit_chosen_families"]

# The first is a case of both others; of these, the one that does not bend the variable's own axis
# comes first.
_CANDIDATES: Final[tuple[MechanismFamily, ...]] = ("additive", "heteroscedastic", "post_nonlinear")


def fit_chosen_families(
    graph: CausalGraph,
    train: Tensor,
    validation: Tensor,
    shape: MechanismConfig,
    config: FitConfig,
    *,
    progress: Callable[[MechanismFamily], None] | None = None,
) -> StructuralCausalModel:
    """Fit a model whose continuous variables get the kernel family that predicts them best.

    Parameters
    ----------
    graph
        Variables and causes; families that continuous nodes declare are not used.
    train, validation
        Rows to fit and to judge on, shape ``(n, nodes)``.
    shape, config
        As of `StructuralCausalModel` and `Fitter`.
    progress
        Called with each family before it is fitted.

    Returns
    -------
    StructuralCausalModel
        Fitted; its graph declares the chosen families.

    Raises
    ------
    ModelError
        If a node has no complete training or validation rows.

    Notes
    -----
    A later family replaces an earlier one where its mean gain in log-likelihood over the validation
    rows exceeds the standard error of that mean (the one-standard-error rule: Hastie, Tibshirani
    and Friedman 2009, The Elements of Statistical Learning, section 7.10). The other families
    contain the additive one and start from its fit. A variable without causes is additive: the
    families differ in nothing but the effect of causes.
    """
    open_nodes = [n for n in graph.nodes if not graph.nodes[n].categories and graph.parents(n)]

    def fit(
        family: MechanismFamily, simpler: StructuralCausalModel | None
    ) -> StructuralCausalModel:
        if progress is not None:
            progress(family)
        return _fit(_declared(graph, family), train, validation, shape, config, simpler)

    simplest = fit(_CANDIDATES[0], None)
    chosen = dict.fromkeys(open_nodes, _CANDIDATES[0])
    source = dict.fromkeys(graph.nodes, simplest)
    for family in _CANDIDATES[1:]:
        model = fit(family, simplest)
        for name in open_nodes:
            if _gains(model, source[name], validation, name):
                chosen[name], source[name] = family, model
    declared = _declared(graph, _CANDIDATES[0])
    result = StructuralCausalModel(
        CausalGraph(
            replace(node, mechanism=chosen.get(name, node.mechanism))
            for name, node in declared.nodes.items()
        ),
        shape,
        seed=config.seed,
    )
    for name, model in source.items():
        result.mechanism(name).load_state_dict(model.mechanism(name).state_dict())
    return result.eval()


def _declared(graph: CausalGraph, family: MechanismFamily) -> CausalGraph:
    """Graph with one family for all continuous effects; continuous roots are additive."""
    nodes = []
    for node in graph.nodes.values():
        if node.categories:
            nodes.append(node)
        else:
            nodes.append(replace(node, mechanism=family if node.parents else _CANDIDATES[0]))
    return CausalGraph(nodes)


def _fit(
    graph: CausalGraph,
    train: Tensor,
    validation: Tensor,
    shape: MechanismConfig,
    config: FitConfig,
    simpler: StructuralCausalModel | None,
) -> StructuralCausalModel:
    """Fit every mechanism, or, after a simpler model, those that differ from it."""
    model = StructuralCausalModel(graph, shape, seed=config.seed)
    nodes = [n for n in graph.nodes if simpler is None or _differs(model, simpler, n)]
    fitter = Fitter(model, TensorRows(train), TensorRows(validation), config, nodes=nodes)
    if simpler is not None:
        for name in nodes:
            richer, start = model.mechanism(name), simpler.mechanism(name)
            if isinstance(richer, KernelMechanism) and isinstance(start, KernelMechanism):
                richer.start_from(start)
    while not fitter.finished:
        fitter.epoch()
    fitter.finish()
    return model


def _differs(one: StructuralCausalModel, other: StructuralCausalModel, name: str) -> bool:
    return one.graph.nodes[name].mechanism != other.graph.nodes[name].mechanism


@torch.no_grad()
def _gains(
    richer: StructuralCausalModel, simpler: StructuralCausalModel, rows: Tensor, name: str
) -> bool:
    """Whether one mechanism is better than another by more than the standard error."""
    gain = richer.node_log_prob(rows, name) - simpler.node_log_prob(rows, name)
    gain = gain.double()
    return float(gain.mean()) > float(gain.std()) / math.sqrt(len(gain))
