"""Two observations taken through the graph once, for every test that only looks at the result."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import dagster as dg
import pytest

from acie_pipelines.crypto.vault import FileVault
from acie_pipelines.definitions import build_defs
from acie_pipelines.jobs import PROCESS_OBSERVATION
from acie_pipelines.ledger import Ledger
from acie_pipelines.observations.identity import fingerprint, observation_key
from acie_pipelines.partitions import observation_partitions
from acie_pipelines.runs import JobOutcome, execute, open_instance
from acie_pipelines.settings import Settings
from acie_pipelines.storage import Store


def process(path: Path, settings: Settings, instance: dg.DagsterInstance) -> tuple[str, JobOutcome]:
    """What a sensor and the daemon do for one file."""
    content = fingerprint(path)
    key = observation_key(path.name, content.sha256)
    ledger = Ledger(settings.database_url)
    ledger.register(content.sha256, key, str(path), content.size)
    instance.add_dynamic_partitions(observation_partitions.name, [key])
    defs = build_defs(settings=settings)
    return key, execute(defs, PROCESS_OBSERVATION, instance, partition_key=key)


@pytest.fixture(scope="session")
def process_file() -> Callable[..., tuple[str, JobOutcome]]:
    return process


@dataclass(frozen=True)
class Sealed:
    """A workspace with an image and a spectrum in it."""

    settings: Settings
    store: Store
    vault: FileVault
    instance: dg.DagsterInstance
    image: str
    spectrum: str
    outcomes: dict[str, JobOutcome]
    home: Path


@pytest.fixture(scope="module")
def sealed(
    tmp_path_factory: pytest.TempPathFactory,
    workspace: Callable[[Path], AbstractContextManager[Path]],
    with_keys: Callable[[Settings], FileVault],
    image_file: Path,
    spectrum_file: Path,
) -> Iterator[Sealed]:
    with workspace(tmp_path_factory.mktemp("sealed")) as home:
        settings = Settings.from_environment()
        vault = with_keys(settings)
        with open_instance() as instance:
            image, image_outcome = process(image_file, settings, instance)
            spectrum, spectrum_outcome = process(spectrum_file, settings, instance)
            yield Sealed(
                settings,
                Store(settings.storage_url),
                vault,
                instance,
                image,
                spectrum,
                {image: image_outcome, spectrum: spectrum_outcome},
                home,
            )
