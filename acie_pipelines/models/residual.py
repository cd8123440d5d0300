"""What real spectra show beyond the physics of the decoder, learned without labels.

Belongs here: the residual, its fit to what is left of real galaxies, its file. Does not belong
here: the decoder, or how the rest of a galaxy is fitted (`acie_pipelines.models.adaptation`).

The residual multiplies the flux and sits at rest, since what the physics leaves out - absorption
bands, the mix of stars - moves with the galaxy: log factor = mean + components x latents, with
standard normal latents that a counterfactual keeps. It is probabilistic principal components
(Tipping and Bishop 1999, Journal of the Royal Statistical Society B 61, 611) with the noise of each
pixel known and pixels missing, by expectation maximisation as in Bailey 2012, arXiv:1208.4122. The
spectral norm of the components is bounded (cf. Miyato et al. 2018, arXiv:1802.05957), so that no
latent can take over what the physical parents explain.
"""

import io
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from acie_pipelines.errors import ModelError
from acie_pipelines.simulation.presets import Preset

__all__ = ["LearnedResidual", "fit_residual"]

_FORMAT: Final = "acie.spectral-residual/1"
_LOWEST_ANGSTROM: Final = 3000.0
_HIGHEST_ANGSTROM: Final = 9500.0
# A priori size of mean and components at a pixel, as a fraction of the flux: pixels that few
# galaxies show shrink towards no residual.
_PRIOR_SIZE: Final = 0.1
# What neither noise nor components explain, as a fraction of the flux.
_FLOOR: Final = 0.01
_ITERATIONS: Final = 30


