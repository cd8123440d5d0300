"""Rows of the ``secure`` benchmark about layers and split inference.

Belongs here: the cost of layers on ciphertexts, of every part of split inference, and how often it
finds the class that the plaintext model finds.
Does not belong here: the models (`acie_pipelines.secure`).

The peer does not pack and has no layers, so what the same computation would take it is
extrapolated from its cost per operation; rows against "our packing" grant it our counts.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
import torch

from acie_pipelines.crypto.cipher_tensor import CipherTensor
from acie_pipelines.crypto.keys import PaillierPrivateKey
from acie_pipelines.evaluation.bench import Row, peer_version
from acie_pipelines.evaluation.phe_costs import PEER_NAME, Operations, PheCosts
from acie_pipelines.evaluation.secure_sides import EXTRAPOLATED, Parts, core_seconds, secure_row
from acie_pipelines.models.images import StampClassifier
from acie_pipelines.samples import GALAXY_IMAGES
from acie_pipelines.secure.layers import SecureConv2d, SecureLinear
from acie_pipelines.secure.models import SecureModel
from acie_pipelines.secure.signals import Signal
from acie_pipelines.secure.split_inference import SplitClassifier
from acie_pipelines.settings import Settings
from acie_pipelines.training.efigi import SPIRAL_OR_ELLIPTICAL, read_efigi, split
from acie_pipelines.training.image_training import ClassifierFitConfig, fit_classifier

__all__ = ["agreement_rows", "layer_rows", "split_rows"]

_BRIEF: Final = ClassifierFitConfig(epochs=5)
_FOLD: Final = 0
# Stamps at once, and whether all eight views are looked at.
_CASES: Final = ((1, False), (9, False), (1, True))
_PACKED: Final = f"{PEER_NAME} with our packing, extrapolated"


def layer_rows(key: PaillierPrivateKey, repetitions: int) -> Iterator[Row]:
    """Measure a matrix and a convolution of 8-bit weights on as many samples as share ciphertexts.

    Parameters
    ----------
    key
        Key pair of both sides.
    repetitions
        Measurements of each side.
    """
    rng = np.random.default_rng(1)
    vector = Signal.inputs((512,), maximum=1.0, fractional_bits=7)
    image = Signal.inputs((1, 12, 12), maximum=1.0, fractional_bits=7)
    layers: dict[str, tuple[SecureLinear | SecureConv2d, int]] = {
        "linear 64 x 512": (
            SecureLinear.quantise(rng.normal(size=(64, 512)), np.zeros(64), vector, weight_bits=8),
            64 * 512,
        ),
        "convolution 8 of 5 x 5 on 12 x 12": (
            SecureConv2d.quantise(rng.normal(size=(8, 1, 5, 5)), np.zeros(8), image, weight_bits=8),
            8 * 25 * 8**2,
        ),
    }
    costs = PheCosts(key)
    bits = key.public_key.bits
    for name, (layer, products) in layers.items():
        model = SecureModel((layer,))
        slots = model.interface.layout(bits).slots_per_plaintext
        samples = rng.uniform(-1, 1, (slots, *layer.input.shape))
        tensor = model.interface.encrypt(samples, key)

        def evaluate(model: SecureModel = model, tensor: CipherTensor = tensor) -> object:
            return model.evaluate(tensor)

        def peer(products: int = products * slots) -> float:
            return costs.seconds(Operations(products=products))

        evaluate()
        yield secure_row(
            evaluate,
            peer,
            name=f"secure/{name}, a sample of {slots}/{bits} bit/1 core",
            repetitions=repetitions,
            per=slots,
        )


@contextmanager
def _one_thread_of_torch() -> Iterator[None]:
    """Keep torch's own threads out: they run on other cores, and wait for each other busily.

    On a busy machine a training of a minute took more than a quarter of an hour with them.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def split_rows(key: PaillierPrivateKey, repetitions: int) -> Iterator[Row]:
    """Measure split inference of one stamp and of nine, seen once and in eight views.

    Each part has a row: the owner's encryption, the worker's evaluation with re-randomisation, the
    owner's decryption with the rest of the network; and their sum.

    Parameters
    ----------
    key
        Key pair of both sides.
    repetitions
        Measurements of each side.

    Raises
    ------
    RuntimeError
        If an encrypted result differs from that of the same integers in the open.
    """
    stamps = read_efigi(GALAXY_IMAGES).stamps
    classifier = StampClassifier(SPIRAL_OR_ELLIPTICAL.class_names, seed=0).eval()
    costs = PheCosts(key)
    bits = key.public_key.bits
    for count, symmetric in _CASES:
        chosen = SplitClassifier.of(classifier, stamps=count, key_bits=bits, symmetric=symmetric)
        parts = Parts()
        with _one_thread_of_torch():
            for _ in range(repetitions + 1):
                _measure(chosen, stamps[:count], key, costs, parts)
        views = "eight views" if symmetric else "one view"
        yield from parts.rows(
            f"secure/split inference/{count} stamp{'s' if count > 1 else ''}, {views}/",
            f"/{bits} bit/1 core, per stamp",
            {"unpacked": EXTRAPOLATED, "packed": _PACKED},
        )


