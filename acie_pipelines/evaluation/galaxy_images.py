"""Rows of the ``counterfactual`` benchmark about galaxy stamps.

Belongs here: the classifier on EFIGI, counterfactual stamps against the simulator's truth, and
whether an independently trained classifier sees on real stamps what was done to them.
Does not belong here: the models (`acie_pipelines.models`) or their training.
"""

import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from acie_pipelines.causal.queries import parse_interventions
from acie_pipelines.evaluation.bench import Emit, Row, peer_version
from acie_pipelines.evaluation.classification import (
    balanced_accuracy,
    confusion_matrix,
    median_class,
)
from acie_pipelines.evaluation.measurements import Measured, Measurements, mean_and_spread
from acie_pipelines.evaluation.morphometry import LogisticRegression, measure_shapes
from acie_pipelines.models.image_counterfactual import (
    ELLIPTICAL,
    SPIRAL,
    ImageEngine,
    stamp_graph,
)
from acie_pipelines.models.image_decoder import border_noise
from acie_pipelines.models.images import StampClassifier
from acie_pipelines.settings import Settings
from acie_pipelines.simulation.galaxy import GalaxySCM
from acie_pipelines.simulation.stamps import StampRenderer, effective_radius_pixels
from acie_pipelines.training.efigi import (
    FOLDS,
    HUBBLE_STAGE,
    SPIRAL_OR_ELLIPTICAL,
    ImageSet,
    Task,
    read_efigi,
    split,
)
from acie_pipelines.training.image_training import ClassifierFitConfig, fit_classifier

__all__ = [
    "ClassifierScore",
    "SimulatedStamps",
    "run",
    "score_classifier",
    "score_on",
    "simulated_stamps",
]

_SIMULATED: Final = 40
# Seen well enough that shape can be measured, and on the stamp.
_RADIUS_PIXELS: Final = (3.0, 20.0)
_PEAK_SIGMAS: Final = 20.0
_PEAK_PIXELS: Final = 40
_REAL_PER_CLASS: Final = 40
_DISPLAY_MAXIMUM: Final = 255.0

_QUESTIONS: Final = ("flux*=2", "size*=1.5", "morphology=1", "morphology=0")
_SWITCHED_FROM: Final = {"morphology=1": SPIRAL, "morphology=0": ELLIPTICAL}
_PEER: Final = "logistic regression on C, A, S, Gini, M20 and colours"
_SOURCES: Final = (
    *(
        f"models/{name}.py"
        for name in ("image_counterfactual", "image_decoder", "images", "intervals")
    ),
    *(f"simulation/{name}.py" for name in ("galaxy", "mechanisms", "profiles", "stamps")),
    *(f"training/{name}.py" for name in ("efigi", "image_training")),
)
_GOALS: Final = {"EFIGI spiral or elliptical/balanced accuracy": 0.97}
_REAL_OTHER: Final = ("flux*=0.7", "flux*=1.4", "size*=0.8", "size*=1.25")


@dataclass(frozen=True)
class ClassifierScore:
    """How one classifier does on galaxies that it has not seen.

    Attributes
    ----------
    confusion
        Most probable class by column, true class by row.
    balanced_accuracy
        Mean recall.
    type_error
        Mean distance between the catalogued type T and the middle of the median class.
    """

    confusion: NDArray[np.int64]
    balanced_accuracy: float
    type_error: float


def score_classifier(
    probabilities: NDArray[np.float64], test: ImageSet, task: Task
) -> ClassifierScore:
    """Compare class probabilities with the labels.

    Parameters
    ----------
    probabilities
        Shape ``(n, classes)``.
    test
        The same ``n`` galaxies, all of the task.
    task
        Classes.
    """
    labels = task.labels(test.types)
    confusion = confusion_matrix(labels, probabilities.argmax(axis=1), len(task.classes))
    error = np.abs(task.centres[median_class(probabilities)] - test.types).mean()
    return ClassifierScore(confusion, balanced_accuracy(confusion), float(error))


def score_on(model: StampClassifier, test: ImageSet, task: Task) -> ClassifierScore:
    """Classify galaxies that the model has not seen.

    Parameters
    ----------
    model
        Trained on the task.
    test
        Galaxies outside the task are left out.
    task
        Classes.
    """
    chosen = test.of_task(task)
    found = model.probabilities(torch.from_numpy(chosen.stamps)).numpy()
    return score_classifier(found.astype(np.float64), chosen, task)


