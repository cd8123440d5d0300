"""Retrieved prototypes choose a secure model, or shift one, without touching its weights.

Belongs here: what retrieved prototypes say together, banks of models, and models made of models.
Does not belong here: retrieval (`index`, `encrypted_query`), layers and evaluation
(`acie_pipelines.secure.models`).

Models are never changed: choosing gives one of the bank as it is, conditioning makes a new model.
A worker that is told which model to evaluate learns what the choice tells of the retrieved
prototypes. If it must not, it evaluates every model of the bank (`ModelBank.evaluate_each`) and the
data owner keeps one result.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from numpy.typing import NDArray

from acie_pipelines.crypto.cipher_tensor import CipherTensor
from acie_pipelines.errors import ModelError
from acie_pipelines.secure.layers import SecureLinear
from acie_pipelines.secure.model_format import digest, to_bytes
from acie_pipelines.secure.models import SecureModel
from acie_pipelines.secure.retrieval.prototypes import Condition

__all__ = ["BankEntry", "Context", "ModelBank", "centred"]


@dataclass(frozen=True)
class Context:
    """What retrieved prototypes say together.

    Attributes
    ----------
    survey, band, label
        The most frequent among them; of equally frequent ones, that of the nearest.
    redshift
        Least interval that covers those that are known; ``None`` if none is.
    """

    survey: str
    band: str
    label: str
    redshift: tuple[float, float] | None

    @classmethod
    def of(cls, metadata: Sequence[dict[str, Any]]) -> "Context":
        """Sum up retrieved prototypes.

        Parameters
        ----------
        metadata
            Of each, the nearest first; see
            `acie_pipelines.secure.retrieval.prototypes.Prototype.metadata`.

        Raises
        ------
        ModelError
            If none was retrieved.
        """
        if not metadata:
            raise ModelError("context", "has no prototypes", "retrieve at least one")
        # Counter keeps the order of first occurrence among equals.
        chosen = {
            name: Counter(each[name] for each in metadata).most_common(1)[0][0]
            for name in ("survey", "band", "label")
        }
        known = [each["redshift"] for each in metadata if each["redshift"] is not None]
        redshift = (min(low for low, _ in known), max(high for _, high in known)) if known else None
        return cls(**chosen, redshift=redshift)


@dataclass(frozen=True, eq=False)
class BankEntry:
    """A model and where it applies.

    Attributes
    ----------
    condition
        On the context.
    model
        For instance matched filters of one band, or principal components of one class and the head
        on top of them.
    """

    condition: Condition
    model: SecureModel

    @cached_property
    def digest(self) -> str:
        """Identity of the model."""
        return digest(to_bytes(self.model))


@dataclass(frozen=True, eq=False)
class ModelBank:
    """Immutable secure models, each for some contexts.

    Attributes
    ----------
    entries
        At least one.
    """

    entries: tuple[BankEntry, ...]

    def __post_init__(self) -> None:
        if not self.entries:
            raise ModelError("model bank", "is empty", "give at least one model")

    def select(self, context: Context) -> BankEntry:
        """Choose the model with the most specific condition that the context meets.

        Raises
        ------
        ModelError
            If no condition is met, or two of equal specificity are.
        """
        met = [entry for entry in self.entries if entry.condition.allows(context)]
        ranked = sorted(met, key=lambda entry: -_specificity(entry.condition))
        if not ranked:
            raise ModelError(
                f"model bank of {len(self.entries)}",
                f"has no model for {context}",
                "add one, or one without conditions",
            )
        first = ranked[0]
        if len(ranked) > 1 and _specificity(ranked[1].condition) == _specificity(first.condition):
            raise ModelError(
                f"model bank of {len(self.entries)}",
                f"has two models for {context}",
                "make one of their conditions more specific",
            )
        return first

    def evaluate_each(self, tensor: CipherTensor) -> tuple[CipherTensor, ...]:
        """Evaluate every model, as a worker that must not learn which one counts.

        Parameters
        ----------
        tensor
            Encrypted with the layout of the model that needs most guard bits.

        Raises
        ------
        CryptoError
            If it is not what one of them takes.
        """
        return tuple(entry.model.evaluate(tensor) for entry in self.entries)


def _specificity(condition: Condition) -> int:
    return sum(value is not None for value in vars(condition).values())


def centred(model: SecureModel, references: NDArray[Any]) -> SecureModel:
    """Make a model whose result is measured from the mean result of references.

    The additions of its last layer differ; every weight is the same, and the given model is not
    touched.

    Parameters
    ----------
    model
        Whose last layer is a `SecureLinear`.
    references
        Plaintext inputs, for instance the vectors of retrieved prototypes, shape
        ``(n, *input.shape)``.

    Returns
    -------
    SecureModel
        Gives ``model(x) - mean(model(references))``, the mean rounded to the result's scale.

    Raises
    ------
    ModelError
        If there are no references, they are no inputs of the model, or its last layer is another.
    """
    last = model.layers[-1]
    if not isinstance(last, SecureLinear):
        raise ModelError(
            "secure model", "does not end with a linear layer", "add one before centring it"
        )
    results = model.integers(references).astype(object)
    count = results.shape[-1]
    # Nearest integer, in Python integers of any size.
    mean = (2 * results.sum(axis=-1) + count) // (2 * count)
    signal = model.interface.output
    error = last.error + signal.error + signal.unit / 2
    shifted = replace(last, bias=last.bias - mean, error=error)
    return SecureModel((*model.layers[:-1], shifted), model.activation)
