"""Simulated galaxies as an HDF5 file or a Zarr directory.

Belongs here: the layout of the file, writing it as a stream, resuming after a crash.
Does not belong here: the simulation itself, or the two containers
(`acie_pipelines.simulation.container`).

Galaxies are made in blocks, each kept as a part beside the output; a part is complete or absent.
When all are there they are copied into one file, which is then moved into place. The block is fixed
by the preset and galaxy i depends on the seed and i alone, so an interrupted run that is started
again ends in the same bytes.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acie_pipelines.causal.graph import Node
from acie_pipelines.causal.interventions import Intervention
from acie_pipelines.errors import ConfigurationError, StorageError
from acie_pipelines.simulation.container import check_suffix, create_container, open_container
from acie_pipelines.simulation.galaxy import GalaxySCM, galaxy_graph
from acie_pipelines.simulation.photometry import PHOTOMETRY_UNIT, PhotometryRenderer
from acie_pipelines.simulation.presets import departure, preset
from acie_pipelines.simulation.spectrum import FLUX_UNIT, LINE_FLUX_UNIT, SpectrumRenderer
from acie_pipelines.simulation.stamps import PIXEL_SCALE_ARCSEC, StampRenderer
from acie_pipelines.storage import Store, atomic_writer, storage_errors

__all__ = ["SCHEMA", "Simulation", "write_dataset"]

SCHEMA: Final = "acie.simulation/1"
"""Version of the layout, in the attribute ``schema`` of the file."""

_BLOCK_PIXELS: Final = 256_000
_STAMP_BAND: Final = "r"
_IVAR_UNIT: Final = "1e34 s2 cm4 Angstrom2 / erg2"
_REQUEST: Final = "request.json"
_MEANINGS: Final = MappingProxyType(
    {
        "absorbed_luminosity": ("Lsun", "Luminosity that dust absorbs and re-emits"),
        "stamps": (PHOTOMETRY_UNIT, f"Flux per pixel in the band {_STAMP_BAND}"),
        "spectra/clean_flux": (FLUX_UNIT, "Flux density without noise"),
        "spectra/flux": (FLUX_UNIT, "Flux density with noise"),
        "spectra/ivar": (_IVAR_UNIT, "Inverse variance of the noise of each pixel"),
    }
)

Arrays = dict[str, NDArray[np.float32]]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Simulation:
    """What to simulate.

    Attributes
    ----------
    count
        Number of galaxies.
    preset, departure
        Names in `acie_pipelines.simulation.presets`.
    seed
        Not negative.
    do
        Interventions whose true counterfactuals are written beside the galaxies.
    stamps
        Whether to add images.

    Raises
    ------
    ConfigurationError
        If a name is unknown, or count or seed is out of range.
    """

    count: int
    preset: str
    seed: int
    departure: str = "none"
    do: tuple[Intervention, ...] = ()
    stamps: bool = False

    def __post_init__(self) -> None:
        preset(self.preset)
        departure(self.departure)
        if self.count < 1 or self.seed < 0:
            raise ConfigurationError(
                "simulation",
                f"cannot make {self.count} galaxies with seed {self.seed}",
                "choose at least one galaxy and a seed that is not negative",
            )
        for intervention in self.do:
            intervention.check(galaxy_graph())

    @property
    def block(self) -> int:
        """Galaxies that are rendered at a time."""
        return max(1, _BLOCK_PIXELS // preset(self.preset).pixels)

    def to_json(self) -> str:
        """Write canonically, with the schema; equal texts mean equal files."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "Simulation":
        """Read what `to_json` wrote."""
        body = json.loads(text)
        del body["schema"]
        do = tuple(Intervention(**each) for each in body.pop("do"))
        return cls(**body, do=do)


def write_dataset(path: Path, simulation: Simulation, *, progress: Progress | None = None) -> None:
    """Simulate galaxies into a file; an interrupted call is continued by the next.

    Groups are ``galaxies`` and ``noise`` (one dataset per node), ``spectra`` (``clean_flux``,
    ``flux`` with noise and ``ivar``, on ``wavelength``), ``lines``, ``photometry``,
    ``absorbed_luminosity``, ``nuisances``, if asked ``stamps``, and ``counterfactual`` with the
    same groups but noise. Every dataset has ``unit`` and ``description``. Samples are float32.

    Parameters
    ----------
    path
        Output, ``.h5`` or ``.zarr``; its parts lie in ``.<name>.parts`` beside it until it is
        complete.
    simulation
        What to simulate.
    progress
        Called with galaxies done and galaxies in all.

    Raises
    ------
    ConfigurationError
        If the file or its parts belong to another simulation, or its suffix says no format.
    StorageError
        If the disk is full or the path cannot be written; finished parts are intact.
    """
    parts = path.with_name(f".{path.name}.parts")
    check_suffix(path)
    if path.exists():
        if not _holds(path, simulation):
            raise ConfigurationError(
                path, "exists and holds something else", "remove it or choose another name"
            )
        shutil.rmtree(parts, ignore_errors=True)  # of a run that ended while it removed them
        if progress is not None:
            progress(simulation.count, simulation.count)
        return
    with storage_errors(parts):
        parts.mkdir(parents=True, exist_ok=True)
    _claim(parts, simulation)
    blocks = range(0, simulation.count, simulation.block)
    maker = _Maker(simulation)
    for start in blocks:
        part = _part(parts, start)
        if not part.exists():
            arrays = maker.block(start)
            with atomic_writer(part) as handle:
                np.savez(handle, **arrays)  # type: ignore[arg-type]
        if progress is not None:
            progress(min(start + simulation.block, simulation.count), simulation.count)
    _assemble(path, parts, simulation)


