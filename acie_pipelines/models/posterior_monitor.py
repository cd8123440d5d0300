"""What a posterior in training draws: its entropy, and the laws its draws break.

Belongs here: measures on one batch of draws and the end of a training that has collapsed.
Does not belong here: the training loop, or the estimate of entropy (`acie_native`).

If a posterior is right, one draw for each of many spectra is distributed as the galaxies behind
them. A posterior that has collapsed onto a few modes or a subspace draws from less, and the entropy
falls without limit.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from acie_native import EntropyEstimate, distribution_entropy
from acie_pipelines.errors import ModelError
from acie_pipelines.models.decoder import SpectralDecoder
from acie_pipelines.models.parameters import constrain
from acie_pipelines.models.posterior import AmortisedPosterior
from acie_pipelines.models.posterior_training import LabelledSpectra
from acie_pipelines.physics.layers import balmer_residual, negative_flux
from acie_pipelines.simulation.cosmology import age_of_universe_gyr
from acie_pipelines.simulation.galaxy import galaxy_graph

__all__ = ["CollapseMonitor"]

_ROWS: Final = 512
_COMPONENTS: Final = 8
_ERRORS: Final = 3.0
_FAINTEST: Final = 1e-30
_LEAST_POSSIBLE: Final = 0.5


@dataclass(frozen=True)
class _Space:
    """A space in which draws are compared with the galaxies that were observed."""

    location: Tensor
    scale: Tensor
    basis: Tensor
    reference: EntropyEstimate

    @classmethod
    def of(cls, truth: Tensor, basis: Tensor) -> "_Space":
        projected = truth @ basis
        location, scale = projected.mean(dim=0), projected.std(dim=0)
        if not bool((scale > 0).all()):
            raise ModelError("validation spectra", "fill no volume", "simulate more galaxies")
        return cls(location, scale, basis, _entropy((projected - location) / scale))

    def entropy(self, draws: Tensor) -> EntropyEstimate:
        return _entropy((draws @ self.basis - self.location) / self.scale)


def _entropy(samples: Tensor) -> EntropyEstimate:
    return distribution_entropy(np.ascontiguousarray(samples.numpy(), dtype=np.float32))


class CollapseMonitor:
    """Compares draws for validation spectra with the galaxies behind them.

    Parameters
    ----------
    validation
        At least 40 spectra, of which 512 are looked at.
    decoder
        Renders the draws.
    most_nats_lost
        Entropy that draws may lack; beyond it, and beyond three standard errors, the posterior has
        collapsed. Six nats in eight dimensions are half the width in each.
    seed
        Of pixel noise and draws.

    Raises
    ------
    ModelError
        If the validation spectra fill no volume.
    """

    def __init__(
        self,
        validation: LabelledSpectra,
        decoder: SpectralDecoder,
        *,
        most_nats_lost: float = 6.0,
        seed: int = 0,
    ) -> None:
        self._decoder, self._limit, self._seed = decoder, most_nats_lost, seed
        part = validation.rows(slice(_ROWS))
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(part.clean.shape, generator=generator)
        self._flux, self._ivar = part.clean + part.sigma * noise, part.sigma**-2
        light = torch.log(part.clean.clamp_min(_FAINTEST)).double()
        _, _, basis = torch.linalg.svd(light - light.mean(dim=0), full_matrices=False)
        self._spaces = {
            "latent": _Space.of(
                part.parameters, torch.eye(part.parameters.shape[1], dtype=torch.float64)
            ),
            "decoded": _Space.of(light, basis[:_COMPONENTS].T),
        }

    @torch.no_grad()
    def __call__(self, model: AmortisedPosterior) -> dict[str, float]:
        """Measure one draw per spectrum.

        Returns
        -------
        dict[str, float]
            ``entropy.<space>`` and ``entropy.<space>.lost`` against the observed galaxies [nats]
            of unconstrained parameters (``latent``) and principal components of log flux
            (``decoded``); ``physics.<law>`` of the rendered draws. What needs rendering is absent
            as long as most draws lie outside the galaxy's support, as they may at first.

        Raises
        ------
        ModelError
            If the posterior has collapsed, or draws what is no number.
        """
        device = next(model.parameters()).device
        drawn = model.sample(self._flux.to(device), self._ivar.to(device), 1, seed=self._seed)[0]
        drawn = drawn.cpu()
        if not bool(drawn.isfinite().all()):
            raise ModelError("posterior", "draws what is no number", "lower learning_rate")
        possible = torch.stack(
            [
                (column >= low) & (column <= high)
                for name, column in constrain(drawn).items()
                for low, high in (galaxy_graph().nodes[name].support,)
            ]
        ).all(dim=0)
        share = float(possible.double().mean())
        found = self._compare("latent", drawn) | {"physics.outside_support": 1 - share}
        return found if share < _LEAST_POSSIBLE else found | self._rendered(drawn[possible])

    def _compare(self, name: str, draws: Tensor) -> dict[str, float]:
        space = self._spaces[name]
        estimate = space.entropy(draws)
        lost = space.reference.nats - estimate.nats
        error = np.hypot(space.reference.standard_error, estimate.standard_error)
        # The error is not a number where the draws fill no volume: that is a collapse too.
        if lost > self._limit and not lost <= self._limit + _ERRORS * error:
            raise ModelError(
                "posterior",
                f"has collapsed: its {name} draws lack {lost:.1f} nats of the entropy of the "
                f"galaxies they stand for, more than {self._limit:g}",
                "train on more diverse spectra, with a lower learning_rate or another seed",
            )
        return {f"entropy.{name}": estimate.nats, f"entropy.{name}.lost": lost}

    def _rendered(self, drawn: Tensor) -> dict[str, float]:
        values = constrain(drawn)
        rendered = self._decoder.renderer.render(values)
        found = self._compare("decoded", torch.log(rendered.flux.clamp_min(_FAINTEST)).double())
        lines = rendered.line_fluxes
        balmer = balmer_residual(lines["h_alpha"], lines["h_beta"], lines["h_gamma"])
        oldest = torch.log10(age_of_universe_gyr(values["redshift"]))
        return found | {
            "physics.balmer": float(balmer.square().mean().sqrt()),
            "physics.negative_flux": float(negative_flux(rendered.flux).max()),
            "physics.older_than_universe": float((values["age"] > oldest).double().mean()),
        }
