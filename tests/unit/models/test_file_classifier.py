"""Galaxy stamps are sealed with their class, which only their owner can read."""

import hashlib
import json
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from acie_pipelines.cli import app
from acie_pipelines.crypto.vault import FileVault
from acie_pipelines.models.images import StampClassifier
from acie_pipelines.samples import GALAXY_IMAGES
from acie_pipelines.training.efigi import read_efigi


def run(*arguments: object) -> tuple[int, list[dict[str, object]]]:
    result = CliRunner().invoke(app, ["secure", *map(str, arguments), "--json"])
    return result.exit_code, [json.loads(line) for line in result.stdout.splitlines()]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "classifier.pt"
    path.write_bytes(StampClassifier(("elliptical", "spiral"), seed=1).eval().save())
    return path


@pytest.fixture
def stamp(tmp_path: Path) -> Path:
    path = tmp_path / "galaxy.png"
    pixels = read_efigi(GALAXY_IMAGES).stamps[3]
    path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels.transpose(1, 2, 0))))
    return path


def test_the_class_is_sealed_with_the_stamp(
    vault: FileVault, tmp_path: Path, model: Path, stamp: Path
) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("not a galaxy")
    out = tmp_path / "sealed"
    code, [galaxy, text] = run("seal", stamp, other, "--out", out, "--model", model)
    assert (code, galaxy["status"], text["status"]) == (0, "sealed", "sealed")
    pixels = read_efigi(GALAXY_IMAGES).stamps[3:4]
    classifier = StampClassifier.load(model.read_bytes())
    chances = classifier.probabilities(torch.from_numpy(pixels))[0].numpy()
    note = {
        "class": classifier.classes[int(chances.argmax())],
        "probability": pytest.approx(float(chances.max()), abs=1e-6),
        "model_sha256": hashlib.sha256(model.read_bytes()).hexdigest(),
    }
    assert galaxy["note"] == note
    assert text["note"] is None and text["reason"] == "not classified: is no JPEG, PNG or TIFF"

    # Nothing of it can be read without the key; with it, the archive gives it back.
    archive = out / "galaxy.png.acie"
    content = archive.read_bytes()
    for word in (str(note["class"]), str(note["model_sha256"])[:16], "probability"):
        assert word.encode() not in content
    for arguments in (("verify", archive), ("restore", archive, "--out", tmp_path / "back")):
        code, [line] = run(*arguments)
        assert (code, line["note"]) == (0, note)
    assert (tmp_path / "back" / "galaxy.png").read_bytes() == stamp.read_bytes()

    # The same again changes nothing; without the class it would be another archive.
    code, [again] = run("seal", stamp, "--out", out, "--model", model)
    assert (code, again["status"], again["note"]) == (0, "unchanged", note)
    assert archive.read_bytes() == content
    code, [plain] = run("seal", stamp, "--out", out)
    assert (code, plain["error_type"]) == (1, "StorageError")


def test_without_a_classifier_nothing_is_said(
    vault: FileVault, tmp_path: Path, stamp: Path
) -> None:
    code, [line] = run("seal", stamp, "--out", tmp_path / "sealed")
    assert (code, line["note"], line["reason"]) == (0, None, "")
    code, lines = run("seal", stamp, "--out", tmp_path, "--model", tmp_path / "none.pt")
    assert code == 1 and not lines
