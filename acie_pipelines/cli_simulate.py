"""`acie simulate`.

Belongs here: parsing and printing of that command. Does not belong here: work.
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress, TimeRemainingColumn

from acie_pipelines.simulation.presets import DEPARTURES, PRESETS

__all__ = ["simulate"]


def simulate(
    out: Annotated[Path, typer.Option(help="What to write: HDF5 (.h5) or Zarr v3 (.zarr).")],
    n: Annotated[int, typer.Option("--n", help="Number of galaxies.")] = 1000,
    preset: Annotated[str, typer.Option(help=f"Survey: {', '.join(PRESETS)}.")] = "sdss",
    seed: Annotated[int, typer.Option(help="Galaxy i depends on the seed and i alone.")] = 0,
    departure: Annotated[
        str, typer.Option(help=f"Misspecification: {', '.join(DEPARTURES)}.")
    ] = "none",
    do: Annotated[
        str, typer.Option(help="Adds true counterfactuals, as of 'stellar_mass*=2'.")
    ] = "",
    stamps: Annotated[bool, typer.Option(help="Add images of 88 by 88 pixels.")] = False,
) -> None:
    """Simulate galaxies whose true counterfactuals are known.

    An interrupted run continues where it stopped when it is started again.
    """
    from acie_pipelines.causal.queries import parse_interventions
    from acie_pipelines.simulation.dataset import Simulation, write_dataset
    from acie_pipelines.simulation.galaxy import galaxy_graph

    interventions = parse_interventions(do, galaxy_graph()) if do else ()
    simulation = Simulation(n, preset, seed, departure, interventions, stamps)
    console = Console(stderr=True)
    with Progress(
        *Progress.get_default_columns()[:-1], TimeRemainingColumn(), console=console
    ) as bar:
        task = bar.add_task("galaxies", total=n)
        write_dataset(out, simulation, progress=lambda done, _: bar.update(task, completed=done))
    typer.echo(f"{n} galaxies in {out}")
