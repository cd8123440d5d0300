"""The stamp classifier: symmetric answers, a linear first stage, honest loading."""

import pytest
import torch

from acie_pipelines.errors import ModelError
from acie_pipelines.models.images import StampClassifier, scale_stamps, symmetric_views

torch.set_num_threads(1)

CLASSES = ("elliptical", "spiral")


@pytest.fixture(scope="module")
def model() -> StampClassifier:
    classifier = StampClassifier(CLASSES, seed=3)
    classifier.train()
    classifier(scale_stamps(stamps(16, seed=9)))  # gives batch normalisation its statistics
    return classifier.eval()


def stamps(count: int, *, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, 88, 88), generator=generator, dtype=torch.uint8)


def test_scaling_keeps_order_and_range() -> None:
    display = torch.arange(256, dtype=torch.uint8).repeat(91)[: 3 * 88 * 88].reshape(1, 3, 88, 88)
    scaled = scale_stamps(display)
    assert scaled.dtype == torch.float32
    assert (float(scaled.min()), float(scaled.max())) == (-1.0, 1.0)
    assert (scaled.flatten()[:256].diff() > 0).all()
    with pytest.raises(ModelError, match="shape"):
        scale_stamps(torch.zeros(2, 88, 88, 3))


def test_the_eight_views_are_all_symmetries_of_a_square() -> None:
    (first, *others) = symmetric_views(stamps(1))
    assert len(others) == 7
    distinct = {view.numpy().tobytes() for view in (first, *others)}
    assert len(distinct) == 8
    again = {view.numpy().tobytes() for view in symmetric_views(others[4])}
    assert again == distinct


def test_probabilities_do_not_depend_on_how_a_stamp_is_turned(model: StampClassifier) -> None:
    some = stamps(3)
    averaged = torch.stack([model.probabilities(view) for view in symmetric_views(some)])
    torch.testing.assert_close(averaged.sum(2), torch.ones(8, 3))
    change = (averaged - averaged[0]).abs().max()
    assert change < 1e-6
    # One view alone is not symmetric: the average does the work.
    with torch.no_grad():
        single = torch.stack([model(scale_stamps(v)).softmax(1) for v in symmetric_views(some)])
    assert (single - single[0]).abs().max() > 20 * change


def test_the_first_stage_is_a_matrix(model: StampClassifier) -> None:
    scaled = scale_stamps(stamps(2))
    stem = model.stem()
    patches = stem.patches(scaled)
    assert patches.shape == (2, 441, 192)
    low, high = stem.input_range
    assert low <= float(patches.min())
    assert float(patches.max()) <= high
    # By hand: row 1, column 2 of the grid of squares starts at pixel (4, 8).
    by_hand = (scaled[1, :, 4:12, 8:16].flatten() * stem.weight[5]).sum() + stem.bias[5]
    torch.testing.assert_close(stem(scaled)[1, 21 + 2, 5], by_hand, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(model.from_stem(stem(scaled)), model(scaled))


def test_a_saved_classifier_answers_alike(model: StampClassifier) -> None:
    loaded = StampClassifier.load(model.save())
    assert loaded.classes == CLASSES
    assert torch.equal(loaded.probabilities(stamps(2)), model.probabilities(stamps(2)))
    with pytest.raises(ModelError, match="cannot be loaded"):
        StampClassifier.load(model.save()[:-100])
    with pytest.raises(ModelError, match="two classes"):
        StampClassifier(("spiral",), seed=0)
