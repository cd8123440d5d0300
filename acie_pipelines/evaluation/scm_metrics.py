"""Measurements of a fitted causal model on held-out galaxies.

Belongs here: numbers. Does not belong here: thresholds and verdicts
(`acie_pipelines.evaluation.validation`).
"""

from typing import Any, Final

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from acie_pipelines.causal.interventions import Intervention
from acie_pipelines.causal.scm import StructuralCausalModel
from acie_pipelines.evaluation.baselines import linear_gaussian_log_prob, marginal_model
from acie_pipelines.evaluation.calibration import calibration
from acie_pipelines.physics.residuals import doublet_residuals

__all__ = [
    "composition_error",
    "counterfactual_changes",
    "external_calibration",
    "law_residuals",
    "likelihoods",
    "parent_sensitivity",
]

_BOOTSTRAP_DRAWS: Final = 300
_QUANTILES: Final = (0.05, 0.16, 0.5, 0.84, 0.95)
Array = NDArray[np.float64]


def _mean_and_error(values: Array, seed: int) -> dict[str, float]:
    """Mean, its bootstrap standard error and 95 % interval."""
    rng = np.random.default_rng(seed)
    n = values.size
    means = np.array([values[rng.integers(0, n, n)].mean() for _ in range(_BOOTSTRAP_DRAWS)])
    low, high = np.percentile(means, [2.5, 97.5])
    return {
        "mean": float(values.mean()),
        "error": float(means.std(ddof=1)),
        "low": float(low),
        "high": float(high),
    }


def _node_terms(model: StructuralCausalModel, rows: Tensor) -> dict[str, Array]:
    with torch.no_grad():
        return {n: model.node_log_prob(rows, n).double().numpy() for n in model.names}


def likelihoods(
    model: StructuralCausalModel, train: Tensor, validation: Tensor, test: Tensor, *, seed: int
) -> dict[str, Any]:
    """Compare held-out log densities with both baselines, row by row.

    Parameters
    ----------
    model
        Fitted model.
    train, validation, test
        Rows, shape ``(n, nodes)``; baselines are fitted on the first two. Only complete test rows
        are scored.
    seed
        Of baseline fit and bootstrap.

    Returns
    -------
    dict
        ``nats_per_galaxy`` of model, marginals and linear Gaussian, per node and in total, and
        ``gain`` over each baseline in total (positive is better) with bootstrap error and 95 %
        interval.
    """
    complete = test[torch.isfinite(test).all(dim=1)]
    terms = {
        "model": _node_terms(model, complete),
        "marginals": _node_terms(marginal_model(model, train, validation, seed=seed), complete),
        "linear_gaussian": {
            n: v.double().numpy()
            for n, v in linear_gaussian_log_prob(model, train, complete).items()
        },
    }
    totals = {k: np.sum(list(v.values()), axis=0) for k, v in terms.items()}
    negative = {
        kind: {n: _mean_and_error(-v, seed) for n, v in nodes.items()}
        | {"total": _mean_and_error(-totals[kind], seed)}
        for kind, nodes in terms.items()
    }
    gain = {
        kind: _mean_and_error(totals["model"] - totals[kind], seed)
        for kind in ("marginals", "linear_gaussian")
    }
    return {"rows": int(complete.shape[0]), "nats_per_galaxy": negative, "gain": gain}


def composition_error(model: StructuralCausalModel, rows: Tensor) -> float:
    """Largest |predict(abduct(x)) - x| over the standard deviation of each variable."""
    complete = rows[torch.isfinite(rows).all(dim=1)]
    again = model.predict(model.abduct(complete))
    return float(((again - complete).abs() / complete.std(dim=0)).nan_to_num(torch.inf).max())


