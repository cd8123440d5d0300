"""Image stamps of simulated galaxies.

Belongs here: bulge, disc and spiral arms on a small image through a point-spread function.
Does not belong here: the flux of a band (`acie_pipelines.simulation.photometry`).
"""

import math
from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor

from acie_pipelines.simulation.cosmology import luminosity_distance_mpc
from acie_pipelines.simulation.light import checked_parameters
from acie_pipelines.simulation.streams import uniforms

__all__ = [
    "PIXEL_SCALE_ARCSEC",
    "STAMP_PIXELS",
    "StampRenderer",
    "bulge_fraction",
    "effective_radius_pixels",
]

STAMP_PIXELS: Final = 88
"""Side of a stamp."""

PIXEL_SCALE_ARCSEC: Final = 0.396
"""Of the SDSS camera: Gunn et al. 1998, AJ 116, 3040, doi:10.1086/300645."""

_PSF_FWHM_ARCSEC: Final = 1.3  # median seeing of SDSS in r
_PSF_SIGMA_PIXELS: Final = _PSF_FWHM_ARCSEC / PIXEL_SCALE_ARCSEC / math.sqrt(8 * math.log(2))
# The central pixels, where profiles bend, are means of a finer grid.
_CORE_PIXELS: Final = 16
_SUBPIXELS: Final = 5
# b(n) of the Sersic profile, half of the light within the effective radius: Ciotti & Bertin 1999,
# A&A 352, 447, equation 18.
_B_DISC: Final = 1.678
_B_BULGE: Final = 7.669
_DISC_THICKNESS: Final = 0.2
_ORIENTATION_STREAM: Final = 4
_PARAMETERS: Final = ("redshift", "stellar_mass", "size", "star_formation_state")
_ORIENTATION: Final = ("inclination", "position_angle", "arm_phase", "arm_pitch", "bulge")


def bulge_fraction(parameters: Mapping[str, Tensor]) -> Tensor:
    """Light of the bulge over that of the galaxy, shape ``(n,)``; by hand.

    Quenched and massive galaxies have more of it; ``bulge`` is the galaxy's own noise.
    """
    mass = parameters["stellar_mass"] - 10.5
    noise = torch.logit(parameters["bulge"])
    return torch.sigmoid(-1.5 + 2.5 * parameters["star_formation_state"] + 0.8 * mass + 0.4 * noise)


def effective_radius_pixels(redshift: Tensor, log_size_kpc: Tensor) -> Tensor:
    """Radius that holds half of the light, in pixels of a stamp.

    Parameters
    ----------
    redshift
        Cosmological redshift.
    log_size_kpc
        Decimal logarithm of the effective radius, the node ``size`` of the galaxy graph.
    """
    angular_kpc = 1e3 * luminosity_distance_mpc(redshift) / (1 + redshift) ** 2
    arcsec = torch.rad2deg(10**log_size_kpc / angular_kpc) * 3600
    return arcsec / PIXEL_SCALE_ARCSEC


