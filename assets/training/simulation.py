"""What the counterfactual model learns from."""

import dagster as dg

from acie_pipelines.errors import AcieError
from acie_pipelines.io_managers import DATASET
from acie_pipelines.materialization import (
    Materialization,
    code_version,
    failure,
    materialize,
    progress_log,
)
from acie_pipelines.resources import StoreResource


class SimulationConfig(dg.Config):
    """How many galaxies, as which survey sees them."""

    galaxies: int = 6000
    preset: str = "sdss"
    seed: int = 0


@dg.asset(
    group_name="training",
    kinds={"hdf5", "pytorch"},
    owners=["team:science"],
    metadata={DATASET: "simulation/galaxies"},
    code_version="1",
    # A root is never updated from above: what matters is that it is there.
    automation_condition=dg.AutomationCondition.missing()
    & ~dg.AutomationCondition.in_progress()
    & ~dg.AutomationCondition.execution_failed(),
)
def simulated_galaxies(
    context: dg.AssetExecutionContext, config: SimulationConfig, storage: StoreResource
) -> Materialization:
    """Galaxies from a structural causal model with published mechanisms, and their spectra.

    Properties, exogenous noise, spectra with and without noise, line fluxes and photometry, with a
    unit each, in one HDF5 file. Galaxy i depends on the seed and i alone. Because the noise is
    known, so is what each galaxy would have been.
    """
    from acie_pipelines.simulation.dataset import Simulation
    from acie_pipelines.training.simulated_galaxies import store_simulation

    try:
        manifest = store_simulation(
            storage.open(),
            Simulation(config.galaxies, config.preset, config.seed),
            code_version=code_version(context),
            progress=progress_log(context, "galaxies"),
        )
    except AcieError as error:
        raise failure(error) from error
    facts = manifest.attributes
    metadata = {name: facts[name] for name in ("galaxies", "preset", "bytes")}
    yield from materialize(manifest, metadata)