def parent_sensitivity(model: StructuralCausalModel, rows: Tensor, *, seed: int) -> dict[str, Any]:
    """Measure how much each mechanism uses its parents.

    Parameters
    ----------
    model, rows
        Fitted model and held-out rows.
    seed
        Of the permutation.

    Returns
    -------
    dict
        Node to ``nats_lost`` (mean log density lost when its parents are those of other galaxies)
        and ``effect`` (parent to the median absolute change of the child, in its standard
        deviations, when that parent alone moves by one of its own). Roots are absent.
    """
    complete = rows[torch.isfinite(rows).all(dim=1)]
    generator = torch.Generator().manual_seed(seed)
    other = complete[torch.randperm(complete.shape[0], generator=generator)]
    result: dict[str, Any] = {}
    for name in model.graph.order:
        parents = model.graph.parents(name)
        if not parents:
            continue
        mechanism, k = model.mechanism(name), model.column[name]
        columns = [model.column[p] for p in parents]
        x, pa = complete[:, k], complete[:, columns]
        with torch.no_grad():
            true = mechanism.log_prob(x, pa)
            shuffled = mechanism.log_prob(x, other[:, columns])
            u, _ = mechanism.noise(x, pa)
            effect = {}
            for j, parent in enumerate(parents):
                part = mechanism.parents
                if part is None:
                    continue
                z = part(pa)
                z[:, j] += 1.0
                moved = mechanism.value(u, part.inverse(z))
                change = mechanism.own(moved[:, None]) - mechanism.own(x[:, None])
                effect[parent] = float(change.abs().median())
        result[name] = {"nats_lost": float((true - shuffled).mean()), "effect": effect}
    return result


def law_residuals(
    model: StructuralCausalModel, rows: Tensor, do: Intervention, *, seed: int
) -> dict[str, dict[str, dict[str, float | int | None]]]:
    """Doublet residuals of the data, of galaxies drawn from the model, and of counterfactuals."""
    batches = {
        "factual": rows,
        "sampled": model.sample(rows.shape[0], seed=seed),
        "counterfactual": model.counterfactual(rows, [do]),
    }
    return {
        kind: {
            law: {field: None if np.isnan(value) else value for field, value in vars(found).items()}
            for law, found in doublet_residuals(model.columns(batch), seed=seed).items()
        }
        for kind, batch in batches.items()
    }


def counterfactual_changes(
    model: StructuralCausalModel, rows: Tensor, do: Intervention, *, seed: int
) -> pd.DataFrame:
    """Quantiles over galaxies of the change of each variable under an intervention.

    What the model says, not what is true: hidden causes (dust, metallicity, nuclear activity) are
    held where they are in each galaxy's noise.

    Returns
    -------
    pandas.DataFrame
        One row per node: ``galaxies``, quantiles ``q05`` ... ``q95`` of the change in the node's
        unit, and ``median_error``, the bootstrap standard error of ``q50`` over galaxies.
    """
    change = model.columns(model.counterfactual(rows, [do]) - rows)
    rng = np.random.default_rng(seed)
    records = []
    for name in model.graph.order:
        values = change[name][np.isfinite(change[name])].astype(np.float64)
        draws = rng.integers(0, values.size, (_BOOTSTRAP_DRAWS, values.size))
        medians = np.median(values[draws], axis=1)
        quantiles = np.quantile(values, _QUANTILES)
        records.append(
            {"node": name, "unit": model.graph.nodes[name].unit, "galaxies": values.size}
            | {
                f"q{round(100 * q):02d}": float(v)
                for q, v in zip(_QUANTILES, quantiles, strict=True)
            }
            | {"median_error": float(medians.std(ddof=1))}
        )
    return pd.DataFrame(records)


def external_calibration(model: StructuralCausalModel, rows: Tensor) -> dict[str, Any]:
    """Calibration on held-out rows measured on ingested spectra, per node with complete parents."""
    noise = model.columns(model.abduct(rows))
    found = {name: calibration(values) for name, values in noise.items()}
    return {name: summary for name, summary in found.items() if summary["rows"]}