def _measure(
    chosen: SplitClassifier,
    stamps: np.ndarray,
    key: PaillierPrivateKey,
    costs: PheCosts,
    parts: Parts,
) -> None:
    count = len(stamps)
    made: list[CipherTensor] = []
    found: list[np.ndarray] = []
    ours = {
        "encrypt": core_seconds(lambda: made.append(chosen.encrypt(stamps, key))),
        "evaluate": core_seconds(lambda: made.append(chosen.model.evaluate(made[0]))),
        "decrypt and finish": core_seconds(
            lambda: found.append(chosen.finish(made[1], key, count))
        ),
    }
    if not np.allclose(found[0], chosen.plain_probabilities(stamps), rtol=0, atol=1e-6):
        raise RuntimeError("encrypted stamps were classified in another way than plain ones")
    # In the open there is a product per weight, place and channel; nothing is cut into squares.
    taps = chosen.classifier.stem().weight.shape[1]
    outputs = chosen.model.interface.output.size * chosen.squares_per_stamp * count
    plain = {
        "encrypt": Operations(encryptions=stamps[0].size * count),
        "evaluate": Operations(products=taps * outputs),
        "decrypt and finish": Operations(decryptions=outputs),
    }
    sent, answered = len(made[0].ciphertexts), len(made[1].ciphertexts)
    packed = {
        "encrypt": Operations(encryptions=sent),
        # Its results leave re-randomised too, which costs it an encryption each.
        "evaluate": Operations(encryptions=answered, products=answered * taps),
        "decrypt and finish": Operations(decryptions=answered),
    }
    theirs = [
        {part: costs.seconds(each) for part, each in operations.items()}
        for operations in (plain, packed)
    ]
    parts.add(ours, unpacked=theirs[0], packed=theirs[1], per=count)


def agreement_rows() -> Iterator[Row]:
    """Train briefly and compare the classes of held-out stamps, split against whole.

    The split model works on plain integers here, which are exactly those that decryption gives.
    Stamps are those of ``ACIE_EFIGI_DIR``, or else the few that are bundled.
    """
    directory = Settings.from_environment().efigi
    if directory is None:
        sys.stderr.write("ACIE_EFIGI_DIR is not set: agreement is measured on bundled stamps\n")
    task = SPIRAL_OR_ELLIPTICAL
    parts = split(read_efigi(directory or GALAXY_IMAGES).of_task(task), _FOLD)
    with _one_thread_of_torch():
        classifier, _ = fit_classifier(
            parts["train"], parts["validation"], task, _BRIEF, seed=_FOLD
        )
    stamps = parts["test"].stamps
    whole = classifier.probabilities(torch.from_numpy(stamps)).numpy()
    chosen = SplitClassifier.of(classifier, stamps=len(stamps), key_bits=2048)
    found = chosen.plain_probabilities(stamps)
    share = float((found.argmax(axis=1) == whole.argmax(axis=1)).mean())
    yield Row(
        f"secure/split inference/same class, {len(stamps)} held-out stamps",
        share,
        1.0,
        share,
        "share",
        1,
        0.0,
        "the model in plaintext",
        peer_version("acie"),
    )
