"""A galaxy of known properties, seen as DESI sees it, and what is inferred about it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d, uniform_filter1d

from acie_pipelines.errors import ObservationError
from acie_pipelines.models.adaptation import adapted
from acie_pipelines.models.counterfactual import SpectralEngine
from acie_pipelines.models.decoder import SpectralDecoder
from acie_pipelines.models.intervals import central_interval
from acie_pipelines.models.mechanisms import SimulatorMechanisms
from acie_pipelines.models.parameters import unconstrain
from acie_pipelines.models.query import answer, on_grid, questions
from acie_pipelines.observations.spectra import read_spectrum
from acie_pipelines.simulation.galaxy import GalaxySCM
from acie_pipelines.simulation.presets import Preset, preset
from acie_pipelines.simulation.spectrum import SpectrumRenderer
from tests.desi_file import RANGES, SPREAD, STEP, wavelengths, write_desi, write_redshifts
from tests.informed import Informed

QUESTION = "stellar_mass*=2, star_formation_state=0"
# Of one pixel of 0.8 Angstrom.
SIGNAL_TO_NOISE = 8.0
_FINE = 0.05
# So fine that neither its pixels nor its line spread count.
_SHARP = Preset("sharp", 3550.0, 9900.0, 50_000, 3e5, 20.0)

Values = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def galaxy() -> tuple[Values, Values]:
    """A star-forming galaxy with narrow, bright lines, and its noise terms."""
    noise = GalaxySCM().draw_noise(40, seed=8)
    values = GalaxySCM().values(noise)
    forming = torch.nonzero(values["star_formation_state"] == 0)[:, 0]
    row = forming[values["velocity_dispersion"][forming].argmin()]
    return (
        {name: column[row : row + 1] for name, column in values.items()},
        {name: column[row : row + 1] for name, column in noise.items()},
    )


def seen_by_desi(values: Values) -> dict[str, NDArray[np.float64]]:
    """Flux in each arm without noise, by filters that share nothing with what is tested."""
    sharp = SpectrumRenderer(_SHARP, dtype=torch.float64)(values)[0].numpy()
    every = round(STEP / _FINE)
    flux = {}
    for arm in RANGES:
        wave = wavelengths(arm)
        fine = np.arange(wave[0] - 20 + _FINE / 2, wave[-1] + 20, _FINE)
        light = np.interp(fine, _SHARP.wavelength_angstrom, sharp)
        blurred = uniform_filter1d(gaussian_filter1d(light, SPREAD[arm] / _FINE), every)
        flux[arm] = np.interp(wave, fine - _FINE / 2, blurred)
    return flux


@pytest.fixture(scope="module")
def file(galaxy: tuple[Values, Values], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Row 0 without noise, row 1 with it."""
    clean = seen_by_desi(galaxy[0])
    generator = np.random.default_rng(5)
    flux, ivar = {}, {}
    for arm, light in clean.items():
        sigma = light.mean() / SIGNAL_TO_NOISE * np.sqrt((light / light.mean() + 1) / 2)
        flux[arm] = np.stack([light, generator.normal(light, sigma)])
        ivar[arm] = np.stack([sigma**-2, sigma**-2])
    where = tmp_path_factory.mktemp("desi")
    redshift = float(galaxy[0]["redshift"][0])
    kinds = ("GALAXY", "GALAXY")
    write_redshifts(where / "redrock-1.fits", (7, 8), (redshift, redshift), kinds, (0, 0))
    return write_desi(where / "coadd-1.fits", flux, ivar)


def test_it_looks_as_the_model_expects(galaxy: tuple[Values, Values], file: Path) -> None:
    expected = SpectralDecoder().render(unconstrain(galaxy[0]), torch.zeros(1, 0))
    found = on_grid(read_spectrum(file), preset("sdss"))
    assert (found.ivar > 0).all()
    off = (found.flux / expected - 1).abs()
    assert off.max() < 0.01
    (note,) = found.notes
    assert "smoothed to 2000" in note
    # Sharper lines, as DESI shows them, are not those of the model.
    observed = read_spectrum(file)
    sharp = [type(arm)(arm.wavelength_angstrom, arm.flux, arm.ivar) for arm in observed.arms]
    found = on_grid(
        type(observed)("sharp", "DESI", tuple(sharp), observed.redshift), preset("sdss")
    )
    assert (found.flux / expected - 1).abs().max() > 5 * off.max()


def test_what_made_it_lies_in_the_intervals(galaxy: tuple[Values, Values], file: Path) -> None:
    values, noise = galaxy
    engine = adapted(
        SpectralEngine(Informed(unconstrain(values)), SpectralDecoder(), SimulatorMechanisms()),
        None,
    )
    spectrum = on_grid(read_spectrum(file, row=1), engine.decoder.preset)
    found = answer(engine, spectrum, QUESTION, model="test", draws=60, seed=1)
    assert found.survey == "DESI"
    assert found.notes == spectrum.notes
    # The errors of neighbours that smoothing made are stated: the fit is not too good by much.
    assert 0.6 < found.chi_square < 1.1
    continuous = [name for name in found.before if name != "star_formation_state"]
    inside = []
    for name in continuous:
        low, high = central_interval(torch.from_numpy(found.before[name]), 0.9)
        inside.append(low <= float(values[name][0]) <= high)
    assert sum(inside) >= len(inside) - 3, dict(zip(continuous, inside, strict=True))
    assert inside[continuous.index("velocity_dispersion")]
    truth = GalaxySCM().counterfactual(noise, questions(QUESTION))
    flux = engine.decoder.renderer(truth)[0].numpy()
    covered = (found.counterfactual.low <= flux) & (flux <= found.counterfactual.high)
    assert covered.mean() > 0.6


def test_what_is_coarser_than_the_model_is_refused(file: Path, tmp_path: Path) -> None:
    observed = read_spectrum(file)
    flux = {name: arm.flux[None] for name, arm in zip(RANGES, observed.arms, strict=True)}
    ivar = {name: arm.ivar[None] for name, arm in zip(RANGES, observed.arms, strict=True)}
    # Resolving power 1400 to 3300: below 5200 Angstrom the model's lines are narrower.
    coarse = read_spectrum(write_desi(tmp_path / "coadd-2.fits", flux, ivar, spread=1.15))
    found = on_grid(coarse, preset("sdss"))
    assert any("coarser than the model and were left out" in note for note in found.notes)
    blue = preset("sdss").wavelength_angstrom < 4900
    assert not found.ivar[0, torch.from_numpy(blue)].any()
    assert (found.ivar[0, torch.from_numpy(~blue)][100:] > 0).all()
    hopeless = read_spectrum(write_desi(tmp_path / "coadd-3.fits", flux, ivar, spread=1.8))
    with pytest.raises(ObservationError, match="covers"):
        on_grid(hopeless, preset("sdss"))
