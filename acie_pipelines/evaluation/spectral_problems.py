"""Questions about spectra of simulated galaxies whose true answers are known.

Belongs here: doubled stellar mass, its inverse and the truth about both. Does not belong here:
models, measures.
"""

from dataclasses import dataclass
from typing import Final

from torch import Tensor

from acie_pipelines.causal.interventions import Intervention
from acie_pipelines.evaluation.counterfactual_problems import GALAXY_STATE
from acie_pipelines.models.simulated import SimulatedSpectra, render_in_blocks, simulate_spectra
from acie_pipelines.simulation.galaxy import QUENCHED, STAR_FORMING, GalaxySCM, galaxy_graph
from acie_pipelines.simulation.presets import departure, preset
from acie_pipelines.simulation.spectrum import SpectrumRenderer

__all__ = ["DOUBLED", "HALVED", "SpectralProblem", "doubled_mass"]

DOUBLED: Final = Intervention.scale("stellar_mass", 2.0, galaxy_graph())

HALVED: Final = Intervention("stellar_mass", "shift", -DOUBLED.value)


@dataclass(frozen=True)
class SpectralProblem:
    """Spectra, a question and its true answer.

    Attributes
    ----------
    data
        What happened.
    values, flux
        What would have happened: every node, and the spectrum without noise.
    sigma
        Noise that it would have been observed with.
    """

    data: SimulatedSpectra
    values: dict[str, Tensor]
    flux: Tensor
    sigma: Tensor


def doubled_mass(
    count: int, *, seed: int, departure_name: str = "none", hold_state: bool = True
) -> SpectralProblem:
    """Ask for doubled stellar mass.

    Parameters
    ----------
    count, seed
        Galaxies and their seed.
    departure_name
        How galaxies differ from the model, in `acie_pipelines.simulation.presets.DEPARTURES`.
    hold_state
        Whether the star formation state is set to what it was.
    """
    data = simulate_spectra(count, seed=seed, departure_name=departure_name)
    scm = GalaxySCM()
    if hold_state:
        values = {name: column.clone() for name, column in data.values.items()}
        for state in (STAR_FORMING, QUENCHED):
            rows = data.values[GALAXY_STATE] == state
            found = scm.values(
                {name: column[rows] for name, column in data.noise.items()},
                do=[DOUBLED, Intervention(GALAXY_STATE, "set", state)],
                factual={name: column[rows] for name, column in data.values.items()},
            )
            for name, column in found.items():
                values[name][rows] = column
    else:
        values = scm.counterfactual(data.noise, [DOUBLED])
    renderer = SpectrumRenderer(preset("sdss"), departure(departure_name))
    flux = render_in_blocks(renderer, values)
    return SpectralProblem(data, values, flux, renderer.noise_sigma(flux))
