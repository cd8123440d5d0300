"""Counterfactual spectra without physics: what a researcher would use otherwise.

Belongs here: regression of principal components, the conditional autoencoder. Does not belong here:
scores. Every peer is given the true parents, which our engine has to infer.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

import torch
from torch import Tensor

from acie_pipelines.models.vae import ConditionalVAE, VAEConfig, train_vae

__all__ = ["SPECTRAL_PEERS", "SpectralAnswer"]

_COMPONENTS: Final = 16
_EPOCHS: Final = 20
_FLOOR: Final = 1e-3

SpectralAnswer = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Flux, parents and changed parents to counterfactual flux."""


def _log_flux(flux: Tensor) -> Tensor:
    return torch.log(torch.maximum(flux, _FLOOR * flux.mean(dim=1, keepdim=True)))


def _linear(parents: Tensor) -> Tensor:
    return torch.cat([parents, torch.ones(len(parents), 1)], dim=1)


def _quadratic(parents: Tensor) -> Tensor:
    rows, columns = torch.triu_indices(parents.shape[1], parents.shape[1])
    return torch.cat([_linear(parents), parents[:, rows] * parents[:, columns]], dim=1)


def _components(
    flux: Tensor, parents: Tensor, features: Callable[[Tensor], Tensor], seed: int
) -> SpectralAnswer:
    """Regress principal components of log flux on the parents; keep the residuals."""
    log_flux = _log_flux(flux)
    mean = log_flux.mean(dim=0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        basis = torch.pca_lowrank(log_flux - mean, _COMPONENTS, niter=4)[2]
    centre, scale = parents.mean(dim=0), parents.std(dim=0)
    inputs = features((parents - centre) / scale)
    coefficients = torch.linalg.lstsq(inputs, (log_flux - mean) @ basis).solution

    def answer(observed: Tensor, factual: Tensor, changed: Tensor) -> Tensor:
        step = features((changed - centre) / scale) - features((factual - centre) / scale)
        kept = (_log_flux(observed) - mean) @ basis
        return torch.exp(mean + (kept + step @ coefficients) @ basis.T)

    return answer


def _pca_linear(flux: Tensor, parents: Tensor, *, seed: int) -> SpectralAnswer:
    return _components(flux, parents, _linear, seed)


def _pca_quadratic(flux: Tensor, parents: Tensor, *, seed: int) -> SpectralAnswer:
    return _components(flux, parents, _quadratic, seed)


def _conditional_vae(flux: Tensor, parents: Tensor, *, seed: int) -> SpectralAnswer:
    log_flux = _log_flux(flux)
    mean, scale = log_flux.mean(dim=0), log_flux.std(dim=0).mean()
    centre, spread = parents.mean(dim=0), parents.std(dim=0)
    model = ConditionalVAE(VAEConfig(flux.shape[1], parents.shape[1]), seed=seed)
    train_vae(
        model, (log_flux - mean) / scale, (parents - centre) / spread, epochs=_EPOCHS, seed=seed
    )

    def answer(observed: Tensor, factual: Tensor, changed: Tensor) -> Tensor:
        shape = (_log_flux(observed) - mean) / scale
        given = ((factual - centre) / spread, (changed - centre) / spread)
        return torch.exp(mean + scale * model.counterfactual(shape, *given))

    return answer


def _no_change(flux: Tensor, parents: Tensor, *, seed: int) -> SpectralAnswer:
    return lambda observed, factual, changed: observed


SPECTRAL_PEERS: Final[Mapping[str, Callable[..., SpectralAnswer]]] = MappingProxyType(
    {
        "no change": _no_change,
        "PCA16 + linear": _pca_linear,
        "PCA16 + quadratic": _pca_quadratic,
        "conditional VAE": _conditional_vae,
    }
)
"""Name to ``fit(flux, parents, *, seed)``."""
