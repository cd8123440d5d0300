"""Properties that leave no trace in a spectrum, given those that do.

Belongs here: draws of environment, star formation state, size, gas fraction and black hole given
the parameters of the light. Does not belong here: spectra.

Candidates are drawn from the mechanisms of the structural causal model, half of them in each state,
and one is chosen by the probability of what they cause (sampling importance resampling: Rubin 1988,
Bayesian Statistics 3, 395).
"""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from acie_pipelines.models.latents import log_density
from acie_pipelines.models.parameters import PARAMETERS
from acie_pipelines.simulation.galaxy import QUENCHED, STAR_FORMING
from acie_pipelines.simulation.mechanisms import CONTINUOUS, quenching_log_odds

__all__ = ["complete"]

_CANDIDATES: Final = 64
# What candidates may change the probability of; ages, metals and ionisation they cannot.
_EVIDENCE: Final = ("stellar_mass", "sfr", "attenuation", "velocity_dispersion")


def complete(parameters: Mapping[str, Tensor], *, seed: int) -> dict[str, Tensor]:
    """Draw the rest of each galaxy.

    Parameters
    ----------
    parameters
        `acie_pipelines.models.parameters.PARAMETERS`, float64, shape ``(n,)``.
    seed
        Of the draws.

    Returns
    -------
    dict[str, Tensor]
        Every node, shape ``(n,)``.
    """
    generator = torch.Generator().manual_seed(seed)
    count = parameters["redshift"].numel()

    def normal() -> Tensor:
        return torch.randn(count, _CANDIDATES, generator=generator, dtype=torch.float64)

    values = {
        name: parameters[name][:, None].expand(count, _CANDIDATES).to(torch.float64)
        for name in PARAMETERS
    }
    half = torch.arange(_CANDIDATES) % 2 == 0
    states = torch.where(half, STAR_FORMING, QUENCHED).to(torch.float64)
    values["star_formation_state"] = states.expand(count, _CANDIDATES)
    noise = normal()
    values["environment"] = CONTINUOUS["environment"].value(noise, {"environment": noise})
    for name in ("size", "gas_fraction"):
        values[name] = CONTINUOUS[name].value(normal(), values)
    odds = quenching_log_odds(values)
    log_weight = torch.nn.functional.logsigmoid(torch.where(half, -odds, odds))
    for name in _EVIDENCE:
        log_weight = log_weight + log_density(name, values)
    cumulative = torch.softmax(log_weight, dim=1).cumsum(dim=1)
    point = torch.rand(count, 1, generator=generator, dtype=torch.float64)
    chosen = (cumulative < point).sum(dim=1, keepdim=True).clamp_max(_CANDIDATES - 1)
    found = {name: column.gather(1, chosen)[:, 0] for name, column in values.items()}
    noise = torch.randn(count, generator=generator, dtype=torch.float64)
    found["black_hole_mass"] = CONTINUOUS["black_hole_mass"].value(noise, found)
    return found
