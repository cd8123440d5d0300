"""Counterfactual spectra: abduct a galaxy from its light, intervene, render.

Belongs here: the engine and its answers. Does not belong here: the inference it calls
(`acie_pipelines.models.refinement`), mechanisms, or scores.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from acie_pipelines.causal.interventions import Intervention
from acie_pipelines.errors import ModelError
from acie_pipelines.models.decoder import SpectralDecoder
from acie_pipelines.models.importance import exact_draws
from acie_pipelines.models.intervals import central_interval
from acie_pipelines.models.latents import LATENTS, galaxies
from acie_pipelines.models.mechanisms import Mechanisms
from acie_pipelines.models.mode_search import find_mode, largest_chi_square
from acie_pipelines.models.outliers import exogenous_residual
from acie_pipelines.models.parameters import constrain, unconstrain
from acie_pipelines.models.posterior import AmortisedPosterior
from acie_pipelines.models.refinement import LaplacePosterior, refine
from acie_pipelines.models.unseen import complete
from acie_pipelines.simulation.cosmology import age_of_universe_gyr
from acie_pipelines.simulation.galaxy import QUENCHED, STAR_FORMING
from acie_pipelines.simulation.mechanisms import CONTINUOUS

__all__ = [
    "CounterfactualSpectra",
    "SpectralEngine",
    "SpectralPosterior",
]

_STATE: Final = "star_formation_state"
_LARGEST_AGE_SHARE: Final = 0.99


@dataclass(frozen=True)
class SpectralPosterior:
    """What a spectrum says about its galaxy.

    Attributes
    ----------
    values
        Equally probable draws of every node, shape ``(draws, n)``.
    amplitudes
        Of the nuisance modes, shape ``(draws, n, modes)``.
    residual
        Features the decoder does not know, over its flux, shape ``(n, pixels)``.
    effective_draws
        Independent draws that the weighted ones are worth (Kish), shape ``(n,)``.
    chi_square
        Of the mode per seen pixel, shape ``(n,)``.
    reliable
        Whether the weights and the fit allow trust in the intervals, shape ``(n,)``.
    """

    values: dict[str, Tensor]
    amplitudes: Tensor
    residual: Tensor
    effective_draws: Tensor
    chi_square: Tensor
    reliable: Tensor


@dataclass(frozen=True)
class CounterfactualSpectra:
    """Answers to one question.

    Attributes
    ----------
    values
        Draws of every node, shape ``(draws, n)``.
    flux
        Draws of the noise-free spectrum, shape ``(draws, n, pixels)``.
    """

    values: dict[str, Tensor]
    flux: Tensor

    @property
    def median(self) -> Tensor:
        """Median of the draws, shape ``(n, pixels)``.

        The mean is no summary where some draws are quenched: less dust multiplies the flux.
        """
        return self.flux.median(dim=0).values

    def expected_error(self, sigma: Tensor) -> Tensor:
        """Error of the median that the draws themselves expect, shape ``(n,)``.

        It is what the spectrum leaves open about the galaxy, and of a good posterior the least that
        any method can err by; root mean square over draws and pixels.

        Parameters
        ----------
        sigma
            Unit: the noise of each pixel, shape ``(n, pixels)``.
        """
        away = (self.flux - self.median) / sigma
        expected: Tensor = away.square().mean(dim=(0, 2)).sqrt()
        return expected

    def interval(self, share: float) -> tuple[Tensor, Tensor]:
        """Central interval of each pixel, shapes ``(n, pixels)``.

        Parameters
        ----------
        share
            Probability inside, such as 0.9.

        Raises
        ------
        ConfigurationError
            If there are too few draws; see `acie_pipelines.models.intervals.central_interval`.
        """
        return central_interval(self.flux, share)


class SpectralEngine:
    """Abduction, action and prediction for spectra on one grid.

    Parameters
    ----------
    posterior
        Amortised; gives the answer itself, or where refinement starts.
    decoder
        Model of the spectrum.
    mechanisms
        Known or learned.
    refinement_steps
        Linearisations of the spectrum on the way to the exact posterior; 0 trusts the network.
    """

    def __init__(
        self,
        posterior: AmortisedPosterior,
        decoder: SpectralDecoder,
        mechanisms: Mechanisms,
        *,
        refinement_steps: int = 40,
    ) -> None:
        if posterior.config.pixels != decoder.preset.pixels:
            raise ModelError("engine", "mixes grids", "train the posterior on the decoder's preset")
        self.posterior, self.decoder, self.mechanisms = posterior, decoder, mechanisms
        self.refinement_steps = refinement_steps

    @torch.no_grad()
    def abduct(
        self,
        flux: Tensor,
        ivar: Tensor,
        *,
        draws: int,
        seed: int,
        redshift: Tensor | None = None,
    ) -> SpectralPosterior:
        """Find the galaxies behind spectra.

        Parameters
        ----------
        flux
            [1e-17 erg/s/cm2/Angstrom], shape ``(n, pixels)``.
        ivar
            Inverse variance; zero marks a pixel as missing.
        draws
            Draws per galaxy.
        seed
            Of the draws.
        redshift
            Where to start from if it is known, shape ``(n,)``.
        """
        if self.refinement_steps == 0:
            return self._amortised(flux, ivar, draws, seed)
        fit = self.fit(flux, ivar, seed=seed, redshift=redshift)
        model = self.decoder.render(fit.parameters, fit.amplitudes)
        residual = exogenous_residual(flux, ivar, model)
        odd = torch.nonzero((residual != 0).any(dim=1))[:, 0]
        if odd.numel():
            feature = residual != 0
            ivar = ivar * ~feature
            again = refine(
                self.decoder,
                flux[odd],
                ivar[odd],
                fit.parameters[odd],
                steps=self.refinement_steps,
            )
            fit = fit.replaced(odd, again)
            model = self.decoder.render(fit.parameters, fit.amplitudes)
            residual = exogenous_residual(flux, ivar, model, feature)
        return self._weighted(fit, flux, ivar, residual, draws, seed)

    @torch.no_grad()
    def fit(
        self, flux: Tensor, ivar: Tensor, *, seed: int, redshift: Tensor | None = None
    ) -> LaplacePosterior:
        """Find the mode; see `acie_pipelines.models.mode_search.find_mode`.

        Parameters
        ----------
        flux, ivar, seed, redshift
            See `abduct`.
        """
        return find_mode(
            self.posterior,
            self.decoder,
            flux,
            ivar,
            steps=self.refinement_steps,
            seed=seed,
            redshift=redshift,
        )

    def _amortised(self, flux: Tensor, ivar: Tensor, draws: int, seed: int) -> SpectralPosterior:
        parameters = self.posterior.sample(flux, ivar, draws, seed=seed)
        count = len(flux)
        flat = {name: column.flatten() for name, column in constrain(parameters).items()}
        # The network knows no bounds; a galaxy older than the universe has no noise to abduct.
        oldest = torch.log10(_LARGEST_AGE_SHARE * age_of_universe_gyr(flat["redshift"]))
        flat["age"] = torch.minimum(flat["age"], oldest)
        values = complete(flat, seed=seed)
        amplitudes = parameters.new_zeros(draws, count, self.decoder.modes)
        unknown = torch.full((count,), torch.nan, dtype=torch.float64)
        return SpectralPosterior(
            values={name: column.reshape(draws, count) for name, column in values.items()},
            amplitudes=amplitudes,
            residual=torch.zeros_like(flux),
            effective_draws=unknown,
            chi_square=unknown,
            reliable=torch.zeros(count, dtype=torch.bool),
        )

    def _weighted(
        self,
        fit: LaplacePosterior,
        flux: Tensor,
        ivar: Tensor,
        residual: Tensor,
        draws: int,
        seed: int,
    ) -> SpectralPosterior:
        found = exact_draws(self.decoder, flux, ivar, fit, draws, seed=seed)
        flat, _ = galaxies(found.coordinates.reshape(-1, len(LATENTS)), found.state.flatten())
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(found.state.numel(), generator=generator, dtype=torch.float64)
        flat["black_hole_mass"] = CONTINUOUS["black_hole_mass"].value(noise, flat)
        return SpectralPosterior(
            values={name: column.reshape(found.state.shape) for name, column in flat.items()},
            amplitudes=found.amplitudes,
            residual=residual,
            effective_draws=found.effective,
            chi_square=fit.chi_square,
            reliable=found.trusted & (fit.chi_square < largest_chi_square(ivar)),
        )

    @torch.no_grad()
    def counterfactual(
        self,
        posterior: SpectralPosterior,
        do: Sequence[Intervention],
        *,
        seed: int,
        hold_state: bool = False,
    ) -> CounterfactualSpectra:
        """Say what the spectra would have been.

        Parameters
        ----------
        posterior
            From `abduct`.
        do
            Interventions.
        seed
            Of noise that a category only bounds.
        hold_state
            Whether to set the star formation state to what it is in each draw as well.
        """
        values = self.intervene(posterior, do, seed=seed, hold_state=hold_state)
        return CounterfactualSpectra(values, self.render(posterior, values))

    def intervene(
        self,
        posterior: SpectralPosterior,
        do: Sequence[Intervention],
        *,
        seed: int,
        hold_state: bool = False,
    ) -> dict[str, Tensor]:
        """Say what the properties would have been, shape ``(draws, n)``; see `counterfactual`."""
        shape = posterior.values[_STATE].shape
        flat = {name: column.flatten() for name, column in posterior.values.items()}
        if hold_state:
            values = {name: column.clone() for name, column in flat.items()}
            for state in (STAR_FORMING, QUENCHED):
                rows = flat[_STATE] == state
                part = {name: column[rows] for name, column in flat.items()}
                held = [*do, Intervention(_STATE, "set", state)]
                for name, column in self.mechanisms.counterfactual(part, held, seed=seed).items():
                    values[name][rows] = column
        else:
            values = self.mechanisms.counterfactual(flat, do, seed=seed)
        return {name: column.reshape(shape) for name, column in values.items()}

    @torch.no_grad()
    def render(self, posterior: SpectralPosterior, values: Mapping[str, Tensor]) -> Tensor:
        """Spectra of these properties with all else as it was, shape ``(draws, n, pixels)``.

        Parameters
        ----------
        posterior
            Gives the nuisance modes and the unknown features.
        values
            Every node, shape ``(draws, n)``.
        """
        shape = values[_STATE].shape
        flat = {name: column.flatten() for name, column in values.items()}
        amplitudes = posterior.amplitudes.reshape(len(flat[_STATE]), -1)
        flux = self.decoder.render(unconstrain(flat), amplitudes)
        return flux.reshape(*shape, -1) * (1 + posterior.residual)