@dataclass(frozen=True)
class LearnedResidual:
    """Log factor of the flux at rest.

    Attributes
    ----------
    log_step
        Width of a pixel in natural log wavelength; the first starts at 3000 Angstrom.
    mean
        Shape ``(rest pixels,)``.
    components
        Change per standard deviation of a latent, shape ``(rank, rest pixels)``.
    """

    log_step: float
    mean: Tensor
    components: Tensor

    @property
    def rank(self) -> int:
        """Number of latents."""
        return len(self.components)

    @property
    def spectral_norm(self) -> float:
        """Largest root mean square change of the log flux by a latent vector of length one."""
        if not self.rank:
            return 0.0
        norm = float(torch.linalg.matrix_norm(self.components, ord=2))
        return norm / math.sqrt(self.components.shape[1])

    def observed(self, preset: Preset, redshift: Tensor) -> tuple[Tensor, Tensor]:
        """Move mean and components to the pixels of a survey.

        Returns
        -------
        tuple[Tensor, Tensor]
            Shapes ``(n, pixels)`` and ``(n, rank, pixels)``, linearly interpolated in log
            wavelength.
        """
        place = _place(preset, redshift, self.log_step)
        left = place.floor().long().clamp(0, self.mean.numel() - 2)
        part = (place - left).clamp(0.0, 1.0).to(self.mean.dtype)
        table = torch.cat([self.mean[None], self.components])
        moved = torch.lerp(table[:, left], table[:, left + 1], part)
        return moved[0], moved[1:].transpose(0, 1)

    def to_bytes(self) -> bytes:
        """Serialise as NumPy's ``npz``."""
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            format=np.array(_FORMAT),
            log_step=np.array(self.log_step),
            mean=self.mean.numpy(),
            components=self.components.numpy(),
        )
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "LearnedResidual":
        """Read what `to_bytes` wrote.

        Raises
        ------
        ModelError
            If it is something else or damaged.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as stored:
                if str(stored["format"]) != _FORMAT:
                    raise ValueError(f"unknown format {stored['format']!s}")
                found = cls(
                    float(stored["log_step"]),
                    torch.from_numpy(stored["mean"]),
                    torch.from_numpy(stored["components"]),
                )
        except Exception as error:  # a damaged archive can fail in any way
            raise ModelError(
                "residual", f"cannot be read ({error})", "write it again with acie adapt"
            ) from error
        return found


def _place(preset: Preset, redshift: Tensor, log_step: float) -> Tensor:
    """Where the pixels of galaxies lie among the centres of rest pixels, shape ``(n, pixels)``."""
    log_wavelength = torch.log(torch.from_numpy(preset.wavelength_angstrom))
    rest = log_wavelength - torch.log1p(redshift.double())[:, None]
    return (rest - float(np.log(_LOWEST_ANGSTROM))) / log_step - 0.5


def fit_residual(
    log_ratio: Tensor,
    weight: Tensor,
    preset: Preset,
    redshift: Tensor,
    *,
    rank: int,
    largest_norm: float,
    seed: int,
) -> LearnedResidual:
    """Learn mean and components from what a physical fit leaves.

    Parameters
    ----------
    log_ratio
        Log of observed over fitted flux, shape ``(n, pixels)``; ignored where the weight is zero.
    weight
        Its inverse variance from noise alone, zero where missing, shape ``(n, pixels)``.
    preset, redshift
        Grid, and redshifts of shape ``(n,)``.
    rank
        Number of components.
    largest_norm
        Bound of `LearnedResidual.spectral_norm`.
    seed
        Of the start of the components.

    Raises
    ------
    ModelError
        If there are not more galaxies than components.
    """
    if len(log_ratio) <= rank:
        raise ModelError(
            "residual",
            f"{len(log_ratio)} galaxies cannot teach {rank} components",
            "give more spectra or ask for fewer components",
        )
    step = preset.log_step
    count = round(float(np.log(_HIGHEST_ANGSTROM / _LOWEST_ANGSTROM)) / step)
    precision = torch.where(weight > 0, 1 / (1 / weight.clamp_min(1e-12) + _FLOOR**2), 0.0)
    data, known = _to_rest(log_ratio.double(), precision.double(), preset, redshift, count)
    generator = torch.Generator().manual_seed(seed)
    components = 0.02 * torch.randn(rank, count, generator=generator, dtype=torch.float64)
    mean = _PRIOR_SIZE**2 * (known * data).sum(0) / (1 + _PRIOR_SIZE**2 * known.sum(0))
    identity = torch.eye(rank, dtype=torch.float64)
    for _ in range(_ITERATIONS if rank else 0):
        seen = torch.einsum("kp,np,lp->nkl", components, known, components) + identity
        cover = torch.linalg.inv(seen)
        away = torch.einsum("kp,np->nk", components, known * (data - mean))
        latent = (cover @ away[..., None])[..., 0]
        # Regression of every pixel on a constant and the latents, whose spread counts.
        ones = torch.ones(len(data), 1, dtype=torch.float64)
        inputs = torch.cat([ones, latent], dim=1)
        second = inputs[:, :, None] * inputs[:, None, :]
        second[:, 1:, 1:] += cover
        gram = torch.einsum("np,nij->pij", known, second)
        gram += torch.eye(rank + 1, dtype=torch.float64) / _PRIOR_SIZE**2
        right = torch.einsum("np,ni->pi", known * data, inputs)
        solved = torch.linalg.solve(gram, right)
        mean, components = solved[:, 0], _bounded(solved[:, 1:].T, largest_norm)
    return LearnedResidual(step, mean.float(), components.float().contiguous())


def _bounded(components: Tensor, largest_norm: float) -> Tensor:
    """Clip singular values, so that no direction of the latents changes the flux by more."""
    left, scale, right = torch.linalg.svd(components, full_matrices=False)
    scale = scale.clamp_max(largest_norm * math.sqrt(components.shape[1]))
    bounded: Tensor = (left * scale) @ right
    return bounded


def _to_rest(
    log_ratio: Tensor, precision: Tensor, preset: Preset, redshift: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Mean of the pixels whose centres fall into each rest pixel, and its precision."""
    pixel = (_place(preset, redshift, preset.log_step) + 0.5).floor().long()
    inside = (pixel >= 0) & (pixel < count)
    weight = precision * inside
    index = pixel.clamp(0, count - 1)
    zeros = torch.zeros(len(log_ratio), count, dtype=torch.float64)
    known = zeros.scatter_add(1, index, weight)
    total = zeros.scatter_add(1, index, weight * log_ratio.nan_to_num(0.0, 0.0, 0.0))
    return total / known.clamp_min(1e-12), known
