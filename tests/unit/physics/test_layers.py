"""Laws: zero for simulated galaxies, not zero for what breaks them, differentiable."""

import math

import pytest
import torch

from acie_pipelines.physics.constants import N_II_6584_6548_RATIO, O_III_5007_4959_RATIO
from acie_pipelines.physics.layers import (
    balmer_residual,
    doublet_residual,
    energy_residual,
    formed_mass_residual,
    negative_flux,
    physics_penalty,
    redshift_residual,
    stamp_flux_residual,
)
from acie_pipelines.simulation.cosmology import luminosity_distance_mpc
from acie_pipelines.simulation.galaxy import GalaxySCM
from acie_pipelines.simulation.mechanisms import RETURN_FRACTION
from acie_pipelines.simulation.nebula import line_luminosities
from acie_pipelines.simulation.presets import preset
from acie_pipelines.simulation.spectrum import SpectrumRenderer

GALAXIES = GalaxySCM().sample(50, seed=4)
RENDERED = SpectrumRenderer(preset("sdss")).render(GALAXIES)


@pytest.mark.parametrize(
    ("strong", "weak", "ratio"),
    [
        ("o_iii_5007", "o_iii_4959", O_III_5007_4959_RATIO),
        ("n_ii_6584", "n_ii_6548", N_II_6584_6548_RATIO),
    ],
)
def test_doublets(strong: str, weak: str, ratio: float) -> None:
    lines = line_luminosities(GALAXIES)
    assert doublet_residual(lines[strong], lines[weak], ratio).abs().max() < 1e-9
    behind_dust = RENDERED.line_fluxes
    assert doublet_residual(behind_dust[strong], behind_dust[weak], ratio).max() > 1e-3
    wrong = doublet_residual(1.1 * lines[strong], lines[weak], ratio)
    torch.testing.assert_close(wrong, torch.full_like(wrong, 0.1))


def test_balmer_lines_share_one_reddening() -> None:
    lines = RENDERED.line_fluxes
    h_alpha, h_beta, h_gamma = (lines[n] for n in ("h_alpha", "h_beta", "h_gamma"))
    assert balmer_residual(h_alpha, h_beta, h_gamma).abs().max() < 1e-6
    assert balmer_residual(h_alpha, h_beta, 0.9 * h_gamma).max() < -0.09
    assert balmer_residual(1.2 * h_alpha, h_beta, h_gamma).min() > 0.03


def test_energy() -> None:
    absorbed = RENDERED.absorbed_luminosity
    assert not energy_residual(absorbed, absorbed).any()
    assert energy_residual(absorbed, 0.5 * absorbed).max() == pytest.approx(-0.5)


def test_mass_of_a_constant_star_formation_rate() -> None:
    time = torch.linspace(0, 10, 11, dtype=torch.float64)
    sfr = torch.full((2, 11), 3.0, dtype=torch.float64)
    mass = torch.full((2,), math.log10(3e10 * (1 - RETURN_FRACTION)), dtype=torch.float64)
    assert formed_mass_residual(mass, time, sfr, RETURN_FRACTION).abs().max() < 1e-12
    assert formed_mass_residual(mass - 0.3, time, sfr, RETURN_FRACTION).min() > 0.9


def test_dimming_with_redshift() -> None:
    redshift = torch.tensor([0.1, 0.3], dtype=torch.float64)
    distance = luminosity_distance_mpc(redshift)
    random = torch.Generator().manual_seed(1)
    luminosity = torch.rand(2, 5, dtype=torch.float64, generator=random) + 1
    watts = luminosity * 3.828e26 / (4 * math.pi * (distance[:, None] * 3.0856775814913673e22) ** 2)
    # W/m2 is 1e3 erg/s/cm2.
    flux = watts * 1e3 * 1e17 / (1 + redshift[:, None])
    assert redshift_residual(flux, luminosity, redshift, distance).abs().max() < 1e-12
    assert redshift_residual(flux, luminosity, redshift + 0.1, distance).min() > 0.05


def test_negative_flux_is_seen() -> None:
    assert not negative_flux(RENDERED.flux).any()
    flux = torch.tensor([[1.0, -0.5, 1.5]])
    assert negative_flux(flux)[0].tolist() == [0.0, 0.5, 0.0]


def test_blurring_keeps_the_flux_of_a_stamp() -> None:
    sharp = torch.rand(2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert not stamp_flux_residual(sharp, sharp).any()
    assert stamp_flux_residual(sharp, 0.9 * sharp).tolist() == pytest.approx([-0.1, -0.1])


def test_penalty_pulls_towards_the_law() -> None:
    weak = torch.tensor([1.0], requires_grad=True)
    residual = doublet_residual(torch.tensor([3.5]), weak, 3.0)
    penalty, report = physics_penalty({"o_iii": residual, "free": residual}, {"o_iii": 4.0})
    assert penalty.item() == pytest.approx(4 * (3.5 / 3 - 1) ** 2, rel=1e-5)
    assert report["free"] == pytest.approx(3.5 / 3 - 1, rel=1e-5)
    (gradient,) = torch.autograd.grad(penalty, weak)
    assert gradient.item() < 0
