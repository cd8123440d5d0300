"""How good a classifier of galaxies is.

Belongs here: confusion matrices, scores that weigh classes alike, the refusal of chance, a figure.
Does not belong here: any classifier.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.errors import ModelError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "balanced_accuracy",
    "confusion_figure",
    "confusion_matrix",
    "median_class",
    "require_skill",
]

_SIGMAS: Final = 3.0


def confusion_matrix(
    labels: NDArray[np.int64], predicted: NDArray[np.int64], classes: int
) -> NDArray[np.int64]:
    """Count true class by row and predicted class by column.

    Parameters
    ----------
    labels, predicted
        Class numbers, shape ``(n,)``.
    classes
        Number of classes.
    """
    counts = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(counts, (labels, predicted), 1)
    return counts


def balanced_accuracy(confusion: NDArray[np.int64]) -> float:
    """Mean recall of the classes.

    Raises
    ------
    ModelError
        If a class has no galaxy.
    """
    totals = confusion.sum(axis=1)
    if (totals == 0).any():
        raise ModelError("confusion matrix", "has a class without galaxies", "test on all classes")
    return float((np.diag(confusion) / totals).mean())


def median_class(probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
    """Class at which the cumulative probability of an ordered scale passes one half.

    The median has the least expected distance to the truth.

    Parameters
    ----------
    probabilities
        Shape ``(n, classes)``.
    """
    passed = np.cumsum(probabilities, axis=1) >= 0.5 * probabilities.sum(axis=1, keepdims=True)
    found: NDArray[np.int64] = passed.argmax(axis=1).astype(np.int64)
    return found


def require_skill(confusion: NDArray[np.int64], *, minimum: float | None = None) -> float:
    """Refuse a classifier that chance could equal.

    Parameters
    ----------
    confusion
        Of galaxies that the classifier has not seen.
    minimum
        Balanced accuracy to exceed by three standard errors; that of guessing by default.

    Returns
    -------
    float
        Balanced accuracy.

    Raises
    ------
    ModelError
        If it does not.
    """
    found = balanced_accuracy(confusion)
    totals = confusion.sum(axis=1)
    # Agresti & Coull 1998, doi:10.1080/00031305.1998.10480550: perfect recall is uncertain too.
    recall = (np.diag(confusion) + 2) / (totals + 4)
    error = float(np.sqrt((recall * (1 - recall) / (totals + 4)).sum())) / len(totals)
    required = 1 / len(totals) if minimum is None else minimum
    if found - _SIGMAS * error <= required:
        raise ModelError(
            "classifier",
            f"has balanced accuracy {found:.3f} +- {error:.3f}, not above {required:.3f}",
            "check its labels and train longer",
        )
    return found


def confusion_figure(confusion: NDArray[np.int64], classes: Sequence[str]) -> "Figure":
    """Draw counts, coloured by the share of the true class.

    Parameters
    ----------
    confusion
        True class by row.
    classes
        Names.
    """
    from matplotlib.figure import Figure

    share = confusion / confusion.sum(axis=1, keepdims=True).clip(min=1)
    side = 2.2 + 0.7 * len(classes)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(*confusion.shape):
        colour = "white" if share[row, column] > 0.5 else "black"
        count = str(confusion[row, column])
        axes.text(column, row, count, ha="center", va="center", color=colour)
    axes.set_xticks(range(len(classes)), classes, rotation=45, ha="right")
    axes.set_yticks(range(len(classes)), classes)
    axes.set(xlabel="predicted", ylabel="EFIGI")
    return figure
