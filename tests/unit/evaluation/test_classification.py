"""Scores of classifiers: known answers, and nonsense refused."""

import numpy as np
import pytest

from acie_pipelines.errors import ModelError
from acie_pipelines.evaluation.classification import (
    balanced_accuracy,
    confusion_figure,
    confusion_matrix,
    median_class,
    require_skill,
)
from acie_pipelines.training.figures import figure_png


def test_rare_classes_weigh_as_much_as_common_ones() -> None:
    labels = np.array([0] * 10 + [1] * 990)
    always_common = confusion_matrix(labels, np.ones_like(labels), 2)
    assert always_common.tolist() == [[0, 10], [0, 990]]
    assert balanced_accuracy(always_common) == 0.5
    assert balanced_accuracy(confusion_matrix(labels, labels, 2)) == 1.0
    with pytest.raises(ModelError, match="class without galaxies"):
        balanced_accuracy(np.array([[0, 0], [1, 2]]))


def test_the_median_class_minimises_the_expected_distance() -> None:
    probabilities = np.random.default_rng(0).dirichlet(np.full(5, 0.5), size=200)
    steps = np.abs(np.arange(5)[:, None] - np.arange(5))
    best = (probabilities @ steps).argmin(axis=1)
    np.testing.assert_array_equal(median_class(probabilities), best)


def test_shuffled_labels_are_refused_and_skill_is_not() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 400)
    skilled = np.where(rng.random(400) < 0.7, labels, rng.integers(0, 3, 400))
    assert require_skill(confusion_matrix(labels, skilled, 3)) > 0.7
    refused = 0
    for _ in range(50):
        try:
            require_skill(confusion_matrix(rng.permutation(labels), skilled, 3))
        except ModelError:
            refused += 1
    assert refused >= 49


def test_a_required_accuracy_must_be_exceeded_with_confidence() -> None:
    perfect_on_few = np.diag([4, 4])
    with pytest.raises(ModelError, match=r"not above 0\.970"):
        require_skill(perfect_on_few, minimum=0.97)
    assert require_skill(np.diag([4000, 4000]), minimum=0.97) == 1.0


def test_the_figure_is_drawn() -> None:
    figure = confusion_figure(np.array([[3, 1], [0, 4]]), ("elliptical", "spiral"))
    assert figure_png(figure).startswith(b"\x89PNG")
    assert [text.get_text() for text in figure.axes[0].texts] == ["3", "1", "0", "4"]
