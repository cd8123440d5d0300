"""Fit of a structural causal model to variables measured with known errors.

Belongs here: integrating the likelihood over what the true values may have been. Does not belong
here: the fit to exact values (`acie_pipelines.causal.fitting`), or the model.

A mechanism fitted to noisy causes is too flat, and one fitted to noisy effects too wide (Carroll,
Ruppert, Stefanski and Crainiceanu 2006, "Measurement Error in Nonlinear Models", chapters 3 and 8).
Here true values are missing data: drawn from their distribution given the measured ones and the
present model, to which the model is fitted again - stochastic expectation maximisation (Celeux and
Diebolt 1985, Computational Statistics Quarterly 2, 73; Nielsen 2000, Bernoulli 6, 457). Draws are a
step of a Markov chain that leaves that distribution as it is: one of candidates from the error
about the measured value and of the draw before, by the model's density (iterated sampling
importance resampling: Andrieu, Lee and Vihola 2018, Bernoulli 24, 842).
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

import torch
from torch import Tensor

from acie_pipelines.causal.fitting import FitConfig, fit_scm
from acie_pipelines.causal.graph import CausalGraph
from acie_pipelines.causal.mechanisms import MechanismConfig
from acie_pipelines.causal.scm import StructuralCausalModel
from acie_pipelines.errors import ModelError

__all__ = ["draw_true_values", "fit_with_errors"]

_CANDIDATES: Final = 16
_BLOCK_ROWS: Final = 2000
_ROUNDS: Final = 80
# Rounds between fits from the beginning, which set what smoothness rows ask for.
_AFRESH: Final = 20
_EPOCHS: Final = 3


def fit_with_errors(
    graph: CausalGraph,
    train: tuple[Tensor, Tensor],
    validation: tuple[Tensor, Tensor],
    shape: MechanismConfig,
    config: FitConfig,
    *,
    rounds: int = _ROUNDS,
    progress: Callable[[int, int], None] | None = None,
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
        Draws of the true values and fits to them; the first fit takes measured values as true. The
        default finds nine tenths of what errors hide where they are nearly as large as the scatter
        of the values.
    progress
        Called after each round with its number and how many there are.

    Raises
    ------
    ModelError
        If an error is negative, not finite or given to a category, or shapes differ.
    """
    for values, errors in (train, validation):
        _check(graph, values, errors)
    drawn = train[0], validation[0]
    model = _fit(graph, drawn, shape, config)
    brief = replace(config, max_epochs=_EPOCHS)
    for turn in range(1, rounds + 1):
        seed = config.seed + 2 * turn
        drawn = (
            draw_true_values(model, *train, start=drawn[0], seed=seed),
            draw_true_values(model, *validation, start=drawn[1], seed=seed + 1),
        )
        if turn % _AFRESH and turn < rounds:
            fit_scm(model, *drawn, brief, resume=True)
        else:
            model = _fit(graph, drawn, shape, config)
        if progress is not None:
            progress(turn, rounds)
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
    graph: CausalGraph, rows: tuple[Tensor, Tensor], shape: MechanismConfig, config: FitConfig
) -> StructuralCausalModel:
    model = StructuralCausalModel(graph, shape, seed=config.seed)
    fit_scm(model, *rows, config)
    return model


@torch.no_grad()
def draw_true_values(
    model: StructuralCausalModel, values: Tensor, errors: Tensor, *, start: Tensor, seed: int
) -> Tensor:
    """Draw true values given measured ones and an earlier draw.

    Parameters
    ----------
    model
        Density of true values.
    values, errors
        Measured values and standard deviations of their errors, shape ``(n, nodes)``.
    start
        Draw before, or the measured values; same shape.
    seed
        Of the draws.

    Returns
    -------
    Tensor
        Shape ``(n, nodes)``; exact values and missing ones are as given.

    Notes
    -----
    One of 16 candidates, of which the draw before is one: were it not, draws would lean towards the
    measured values, and the model fitted to them would keep a part of what the errors did to it.
    Of an incomplete row, the mechanisms that have all their variables count.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = (torch.split(each, _BLOCK_ROWS) for each in (values, errors, start))
    blocks = zip(*parts, strict=True)
    return torch.cat([_draw(model, v, e, s, generator) for v, e, s in blocks])


def _draw(
    model: StructuralCausalModel,
    values: Tensor,
    errors: Tensor,
    start: Tensor,
    generator: torch.Generator,
) -> Tensor:
    count, nodes = values.shape
    noise = torch.randn(_CANDIDATES, count, nodes, generator=generator).to(values)
    scatter = torch.where(torch.isfinite(values), errors, 0.0)
    candidates = values + scatter * noise
    candidates[0] = start
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
