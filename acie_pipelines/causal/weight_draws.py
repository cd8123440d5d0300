"""How far the mechanisms of a fitted model may be off.

Belongs here: draws of the weights of kernel mechanisms from their posterior. Does not belong here:
the fit (`acie_pipelines.causal.fitting`), or what is answered with the draws.

Near the best fit the posterior of the weights is normal, with the Fisher information of the rows
plus the prior as its precision (Laplace's method: MacKay 1992, doi:10.1162/neco.1992.4.3.448). What
is varied is what decides how causes move a variable, see `KernelMechanism.varied`.
"""

import copy
from collections.abc import Iterator, Mapping
from functools import partial

from torch import Tensor

from acie_pipelines.causal.kernel import KernelMechanism
from acie_pipelines.causal.newton import NewtonTrainer
from acie_pipelines.causal.scm import StructuralCausalModel
from acie_pipelines.errors import ModelError

__all__ = ["draw_weights", "with_weights"]


def draw_weights(
    model: StructuralCausalModel, rows: Tensor, count: int, *, seed: int
) -> dict[str, Tensor]:
    """Draw the weights of all kernel mechanisms with causes.

    Parameters
    ----------
    model
        Fitted.
    rows
        That it was fitted to, shape ``(n, nodes)``.
    count
        Draws.
    seed
        Of the draws.

    Returns
    -------
    dict[str, Tensor]
        Node to `KernelMechanism.vector`, float64, shape ``(count, size)``. Variables without causes
        and mechanisms of other families are absent.
    """
    drawn = {}
    for k, name in enumerate(model.names):
        mechanism = model.mechanism(name)
        if isinstance(mechanism, KernelMechanism) and mechanism.weights is not None:
            trainer = NewtonTrainer(mechanism, seed + k)
            drawn[name] = trainer.draws(partial(_once, model.node_rows(rows, name)), count)
    return drawn


def _once(pairs: tuple[Tensor, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    yield pairs


def with_weights(
    model: StructuralCausalModel, drawn: Mapping[str, Tensor], k: int
) -> StructuralCausalModel:
    """Model with one draw of the weights; all else is shared.

    Raises
    ------
    ModelError
        If the draws are not of this model.
    """
    shared: dict[int, object] = {}
    for name in model.names:
        mechanism = model.mechanism(name)
        if name not in drawn:
            shared[id(mechanism)] = mechanism
        elif isinstance(mechanism, KernelMechanism):
            shared[id(mechanism.basis)] = mechanism.basis
    result = copy.deepcopy(model, shared)
    for name, vectors in drawn.items():
        mechanism = result.mechanism(name)
        if not isinstance(mechanism, KernelMechanism) or mechanism.vector.shape != vectors[k].shape:
            raise ModelError(name, "has draws of other weights", "train the model again")
        mechanism.set_vector(vectors[k])
    return result
