"""Choosing and shifting models by what was retrieved; the originals stay as they are."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from acie_pipelines.crypto.keys import PaillierPrivateKey
from acie_pipelines.errors import ModelError
from acie_pipelines.secure.features import matched_filters, principal_components
from acie_pipelines.secure.layers import SecureConv2d, SecureLinear
from acie_pipelines.secure.model_format import digest, to_bytes
from acie_pipelines.secure.models import SecureModel
from acie_pipelines.secure.retrieval.conditioning import BankEntry, Context, ModelBank, centred
from acie_pipelines.secure.retrieval.prototypes import Condition, Prototype
from acie_pipelines.secure.signals import Signal

Draw = Callable[[int, int, int], list[Prototype]]
SIGNAL = Signal.inputs((4, 4), maximum=1.0, fractional_bits=7)


def model_of(seed: int) -> SecureModel:
    rng = np.random.default_rng(seed)
    return matched_filters(rng.uniform(0.1, 1, (2, 4, 4)), SIGNAL, weight_bits=8)


def retrieved(**fields: Any) -> dict[str, Any]:
    return {"survey": "SDSS", "band": "r", "label": "E", "redshift": None} | fields


def test_a_context_is_the_majority_and_the_nearest_breaks_ties() -> None:
    found = [
        retrieved(label="Sb", redshift=[0.2, 0.3]),
        retrieved(label="E", band="g"),
        retrieved(label="E", redshift=[0.1, 0.15]),
        retrieved(label="Sb"),
    ]
    assert Context.of(found) == Context("SDSS", "r", "Sb", (0.1, 0.3))
    assert Context.of(found[1:2]) == Context("SDSS", "g", "E", None)
    with pytest.raises(ModelError, match="retrieve at least one"):
        Context.of([])


def test_a_bank_gives_the_most_specific_model() -> None:
    conditions = [
        Condition(),
        Condition(band="r"),
        Condition(band="r", redshift=(0.1, 0.2)),
        Condition(band="g", label="E"),
    ]
    entries = tuple(BankEntry(each, model_of(n)) for n, each in enumerate(conditions))
    bank = ModelBank(entries)
    assert len({entry.digest for entry in entries}) == 4
    for context, expected in (
        (Context("SDSS", "i", "E", None), 0),
        (Context("SDSS", "r", "E", None), 1),
        (Context("SDSS", "r", "E", (0.3, 0.4)), 1),
        (Context("SDSS", "r", "E", (0.2, 0.4)), 2),
        (Context("SDSS", "g", "E", (0.2, 0.4)), 3),
        (Context("SDSS", "g", "Sb", (0.2, 0.4)), 0),
    ):
        assert bank.select(context) is entries[expected]
    with pytest.raises(ModelError, match="has no model for"):
        ModelBank(entries[3:]).select(Context("SDSS", "r", "E", None))
    rival = BankEntry(Condition(label="E"), model_of(9))
    with pytest.raises(ModelError, match="two models for"):
        ModelBank((entries[1], rival)).select(Context("SDSS", "r", "E", None))
    with pytest.raises(ModelError, match="is empty"):
        ModelBank(())


def test_a_worker_that_evaluates_each_model_does_not_learn_the_choice(
    private_key: PaillierPrivateKey,
) -> None:
    bank = ModelBank(
        tuple(BankEntry(Condition(band=band), model_of(n)) for n, band in enumerate("gri"))
    )
    x = np.random.default_rng(1).uniform(-1, 1, (3, 4, 4))
    chosen = bank.select(Context("SDSS", "r", "E", None))
    widest = max(bank.entries, key=lambda entry: entry.model.interface.weight)
    tensor = widest.model.interface.encrypt(x, private_key)
    results = bank.evaluate_each(tensor)
    kept = results[bank.entries.index(chosen)].decrypt_integers(private_key)[..., : len(x)]
    assert np.array_equal(kept, chosen.model.integers(x))


def test_conditioning_makes_a_new_model_and_leaves_the_old_one(
    draw: Draw, private_key: PaillierPrivateKey
) -> None:
    """Components of vectors, measured from the prototypes that were retrieved."""
    prototypes = draw(3, 40, 8)
    vectors = np.stack([prototype.vector for prototype in prototypes]).astype(np.float64)
    signal = Signal.inputs((8,), maximum=127, fractional_bits=0, exact=True)
    model = principal_components(vectors, 3, signal, weight_bits=10)
    before = to_bytes(model)
    nearest = vectors[:7]
    conditioned = centred(model, nearest)
    assert to_bytes(model) == before
    assert digest(to_bytes(conditioned)) != digest(before)
    last, shifted = model.layers[-1], conditioned.layers[-1]
    assert isinstance(last, SecureLinear) and isinstance(shifted, SecureLinear)
    assert np.array_equal(shifted.weights, last.weights)
    with pytest.raises(ValueError, match="read-only"):
        shifted.bias[0] = 0

    interface = conditioned.interface
    result = conditioned.evaluate(interface.encrypt(vectors, private_key))
    found = interface.decrypt_integers(result, private_key, len(vectors))
    mean = model.integers(nearest).astype(float).mean(axis=-1)
    assert np.abs(found - (model.integers(vectors) - mean[:, None])).max() <= 0.5
    real = interface.finish(result, private_key, len(vectors))
    flat = vectors - vectors.mean(axis=0)
    components = np.linalg.svd(flat, full_matrices=False)[2][:3]
    components *= np.sign(components[np.arange(3), np.abs(components).argmax(axis=1)])[:, None]
    expected = (vectors - nearest.mean(axis=0)) @ components.T
    assert np.abs(real - expected).max() <= interface.output.error


def test_what_cannot_be_centred_is_refused() -> None:
    image = Signal.inputs((1, 4, 4), maximum=1.0, fractional_bits=7)
    convolution = SecureConv2d.quantise(np.ones((1, 1, 2, 2)), np.zeros(1), image, weight_bits=8)
    with pytest.raises(ModelError, match="does not end with a linear layer"):
        centred(SecureModel((convolution,)), np.zeros((1, 1, 4, 4)))
    for references in (np.zeros((0, 4, 4)), np.zeros((1, 3, 4)), np.full((1, 4, 4), 2.0)):
        with pytest.raises(ModelError, match="samples"):
            centred(model_of(1), references)