@dataclass(frozen=True)
class SimulatedStamps:
    """Noisy stamps and what each would have been, with the same noise.

    Attributes
    ----------
    stamps
        Shape ``(n, 1, 88, 88)``.
    morphology
        `SPIRAL` or `ELLIPTICAL`, shape ``(n,)``.
    noise
        Standard deviation per pixel, shape ``(n, 1)``.
    truth
        Question to stamps, shape as `stamps`.
    lit
        Where either truth exceeds the noise, by question.
    """

    stamps: Tensor
    morphology: Tensor
    noise: Tensor
    truth: Mapping[str, Tensor]
    lit: Mapping[str, Tensor]


def simulated_stamps(count: int, *, seed: int) -> SimulatedStamps:
    """Render resolved galaxies of the simulator, with and without an intervention.

    Parameters
    ----------
    count
        Number of galaxies.
    seed
        Of galaxies, orientation and noise.
    """
    renderer = StampRenderer()
    galaxies = GalaxySCM().sample(8 * count + 100, seed=seed)
    radius = effective_radius_pixels(galaxies["redshift"], galaxies["size"])
    low, high = _RADIUS_PIXELS
    rows = torch.nonzero((radius > low) & (radius < high))[:count, 0]
    state = {k: v[rows] for k, v in galaxies.items()}
    state |= renderer.draw_orientation(len(rows), seed=seed)
    flux = torch.ones(len(rows), dtype=torch.float64)
    clean = renderer(state, flux)
    peak = clean.flatten(1).topk(_PEAK_PIXELS, dim=1).values.mean(dim=1)
    sigma = (peak / _PEAK_SIGMAS)[:, None, None]
    generator = torch.Generator().manual_seed(seed)
    noise = sigma * torch.randn(clean.shape, generator=generator)
    changed = {
        "flux*=2": renderer(state, 2 * flux),
        "size*=1.5": renderer({**state, "size": state["size"] + math.log10(1.5)}, flux),
        "morphology=1": renderer({**state, "star_formation_state": torch.ones_like(flux)}, flux),
        "morphology=0": renderer({**state, "star_formation_state": torch.zeros_like(flux)}, flux),
    }
    return SimulatedStamps(
        (clean + noise)[:, None],
        state["star_formation_state"].float(),
        sigma[:, 0],
        {question: (light + noise)[:, None] for question, light in changed.items()},
        {q: (torch.maximum(clean, light) > sigma)[:, None] for q, light in changed.items()},
    )


def run(emit: Emit, measurements: Measurements, seeds: range) -> None:
    """Measure stamps; real ones only where ``ACIE_EFIGI_DIR`` says where they are.

    Parameters
    ----------
    emit
        Called with each row.
    measurements
        What is measured already, and where the rest is kept.
    seeds
        Each with galaxies or a fold of its own.
    """
    found = _by_name(measurements, "stamps", seeds, _measure_simulated)
    _emit(emit, found, "stamps/do nothing/error", "sigma/px", "no change", less_is_better=True)
    for question in _QUESTIONS:
        name = f"stamps/{question}/error"
        _emit(emit, found, name, "sigma/px", "no change", less_is_better=True)
        name = f"stamps/{question}/90 % coverage"
        _emit(emit, found, name, "share", "nominal", less_is_better=False)
    directory = Settings.from_environment().efigi
    if directory is None:
        sys.stderr.write(
            "EFIGI is left out: set ACIE_EFIGI_DIR to the directory of its stamps and labels\n"
        )
        return
    images = read_efigi(directory)
    for task in (SPIRAL_OR_ELLIPTICAL, HUBBLE_STAGE):
        part = f"EFIGI {task.name}"
        found = _by_name(measurements, part, seeds, partial(_measure_fold, task, images))
        _emit(emit, found, f"{part}/balanced accuracy", "share", _PEER, less_is_better=False)
        if task is HUBBLE_STAGE:
            _emit(emit, found, f"{part}/mean error of T", "T", _PEER, less_is_better=True)
            continue
        for question in (*_SWITCHED_FROM, *_REAL_OTHER):
            seen = "recognised as such" if question in _SWITCHED_FROM else "class kept"
            name = f"EFIGI {question}/{seen}"
            _emit(emit, found, name, "share", "no change", less_is_better=False)


def _by_name(
    measurements: Measurements, part: str, seeds: range, work: Callable[[int], Measured]
) -> dict[str, list[float]]:
    """Measure one part with every seed; name to what each seed gave."""
    found: dict[str, list[float]] = {}
    for seed in seeds:
        each = measurements.measure(part, "acie", seed, partial(work, seed), depends_on=_SOURCES)
        for name, value in each.values.items():
            found.setdefault(name, []).append(value)
    return found


