"""Redshift by cross-correlation with a model of the spectrum.

Belongs here: the shift along log wavelength. Does not belong here: other parameters.

After Tonry & Davis 1979 (AJ 84, 1511): continuum is removed from both, and what is left, in units
of the noise and compressed so that no one line decides, is correlated at every whole pixel.
"""

from typing import Final

import torch
from torch import Tensor

from acie_pipelines.models.decoder import SpectralDecoder
from acie_pipelines.models.parameters import constrain, unconstrain

__all__ = ["align_redshift"]

_CONTINUUM_PIXELS: Final = 61
_LARGEST_SHIFT: Final = 200
_LINEAR_SIGMAS: Final = 3.0
_LOWEST_REDSHIFT: Final = 1e-3


def align_redshift(
    decoder: SpectralDecoder, flux: Tensor, ivar: Tensor, parameters: Tensor, *, peaks: int = 1
) -> Tensor:
    """Move the redshift of a guess to where its features coincide with those of the spectrum.

    Parameters
    ----------
    decoder
        Model of the spectrum.
    flux, ivar
        Shape ``(n, pixels)``.
    parameters
        Unconstrained guess, shape ``(n, 8)``.
    peaks
        How many of the highest peaks of the correlation to try: with few lines in sight the highest
        may be the wrong one.

    Returns
    -------
    Tensor
        A guess for each peak, the highest first, shape ``(peaks, n, 8)``.
    """
    model = decoder.render(parameters, parameters.new_zeros(len(parameters), decoder.modes))
    observed, expected = _features(flux, ivar), _features(model, ivar)
    pixels = flux.shape[1]
    size = 2 * pixels
    spectrum = torch.fft.rfft(observed, size) * torch.fft.rfft(expected, size).conj()
    correlation = torch.fft.irfft(spectrum, size).nan_to_num(0.0, 0.0, 0.0)
    reach = _LARGEST_SHIFT
    near = torch.cat([correlation[:, -reach:], correlation[:, : reach + 1]], dim=1)
    inner = near[:, 1:-1]
    summit = (inner >= near[:, :-2]) & (inner >= near[:, 2:])
    highest = torch.where(summit, inner, inner - inner.abs().amax() - 1).topk(peaks, dim=1).indices
    found = []
    for peak in torch.split(highest + 1, 1, dim=1):
        left, top, right = (near.gather(1, peak + k)[:, 0].double() for k in (-1, 0, 1))
        bend = (left - 2 * top + right).clamp_max(-1e-12)
        shift = peak[:, 0] - reach + (0.5 * (left - right) / bend).clamp(-1.0, 1.0)
        values = constrain(parameters)
        stretch = torch.exp(shift * decoder.preset.log_step)
        redshift = (1 + values["redshift"]) * stretch - 1
        values["redshift"] = redshift.clamp_min(_LOWEST_REDSHIFT)
        found.append(unconstrain(values))
    return torch.stack(found)


def _features(flux: Tensor, ivar: Tensor) -> Tensor:
    """Spectrum without continuum, in compressed units of the noise; zero where it is missing."""
    kernel = torch.ones(1, 1, _CONTINUUM_PIXELS, dtype=flux.dtype)
    half = _CONTINUUM_PIXELS // 2

    def smooth(signal: Tensor) -> Tensor:
        return torch.nn.functional.conv1d(signal[:, None], kernel, padding=half)[:, 0]

    seen = (ivar > 0).to(flux.dtype)
    continuum = smooth(flux * seen) / smooth(seen).clamp_min(1)
    significance = (flux - continuum) * torch.sqrt(ivar)
    return torch.asinh(significance / _LINEAR_SIGMAS)
