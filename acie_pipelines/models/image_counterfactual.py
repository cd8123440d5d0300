"""What a galaxy's stamp would look like under another morphology, flux or size.

Belongs here: the graph of a stamp, abduction, intervention, prediction.
Does not belong here: light profiles and their fit (`acie_pipelines.models.image_decoder`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import torch
from torch import Tensor

from acie_pipelines.causal.graph import CausalGraph, Node
from acie_pipelines.causal.interventions import Intervention
from acie_pipelines.errors import ConfigurationError, ModelError
from acie_pipelines.models.image_decoder import (
    ARM_LATENTS,
    LATENTS,
    RADIUS,
    StampDecoder,
    light_and_residual,
    linear_fit,
)
from acie_pipelines.models.intervals import central_interval, check_draws

__all__ = [
    "ELLIPTICAL",
    "SPIRAL",
    "ImageEngine",
    "StampCounterfactual",
    "StampPosterior",
    "stamp_graph",
]

SPIRAL: Final = 0.0
ELLIPTICAL: Final = 1.0

_LN_10: Final = 2.302585092994046
_SHARE: Final = 0.9
_HALF_WIDTH_SIGMAS: Final = 1.6449


@cache
def stamp_graph() -> CausalGraph:
    """Graph of what makes a stamp.

    The three are causes of the picture and not of each other: how a galaxy's flux and size follow
    from its morphology is the business of the galaxy's own graph.
    """
    return CausalGraph(
        (
            Node(
                "morphology", "", False, (SPIRAL, ELLIPTICAL), description="0 spiral, 1 elliptical"
            ),
            Node("flux", "", True, (-6.0, 12.0), description="Light on the stamp, sky subtracted"),
            Node("size", "pix", True, (-0.3, 1.8), description="Effective radius"),
        )
    )


@dataclass(frozen=True)
class StampPosterior:
    """What stamps say about the galaxies on them.

    Attributes
    ----------
    stamps
        As given, float32, shape ``(n, bands, 88, 88)``.
    morphology
        As given, shape ``(n,)``.
    latent
        Draws, columns of `LATENTS`, shape ``(draws, n, 6)``.
    weight
        Of pixels in the fit, shape ``(n, bands, 88, 88)``.
    structure_share
        Part of the residual that belongs to the galaxy and not to noise or neighbours, between 0
        and 1, shape ``(n, bands, 88, 88)``.
    structure
        Scatter of the galaxy's light about the smooth model, relative to it, shape ``(n,)``.
    """

    stamps: Tensor
    morphology: Tensor
    latent: Tensor
    weight: Tensor
    structure_share: Tensor
    structure: Tensor


@dataclass(frozen=True)
class StampCounterfactual:
    """Answer to one question about each stamp; tensors have shape ``(n, bands, 88, 88)``.

    Attributes
    ----------
    factual
        As given.
    counterfactual
        Mean over the posterior; the noise and the neighbours are those of the factual stamp.
    sample
        One draw of the posterior: a stamp with arms even where their phase is unknown, which the
        mean blurs.
    lower, upper
        Ends of the 90 % interval of each pixel.
    """

    factual: Tensor
    counterfactual: Tensor
    sample: Tensor
    lower: Tensor
    upper: Tensor


class ImageEngine:
    """Abduction, intervention and prediction for stamps.

    Parameters
    ----------
    draws
        From the posterior of each stamp; at least 19, whose extremes bound 90 %.
    batch
        Stamps at once.

    Notes
    -----
    A stamp is light of a smooth galaxy, structure in that light, sky, and noise. Structure scales,
    grows and shrinks with the galaxy, and is lost with its morphology; sky and noise stay. Without
    an intervention the answer is the factual stamp, bit by bit.
    """

    def __init__(self, *, draws: int = 39, batch: int = 16) -> None:
        check_draws(draws, _SHARE)
        self._draws, self._batch = draws, batch
        self._decoder = StampDecoder()
        self.graph = stamp_graph()

    def abduct(
        self, stamps: Tensor, morphology: Tensor, noise: Tensor, *, seed: int
    ) -> StampPosterior:
        """Infer galaxies from stamps.

        Parameters
        ----------
        stamps
            Shape ``(n, bands, 88, 88)``.
        morphology
            `SPIRAL` or `ELLIPTICAL`, shape ``(n,)``.
        noise
            Standard deviation per pixel, shape ``(n, bands)``.
        seed
            Of the draws.

        Raises
        ------
        ModelError
            If shapes or values do not fit, or a stamp holds no galaxy.
        """
        self._check(stamps, morphology, noise)
        generator = torch.Generator().manual_seed(seed)
        parts = [
            self._abduct(*some, generator)
            for some in zip(
                torch.split(stamps.float(), self._batch),
                torch.split(morphology.float(), self._batch),
                torch.split(noise.float(), self._batch),
                strict=True,
            )
        ]
        return StampPosterior(
            stamps.float(),
            morphology.float(),
            torch.cat([part.latent for part in parts], dim=1),
            torch.cat([part.weight for part in parts]),
            torch.cat([part.structure_share for part in parts]),
            torch.cat([part.structure for part in parts]),
        )

    def predict(self, posterior: StampPosterior, do: Sequence[Intervention]) -> StampCounterfactual:
        """Say what the stamps would have been.

        Parameters
        ----------
        posterior
            As from `abduct`.
        do
            Interventions on nodes of `stamp_graph`, at most one per node.

        Raises
        ------
        ConfigurationError
            If an intervention leaves the support of its node.
        ModelError
            If a node is named twice.
        """
        targets = self._targets(do)
        chunks = torch.split(torch.arange(len(posterior.stamps)), self._batch)
        parts = [self._predict(_rows(posterior, rows), targets) for rows in chunks]
        return StampCounterfactual(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def counterfactual(
        self,
        stamps: Tensor,
        morphology: Tensor,
        noise: Tensor,
        do: Sequence[Intervention],
        *,
        seed: int,
    ) -> StampCounterfactual:
        """Abduct and predict in one call; parameters as there."""
        self._targets(do)
        return self.predict(self.abduct(stamps, morphology, noise, seed=seed), do)

    def _check(self, stamps: Tensor, morphology: Tensor, noise: Tensor) -> None:
        count, bands = stamps.shape[:2]
        if morphology.shape != (count,) or noise.shape != (count, bands):
            raise ModelError(
                "stamps", "do not match morphology or noise", "give (n,) and (n, bands) of them"
            )
        if not ((morphology == SPIRAL) | (morphology == ELLIPTICAL)).all():
            raise ModelError("morphology", "is neither spiral nor elliptical", "give 0 or 1")
        if not torch.isfinite(stamps).all() or not (noise > 0).all():
            raise ModelError("stamps", "are not finite or have no noise", "mask or repair them")

    def _abduct(
        self, stamps: Tensor, morphology: Tensor, noise: Tensor, generator: torch.Generator
    ) -> StampPosterior:
        bands = stamps.shape[1]
        mean_noise = noise.square().sum(dim=1).sqrt() / bands
        fit = self._decoder.fit(stamps.mean(dim=1), morphology, mean_noise)
        root = torch.linalg.cholesky(fit.covariance)
        normal = torch.randn(self._draws, len(stamps), len(LATENTS), generator=generator)
        latent = fit.latent + torch.einsum("njk,dnk->dnj", root, normal)
        phase = torch.rand(normal.shape[:2], generator=generator)
        pitch = torch.logit(torch.rand(normal.shape[:2], generator=generator), eps=1e-6)
        unseen = morphology == ELLIPTICAL
        for column, prior in zip(ARM_LATENTS, (phase, pitch), strict=True):
            latent[..., column] = torch.where(unseen, prior, latent[..., column])
        weight = fit.weight[:, None].expand_as(stamps)
        unit = self._decoder.unit_stamps(fit.latent, morphology)[:, None]
        model, _ = light_and_residual(stamps, unit, weight)
        expected = (fit.structure[:, None, None, None] * model) ** 2
        share = expected / (expected + noise[:, :, None, None] ** 2)
        return StampPosterior(stamps, morphology, latent, weight, share, fit.structure)

    def _targets(self, do: Sequence[Intervention]) -> dict[str, Intervention]:
        targets = {intervention.node: intervention for intervention in do}
        if len(targets) != len(do):
            raise ModelError("intervention", "names a node twice", "merge the two")
        for intervention in do:
            intervention.check(self.graph)
        morphology = targets.get("morphology")
        if morphology is not None and (
            morphology.kind != "set" or morphology.value not in (SPIRAL, ELLIPTICAL)
        ):
            raise ConfigurationError(
                "intervention on morphology",
                "only a category can be set",
                f"set it to {SPIRAL:g} (spiral) or {ELLIPTICAL:g} (elliptical)",
            )
        return targets

    def _predict(
        self, posterior: StampPosterior, targets: dict[str, Intervention]
    ) -> tuple[Tensor, ...]:
        stamps = posterior.stamps
        changes = torch.stack(
            [self._change(posterior, latent, targets) for latent in posterior.latent]
        )
        low, high = central_interval(changes, _SHARE)
        mean = changes.mean(dim=0)
        # What structure another morphology would show is unknown; how much is not.
        unknown = _HALF_WIDTH_SIGMAS * self._unknown_structure(posterior, targets, mean)
        low = mean - torch.sqrt((mean - low) ** 2 + unknown**2)
        high = mean + torch.sqrt((high - mean) ** 2 + unknown**2)
        return stamps, stamps + mean, stamps + changes[0], stamps + low, stamps + high

    def _change(
        self, posterior: StampPosterior, latent: Tensor, targets: dict[str, Intervention]
    ) -> Tensor:
        """Counterfactual less factual light under one draw."""
        unit = self._decoder.unit_stamps(latent, posterior.morphology)[:, None]
        amplitude, sky = linear_fit(posterior.stamps, unit, posterior.weight)
        amplitude, sky = amplitude[..., None, None], sky[..., None, None]
        model = amplitude * unit
        structure = posterior.structure_share * (posterior.stamps - model - sky)
        light = model + structure
        flux = light.sum(dim=(2, 3), keepdim=True)
        morphology, kept = posterior.morphology, structure
        if "morphology" in targets:
            morphology = torch.full_like(morphology, targets["morphology"].value)
            same = (morphology == posterior.morphology)[:, None, None, None]
            kept = torch.where(same, structure, 0.0)
        growth = _ratio(targets.get("size"), latent[:, RADIUS] / _LN_10)
        brightening = _ratio(targets.get("flux"), flux.sum(dim=(1, 2, 3)).log10())
        moved = latent.clone()
        moved[:, RADIUS] += growth.log()
        changed = amplitude * self._decoder.unit_stamps(moved, morphology)[:, None]
        changed = changed + torch.where(
            (growth == 1.0)[:, None, None, None], kept, _resized(kept, growth)
        )
        wanted = flux * brightening[:, None, None, None]
        # The same sum as above, so that nothing changes where nothing was asked.
        return changed * (wanted / changed.sum(dim=(2, 3), keepdim=True)) - light

    def _unknown_structure(
        self, posterior: StampPosterior, targets: dict[str, Intervention], change: Tensor
    ) -> Tensor:
        if "morphology" not in targets:
            return torch.zeros_like(change)
        switched = posterior.morphology != targets["morphology"].value
        scatter = torch.where(switched, posterior.structure, 0.0)[:, None, None, None]
        sky = posterior.stamps.flatten(2).quantile(0.05, dim=2)[:, :, None, None]
        return scatter * (posterior.stamps + change - sky).clamp_min(0.0)


def _rows(posterior: StampPosterior, rows: Tensor) -> StampPosterior:
    return StampPosterior(
        posterior.stamps[rows],
        posterior.morphology[rows],
        posterior.latent[:, rows],
        posterior.weight[rows],
        posterior.structure_share[rows],
        posterior.structure[rows],
    )


def _ratio(intervention: Intervention | None, factual_log10: Tensor) -> Tensor:
    """Give new over old quantity; exactly one without an intervention."""
    if intervention is None:
        return torch.ones_like(factual_log10)
    if intervention.kind == "shift":
        return torch.full_like(factual_log10, 10**intervention.value)
    return 10 ** (intervention.value - factual_log10)


def _resized(images: Tensor, growth: Tensor) -> Tensor:
    """Images grown about their centre with their sum kept, but for what leaves them."""
    linear = torch.zeros(len(images), 2, 3)
    linear[:, 0, 0] = linear[:, 1, 1] = 1 / growth
    grid = torch.nn.functional.affine_grid(linear, list(images.shape), align_corners=False)
    spread = torch.nn.functional.grid_sample(images, grid, align_corners=False)
    return spread / growth[:, None, None, None] ** 2
