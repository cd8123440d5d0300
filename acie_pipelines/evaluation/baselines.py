"""What a causal model has to beat: independent variables, and a linear-Gaussian model.

Belongs here: simple densities fitted to the same rows. Does not belong here: the comparison.
"""

from typing import Final

import torch
from torch import Tensor

from acie_pipelines.causal.fitting import FitConfig, fit_scm
from acie_pipelines.causal.scm import StructuralCausalModel

__all__ = ["linear_gaussian_log_prob", "marginal_model"]

_LOG_SQRT_2PI: Final = 0.9189385332046727
# Twenty-five numbers per node: a large step and few epochs reach the optimum.
_MARGINAL_FIT: Final = FitConfig(batch_rows=1024, learning_rate=1e-2, max_epochs=8, patience=8)


def marginal_model(
    model: StructuralCausalModel, train: Tensor, validation: Tensor, *, seed: int
) -> StructuralCausalModel:
    """Fit the same flows without any parent.

    Parameters
    ----------
    model
        Gives variables and shape.
    train, validation
        Rows, shape ``(n, nodes)``.
    seed
        Of the row order.
    """
    blind = StructuralCausalModel(model.graph.without_edges(), model.config, seed=seed)
    fit_scm(blind, train, validation, _MARGINAL_FIT)
    return blind


def linear_gaussian_log_prob(
    model: StructuralCausalModel, train: Tensor, test: Tensor
) -> dict[str, Tensor]:
    """Regress every node on its parents by least squares; score the test rows.

    Both are taken on the model's standardised scale (arcsinh of line widths), which favours the
    baseline; densities are per unit of the data, like the model's.

    Parameters
    ----------
    model
        Gives graph and standardisation.
    train, test
        Rows, shape ``(n, nodes)``.

    Returns
    -------
    dict[str, Tensor]
        Node name to log density [nats] of each test row; NaN where incomplete.
    """
    result = {}
    for name in model.names:
        mechanism = model.mechanism(name)
        columns = [model.column[name], *(model.column[p] for p in model.graph.parents(name))]

        def regressors(rows: Tensor, part: torch.nn.Module | None = mechanism.parents) -> Tensor:
            ones = torch.ones(rows.shape[0], 1)
            return ones if part is None else torch.cat([ones, part(rows[:, 1:])], dim=1)

        fit_rows = train[:, columns]
        fit_rows = fit_rows[torch.isfinite(fit_rows).all(dim=1)]
        target = mechanism.own(fit_rows[:, :1])
        coefficients = torch.linalg.lstsq(regressors(fit_rows), target).solution
        spread = (target - regressors(fit_rows) @ coefficients).std()
        rows = test[:, columns]
        z = (mechanism.own(rows[:, :1]) - regressors(rows) @ coefficients) / spread
        density = -0.5 * z**2 - _LOG_SQRT_2PI - torch.log(spread)
        result[name] = (density + mechanism.own.log_derivative(rows[:, :1]))[:, 0]
    return result
