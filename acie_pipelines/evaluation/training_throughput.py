"""Throughput of training the amortised posterior, against a plain PyTorch loop.

Belongs here: both sides on one device, and what the device's arithmetic would allow. Does not
belong here: how well a posterior is trained.

Ours reads blocks from disk, shuffles them, checks for collapse and validates; the plain loop has
its spectra in memory and does nothing but optimise, in float32.
"""

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import torch
from torch.utils.flop_counter import FlopCounterMode

from acie_pipelines.errors import ConfigurationError
from acie_pipelines.evaluation.bench import Emit, Row, median_and_spread, peer_version
from acie_pipelines.models.decoder import SpectralDecoder
from acie_pipelines.models.posterior import AmortisedPosterior, PosteriorConfig
from acie_pipelines.models.posterior_monitor import CollapseMonitor
from acie_pipelines.models.posterior_training import (
    LabelledSpectra,
    PosteriorFitter,
    PosteriorTraining,
)
from acie_pipelines.simulation.dataset import Simulation, write_dataset
from acie_pipelines.training.spectra_file import SpectraFile

__all__ = ["bench_device", "run"]

_GALAXIES: Final = 3000
_REPEATS: Final = 5
# The location is trained alone for the first fifth, which is not timed; one more warms up.
_WARM_EPOCHS: Final = 2
_EPOCHS: Final = _WARM_EPOCHS + 1 + _REPEATS
_MATRIX: Final = {"cpu": 1024, "cuda": 8192}
_STEPS: Final = {"cpu": 20, "cuda": 400}
_BATCH: Final = {"cpu": 256, "cuda": 2048}


def bench_device(name: str) -> torch.device:
    """Find a device by name.

    Raises
    ------
    ConfigurationError
        If it is unknown or this machine does not have it.
    """
    if name not in _STEPS:
        raise ConfigurationError(f"device {name}", "is unknown", f"choose from {list(_STEPS)}")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigurationError(
            "device cuda", "is not present", "run on a machine with an NVIDIA GPU, or use cpu"
        )
    return torch.device(name)


def run(emit: Emit, *, device: str) -> None:
    """Measure spectra per second of both sides, turn by turn.

    Raises
    ------
    ConfigurationError
        If the device is unknown or absent.
    """
    place = bench_device(device)
    with tempfile.TemporaryDirectory(prefix="acie-bench-") as directory:
        path = Path(directory) / "galaxies.h5"
        write_dataset(path, Simulation(_GALAXIES, "sdss", seed=0))
        source = SpectraFile(path)
        sides = (_ours(source, place), _plain(source.first(source.train_rows), place))
        for side in sides:
            side()
        rates: tuple[list[float], list[float]] = ([], [])
        spectra = _STEPS[device] * _BATCH[device]
        for _ in range(_REPEATS):
            for side, found in zip(sides, rates, strict=True):
                start = time.perf_counter()
                side()
                found.append(spectra / (time.perf_counter() - start))
        ours, spread = median_and_spread(rates[0])
        peer, _ = median_and_spread(rates[1])
        limit = _multiplications_per_second(place) / _multiplications_per_spectrum(source)
    emit(
        Row(
            f"counterfactual/training/{device}",
            ours,
            peer,
            ours / peer,
            "spectra/s",
            _REPEATS,
            spread,
            "plain PyTorch loop",
            peer_version("torch"),
            limit,
            ours / limit,
        )
    )


def _model(place: torch.device) -> AmortisedPosterior:
    return AmortisedPosterior(PosteriorConfig(SpectralDecoder().preset.pixels), seed=0).to(place)


def _wait(place: torch.device) -> None:
    if place.type == "cuda":
        torch.cuda.synchronize()


def _ours(source: SpectraFile, place: torch.device) -> Callable[[], None]:
    """One epoch of the project's training, spline included."""
    steps = _STEPS[place.type]
    training = PosteriorTraining(
        steps=_EPOCHS * steps, epoch_steps=steps, batch=_BATCH[place.type], patience=_EPOCHS
    )
    validation = source.validation()
    monitor = CollapseMonitor(validation, SpectralDecoder())
    fitter = PosteriorFitter(_model(place), source, validation, training, monitor=monitor)
    for _ in range(_WARM_EPOCHS):
        fitter.epoch()

    def epoch() -> None:
        fitter.epoch()
        _wait(place)

    return epoch


def _plain(spectra: LabelledSpectra, place: torch.device) -> Callable[[], None]:
    """As many steps of a loop as anyone would write it."""
    batch = _BATCH[place.type]
    model, data = _model(place), spectra.to(place)
    model.set_standardisation(data.clean, data.parameters)
    optimiser = torch.optim.AdamW(model.parameters(), 1e-5)

    def steps() -> None:
        for _ in range(_STEPS[place.type]):
            rows = torch.randint(len(data), (batch,), device=place)
            part = data.rows(rows)
            flux = part.clean + part.sigma * torch.randn_like(part.clean)
            context = model.context(flux, part.sigma**-2)
            loss = -model.log_prob(part.parameters, context).mean()
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimiser.step()
            loss.item()

    return steps


def _multiplications_per_spectrum(source: SpectraFile) -> float:
    """Floating-point operations of matrix products of one training step, per spectrum."""
    part, model = source.first(64), _model(torch.device("cpu"))
    with FlopCounterMode(display=False) as counter:
        context = model.context(part.clean, part.sigma**-2)
        torch.autograd.backward(-model.log_prob(part.parameters, context).mean())
    return float(counter.get_total_flops()) / len(part)


def _multiplications_per_second(place: torch.device) -> float:
    """Rate of a large matrix product in the precision that ours uses."""
    size = _MATRIX[place.type]
    dtype = torch.bfloat16 if place.type == "cuda" else torch.float32
    matrix = torch.randn(size, size, device=place, dtype=dtype)
    rates = []
    for _ in range(_REPEATS + 1):
        start = time.perf_counter()
        torch.mm(matrix, matrix)
        _wait(place)
        rates.append(2 * size**3 / (time.perf_counter() - start))
    return max(rates)
