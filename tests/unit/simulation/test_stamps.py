"""Image stamps: flux, size, shape and arms."""

import numpy as np
import pytest
import torch
from astropy.cosmology import FlatLambdaCDM

from acie_pipelines.errors import ModelError
from acie_pipelines.simulation.galaxy import QUENCHED, STAR_FORMING, GalaxySCM
from acie_pipelines.simulation.stamps import (
    PIXEL_SCALE_ARCSEC,
    STAMP_PIXELS,
    StampRenderer,
    bulge_fraction,
)

RENDERER = StampRenderer(torch.float64)


def galaxy(**changes: float) -> dict[str, torch.Tensor]:
    values = {
        "redshift": 0.1,
        "stellar_mass": 10.5,
        "size": 0.8,
        "star_formation_state": STAR_FORMING,
        "inclination": 1.0,
        "position_angle": 0.1,
        "arm_phase": 0.3,
        "arm_pitch": 0.5,
        "bulge": 0.5,
    }
    return {k: torch.tensor([v], dtype=torch.float64) for k, v in {**values, **changes}.items()}


def image(**changes: float) -> torch.Tensor:
    return RENDERER(galaxy(**changes), torch.tensor([7.0], dtype=torch.float64))[0]


def moments(stamp: torch.Tensor) -> np.ndarray:
    position = np.arange(STAMP_PIXELS) - (STAMP_PIXELS - 1) / 2
    y, x = np.meshgrid(position, position, indexing="ij")
    light = stamp.numpy() / float(stamp.sum())
    return np.array([[(light * a * b).sum() for b in (x, y)] for a in (x, y)])


def test_stamps_hold_their_flux_and_no_negative_light() -> None:
    galaxies = GalaxySCM().sample(30, seed=3)
    renderer = StampRenderer()
    orientation = renderer.draw_orientation(30, seed=3)
    flux = torch.linspace(1.0, 1e4, 30, dtype=torch.float64)
    stamps = renderer({**galaxies, **orientation}, flux)
    assert stamps.shape == (30, STAMP_PIXELS, STAMP_PIXELS)
    assert (stamps >= 0).all()
    torch.testing.assert_close(stamps.double().sum(dim=(1, 2)), flux, rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("state", [STAR_FORMING, QUENCHED])
def test_half_of_the_light_lies_within_the_effective_radius(state: float) -> None:
    redshift, log_size = 0.1, 0.75
    # A round galaxy without arms, seen face-on and well resolved.
    stamp = image(redshift=redshift, size=log_size, star_formation_state=state).numpy()
    kpc = FlatLambdaCDM(70, 0.3, Tcmb0=0).kpc_proper_per_arcmin(redshift).value / 60
    radius = 10**log_size / kpc / PIXEL_SCALE_ARCSEC
    position = np.arange(STAMP_PIXELS) - (STAMP_PIXELS - 1) / 2
    distance = np.hypot(position[:, None], position[None, :])
    order = np.argsort(distance, axis=None)
    growth = np.cumsum(stamp.ravel()[order]) / stamp.sum()
    measured = distance.ravel()[order][np.searchsorted(growth, 0.5)]
    # Seeing widens it, the edge of the stamp cuts the wings of the bulge.
    assert measured == pytest.approx(radius, rel=0.12)


def test_inclined_discs_are_elongated_along_their_position_angle() -> None:
    face_on, edge_on = moments(image()), moments(image(inclination=0.05))
    assert np.linalg.cond(face_on) < 1.1
    values, vectors = np.linalg.eigh(edge_on)
    assert values[1] / values[0] > 3.0
    angle = np.arctan2(vectors[1, 1], vectors[0, 1]) % np.pi
    assert angle == pytest.approx(0.1 * 2 * np.pi, abs=0.05)


def test_star_forming_galaxies_have_arms_and_quenched_ones_none() -> None:
    def asymmetry(stamp: torch.Tensor) -> float:
        """Change under a quarter turn; two arms change, round galaxies do not."""
        return float((stamp - stamp.rot90()).abs().sum() / stamp.sum())

    spiral = image(redshift=0.05, stellar_mass=9.5)
    smooth = image(redshift=0.05, star_formation_state=QUENCHED)
    assert asymmetry(spiral) > 0.2
    assert asymmetry(smooth) < 1e-6
    # Half a turn maps two arms onto each other.
    torch.testing.assert_close(spiral, spiral.rot90(2), rtol=1e-9, atol=1e-12)


def test_quenched_and_massive_galaxies_have_more_bulge() -> None:
    spiral = float(bulge_fraction(galaxy()))
    assert spiral < 0.3 < 0.6 < float(bulge_fraction(galaxy(star_formation_state=QUENCHED)))
    assert float(bulge_fraction(galaxy(stellar_mass=11.5))) > spiral


def test_gradients_are_exact() -> None:
    names = ("redshift", "size", "inclination", "position_angle", "arm_phase", "bulge")
    start = galaxy(inclination=0.6)
    inputs = tuple(start[name].clone().requires_grad_() for name in names)

    def some_pixels(*columns: torch.Tensor) -> torch.Tensor:
        parameters = {**start, **dict(zip(names, columns, strict=True))}
        stamp = RENDERER(parameters, torch.ones(1, dtype=torch.float64))
        return stamp[0, 38:50:4, 38:50:4] * 100

    assert torch.autograd.gradcheck(some_pixels, inputs, rtol=1e-3, atol=1e-5)


def test_missing_orientation_is_refused() -> None:
    parameters = {k: v for k, v in galaxy().items() if k != "arm_phase"}
    with pytest.raises(ModelError, match="arm_phase"):
        RENDERER(parameters, torch.ones(1))
