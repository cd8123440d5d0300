"""What a table of measured values costs, and what is won back by knowing its errors.

Belongs here: a simulated table whose true values are known, and its row. Does not belong here: the
fit to measured values (`acie_pipelines.causal.measurement`).

Galaxies follow a main sequence that bends at high mass. Their masses and rates are measured with
normal errors of 0.3 and 0.2 dex. Models fitted to what was measured, to what was measured with its
errors, and to the true values are asked about the true galaxies.
"""

from collections.abc import Callable
from functools import partial
from typing import Final

import torch
from torch import Tensor

from acie_pipelines.causal.fitting import FitConfig, fit_scm
from acie_pipelines.causal.graph import CausalGraph, Node
from acie_pipelines.causal.interventions import Intervention
from acie_pipelines.causal.measurement import fit_with_errors
from acie_pipelines.causal.mechanisms import MechanismConfig
from acie_pipelines.causal.scm import StructuralCausalModel
from acie_pipelines.evaluation.bench import Emit, Row
from acie_pipelines.evaluation.measurements import Measured, Measurements, mean_and_spread
from acie_pipelines.evaluation.spectral_sources import MECHANISM_SOURCES

__all__ = ["measure_table", "run"]

_SOURCES: Final = ("causal/measurement.py", "evaluation/measured_table.py", *MECHANISM_SOURCES)
_ROWS: Final = 4_000
_QUESTIONS: Final = 2_000
_VALIDATION: Final = 400
_TEST_SEED_OFFSET: Final = 1_000_003
_MASS_SCATTER: Final = 0.6
_RATE_SCATTER: Final = 0.25
_ERRORS: Final = (0.3, 0.2)
_DOUBLED: Final = 0.30103
_GRAPH: Final = CausalGraph(
    [
        Node("stellar_mass", "Msun", True, (4.0, 16.0), mechanism="additive"),
        Node("sfr", "Msun/yr", True, (-9.0, 9.0), ("stellar_mass",), mechanism="additive"),
    ]
)


def run(emit: Emit, measurements: Measurements, seeds: range) -> None:
    """Measure the table.

    Parameters
    ----------
    emit
        Called with the row.
    measurements
        What is measured already, and where the rest is kept.
    seeds
        Each with its own galaxies.
    """
    found = [
        measurements.measure(
            "measured-table", "acie", seed, partial(measure_table, seed), depends_on=_SOURCES
        )
        for seed in seeds
    ]
    known, ignored, exact = (
        mean_and_spread([each.values[name] for each in found])
        for name in ("errors known", "errors ignored", "true values")
    )
    emit(
        Row(
            "counterfactual/measured-table/error",
            known[0],
            ignored[0],
            ignored[0] / known[0],
            "sd",
            len(found),
            known[1],
            "errors ignored",
            "",
            floor=exact[0],
            fraction_of_floor=exact[0] / known[0],
            peer_n=len(found),
            peer_spread=ignored[1],
        )
    )


def measure_table(seed: int) -> Measured:
    """Fit to one table in three ways; RMS error of the rate at twice the mass, over its scatter.

    Parameters
    ----------
    seed
        Of the galaxies, their errors and the fits.
    """
    truth = _galaxies(_ROWS, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    errors = torch.tensor(_ERRORS).expand(_ROWS, 2)
    measured = truth + errors * torch.randn(_ROWS, 2, generator=generator)
    shape, config = MechanismConfig(), FitConfig(seed=seed, max_epochs=40)

    def plain(rows: Tensor) -> StructuralCausalModel:
        model = StructuralCausalModel(_GRAPH, shape, seed=seed)
        fit_scm(model, rows[_VALIDATION:], rows[:_VALIDATION], config)
        return model

    def deconvolved() -> StructuralCausalModel:
        train, validation = (
            (measured[part], errors[part])
            for part in (slice(_VALIDATION, None), slice(_VALIDATION))
        )
        return fit_with_errors(_GRAPH, train, validation, shape, config)

    ways: dict[str, Callable[[], StructuralCausalModel]] = {
        "errors known": deconvolved,
        "errors ignored": partial(plain, measured),
        "true values": partial(plain, truth),
    }
    asked = _galaxies(_QUESTIONS, seed + _TEST_SEED_OFFSET)
    doubled = Intervention("stellar_mass", "shift", _DOUBLED)
    moved = _sequence(asked[:, 0] + _DOUBLED) - _sequence(asked[:, 0])
    values = {}
    for name, fit in ways.items():
        answer = fit().counterfactual(asked, [doubled], seed=seed)[:, 1]
        error = (answer - asked[:, 1] - moved).square().mean().sqrt()
        values[name] = float(error / truth[:, 1].std())
    return Measured(values)


def _sequence(mass: Tensor) -> Tensor:
    """Log rate of the main sequence: slope one, flat far above 10^10.3 Msun."""
    return -torch.nn.functional.softplus(-2.3 * (mass - 10.3)) / 2.3 + 0.7


def _galaxies(count: int, seed: int) -> Tensor:
    """Draw true masses and rates, shape ``(count, 2)``."""
    noise = torch.randn(count, 2, generator=torch.Generator().manual_seed(seed))
    mass = 10.0 + _MASS_SCATTER * noise[:, 0]
    return torch.stack([mass, _sequence(mass) + _RATE_SCATTER * noise[:, 1]], dim=1)
