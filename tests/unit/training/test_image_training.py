"""Training the stamp classifier: learns, resumes to the same weights, refuses nonsense."""

from pathlib import Path

import numpy as np
import pytest
import torch

from acie_pipelines.errors import ModelError
from acie_pipelines.training.efigi import SPIRAL_OR_ELLIPTICAL, ImageSet
from acie_pipelines.training.image_training import (
    ClassifierEpoch,
    ClassifierFitConfig,
    fit_classifier,
)
from tests.unit.training.simulated_stamps import simulated_set

torch.set_num_threads(1)

CONFIG = ClassifierFitConfig(epochs=4, steps=10, batch_stamps=16)


class KilledError(Exception):
    """Stands for a kill between two epochs."""


@pytest.fixture(scope="module")
def train() -> ImageSet:
    return simulated_set(60, seed=0)


@pytest.fixture(scope="module")
def held() -> ImageSet:
    return simulated_set(30, seed=1)


def test_a_killed_run_resumes_to_the_same_weights_and_learns(
    train: ImageSet, held: ImageSet, tmp_path: Path
) -> None:
    whole, history = fit_classifier(train, held, SPIRAL_OR_ELLIPTICAL, CONFIG, seed=2)
    checkpoint = tmp_path / "run.pt"

    def kill(losses: ClassifierEpoch) -> None:
        if losses.epoch == 2:
            raise KilledError

    with pytest.raises(KilledError):
        fit_classifier(
            train, held, SPIRAL_OR_ELLIPTICAL, CONFIG, seed=2, checkpoint=checkpoint, progress=kill
        )
    with pytest.raises(ModelError, match="another data set, task, configuration or seed"):
        fit_classifier(train, held, SPIRAL_OR_ELLIPTICAL, CONFIG, seed=3, checkpoint=checkpoint)
    seen: list[int] = []
    resumed, again = fit_classifier(
        train,
        held,
        SPIRAL_OR_ELLIPTICAL,
        CONFIG,
        seed=2,
        checkpoint=checkpoint,
        progress=lambda losses: seen.append(losses.epoch),
    )
    assert seen == [3, 4]
    assert again == history
    assert not checkpoint.exists()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    unseen = simulated_set(40, seed=7)
    chosen = whole.probabilities(torch.from_numpy(unseen.stamps)).argmax(1).numpy()
    assert (chosen == SPIRAL_OR_ELLIPTICAL.labels(unseen.types)).mean() > 0.9


def test_stops_when_validation_no_longer_improves(train: ImageSet, held: ImageSet) -> None:
    wrong = ImageSet(held.names, held.digests, np.roll(held.types, 1), held.stamps)
    config = ClassifierFitConfig(epochs=30, steps=4, batch_stamps=16, patience=2)
    _, history = fit_classifier(train, wrong, SPIRAL_OR_ELLIPTICAL, config, seed=0)
    losses = [epoch.validation for epoch in history]
    assert len(losses) < 30
    assert int(np.argmin(losses)) == len(losses) - 3


def test_a_damaged_checkpoint_is_refused(train: ImageSet, held: ImageSet, tmp_path: Path) -> None:
    (tmp_path / "run.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(ModelError, match="delete it to train"):
        fit_classifier(
            train, held, SPIRAL_OR_ELLIPTICAL, CONFIG, seed=0, checkpoint=tmp_path / "run.pt"
        )


def test_a_class_without_galaxies_is_named(train: ImageSet, held: ImageSet) -> None:
    spirals = train.take(np.flatnonzero(train.types > 0))
    with pytest.raises(ModelError, match="class elliptical"):
        fit_classifier(spirals, held, SPIRAL_OR_ELLIPTICAL, CONFIG, seed=0)
