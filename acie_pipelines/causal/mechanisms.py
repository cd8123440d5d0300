"""Mechanisms: how one variable follows from its causes and its noise.

Belongs here: what all families share, and the conditional spline flow.
Does not belong here: the other families (`acie_pipelines.causal.kernel`,
`acie_pipelines.causal.categorical`), how mechanisms are joined (`acie_pipelines.causal.scm`) or
fitted.

The mechanism of a continuous variable is a monotone map between it and standard normal noise u,
given the parents. Abduction is ``u = noise(x, parents)``, prediction ``x = value(u, parents)``;
each is the other's inverse. This module defines `torch.nn.Module` classes and is imported lazily.
"""

from dataclasses import dataclass

import torch
import zuko
from torch import Tensor, nn

__all__ = ["Mechanism", "MechanismConfig", "SplineMechanism", "Standardisation"]

_LOG_SQRT_2PI = 0.9189385332046727
# Bounds of log(scale): a point mass must not be able to buy infinite likelihood.
_MAX_LOG_SCALE = 6.0
# A share rounded to 0 or 1 in single precision still has log odds.
_SMALLEST_SHARE = 1e-7


@dataclass(frozen=True)
class MechanismConfig:
    """Shape of every mechanism of a model.

    Attributes
    ----------
    hidden
        Width of the two hidden layers of spline and categorical mechanisms.
    bins
        Pieces of a spline.
    points
        Inducing points of a kernel mechanism.
    """

    hidden: int = 32
    bins: int = 8
    points: int = 100


class Standardisation(nn.Module):
    """Per-variable ``(t(x) - location) / scale``.

    Here t is the identity, arcsinh(x / softening) or the log odds.

    Parameters
    ----------
    softenings
        One per variable; ``None`` where there is no arcsinh.
    shares
        Which variables are shares of a whole, on (0, 1); none if left out.
    """

    location: Tensor
    scale: Tensor
    softening: Tensor
    curved: Tensor
    share: Tensor

    def __init__(
        self, softenings: tuple[float | None, ...], *, shares: tuple[bool, ...] = ()
    ) -> None:
        super().__init__()
        size = len(softenings)
        self.register_buffer("location", torch.zeros(size))
        self.register_buffer("scale", torch.ones(size))
        self.register_buffer("softening", torch.tensor([s or 1.0 for s in softenings]))
        self.register_buffer("curved", torch.tensor([s is not None for s in softenings]))
        share = torch.tensor(shares or (False,) * size)
        self.register_buffer("share", share, persistent=False)
        self._has_shares, self._has_curves = any(shares), any(s is not None for s in softenings)

    def flatten(self, x: Tensor) -> Tensor:
        """Values after t, before location and scale; shape ``(n, variables)``."""
        flat = x
        if self._has_curves:
            flat = torch.where(self.curved, torch.arcsinh(x / self.softening), x)
        if self._has_shares:
            flat = torch.where(self.share, torch.logit(x, eps=_SMALLEST_SHARE), flat)
        return flat

    def forward(self, x: Tensor) -> Tensor:
        """Standardise; shape ``(n, variables)``."""
        return (self.flatten(x) - self.location) / self.scale

    def inverse(self, z: Tensor) -> Tensor:
        """Undo `forward`."""
        t = z * self.scale + self.location
        x = torch.where(self.curved, torch.sinh(t) * self.softening, t) if self._has_curves else t
        return torch.where(self.share, torch.sigmoid(t), x) if self._has_shares else x

    def log_derivative(self, x: Tensor) -> Tensor:
        """Logarithm of dz/dx; shape ``(n, variables)``."""
        curve = -0.5 * torch.log(x**2 + self.softening**2)
        slope = torch.where(self.curved, curve, torch.zeros_like(x))
        if self._has_shares:
            inside = x.clamp(_SMALLEST_SHARE, 1 - _SMALLEST_SHARE)
            slope = torch.where(self.share, -torch.log(inside) - torch.log1p(-inside), slope)
        return slope - torch.log(self.scale)


