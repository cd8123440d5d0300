"""Generic conditional variational autoencoder.

Belongs here: the model without any physics, a baseline and a user's choice. Does not belong here:
the physics-structured decoder (`acie_pipelines.models.decoder`).

Kingma & Welling 2013 (arXiv:1312.6114) with parents given to encoder and decoder, as in Pawlowski
et al. 2020 (arXiv:2006.06485). Its decoder is free to ignore its parents, and on spectra it does.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from acie_pipelines.errors import ConfigurationError
from acie_pipelines.physics.layers import physics_penalty

__all__ = ["ConditionalVAE", "Laws", "VAEConfig", "train_vae"]

Laws = Callable[[Tensor, Tensor], dict[str, Tensor]]
"""Decoded observation and parents, both standardised, to the residuals of each law."""

_LOG_VARIANCE_RANGE = (-12.0, 4.0)


@dataclass(frozen=True)
class VAEConfig:
    """Shape of the model.

    Attributes
    ----------
    obs_dim
        Samples of an observation.
    parents
        Number of parents.
    latent_dim
        Size of the latent state.
    hidden
        Width of both networks.
    beta
        Weight of the Kullback-Leibler term.
    physics_weight
        Weight of the mean squared residuals of physical laws, per sample of an observation, when
        laws are given to the training.
    """

    obs_dim: int
    parents: int
    latent_dim: int = 8
    hidden: int = 256
    beta: float = 1.0
    physics_weight: float = 0.0

    def __post_init__(self) -> None:
        sizes = (self.obs_dim, self.parents, self.latent_dim, self.hidden)
        if min(sizes) < 1 or min(self.beta, self.physics_weight) < 0:
            raise ConfigurationError(
                "model", "has a size below 1 or a negative weight", "give positive sizes"
            )


def _network(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.GELU(),
        nn.Linear(hidden, hidden),
        nn.GELU(),
        nn.Linear(hidden, outputs),
    )


class ConditionalVAE(nn.Module):
    """Observation given parents and a standard normal latent state.

    Parameters
    ----------
    config
        Shape.
    seed
        Of the initial weights.
    """

    def __init__(self, config: VAEConfig, *, seed: int) -> None:
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            inputs = config.obs_dim + config.parents
            self.encoder = _network(inputs, config.hidden, 2 * config.latent_dim)
            self.decoder = _network(
                config.latent_dim + config.parents, config.hidden, config.obs_dim
            )
        self.log_sigma = nn.Parameter(torch.tensor(-2.0))

    def encode(self, observed: Tensor, parents: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latent state, shapes ``(n, latent_dim)``."""
        encoded = self.encoder(torch.cat([observed, parents], dim=1))
        mean, log_variance = encoded.chunk(2, dim=1)
        return mean, log_variance.clamp(*_LOG_VARIANCE_RANGE)

    def decode(self, latent: Tensor, parents: Tensor) -> Tensor:
        """Observation, shape ``(n, obs_dim)``."""
        decoded: Tensor = self.decoder(torch.cat([latent, parents], dim=1))
        return decoded

    def loss(
        self,
        observed: Tensor,
        parents: Tensor,
        generator: torch.Generator,
        laws: Laws | None = None,
    ) -> tuple[Tensor, dict[str, float]]:
        """Negative evidence lower bound per sample of an observation [nats], and physics.

        Parameters
        ----------
        observed, parents
            Standardised, shapes ``(n, obs_dim)`` and ``(n, parents)``.
        generator
            Of latent noise.
        laws
            Residuals of a decoded observation, added as squares times ``physics_weight``.

        Returns
        -------
        tuple[Tensor, dict[str, float]]
            Loss, and the root mean square of each law's residuals.
        """
        mean, log_variance = self.encode(observed, parents)
        eps = torch.randn(mean.shape, generator=generator)
        decoded = self.decode(mean + eps * torch.exp(0.5 * log_variance), parents)
        away = observed - decoded
        misfit = 0.5 * (away * torch.exp(-self.log_sigma)).square() + self.log_sigma
        divergence = 0.5 * (mean.square() + torch.exp(log_variance) - 1 - log_variance)
        bound = misfit.sum(dim=1) + self.config.beta * divergence.sum(dim=1)
        loss = bound.mean() / self.config.obs_dim
        if laws is None:
            return loss, {}
        residuals = laws(decoded, parents)
        weights = dict.fromkeys(residuals, self.config.physics_weight)
        penalty, sizes = physics_penalty(residuals, weights)
        return loss + penalty, sizes

    @torch.no_grad()
    def counterfactual(self, observed: Tensor, parents: Tensor, changed: Tensor) -> Tensor:
        """Observation under other parents with the latent state kept at its mean."""
        mean, _ = self.encode(observed, parents)
        return self.decode(mean, changed)


def train_vae(
    model: ConditionalVAE,
    observed: Tensor,
    parents: Tensor,
    *,
    epochs: int,
    seed: int,
    batch: int = 256,
    learning_rate: float = 1e-3,
    laws: Laws | None = None,
) -> list[dict[str, float]]:
    """Maximise the evidence lower bound, with one cycle of the learning rate.

    Parameters
    ----------
    model
        Changed in place.
    observed, parents
        Standardised, shapes ``(n, obs_dim)`` and ``(n, parents)``.
    epochs, batch, learning_rate
        Length, rows per step and largest rate.
    seed
        Of row order and latent noise.
    laws
        See `ConditionalVAE.loss`.

    Returns
    -------
    list[dict[str, float]]
        Root mean square residual of each law in the last step of every epoch.
    """
    history = []
    generator = torch.Generator().manual_seed(seed)
    optimiser = torch.optim.Adam(model.parameters(), learning_rate)
    steps = epochs * -(-len(observed) // batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=steps)
    for _ in range(epochs):
        sizes: dict[str, float] = {}
        order = torch.randperm(len(observed), generator=generator)
        for start in range(0, len(order), batch):
            rows = order[start : start + batch]
            loss, sizes = model.loss(observed[rows], parents[rows], generator, laws)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            schedule.step()
        history.append(sizes)
    return history
