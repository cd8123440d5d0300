"""What `acie bench` can measure.

Belongs here: the list of areas. Does not belong here: any measurement.
"""

from enum import StrEnum
from importlib import import_module
from pathlib import Path

from acie_pipelines.evaluation.bench import Row, json_printer, print_table

__all__ = ["Area", "run_area"]


class Area(StrEnum):
    """An area of measurement; its module is ``bench_<area>``."""

    ALL = "all"
    COUNTERFACTUAL = "counterfactual"
    CRYPTO = "crypto"
    GRAPH = "graph"
    KERNELS = "kernels"
    SECURE = "secure"
    TILING = "tiling"


def run_area(
    area: Area,
    *,
    as_json: bool,
    seeds: int = 5,
    first_seed: int = 0,
    large: bool = False,
    out: Path | None = None,
    device: str = "cpu",
) -> None:
    """Measure an area, or all of them, and print the rows.

    Parameters
    ----------
    as_json
        One JSON object per row as soon as it is measured, instead of a table at the end.
    seeds
        Repetitions of what is random by nature, each with its own data and initial weights.
    first_seed
        Seed of the first repetition; the others follow it.
    large
        Measure the encryption of 5 GB instead of the rest of the ``secure`` area.
    out
        Folder for the measurements, rows and figures of what takes long; a run goes on from it.
    device
        Of the counterfactual area: ``cpu``, or ``cuda`` for what is trained there alone.

    Raises
    ------
    ConfigurationError
        If there is no such device.
    """
    areas = [each for each in Area if each is not Area.ALL] if area is Area.ALL else [area]
    rows: list[Row] = []
    emit = json_printer() if as_json else rows.append
    for each in areas:
        module = import_module(f"acie_pipelines.evaluation.bench_{each.value}")
        if each is Area.SECURE and large:
            import_module("acie_pipelines.evaluation.secure_streams").run(emit)
        elif each is Area.COUNTERFACTUAL:
            throughput = import_module("acie_pipelines.evaluation.training_throughput")
            throughput.run(emit, device=device)
            if device == "cpu":
                module.run(emit, seeds=seeds, first_seed=first_seed, out=out)
        else:
            module.run(emit)
    if not as_json:
        print_table(rows)