def _emit(
    emit: Emit,
    found: Mapping[str, list[float]],
    name: str,
    unit: str,
    peer_name: str,
    *,
    less_is_better: bool,
) -> None:
    mine, spread = mean_and_spread(found[name])
    theirs, peer_spread = mean_and_spread(found[f"{name}, peer"])
    over, under = (theirs, mine) if less_is_better else (mine, theirs)
    emit(
        Row(
            f"counterfactual/{name}",
            mine,
            theirs,
            1.0 if mine == theirs else over / under if under else math.inf,
            unit,
            len(found[name]),
            spread,
            peer_name,
            peer_version("acie"),
            peer_spread=peer_spread,
            goal=_GOALS.get(name),
        )
    )


def _measure_simulated(seed: int) -> Measured:
    engine = ImageEngine()
    values: dict[str, float] = {}
    data = simulated_stamps(_SIMULATED, seed=seed)
    posterior = engine.abduct(data.stamps, data.morphology, data.noise, seed=seed)
    sigma = data.noise[:, :, None, None]
    nothing = engine.predict(posterior, ()).counterfactual
    values["stamps/do nothing/error"] = _error(nothing, data.stamps, sigma)
    values["stamps/do nothing/error, peer"] = 0.0
    for question in _QUESTIONS:
        answer = engine.predict(posterior, parse_interventions(question, stamp_graph()))
        rows = torch.ones(len(sigma), dtype=torch.bool)
        if question in _SWITCHED_FROM:
            rows = data.morphology == _SWITCHED_FROM[question]
        truth = data.truth[question][rows]
        name = f"stamps/{question}/error"
        values[name] = _error(answer.counterfactual[rows], truth, sigma[rows])
        values[f"{name}, peer"] = _error(data.stamps[rows], truth, sigma[rows])
        inside = (truth >= answer.lower[rows]) & (truth <= answer.upper[rows])
        name = f"stamps/{question}/90 % coverage"
        values[name] = float(inside[data.lit[question][rows]].float().mean())
        values[f"{name}, peer"] = 0.9
    return Measured(values)


def _error(found: Tensor, truth: Tensor, sigma: Tensor) -> float:
    """Root mean square over pixels, mean over stamps, in units of the noise."""
    return float(((found - truth) / sigma).square().mean(dim=(1, 2, 3)).sqrt().mean())


def _measure_fold(task: Task, images: ImageSet, seed: int) -> Measured:
    """Train on one fold, beside a regression on measured shapes, and test."""
    chosen = images.of_task(task)
    parts = split(chosen, seed % FOLDS)
    train, test = parts["train"], parts["test"]
    model, _ = fit_classifier(train, parts["validation"], task, ClassifierFitConfig(), seed=seed)
    ours = score_on(model, test, task)
    peer = LogisticRegression.fit(
        measure_shapes(train.stamps), task.labels(train.types), len(task.classes)
    )
    found = peer.probabilities(measure_shapes(test.stamps))
    theirs = score_classifier(found, test, task)
    name = f"EFIGI {task.name}"
    values = {
        f"{name}/balanced accuracy": ours.balanced_accuracy,
        f"{name}/balanced accuracy, peer": theirs.balanced_accuracy,
        f"{name}/mean error of T": ours.type_error,
        f"{name}/mean error of T, peer": theirs.type_error,
    }
    if task is SPIRAL_OR_ELLIPTICAL:
        values |= _effectiveness(model, test, seed)
    return Measured(values)


def _effectiveness(model: StampClassifier, test: ImageSet, seed: int) -> dict[str, float]:
    """Classify counterfactuals of held-out stamps with a model that has seen neither."""
    engine = ImageEngine()
    labels = SPIRAL_OR_ELLIPTICAL.labels(test.types)
    rows = [np.flatnonzero(labels == k)[:_REAL_PER_CLASS] for k in (0, 1)]
    some = test.take(np.concatenate(rows))
    stamps = torch.from_numpy(some.stamps).float()
    morphology = torch.from_numpy(SPIRAL_OR_ELLIPTICAL.labels(some.types) == 0).float()
    posterior = engine.abduct(stamps, morphology, border_noise(stamps), seed=seed % FOLDS)
    before = model.probabilities(stamps).argmax(dim=1)
    values = {}
    for question in (*_SWITCHED_FROM, *_REAL_OTHER):
        answer = engine.predict(posterior, parse_interventions(question, stamp_graph()))
        after = model.probabilities(answer.sample.clamp(0, _DISPLAY_MAXIMUM)).argmax(dim=1)
        if question in _SWITCHED_FROM:
            switched = morphology == _SWITCHED_FROM[question]
            wanted = 0 if question == "morphology=1" else 1
            name = f"EFIGI {question}/recognised as such"
            values[name] = float((after[switched] == wanted).float().mean())
            values[f"{name}, peer"] = float((before[switched] == wanted).float().mean())
        else:
            name = f"EFIGI {question}/class kept"
            values[name] = float((after == before).float().mean())
            values[f"{name}, peer"] = 1.0
    return values
