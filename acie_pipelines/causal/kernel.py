"""Kernel mechanisms: few-parameter families whose smoothness is set by the evidence.

Belongs here: location, scale and noise shape on a basis.
Does not belong here: the basis (`acie_pipelines.causal.kernel_basis`), or how weights are found
(`acie_pipelines.causal.newton`).

A mechanism reads ``u = shape((warp(z) - location(parents)) / scale(parents))`` with monotone,
parent-independent `shape` and `warp`. ``additive`` has neither warp nor a scale that depends on
parents, ``heteroscedastic`` has the scale, ``post_nonlinear`` the warp (Zhang and Hyvarinen 2009,
arXiv:1205.2599). Location and scale are Gaussian processes in weight space. Everything is in double
precision: abduction must be undone to rounding.
"""

from typing import Final, Literal

import torch
from torch import Tensor, nn

from acie_pipelines.causal.kernel_basis import KernelBasis
from acie_pipelines.causal.mechanisms import Mechanism, MechanismConfig, Standardisation
from acie_pipelines.causal.splines import SharedSpline

__all__ = ["KernelMechanism", "bounded"]

_MAX_LOG_SCALE: Final = 6.0


def bounded(log_scale: Tensor) -> Tensor:
    """Logarithm of the scale, kept where its exponential is harmless."""
    return _MAX_LOG_SCALE * torch.tanh(log_scale / _MAX_LOG_SCALE)


class KernelMechanism(Mechanism):
    """Location, scale and noise shape on a `KernelBasis`; see the module.

    Parameters
    ----------
    own, parents
        Standardisations of the variable and of its parents.
    categories
        Number of categories of each parent, 0 if continuous.
    family
        Which parts there are.
    config
        Shape.
    """

    def __init__(
        self,
        own: Standardisation,
        parents: Standardisation | None,
        categories: tuple[int, ...],
        family: Literal["additive", "heteroscedastic", "post_nonlinear"],
        config: MechanismConfig,
    ) -> None:
        super().__init__(own, parents, categories)
        self.bins = config.bins
        self.outputs = 2 if family == "heteroscedastic" else 1
        self.is_warped = family == "post_nonlinear"
        pieces = 3 * config.bins - 1
        self.constants = nn.Parameter(
            torch.zeros(2 + pieces * (1 + self.is_warped), dtype=torch.float64),
            requires_grad=False,
        )
        self.basis: KernelBasis | None = None
        self.weights: nn.Parameter | None = None
        if parents is not None:
            indicators = tuple(c > 0 for c in categories for _ in range(c or 1))
            self.basis = KernelBasis(self.width, config.points, indicators)
            self.weights = nn.Parameter(
                torch.zeros(self.outputs, sum(self.basis.groups), dtype=torch.float64),
                requires_grad=False,
            )

    @torch.no_grad()
    def start_from(self, simpler: "KernelMechanism") -> None:
        """Take over the basis, location and noise shape of a fitted additive mechanism."""
        if self.basis is not None and simpler.basis is not None:
            self.basis.load_state_dict(simpler.basis.state_dict())
        if self.weights is not None and simpler.weights is not None:
            self.weights[0].copy_(simpler.weights[0])
        self.constants[: simpler.constants.numel()].copy_(simpler.constants)

    @property
    def vector(self) -> Tensor:
        """All free numbers: weights, then constants."""
        parts = [] if self.weights is None else [self.weights.flatten()]
        return torch.cat([*parts, self.constants]).detach().clone()

    @torch.no_grad()
    def set_vector(self, vector: Tensor) -> None:
        """Replace all free numbers."""
        constants = self.constants.numel()
        if self.weights is not None:
            self.weights.copy_(vector[:-constants].view_as(self.weights))
        self.constants.copy_(vector[-constants:])

    @property
    def varied(self) -> Tensor:
        """Which free numbers decide how causes move the variable; boolean, as `vector`.

        The shape of the noise is the same for all causes and cancels. Of a bent axis and the scale
        of the noise on it only the product is known, so that one of them is enough.
        """
        chosen = torch.ones_like(self.vector, dtype=torch.bool)
        constants = chosen[-self.constants.numel() :]
        constants[2 : 1 + 3 * self.bins] = False
        if self.is_warped:
            constants[1] = False
        return chosen

    def raw(self, parents: Tensor) -> tuple[Tensor, Tensor]:
        """Location and logarithm of the scale, each of shape ``(n,)`` or, if constant, ``(1,)``."""
        if self.basis is None or self.weights is None:
            return self.constants[:1], self.constants[1:2]
        moved = self.basis.project(self.inputs(parents).double(), self.weights)
        return self.add_constants(moved)

    def add_constants(self, moved: Tensor) -> tuple[Tensor, Tensor]:
        """Join what depends on parents, shape ``(n, outputs)``, with the constants."""
        location = moved[:, 0] + self.constants[0]
        if self.outputs == 1:
            return location, self.constants[1:2]
        return location, moved[:, 1] + self.constants[1]

    def shape(self) -> SharedSpline:
        """Curve from the scaled residual to the noise."""
        return SharedSpline(self.constants[2 : 1 + 3 * self.bins], self.bins)

    def warp(self) -> SharedSpline | None:
        """Curve of the variable itself, if it is bent."""
        if not self.is_warped:
            return None
        return SharedSpline(self.constants[1 + 3 * self.bins :], self.bins)

    def noise(self, x: Tensor, parents: Tensor) -> tuple[Tensor, Tensor]:
        """Abduct the noise; see `Mechanism.noise`."""
        column = x[:, None].double()
        u, slope = self.forward_map(self.own(column)[:, 0], *self.raw(parents))
        return u, slope + self.own.log_derivative(column)[:, 0]

    def forward_map(self, z: Tensor, location: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
        """Noise of standardised values, and the logarithm of its derivative.

        Parameters
        ----------
        z
            Shape ``(n,)``.
        location, log_scale
            Shape ``(n,)`` or ``(1,)``.
        """
        warp, log_scale = self.warp(), bounded(log_scale)
        total = -log_scale
        if warp is not None:
            z, slope = warp(z)
            total = total + slope
        u, slope = self.shape()((z - location) * torch.exp(-log_scale))
        return u, total + slope

    def inverse_map(self, u: Tensor, location: Tensor, log_scale: Tensor) -> Tensor:
        """Standardised values of noise."""
        warp = self.warp()
        z = self.shape().inverse(u) * torch.exp(bounded(log_scale)) + location
        return z if warp is None else warp.inverse(z)

    def value(self, u: Tensor, parents: Tensor) -> Tensor:
        """Variable from its noise and parents; inverse of `noise`."""
        z = self.inverse_map(u.double(), *self.raw(parents))
        return self.own.inverse(z[:, None])[:, 0]

    def moved(self, x: Tensor, parents: Tensor, changed: Tensor) -> Tensor:
        """See `Mechanism.moved`; the noise's shape, the same for both parents, cancels."""
        location, log_scale = self.raw(torch.cat([parents, changed]))
        before, after = torch.split(location.expand(2 * len(x)), len(x))
        z = self.own(x[:, None].double())[:, 0]
        warp = self.warp()
        if warp is not None:
            z, _ = warp(z)
        if len(log_scale) > 1:
            low, high = torch.split(bounded(log_scale), len(x))
            z = (z - before) * torch.exp(high - low) + after
        else:
            z = z + (after - before)
        if warp is not None:
            z = warp.inverse(z)
        return self.own.inverse(z[:, None])[:, 0]