def _part(parts: Path, start: int) -> Path:
    return parts / f"{start:012d}.npz"


def _claim(parts: Path, simulation: Simulation) -> None:
    """Refuse parts of another simulation."""
    request = parts / _REQUEST
    text = simulation.to_json()
    with storage_errors(request):
        if request.exists() and request.read_text() != text:
            raise ConfigurationError(
                parts,
                "holds parts of another simulation",
                "finish it with its own options, or remove the directory",
            )
    with atomic_writer(request) as handle:
        handle.write(text.encode())


def _holds(path: Path, simulation: Simulation) -> bool:
    try:
        with open_container(path) as file:
            return str(file.attributes.get("request", "")) == simulation.to_json()
    except ConfigurationError as error:
        raise ConfigurationError(
            path, f"exists and {error.reason}", "remove it or choose another name"
        ) from error


class _Maker:
    """Makes any block of a simulation."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.scm = GalaxySCM()
        shift = departure(simulation.departure)
        self.spectra = SpectrumRenderer(preset(simulation.preset), shift)
        self.photometry = PhotometryRenderer(shift)
        self.stamps = StampRenderer() if simulation.stamps else None

    @torch.no_grad()
    def block(self, start: int) -> Arrays:
        """Arrays of the galaxies from ``start`` on, by path in the file."""
        # A whole block even at the end: rounding may depend on the shape of a batch.
        count, seed = self.simulation.block, self.simulation.seed
        noise = self.scm.draw_noise(count, seed=seed, start=start)
        nuisances = self.spectra.draw_modes(count, seed=seed, start=start)
        if self.stamps is not None:
            nuisances |= self.stamps.draw_orientation(count, seed=seed, start=start)
        galaxies = self.scm.values(noise)
        found = self._light(galaxies, nuisances)
        sigma = self.spectra.noise_sigma(found["spectra/clean_flux"])
        pixel_noise = self.spectra.draw_pixel_noise(count, seed=seed, start=start)
        found["spectra/flux"] = found["spectra/clean_flux"] + sigma * pixel_noise
        found["spectra/ivar"] = sigma**-2
        found |= {f"noise/{name}": values for name, values in noise.items()}
        found |= {f"nuisances/{name}": values for name, values in nuisances.items()}
        if self.simulation.do:
            truth = self.scm.counterfactual(noise, self.simulation.do)
            would_be = self._light(truth, nuisances)
            found |= {f"counterfactual/{name}": values for name, values in would_be.items()}
        kept = min(count, self.simulation.count - start)
        return {name: values[:kept].to(torch.float32).numpy() for name, values in found.items()}

    def _light(
        self, galaxies: Mapping[str, Tensor], nuisances: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        rendered = self.spectra.render({**galaxies, **nuisances})
        bands = self.photometry(galaxies)
        found = {f"galaxies/{name}": values for name, values in galaxies.items()}
        found["spectra/clean_flux"] = rendered.flux
        found["absorbed_luminosity"] = rendered.absorbed_luminosity
        found |= {f"lines/{name}": values for name, values in rendered.line_fluxes.items()}
        found |= {f"photometry/{name}": values for name, values in bands.items()}
        if self.stamps is not None:
            found["stamps"] = self.stamps({**galaxies, **nuisances}, bands[_STAMP_BAND])
        return found


def _assemble(path: Path, parts: Path, simulation: Simulation) -> None:
    whole = parts / f"assembled{path.suffix}"
    with storage_errors(path):
        with create_container(whole) as file:
            file.attributes["schema"] = SCHEMA
            file.attributes["request"] = simulation.to_json()
            file.attributes["pixel_scale_arcsec"] = PIXEL_SCALE_ARCSEC
            wavelength = preset(simulation.preset).wavelength_angstrom
            file.add(
                "wavelength",
                wavelength,
                unit="Angstrom",
                description="Observed wavelength in vacuum of the middle of each pixel in log "
                "wavelength",
            )
            for start, arrays in _parts(parts, simulation):
                for name, values in arrays.items():
                    if start == 0:
                        unit, meaning = _meaning(name)
                        file.add(
                            name, values, unit=unit, description=meaning, rows=simulation.count
                        )
                    else:
                        file.write(name, start, values)
        Store(str(parts.parent)).sync(parts.name)
        whole.replace(path)
        shutil.rmtree(parts)


def _parts(parts: Path, simulation: Simulation) -> Iterator[tuple[int, Arrays]]:
    for start in range(0, simulation.count, simulation.block):
        part = _part(parts, start)
        try:
            with np.load(part, allow_pickle=False) as arrays:
                yield start, dict(arrays)
        except (ValueError, EOFError, FileNotFoundError) as error:
            raise StorageError(
                part, f"is missing or damaged ({error})", "remove the part and run again"
            ) from error


def _meaning(name: str) -> tuple[str, str]:
    """Look up unit and description of a dataset."""
    place = name.removeprefix("counterfactual/")
    if place in _MEANINGS:
        return _MEANINGS[place]
    group, leaf = place.split("/")
    if group == "galaxies":
        node = galaxy_graph().nodes[leaf]
        return _node_unit(node), node.description
    if group == "photometry":
        return PHOTOMETRY_UNIT, f"Flux in the band {leaf}"
    if group == "lines":
        return LINE_FLUX_UNIT, f"Observed flux of the emission line {leaf}, behind dust"
    return "", f"Exogenous {group} of {leaf}"


def _node_unit(node: Node) -> str:
    if not node.log10:
        return node.unit
    return f"dex({node.unit})" if node.unit else "dex"
