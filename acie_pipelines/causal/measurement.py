"""Fit of a structural causal model to variables measured with known errors.

Belongs here: integrating the likelihood over what the true values may have been. Does not belong
here: the fit to exact values (`acie_pipelines.causal.fitting`), or the model.

A mechanism fitted to noisy causes is too flat, and one fitted to noisy effects too wide (Carroll,
Ruppert, Stefanski and Crainiceanu 2006, "Measurement Error in Nonlinear Models", chapters 3 and 8).
Here true values are missing data: drawn from their distribution given the measured ones and the
present model, to which the model is fitted again - stochastic expectation maximisation (Celeux and
Diebolt 1985, Computational Statistics Quarterly 2, 73; Nielsen 2000, Bernoulli 6, 457). Draws come
from the error about the measured value, weighted by the model's density.
"""

from typing import Final

import torch
from torch import Tensor

from acie_pipelines.causal.fitting import FitConfig, fit_scm
from acie_pipelines.causal.graph import CausalGraph
from acie_pipelines.causal.mechanisms import MechanismConfig
from acie_pipelines.causal.scm import StructuralCausalModel
from acie_pipelines.errors import ModelError

__all__ = ["draw_true_values", "fit_with_errors"]

_CANDIDATES: Final = 64
_BLOCK_ROWS: Final = 2000


def fit_with_errors(
    graph: CausalGraph,
    train: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    shape: MechanismConfig,
    config: FitConfig,
    *,
    rounds: int = 12,
) -> StructuralCausalModel:
    """Fit to rows whose measurement errors are known.

    Parameters
    ----------
    graph
        Variables and causes.
    train, validation
        Measured values, NaN where missing, and standard deviations of their normal errors in the
        values' own scale, zero where exact, each of shape ``(n, nodes)``.
    shape, config
        As of `acie_pipelines.causal.scm.StructuralCausalModel` and
        `acie_pipelines.causal.fitting.fit_scm`.
    rounds
        Draws of the true values and fits to them; the first fit takes measured values as true.

    Raises
    ------
    ModelError
        If an error is negative, not finite or given to a category, or shapes differ.
    """
    for values, errors in (train, validation):
        _check(graph, values, errors)
    model = _fit(graph, train[0], validation[0], shape, config)
    for turn in range(rounds):
        drawn = [
            draw_true_values(model, *rows, seed=config.seed + 2 * turn + k)
            for k, rows in enumerate((train, validation))
        ]
        model = _fit(graph, drawn[0], drawn[1], shape, config)
    return model


def _check(graph: CausalGraph, values: Tensor, errors: Tensor) -> None:
    if values.shape != errors.shape or values.shape[1:] != (len(graph.nodes),):
        raise ModelError(
            "measurement errors",
            f"have shape {tuple(errors.shape)}, values {tuple(values.shape)}",
            f"give one column for each of {list(graph.nodes)}",
        )
    for k, (name, node) in enumerate(graph.nodes.items()):
        column = errors[torch.isfinite(values[:, k]), k]
        if not bool((torch.isfinite(column) & (column >= 0)).all()):
            raise ModelError(
                f"measurement error of {name}",
                "is negative or not a number in some rows",
                "give standard deviations, 0 where the value is exact, or mark the value missing",
            )
        if node.categories and bool((column > 0).any()):
            raise ModelError(
                f"measurement error of {name}", "is given to a category", "set it to 0"
            )


def _fit(
    graph: CausalGraph,
    train: Tensor,
    validation: Tensor,
    shape: MechanismConfig,
    config: FitConfig,
) -> StructuralCausalModel:
    model = StructuralCausalModel(graph, shape, seed=config.seed)
    fit_scm(model, train, validation, config)
    return model.eval()


@torch.no_grad()
def draw_true_values(
    model: StructuralCausalModel, values: Tensor, errors: Tensor, *, seed: int
) -> Tensor:
    """Draw true values given measured ones.

    Parameters
    ----------
    model
        Density of true values.
    values, errors
        Measured values and standard deviations of their errors, shape ``(n, nodes)``.
    seed
        Of the draws.

    Returns
    -------
    Tensor
        Shape ``(n, nodes)``; exact values and missing ones are as given.

    Notes
    -----
    Sampling importance resampling (Rubin 1988, Bayesian Statistics 3, 395) from 64 candidates; of
    an incomplete row, the mechanisms that have all their variables count.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = (torch.split(each, _BLOCK_ROWS) for each in (values, errors))
    blocks = zip(*parts, strict=True)
    return torch.cat([_draw(model, block, error, generator) for block, error in blocks])


def _draw(
    model: StructuralCausalModel, values: Tensor, errors: Tensor, generator: torch.Generator
) -> Tensor:
    count, nodes = values.shape
    noise = torch.randn(_CANDIDATES, count, nodes, generator=generator).to(values)
    scatter = torch.where(torch.isfinite(values), errors, 0.0)
    candidates = values + scatter * noise
    flat = candidates.reshape(-1, nodes)
    density = torch.zeros(len(flat), dtype=torch.float64, device=values.device)
    for k, name in enumerate(model.names):
        low, high = model.graph.nodes[name].support
        outside = (flat[:, k] < low) | (flat[:, k] > high)
        density[outside & (scatter[:, k] > 0).repeat(_CANDIDATES)] = -torch.inf
        columns = [k, *(model.column[parent] for parent in model.graph.parents(name))]
        complete = torch.isfinite(flat[:, columns]).all(dim=1)
        density[complete] += model.node_log_prob(flat, name).double()
    weight = torch.softmax(density.reshape(_CANDIDATES, count), dim=0)
    # A row whose candidates are all impossible keeps its measured values.
    weight = weight.nan_to_num(nan=0.0)
    point = torch.rand(1, count, generator=generator, dtype=torch.float64).to(weight)
    chosen = (weight.cumsum(dim=0) < point).sum(dim=0).clamp_max(_CANDIDATES - 1)
    picked = candidates[chosen, torch.arange(count, device=values.device)]
    possible = weight.sum(dim=0) > 0
    return torch.where(possible[:, None], picked, values)
