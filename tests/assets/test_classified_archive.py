"""The graph seals galaxy stamps with their class."""

from pathlib import Path

import dagster as dg
import imagecodecs
import numpy as np
import pytest
import tifffile

from acie_pipelines.crypto.archive import read_header, read_note
from acie_pipelines.crypto.archive_observation import archive_observation
from acie_pipelines.crypto.vault import FileVault
from acie_pipelines.models.file_classifier import FileClassifier
from acie_pipelines.models.images import StampClassifier
from acie_pipelines.observations.ingest import ingest_observation
from acie_pipelines.resources import AttestationsResource, StoreResource, VaultResource
from acie_pipelines.samples import GALAXY_IMAGES
from acie_pipelines.settings import Settings
from acie_pipelines.storage import Store
from acie_pipelines.training.efigi import read_efigi
from assets.encryption.archive import SealingConfig, sealed_archive


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "classifier.pt"
    path.write_bytes(StampClassifier(("elliptical", "spiral"), seed=1).eval().save())
    return path


def test_the_class_of_a_stamp_is_in_its_archive_and_nowhere_else(
    settings: Settings, vault: FileVault, tmp_path: Path, model: Path
) -> None:
    pixels = np.ascontiguousarray(read_efigi(GALAXY_IMAGES).stamps[3].transpose(1, 2, 0))
    tifffile.imwrite(tmp_path / "galaxy.tif", pixels, photometric="rgb")
    store = Store(settings.storage_url)
    observation = ingest_observation(store, tmp_path / "galaxy.tif", code_version="1")
    events = list(
        sealed_archive(
            dg.build_asset_context(partition_key=observation.key),
            SealingConfig(classifier=str(model)),
            storage=StoreResource(url=settings.storage_url),
            vault=VaultResource(keys_file=str(settings.keys_file)),
            attestations=AttestationsResource(database_url=settings.database_url),
            raw_observation=observation,
        )
    )
    [archive] = [event.value for event in events if isinstance(event, dg.Output)]
    [sealed] = archive.attributes["files"]
    with store.open(f"{archive.prefix}/{sealed['archive']}") as source:
        assert read_header(source).name == "galaxy.tif"
        source.seek(0)
        note = read_note(source, archive_key=vault.archive_key())
    describe = FileClassifier(model)
    png = tmp_path / "galaxy.png"
    png.write_bytes(imagecodecs.png_encode(pixels))
    with png.open("rb") as handle:
        expected, _ = describe(png, handle)
    assert note == expected is not None
    told = " ".join(map(str, events)) + store.read_bytes(f"{archive.prefix}/manifest.json").decode()
    assert str(note["probability"]) not in told
    assert note["class"] not in told
    # Another classifier, or none, makes another archive; the same one finds it made.
    key = vault.archive_key()
    again = {"code_version": archive.code_version}
    assert archive_observation(store, observation, key, **again, describe=describe) == archive
    assert archive_observation(store, observation, key, **again) != archive
