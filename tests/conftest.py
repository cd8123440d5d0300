"""Fixtures shared by all tests: a workspace of its own for each, nothing from the machine's."""

import base64
import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import dagster as dg
import hypothesis
import pytest

from acie_pipelines.crypto.vault import FileVault
from acie_pipelines.provenance import Manifest
from acie_pipelines.runs import open_instance
from acie_pipelines.samples import OBSERVATIONS
from acie_pipelines.settings import Settings
from acie_pipelines.storage import Store

VARIABLES = (
    "ACIE_STORAGE_URL",
    "ACIE_DATABASE_URL",
    "ACIE_INBOX_URL",
    "ACIE_INDEX_URL",
    "ACIE_KEYS",
    "ACIE_KEYS_FILE",
    "ACIE_KEYS_PASSPHRASE",
    "ACIE_KEYS_WRAPPING_KEY",
    "ACIE_PUBLIC_KEYS_FILE",
    "ACIE_EXECUTOR",
    "MLFLOW_TRACKING_URI",
)

# Continuous integration judges a change by the same examples every time; new ones are looked for
# wherever people work.
hypothesis.settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")


@contextmanager
def _workspace(folder: Path) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        for variable in VARIABLES:
            patch.delenv(variable, raising=False)
        dagster_home = folder / "dagster_home"
        dagster_home.mkdir(parents=True, exist_ok=True)
        (dagster_home / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
        patch.setenv("DAGSTER_HOME", str(dagster_home))
        patch.setenv("ACIE_HOME", str(folder / "acie"))
        yield folder


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what mostly waits: at the end it would leave a core idle."""
    items.sort(key=lambda item: item.path.name != "test_daemon.py")


@pytest.fixture(scope="session")
def workspace() -> Callable[[Path], AbstractContextManager[Path]]:
    """Point every ACIE and Dagster location into a directory, for as long as a block runs."""
    return _workspace


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """Point every ACIE and Dagster location into a temporary directory."""
    with _workspace(tmp_path) as folder:
        yield folder


@pytest.fixture
def settings(home: Path) -> Settings:
    """Settings of that workspace."""
    return Settings.from_environment()


@pytest.fixture
def instance(home: Path) -> Iterator[dg.DagsterInstance]:
    """The workspace's Dagster instance."""
    with open_instance() as opened:
        yield opened


@pytest.fixture(scope="session")
def vault_document(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A vault with one key pair of the least size that is allowed."""
    path = tmp_path_factory.mktemp("vault") / "keys.json"
    FileVault.create(path, 2048)
    return path.read_bytes()


@pytest.fixture(scope="session")
def with_keys(vault_document: bytes) -> Callable[[Settings], FileVault]:
    """Put that vault where the settings look for it."""

    def put(settings: Settings) -> FileVault:
        settings.keys_file.parent.mkdir(parents=True, exist_ok=True)
        settings.keys_file.touch(mode=0o600)
        settings.keys_file.write_bytes(vault_document)
        return FileVault(settings.keys_file)

    return put


@pytest.fixture
def vault(settings: Settings, with_keys: Callable[[Settings], FileVault]) -> FileVault:
    """That vault in the workspace."""
    return with_keys(settings)


@pytest.fixture(scope="session")
def galaxies_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """800 simulated galaxies."""
    from tests.small_counterfactual import write_galaxies

    return write_galaxies(tmp_path_factory.mktemp("galaxies") / "galaxies.h5")


@pytest.fixture(scope="session")
def small_model(
    tmp_path_factory: pytest.TempPathFactory, galaxies_file: Path
) -> tuple[Store, Manifest]:
    """A counterfactual model trained on them for a moment."""
    import torch

    from acie_pipelines.training.counterfactual_training import train_counterfactual_model
    from tests.small_counterfactual import CONFIG

    torch.set_num_threads(1)
    store = Store(str(tmp_path_factory.mktemp("small_model")))
    return store, train_counterfactual_model(
        store, "galaxies", galaxies_file, CONFIG, code_version="1"
    )


@pytest.fixture(scope="session")
def image_file() -> Path:
    """An unWISE cutout of 8 kB."""
    return OBSERVATIONS / "unwise-1866p257-w1-img-m.fits"


@pytest.fixture(scope="session")
def spectrum_file() -> Path:
    """The SDSS spectrum of a galaxy."""
    return OBSERVATIONS / "spec-0266-51630-0168.fits"


def _spellings(document: bytes) -> Iterator[tuple[str, bytes]]:
    """Every way a secret number or key could have been written down."""
    for entry in json.loads(document)["keys"].values():
        key = entry["secrets"]
        p, q = int(key["p"], 16), int(key["q"], 16)
        numbers = {"p": p, "q": q, "p^2": p * p, "q^2": q * q}
        numbers["inverse of p modulo q"] = pow(p, -1, q)
        for name, number in numbers.items():
            size = (number.bit_length() + 7) // 8
            # The first digits will do: messages are cut, limbs lie in arrays of another length.
            yield f"{name} in decimal", str(number)[:48].encode()
            yield f"{name} in hexadecimal", f"{number:x}"[:40].encode()
            yield f"{name} in HEXADECIMAL", f"{number:X}"[:40].encode()
            yield f"{name} in bytes", number.to_bytes(size, "big")[:32]
            yield f"{name} in limbs", number.to_bytes(size, "little")[:32]
            yield f"{name} in base64", base64.b64encode(number.to_bytes(size, "big"))[:40]
        secret = base64.b64decode(key["archive_key"])
        yield "archive key in base64", key["archive_key"][:40].encode()
        yield "archive key in bytes", secret
        yield "archive key in hexadecimal", secret.hex().encode()


def _leaks(folder: Path, vault: Path, document: bytes) -> list[str]:
    searched = [path for path in sorted(folder.rglob("*")) if path.is_file() and path != vault]
    needles = list(_spellings(document))
    return [
        f"{what} in {path.relative_to(folder)}"
        for path in searched
        for content in [path.read_bytes()]
        for what, needle in needles
        if needle in content
    ]


@pytest.fixture(scope="session")
def key_leaks(vault_document: bytes) -> Callable[[Path, Path], list[str]]:
    """Search every file below a folder, but for the vault, for the vault's secrets."""
    return lambda folder, vault: _leaks(folder, vault, vault_document)
