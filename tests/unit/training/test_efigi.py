"""EFIGI: reading, classes, splits that share no picture."""

import csv
import hashlib
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest

from acie_pipelines.errors import ConfigurationError, IntegrityError
from acie_pipelines.samples import GALAXY_IMAGES
from acie_pipelines.training.efigi import (
    FOLDS,
    HUBBLE_STAGE,
    SPIRAL_OR_ELLIPTICAL,
    ImageSet,
    read_efigi,
    split,
)


@pytest.fixture(scope="module")
def images() -> ImageSet:
    return read_efigi(GALAXY_IMAGES)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    return Path(shutil.copytree(GALAXY_IMAGES, tmp_path / "efigi"))


def test_sample_is_what_its_provenance_says(images: ImageSet) -> None:
    assert images.stamps.shape == (280, 3, 88, 88)
    assert np.bincount(HUBBLE_STAGE.labels(images.types)).tolist() == [40] * 7
    provenance = (GALAXY_IMAGES / "PROVENANCE.md").read_text()
    for name in ("efigi_jpg_88px.zip", "labels.csv"):
        assert hashlib.sha256((GALAXY_IMAGES / name).read_bytes()).hexdigest() in provenance
    # Galaxies are centred and brighter than the corners.
    centre = images.stamps[..., 40:48, 40:48].mean()
    assert centre > 3 * images.stamps[..., :8, :8].mean()


def test_classes_follow_the_types() -> None:
    types = np.arange(-6, 12)
    labels = SPIRAL_OR_ELLIPTICAL.labels(types)
    assert types[labels == 0].tolist() == [-5, -4]
    assert types[labels == 1].tolist() == list(range(1, 10))
    stages = HUBBLE_STAGE.labels(types)
    assert stages[types == 11] == -1
    assert (np.diff(stages[types < 11]) >= 0).all()
    assert set(stages[types < 11]) == set(range(7))
    assert HUBBLE_STAGE.centres.tolist() == [-5, -2, 0.5, 2.5, 4.5, 6.5, 9]


def test_splits_share_no_galaxy_and_every_galaxy_is_tested_once(images: ImageSet) -> None:
    tested: list[str] = []
    for fold in range(FOLDS):
        parts = split(images, fold)
        names = [set(part.names) for part in parts.values()]
        assert sum(map(len, names)) == len(images) == len(set().union(*names))
        tested += parts["test"].names
        assert 0.6 < len(parts["train"]) / len(images) < 0.8
    assert sorted(tested) == list(images.names)
    with pytest.raises(ConfigurationError, match="fold"):
        split(images, FOLDS)


def test_copies_of_a_picture_stay_in_one_split(images: ImageSet) -> None:
    renamed = ImageSet(
        (*images.names, *(f"copy of {name}" for name in images.names)),
        images.digests * 2,
        np.tile(images.types, 2),
        np.tile(images.stamps, (2, 1, 1, 1)),
    )
    for part in split(renamed, 2).values():
        assert {f"copy of {n}" for n in part.names if not n.startswith("copy")} == {
            n for n in part.names if n.startswith("copy")
        }


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"efigi_jpg_88px\.zip: does not exist"):
        read_efigi(tmp_path)


def test_a_galaxy_listed_twice_is_refused(copy: Path) -> None:
    labels = copy / "labels.csv"
    rows = labels.read_text().splitlines()
    labels.write_text("\n".join([*rows, rows[1]]) + "\n")
    with pytest.raises(IntegrityError, match="twice"):
        read_efigi(copy)


def test_a_label_without_picture_is_refused(copy: Path) -> None:
    with (copy / "labels.csv").open("a", newline="") as stream:
        csv.writer(stream).writerow(["PGC9999999", 3])
    with pytest.raises(IntegrityError, match="PGC9999999"):
        read_efigi(copy)


def test_a_picture_of_another_size_is_refused(copy: Path) -> None:
    import imagecodecs

    name = read_efigi(copy).names[0]
    with zipfile.ZipFile(copy / "efigi_jpg_88px.zip") as archive:
        members = {m: archive.read(m) for m in archive.namelist()}
    members[f"{name}.jpg"] = imagecodecs.jpeg_encode(np.zeros((40, 40, 3), np.uint8))
    with zipfile.ZipFile(copy / "efigi_jpg_88px.zip", "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    with pytest.raises(IntegrityError, match="shape"):
        read_efigi(copy)
