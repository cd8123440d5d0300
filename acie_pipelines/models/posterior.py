"""Amortised posterior of the physical parameters of a spectrum.

Belongs here: the network from pixels to a density of parameters, saving and loading it.
Does not belong here: its training (`acie_pipelines.models.posterior_training`), or the exact
posterior near its draws (`acie_pipelines.models.refinement`).
"""

import json
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import Any, Final

import torch
from torch import Tensor, nn
from zuko.flows import NSF

from acie_pipelines.errors import ModelError
from acie_pipelines.models.parameters import PARAMETERS

__all__ = ["AmortisedPosterior", "PosteriorConfig"]

_FORMAT: Final = "acie.spectral-posterior/1"
_LOG_SCALE_RANGE: Final = (-9.0, 2.0)


@dataclass(frozen=True)
class PosteriorConfig:
    """Shape of the network.

    Attributes
    ----------
    pixels
        Pixels of a spectrum.
    hidden
        Width of the embedding.
    blocks
        Residual blocks of the embedding.
    transforms, spline_hidden
        Spline transformations and the width of their networks.
    """

    pixels: int
    hidden: int = 256
    blocks: int = 2
    transforms: int = 2
    spline_hidden: int = 64


class _Block(nn.Module):
    """x + MLP(norm(x))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.inner(x)
        return out


class AmortisedPosterior(nn.Module):
    """Density of the unconstrained parameters given flux and inverse variance.

    The spectrum is divided by its mean flux, whose logarithm is fed apart, so that brightness
    scales through. A location and a scale per parameter take up position and width; a conditional
    neural spline flow (Durkan et al. 2019, arXiv:1906.04032) is the density of what is left.

    Parameters
    ----------
    config
        Shape.
    seed
        Of the initial weights.
    """

    def __init__(self, config: PosteriorConfig, *, seed: int) -> None:
        super().__init__()
        self.config = config
        size = len(PARAMETERS)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.entrance = nn.Linear(2 * config.pixels + 2, config.hidden)
            self.blocks = nn.Sequential(*(_Block(config.hidden) for _ in range(config.blocks)))
            self.head = nn.Linear(config.hidden, 2 * size)
            self.flow = NSF(
                features=size,
                context=config.hidden,
                transforms=config.transforms,
                hidden_features=[config.spline_hidden] * 2,
            )
        self.mean_shape: Tensor
        self.shape_scale: Tensor
        self.location: Tensor
        self.scale: Tensor
        self.register_buffer("mean_shape", torch.ones(config.pixels))
        self.register_buffer("shape_scale", torch.ones(config.pixels))
        self.register_buffer("location", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(size, dtype=torch.float64))

    def set_standardisation(self, flux: Tensor, parameters: Tensor) -> None:
        """Take location and scale of pixels and parameters from a training set.

        Parameters
        ----------
        flux
            Shape ``(n, pixels)``.
        parameters
            Unconstrained, shape ``(n, 8)``.
        """
        shape = flux / flux.mean(dim=1, keepdim=True)
        self.mean_shape.copy_(shape.mean(dim=0))
        self.shape_scale.copy_(shape.std(dim=0))
        self.location.copy_(parameters.mean(dim=0))
        self.scale.copy_(parameters.std(dim=0))

    def context(self, flux: Tensor, ivar: Tensor) -> Tensor:
        """Embed spectra.

        Parameters
        ----------
        flux
            Flux density, shape ``(n, pixels)``.
        ivar
            Inverse variance; zero marks a pixel as missing.

        Raises
        ------
        ModelError
            If the number of pixels is not the model's, or a spectrum has no light.
        """
        if flux.shape[-1:] != (self.config.pixels,) or flux.shape != ivar.shape:
            raise ModelError(
                "spectra",
                f"have shapes {tuple(flux.shape)} and {tuple(ivar.shape)}",
                f"give flux and ivar of {self.config.pixels} pixels",
            )
        seen = (ivar > 0).to(flux.dtype)
        count = seen.sum(dim=1, keepdim=True).clamp_min(1)
        mean = (flux * seen).sum(dim=1, keepdim=True) / count
        if not bool((mean > 0).all()):
            raise ModelError("spectra", "have no light in some rows", "leave those rows out")
        shape = (flux / mean - self.mean_shape) * seen
        precision = torch.log1p(mean.square() * ivar).mean(dim=1, keepdim=True)
        parts = [
            torch.asinh(shape / self.shape_scale),
            # Faint features of the continuum beside lines that dominate the scatter of a pixel.
            torch.asinh(20.0 * shape),
            torch.log(mean),
            precision,
        ]
        out: Tensor = self.blocks(self.entrance(torch.cat(parts, dim=1)))
        return out

    def _place(self, context: Tensor) -> tuple[Tensor, Tensor]:
        location, log_scale = self.head(context).double().chunk(2, dim=-1)
        return location, log_scale.clamp(*_LOG_SCALE_RANGE)

    def location_log_prob(self, parameters: Tensor, context: Tensor) -> Tensor:
        """Log density under the normal of location and scale alone, standardised parameters."""
        location, log_scale = self._place(context)
        z = (parameters - self.location) / self.scale
        normal = -0.5 * ((z - location) * torch.exp(-log_scale)).square() - log_scale
        return normal.sum(dim=-1)

    def log_prob(self, parameters: Tensor, context: Tensor) -> Tensor:
        """Log density of unconstrained parameters [nats], shape ``(n,)``.

        Parameters
        ----------
        parameters
            Shape ``(n, 8)``.
        context
            From `context`.
        """
        location, log_scale = self._place(context)
        rest = ((parameters - self.location) / self.scale - location) * torch.exp(-log_scale)
        inner: Tensor = self.flow(context).log_prob(rest.to(context.dtype))
        return inner.double() - (log_scale + torch.log(self.scale)).sum(dim=-1)

    @torch.no_grad()
    def sample(self, flux: Tensor, ivar: Tensor, draws: int, *, seed: int) -> Tensor:
        """Draw unconstrained parameters.

        Returns
        -------
        Tensor
            Float64, shape ``(draws, n, 8)``.
        """
        context = self.context(flux, ivar)
        location, log_scale = self._place(context)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            rest = self.flow(context).sample((draws,)).double()
        drawn: Tensor = (location + rest * torch.exp(log_scale)) * self.scale + self.location
        return drawn

    @torch.no_grad()
    def centre(self, flux: Tensor, ivar: Tensor) -> Tensor:
        """Locations of the unconstrained parameters, float64, shape ``(n, 8)``."""
        location, _ = self._place(self.context(flux, ivar))
        centre: Tensor = location * self.scale + self.location
        return centre

    def spec(self) -> dict[str, Any]:
        """Everything but the weights, as JSON values."""
        return {"format": _FORMAT, "config": asdict(self.config)}

    def weights(self) -> bytes:
        """Weights and standardisation, loadable with ``weights_only=True``."""
        buffer = BytesIO()
        torch.save({k: v.cpu() for k, v in self.state_dict().items()}, buffer)
        return buffer.getvalue()

    @classmethod
    def load(
        cls, spec: bytes, weights: bytes, *, device: torch.device | str = "cpu"
    ) -> "AmortisedPosterior":
        """Build from what `spec` (as JSON) and `weights` gave.

        Raises
        ------
        ModelError
            If either is damaged or they do not belong together.
        """
        try:
            body = json.loads(spec)
            if body["format"] != _FORMAT:
                raise ValueError(f"unknown format {body['format']!r}")
            model = cls(PosteriorConfig(**body["config"]), seed=0)
            model.load_state_dict(
                torch.load(BytesIO(weights), map_location="cpu", weights_only=True)
            )
        except Exception as error:  # a damaged archive can fail in any way
            raise ModelError(
                "posterior", f"cannot be loaded ({error})", "train it again"
            ) from error
        return model.to(device).eval()