class Mechanism(nn.Module):
    """One variable given its parents.

    Parameters
    ----------
    own, parents
        Standardisations of the variable and of its parents; a root has no parents.
    categories
        Number of categories of each parent, 0 if it is continuous.
    """

    def __init__(
        self,
        own: Standardisation,
        parents: Standardisation | None,
        categories: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.own, self.parents, self.categories = own, parents, categories

    @property
    def width(self) -> int:
        """Number of columns of `inputs`."""
        return sum(count or 1 for count in self.categories)

    def inputs(self, parents: Tensor) -> Tensor:
        """Parents as a mechanism sees them: standardised, categories as indicators."""
        if self.parents is None:
            return parents
        z: Tensor = self.parents(parents)
        if not any(self.categories):
            return z
        parts = []
        for k, count in enumerate(self.categories):
            if count:
                parts.append(nn.functional.one_hot(parents[:, k].long(), count).to(z))
            else:
                parts.append(z[:, k : k + 1])
        return torch.cat(parts, dim=1)

    def noise(self, x: Tensor, parents: Tensor) -> tuple[Tensor, Tensor]:
        """Abduct the noise.

        Parameters
        ----------
        x
            Values of the variable, shape ``(n,)``.
        parents
            Values of its parents, shape ``(n, number of parents)``.

        Returns
        -------
        tuple[Tensor, Tensor]
            Noise u and log du/dx, each of shape ``(n,)``.
        """
        raise NotImplementedError

    def value(self, u: Tensor, parents: Tensor) -> Tensor:
        """Variable from its noise and parents; inverse of `noise`."""
        raise NotImplementedError

    def moved(self, x: Tensor, parents: Tensor, changed: Tensor) -> Tensor:
        """Variable that the noise behind `x` gives with other parents: abduction and prediction.

        Parameters
        ----------
        x, parents
            As of `noise`.
        changed
            Values of the parents after an intervention.
        """
        return self.value(self.noise(x.double(), parents)[0], changed)

    def log_prob(self, x: Tensor, parents: Tensor) -> Tensor:
        """Log density per unit of the variable, shape ``(n,)``."""
        u, log_derivative = self.noise(x, parents)
        return log_derivative - 0.5 * u**2 - _LOG_SQRT_2PI


class SplineMechanism(Mechanism):
    """Conditional spline flow: ``u = spline((z - location) / scale)``, all parts by one network.

    Parameters
    ----------
    own, parents, categories
        See `Mechanism`.
    config
        Shape.

    Notes
    -----
    The spline is that of Durkan et al. 2019, arXiv:1906.04032, on [-5, 5] with linear tails. A
    root has constants in place of the network.
    """

    def __init__(
        self,
        own: Standardisation,
        parents: Standardisation | None,
        categories: tuple[int, ...],
        config: MechanismConfig,
    ) -> None:
        super().__init__(own, parents, categories)
        self.bins = config.bins
        outputs = 2 + 3 * config.bins - 1
        self.constants = nn.Parameter(torch.zeros(outputs))
        self.network: nn.Module | None = None
        if parents is not None:
            last = nn.Linear(config.hidden, outputs, bias=False)
            # Start from the identity: gradients then shape the spline, not undo a random one.
            nn.init.normal_(last.weight, std=1e-3)
            self.network = nn.Sequential(
                nn.Linear(self.width, config.hidden),
                nn.SiLU(),
                nn.Linear(config.hidden, config.hidden),
                nn.SiLU(),
                last,
            )

    def _shape(self, parents: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        raw = self.constants.expand(parents.shape[0], -1)
        if self.network is not None:
            raw = raw + self.network(self.inputs(parents).to(raw.dtype))
        raw = raw.to(dtype)
        log_scale = _MAX_LOG_SCALE * torch.tanh(raw[:, 1] / _MAX_LOG_SCALE)
        return raw[:, 0], log_scale, raw[:, 2:]

    def _spline(self, raw: Tensor) -> zuko.transforms.MonotonicRQSTransform:
        widths, heights, slopes = torch.split(raw, [self.bins, self.bins, self.bins - 1], dim=-1)
        return zuko.transforms.MonotonicRQSTransform(widths, heights, slopes)

    def noise(self, x: Tensor, parents: Tensor) -> tuple[Tensor, Tensor]:
        """Abduct the noise, in the precision of `x`; see `Mechanism.noise`."""
        location, log_scale, raw = self._shape(parents, x.dtype)
        column = x[:, None]
        u = (self.own(column)[:, 0] - location) * torch.exp(-log_scale)
        log_derivative = self.own.log_derivative(column)[:, 0] - log_scale
        u, spline_derivative = self._spline(raw).call_and_ladj(u)
        return u, log_derivative + spline_derivative

    def value(self, u: Tensor, parents: Tensor) -> Tensor:
        """Variable from its noise and parents; inverse of `noise`."""
        location, log_scale, raw = self._shape(parents, u.dtype)
        u = self._spline(raw).inv(u)
        return self.own.inverse((u * torch.exp(log_scale) + location)[:, None])[:, 0]
