"""Simulated spectra with their galaxies and exogenous noise.

Belongs here: one batch with everything that is true of it. Does not belong here: files
(`acie_pipelines.simulation.dataset`), or any model.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from acie_pipelines.simulation.galaxy import GalaxySCM
from acie_pipelines.simulation.presets import departure, preset
from acie_pipelines.simulation.spectrum import SpectrumRenderer

__all__ = ["SimulatedSpectra", "render_in_blocks", "simulate_spectra"]

_BLOCK_ROWS = 500


@dataclass(frozen=True)
class SimulatedSpectra:
    """Galaxies and their spectra.

    Attributes
    ----------
    noise, values
        Exogenous noise and value of every node, float64, shape ``(n,)``.
    clean
        Flux density without noise [1e-17 erg/s/cm2/Angstrom], shape ``(n, pixels)``.
    sigma
        Known noise of each pixel, in that unit.
    flux
        With noise.
    """

    noise: dict[str, Tensor]
    values: dict[str, Tensor]
    clean: Tensor
    sigma: Tensor
    flux: Tensor

    @property
    def ivar(self) -> Tensor:
        """Inverse variance of each pixel."""
        return self.sigma**-2


@torch.no_grad()
def render_in_blocks(renderer: SpectrumRenderer, parameters: dict[str, Tensor]) -> Tensor:
    """Flux density of many galaxies, a block at a time, shape ``(n, pixels)``."""
    count = len(next(iter(parameters.values())))
    blocks = [
        renderer({name: c[start : start + _BLOCK_ROWS] for name, c in parameters.items()})
        for start in range(0, count, _BLOCK_ROWS)
    ]
    return torch.cat(blocks)


def simulate_spectra(
    count: int, *, seed: int, preset_name: str = "sdss", departure_name: str = "none"
) -> SimulatedSpectra:
    """Draw galaxies and render them.

    Parameters
    ----------
    count
        Number of galaxies.
    seed
        Of galaxies, modes and pixel noise.
    preset_name, departure_name
        Names in `acie_pipelines.simulation.presets`.
    """
    scm = GalaxySCM()
    renderer = SpectrumRenderer(preset(preset_name), departure(departure_name))
    noise = scm.draw_noise(count, seed=seed)
    values = scm.values(noise)
    clean = render_in_blocks(renderer, values | renderer.draw_modes(count, seed=seed))
    sigma = renderer.noise_sigma(clean)
    return SimulatedSpectra(
        noise, values, clean, sigma, clean + sigma * renderer.draw_pixel_noise(count, seed=seed)
    )
