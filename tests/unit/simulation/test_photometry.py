"""Band fluxes against quadrature of the light, energy balance in the far infrared, gradients."""

import math

import numpy as np
import pytest
import torch

from acie_pipelines.errors import ModelError
from acie_pipelines.simulation.galaxy import QUENCHED, GalaxySCM
from acie_pipelines.simulation.light import PARAMETERS
from acie_pipelines.simulation.photometry import BANDS_ANGSTROM, PhotometryRenderer
from acie_pipelines.simulation.presets import Preset
from acie_pipelines.simulation.spectrum import SpectrumRenderer

GALAXIES = GalaxySCM().sample(300, seed=4)


def test_optical_bands_are_the_photon_means_of_the_spectrum() -> None:
    bands = PhotometryRenderer()(GALAXIES)
    fine = Preset("fine", 3000.0, 10000.0, 12000, 20000.0, 20.0)
    renderer = SpectrumRenderer(fine)
    chosen = {k: v[:40] for k, v in GALAXIES.items()}
    spectra = renderer(chosen).double().numpy()
    wavelength, widths = fine.wavelength_angstrom, fine.pixel_width_angstrom
    for band in ("g", "r", "i"):
        low, high = BANDS_ANGSTROM[band]
        inside = (wavelength > low) & (wavelength < high)
        photons = (spectra * wavelength * widths)[:, inside].sum(axis=1)
        per_hertz = photons / (2.99792458e18 * np.log(high / low))
        # Stellar absorption lines are in the spectrum only.
        np.testing.assert_allclose(bands[band][:40].numpy(), per_hertz * 1e12, rtol=0.02)


def test_far_infrared_grows_with_what_dust_absorbs() -> None:
    clear = {**GALAXIES, "attenuation": torch.zeros_like(GALAXIES["attenuation"])}
    photometry = PhotometryRenderer()
    dusty, free = photometry(GALAXIES), photometry(clear)
    absorbed = photometry.light.absorbed_luminosity({name: GALAXIES[name] for name in PARAMETERS})
    for band in ("pacs_100", "pacs_160"):
        excess = dusty[band] - free[band]
        assert (excess > 0).all()
        per_sun = excess / (absorbed * photometry.light.dilution(GALAXIES["redshift"]))
        # One temperature: only redshift moves the share of a band.
        near = (GALAXIES["redshift"] - 0.1).abs() < 0.005
        assert float(per_sun[near].std() / per_sun[near].mean()) < 0.05
    assert (dusty["u"] < free["u"]).all()


def test_quenched_galaxies_are_red() -> None:
    bands = PhotometryRenderer()(GALAXIES)
    colour = 2.5 * torch.log10(bands["r"] / bands["u"])
    quenched = GALAXIES["star_formation_state"] == QUENCHED
    # Strateva et al. 2001, AJ 122, 1861: u - r = 2.22 separates the two populations.
    assert float(colour[quenched].median()) > 2.22 > float(colour[~quenched].median())


def test_gradients_are_exact() -> None:
    names = PARAMETERS
    inputs = tuple(GALAXIES[name][:3].clone().requires_grad_() for name in names)
    # Far from redshifts at which the band edges cross the branches of the attenuation curve.
    photometry = PhotometryRenderer(dtype=torch.float64)

    def colours(*columns: torch.Tensor) -> tuple[torch.Tensor, ...]:
        bands = photometry(dict(zip(names, columns, strict=True)))
        return tuple(torch.log(bands[band]) for band in ("g", "r", "w1", "pacs_100"))

    assert torch.autograd.gradcheck(colours, inputs, rtol=1e-3, atol=1e-5)


def test_missing_parameters_are_refused() -> None:
    with pytest.raises(ModelError, match="lack parameters"):
        PhotometryRenderer()({"redshift": torch.zeros(1)})


def test_bands_do_not_overlap_between_instruments() -> None:
    assert all(low < high for low, high in BANDS_ANGSTROM.values())
    centres = [math.sqrt(low * high) for low, high in BANDS_ANGSTROM.values()]
    assert centres == sorted(centres)
