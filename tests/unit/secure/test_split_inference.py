"""Classification of stamps that the worker cannot see, against the whole network."""

import json
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from acie_pipelines.cli import app
from acie_pipelines.crypto.keys import PaillierPrivateKey
from acie_pipelines.crypto.vault import FileVault
from acie_pipelines.errors import ConfigurationError, FormatMismatchError, InvalidGeometryError
from acie_pipelines.models.images import StampClassifier, scale_stamps
from acie_pipelines.models.stamp_files import read_stamps
from acie_pipelines.samples import GALAXY_IMAGES
from acie_pipelines.secure.split_inference import SplitClassifier
from acie_pipelines.training.efigi import read_efigi


@pytest.fixture(scope="module")
def stamps() -> np.ndarray:
    return read_efigi(GALAXY_IMAGES).stamps[::20]


@pytest.fixture(scope="module")
def classifier(stamps: np.ndarray) -> StampClassifier:
    """Random weights, with the statistics that the batch normalisation would have learnt."""
    model = StampClassifier(("a", "b", "c"), seed=1)
    model.train()
    with torch.no_grad():
        for _ in range(30):
            model(scale_stamps(torch.from_numpy(stamps)))
    return model.eval()


@pytest.mark.parametrize("count", [1, 2, 14])
def test_rounding_hardly_changes_probabilities(
    classifier: StampClassifier, stamps: np.ndarray, count: int
) -> None:
    whole = classifier.probabilities(torch.from_numpy(stamps[:count])).numpy()
    split = SplitClassifier.of(classifier, stamps=count, key_bits=2048)
    found = split.plain_probabilities(stamps[:count])
    assert np.abs(found - whole).max() < 0.005
    finer = SplitClassifier.of(
        classifier, stamps=count, key_bits=2048, weight_bits=16, fractional_bits=14
    )
    assert np.abs(finer.plain_probabilities(stamps[:count]) - whole).max() < 1e-4
    once = SplitClassifier.of(classifier, stamps=count, key_bits=2048, symmetric=False)
    with torch.no_grad():
        unturned = classifier(scale_stamps(torch.from_numpy(stamps[:count]))).softmax(1).numpy()
    assert np.abs(once.plain_probabilities(stamps[:count]) - unturned).max() < 0.01


def test_squares_grow_with_the_number_of_stamps(classifier: StampClassifier) -> None:
    sides = [
        SplitClassifier.of(classifier, stamps=n, key_bits=2048, symmetric=False).side
        for n in (1, 9, 89)
    ]
    assert sides == [1, 3, 21]


def test_encrypted_stamps_get_the_same_probabilities(
    private_key: PaillierPrivateKey, classifier: StampClassifier, stamps: np.ndarray
) -> None:
    some = stamps[:1]
    split = SplitClassifier.of(classifier, stamps=1, key_bits=1024, symmetric=False)
    result = split.model.evaluate(split.encrypt(some, private_key))
    found = split.finish(result, private_key, 1)
    # Not close: the same integers go into the same network.
    assert np.array_equal(found, split.plain_probabilities(some))


@pytest.mark.slow
def test_command_prints_what_the_network_finds(
    vault: FileVault, tmp_path: Path, classifier: StampClassifier, stamps: np.ndarray
) -> None:
    path, model = tmp_path / "galaxy.png", tmp_path / "classifier.pt"
    path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(stamps[1].transpose(1, 2, 0))))
    model.write_bytes(classifier.save())
    done = CliRunner().invoke(
        app, ["secure", "classify", str(path), "--model", str(model), "--json"]
    )
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    whole = classifier.probabilities(torch.from_numpy(stamps[1:2])).numpy()[0]
    assert found["path"] == str(path)
    assert found["class"] == classifier.classes[int(whole.argmax())]
    assert np.allclose(list(found["probabilities"].values()), whole, atol=0.01)


def test_a_missing_classifier_is_named(tmp_path: Path, stamps: np.ndarray) -> None:
    path = tmp_path / "galaxy.png"
    path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(stamps[1].transpose(1, 2, 0))))
    done = CliRunner().invoke(
        app, ["secure", "classify", str(path), "--model", str(tmp_path / "x")]
    )
    assert isinstance(done.exception, ConfigurationError)
    assert "does not exist; train one" in str(done.exception)


def test_pictures_of_every_kind(tmp_path: Path, stamps: np.ndarray) -> None:
    picture = np.ascontiguousarray(stamps[0].transpose(1, 2, 0))
    png, jpeg = tmp_path / "a", tmp_path / "b"
    png.write_bytes(imagecodecs.png_encode(picture))
    jpeg.write_bytes(imagecodecs.jpeg_encode(picture, level=95))
    read = read_stamps([png, jpeg])
    assert np.array_equal(read[0], stamps[0])
    assert np.abs(read[1].astype(int) - stamps[0]).mean() < 5
    jpeg.write_bytes(jpeg.read_bytes()[:200])
    (tmp_path / "c").write_bytes(b"SIMPLE  =")
    (tmp_path / "d").write_bytes(imagecodecs.png_encode(picture[:40]))
    for name, error in (
        ("b", FormatMismatchError),
        ("c", FormatMismatchError),
        ("d", InvalidGeometryError),
        ("missing", FormatMismatchError),
    ):
        with pytest.raises(error, match=name):
            read_stamps([tmp_path / name])