class StampRenderer:
    """Differentiable map from galaxy properties, orientation and flux to images.

    Parameters
    ----------
    dtype
        Of pixels.
    device
        Of parameters and pixels.

    Notes
    -----
    An exponential disc seen at an angle and a round de Vaucouleurs bulge share the effective
    radius. Two logarithmic arms modulate the disc of a star-forming galaxy without changing its
    mean in any ring. The stamp holds exactly the given flux: profiles are cut at its edge, and
    light that the point-spread function would carry over the edge stays inside.
    """

    def __init__(
        self, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
    ) -> None:
        self.dtype = dtype
        self._coarse = _grid(STAMP_PIXELS, 1, dtype, device)
        self._fine = _grid(_CORE_PIXELS, _SUBPIXELS, dtype, device)
        pixel = torch.arange(STAMP_PIXELS, dtype=torch.float64)
        distance = (pixel[:, None] - pixel[None, :]) / _PSF_SIGMA_PIXELS
        kernel = torch.exp(-0.5 * distance**2)
        # Columns sum to one: each pixel keeps its flux.
        self._psf = (kernel / kernel.sum(dim=0, keepdim=True)).to(device, dtype)

    def draw_orientation(self, count: int, *, seed: int, start: int = 0) -> dict[str, Tensor]:
        """Exogenous orientation of galaxies ``start`` to ``start + count`` of a seed.

        Returns
        -------
        dict[str, Tensor]
            ``inclination`` (cosine), ``position_angle`` and ``arm_phase`` (turns), ``arm_pitch``
            and ``bulge`` (quantiles), each uniform in (0, 1), shape ``(count,)``.
        """
        table = uniforms(seed, _ORIENTATION_STREAM, start, start + count, len(_ORIENTATION))
        return dict(zip(_ORIENTATION, table.unbind(dim=1), strict=True))

    def __call__(self, parameters: Mapping[str, Tensor], flux: Tensor) -> Tensor:
        """Images.

        Parameters
        ----------
        parameters
            Properties in the scale of the galaxy graph and orientation from `draw_orientation`,
            shape ``(n,)``.
        flux
            Of the galaxy, any unit, shape ``(n,)``.

        Returns
        -------
        Tensor
            Flux per pixel in that unit, shape ``(n, 88, 88)``; each stamp sums to its flux.

        Raises
        ------
        ModelError
            If a parameter is missing or has the wrong shape.
        """
        checked = checked_parameters(parameters, dict.fromkeys((*_PARAMETERS, *_ORIENTATION), ()))
        image = self._brightness(checked, *self._coarse, 1.0)
        fine = self._brightness(checked, *self._fine, 1.0 / _SUBPIXELS)
        core = fine.reshape(-1, _CORE_PIXELS, _SUBPIXELS, _CORE_PIXELS, _SUBPIXELS).mean(dim=(2, 4))
        margin = (STAMP_PIXELS - _CORE_PIXELS) // 2
        inner = slice(margin, margin + _CORE_PIXELS)
        edge = [margin] * 4
        image = image + torch.nn.functional.pad(core - image[:, inner, inner], edge)
        image = self._psf @ image @ self._psf.T
        return image * (flux.to(self.dtype) / image.sum(dim=(1, 2)))[:, None, None]

    def _brightness(
        self, parameters: Mapping[str, Tensor], y: Tensor, x: Tensor, spacing: float
    ) -> Tensor:
        """Relative surface brightness at points ``spacing`` pixels apart."""

        def plane(scalar: Tensor) -> Tensor:
            return scalar[:, None, None].to(self.dtype)

        radius = plane(effective_radius_pixels(parameters["redshift"], parameters["size"]))
        angle = 2 * math.pi * parameters["position_angle"]
        cos, sin = plane(torch.cos(angle)), plane(torch.sin(angle))
        thickness = _DISC_THICKNESS**2
        flattening = torch.sqrt(thickness + (1 - thickness) * parameters["inclination"] ** 2)
        along = (x * cos + y * sin) / radius
        across = (y * cos - x * sin) / radius
        disc_across = across / plane(flattening)
        # Keeps the cusp finite at the centre.
        floor = (0.5 * spacing / radius) ** 2
        disc_radius = torch.sqrt(along**2 + disc_across**2 + floor)
        round_square = along**2 + across**2 + floor
        fraction = bulge_fraction(parameters)
        disc = self._unit_disc(disc_radius) * self._arms(
            along, disc_across, disc_radius, parameters
        )
        bulge = torch.exp(-_B_BULGE * (round_square**0.125 - 1)) * _sersic_norm(4.0, _B_BULGE)
        return plane(fraction) * bulge + plane((1 - fraction) / flattening) * disc

    def _unit_disc(self, radius: Tensor) -> Tensor:
        return torch.exp(-_B_DISC * (radius - 1)) * _sersic_norm(1.0, _B_DISC)

    def _arms(
        self, along: Tensor, across: Tensor, radius: Tensor, parameters: Mapping[str, Tensor]
    ) -> Tensor:
        pitch = torch.deg2rad(10 + 20 * parameters["arm_pitch"])
        phase = (2 * math.pi * parameters["arm_phase"])[:, None, None].to(self.dtype)
        winding = (2 / torch.tan(pitch))[:, None, None].to(self.dtype)
        strength = (0.7 * (1 - parameters["star_formation_state"]))[:, None, None].to(self.dtype)
        # cos(2 theta - winding ln r - phase), with no arctangent to be singular at the centre.
        square = along**2 + across**2 + 1e-12
        cos2, sin2 = (along**2 - across**2) / square, 2 * along * across / square
        turn = winding * torch.log(radius) + phase
        wave = cos2 * torch.cos(turn) + sin2 * torch.sin(turn)
        # Arms begin outside the bulge.
        return 1 + strength * wave * radius**2 / (radius**2 + 0.25)


def _sersic_norm(n: float, b: float) -> float:
    """Surface brightness at the effective radius of a profile of unit flux and unit radius."""
    shape: float = math.exp(b) * b ** (-2 * n) * math.gamma(2 * n)
    return 1 / (2 * math.pi * n * shape)


def _grid(
    pixels: int, subpixels: int, dtype: torch.dtype, device: torch.device | str
) -> tuple[Tensor, Tensor]:
    """Rows and columns of points about the centre, in pixels."""
    steps = torch.arange(pixels * subpixels, dtype=dtype, device=device)
    position = (steps + 0.5) / subpixels - pixels / 2
    return position[:, None], position[None, :]
