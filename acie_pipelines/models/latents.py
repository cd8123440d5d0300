"""Exogenous noise of a galaxy as a vector, and where it puts the light.

Belongs here: the map from standard normal latents and the star formation state to the parameters of
a spectrum, its derivative and prior, and the coordinates in which posteriors are nearly normal.
Does not belong here: spectra.

The mass of the black hole changes no light; its noise is not among the latents. A posterior is thin
and curved in the noise, because light fixes parameters and not noise. Its coordinates are therefore
the parameters of the light and the noise of what light does not show.
"""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from acie_pipelines.causal.interventions import Intervention
from acie_pipelines.models.parameters import PARAMETERS, constrain, log_volume, unconstrain
from acie_pipelines.simulation.galaxy import GalaxySCM
from acie_pipelines.simulation.mechanisms import CONTINUOUS, quenching_log_odds

__all__ = [
    "LATENTS",
    "UNSEEN",
    "galaxies",
    "light_and_prior",
    "linearise",
    "log_density",
    "to_coordinates",
]

_STATE: Final = "star_formation_state"
_UNLIT: Final = "black_hole_mass"
_STEP: Final = 1e-5
_SCM: Final = GalaxySCM()

LATENTS: Final = tuple(name for name in _SCM.names if name not in (_STATE, _UNLIT))
"""Nodes whose standard normal noise is inferred."""


UNSEEN: Final = tuple(name for name in LATENTS if name not in PARAMETERS)
"""Those of `LATENTS` that light does not show, in an order in which causes come first."""


def _from_noise(latents: Tensor, state: float) -> dict[str, Tensor]:
    """Values of every node; the black hole has median noise."""
    noise = dict(zip(LATENTS, latents.unbind(dim=-1), strict=True))
    rest = torch.zeros_like(latents[:, 0])
    return _SCM.values(
        noise | {_STATE: rest, _UNLIT: rest}, do=[Intervention(_STATE, "set", state)]
    )


def galaxies(coordinates: Tensor, state: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """Galaxies at points of the posterior's coordinates.

    Parameters
    ----------
    coordinates
        Unconstrained parameters of the light, then noise of `UNSEEN`, shape ``(n, 11)``.
    state
        Star formation state, shape ``(n,)``.

    Returns
    -------
    tuple[dict[str, Tensor], Tensor]
        Values of every node but the black hole, and the log density of the structural causal model
        in these coordinates up to a constant, both of shape ``(n,)``.
    """
    size = len(PARAMETERS)
    values = constrain(coordinates[:, :size]) | {_STATE: state}
    density = -0.5 * coordinates[:, size:].square().sum(dim=1)
    for name, noise in zip(UNSEEN, coordinates[:, size:].unbind(dim=1), strict=True):
        parents = values if _SCM.graph.parents(name) else {name: noise}
        values[name] = CONTINUOUS[name].value(noise, parents)
    for name in PARAMETERS:
        density = density + log_density(name, values)
    density = density + log_volume(coordinates[:, :size])
    odds = quenching_log_odds(values)
    return values, density + torch.nn.functional.logsigmoid(torch.where(state > 0.5, odds, -odds))


def log_density(name: str, values: Mapping[str, Tensor]) -> Tensor:
    """Log density of a node's value given its parents, up to a constant."""
    mechanism, value = CONTINUOUS[name], values[name]
    parents = values if _SCM.graph.parents(name) else {name: value}
    noise = mechanism.noise(value, parents)
    slope = (mechanism.noise(value + _STEP, parents) - noise) / _STEP
    return -0.5 * noise.square() + torch.log(slope.clamp_min(1e-300))


def to_coordinates(latents: Tensor, state: float) -> tuple[Tensor, Tensor]:
    """Coordinates of noise and their derivative by it, shapes ``(n, 11)`` and ``(n, 11, 11)``."""
    found, derivative = linearise(latents, state)
    unseen = [LATENTS.index(name) for name in UNSEEN]
    chosen = torch.eye(len(LATENTS)).to(latents)[unseen].expand(len(latents), -1, -1)
    size = len(PARAMETERS)
    return (
        torch.cat([found[:, :size], latents[:, unseen]], dim=1),
        torch.cat([derivative[:, :size], chosen], dim=1),
    )


def light_and_prior(latents: Tensor, state: float) -> Tensor:
    """Unconstrained parameters of the light and the log probability of the state, ``(n, 9)``."""
    values = _from_noise(latents, state)
    odds = quenching_log_odds(values)
    log_prior = torch.nn.functional.logsigmoid(odds if state > 0.5 else -odds)
    return torch.cat([unconstrain(values), log_prior[:, None]], dim=1)


def linearise(latents: Tensor, state: float) -> tuple[Tensor, Tensor]:
    """`light_and_prior` and its derivative by the latents.

    Returns
    -------
    tuple[Tensor, Tensor]
        Shapes ``(n, 9)`` and ``(n, 9, 11)``, by forward differences.
    """
    count, size = latents.shape
    shifted = latents[:, None, :] + _STEP * torch.cat([torch.zeros(1, size), torch.eye(size)]).to(
        latents
    )
    found = light_and_prior(shifted.reshape(-1, size), state).reshape(count, size + 1, -1)
    derivative = (found[:, 1:] - found[:, :1]) / _STEP
    return found[:, 0], derivative.transpose(1, 2)
