"""Categorical mechanisms: logits from the parents, Gumbel noise, exact posterior.

Belongs here: the Gumbel-max mechanism and its abduction.
Does not belong here: ordered or continuous outcomes.

A category is the largest of ``log p_k + G_k`` with independent standard Gumbel noise G. Given the
observed category, the noise is drawn exactly, top-down (Maddison, Tarlow and Minka 2014,
arXiv:1411.0030), which makes counterfactuals of categories stable: raising the odds of what
happened never undoes it (Oberst and Sontag 2019, arXiv:1905.05824).
"""

import torch
from torch import Tensor, nn

from acie_pipelines.causal.mechanisms import Mechanism, MechanismConfig, Standardisation

__all__ = ["CategoricalMechanism", "gumbel", "gumbel_posterior"]


def gumbel(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Independent standard Gumbel draws, in double precision on the CPU."""
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
    tiny = torch.finfo(torch.float64).tiny
    return -torch.log(-torch.log(uniform.clamp_min(tiny)))


def gumbel_posterior(logits: Tensor, observed: Tensor, generator: torch.Generator) -> Tensor:
    """Draw Gumbel noise given which category was largest.

    Parameters
    ----------
    logits
        Normalised log probabilities, shape ``(n, categories)``.
    observed
        Category of each row, shape ``(n,)``.
    generator
        CPU source of randomness.

    Returns
    -------
    Tensor
        Noise of shape ``(n, categories)``, double precision;
        ``argmax(logits + noise) == observed`` in every row.
    """
    logits = logits.double()
    top = gumbel((len(logits), 1), generator).to(logits.device)
    free = gumbel((len(logits), logits.shape[1]), generator).to(logits.device) + logits
    # A Gumbel of location `logits` truncated above at `top`.
    below = -torch.logaddexp(-top, -free)
    values = below.scatter(1, observed[:, None], top)
    return values - logits


class CategoricalMechanism(Mechanism):
    """One category given the parents.

    Parameters
    ----------
    own, parents, categories
        See `Mechanism`; the variable's own standardisation is not used.
    count
        Number of categories of the variable.
    config
        Shape.
    """

    def __init__(
        self,
        own: Standardisation,
        parents: Standardisation | None,
        categories: tuple[int, ...],
        count: int,
        config: MechanismConfig,
    ) -> None:
        super().__init__(own, parents, categories)
        self.count = count
        self.constants = nn.Parameter(torch.zeros(count))
        self.network: nn.Module | None = None
        if parents is not None:
            last = nn.Linear(config.hidden, count, bias=False)
            nn.init.normal_(last.weight, std=1e-3)
            self.network = nn.Sequential(
                nn.Linear(self.width, config.hidden),
                nn.SiLU(),
                nn.Linear(config.hidden, config.hidden),
                nn.SiLU(),
                last,
            )

    def logits(self, parents: Tensor) -> Tensor:
        """Normalised log probabilities, shape ``(n, categories)``."""
        raw = self.constants.expand(parents.shape[0], -1)
        if self.network is not None:
            raw = raw + self.network(self.inputs(parents).to(raw.dtype))
        return torch.log_softmax(raw, dim=1)

    def log_prob(self, x: Tensor, parents: Tensor) -> Tensor:
        """Log probability of the observed category, shape ``(n,)``."""
        return self.logits(parents).gather(1, x.long()[:, None])[:, 0]

    def posterior_noise(self, x: Tensor, parents: Tensor, generator: torch.Generator) -> Tensor:
        """Draw the noise behind observed categories, shape ``(n, categories)``."""
        return gumbel_posterior(self.logits(parents), x.long(), generator)

    def category(self, noise: Tensor, parents: Tensor) -> Tensor:
        """Category from its noise and parents, as a number."""
        return (self.logits(parents).double() + noise).argmax(dim=1).double()
