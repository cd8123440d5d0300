"""A registry on MLflow's own SQLite backend, cheap enough for every test."""

import secrets
from collections.abc import Callable
from pathlib import Path

import pytest

from acie_pipelines.provenance import InputRef
from acie_pipelines.registry.registry import ModelRegistry

FORWARD = ("staging", "canary", "production")


@pytest.fixture(scope="session")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """One MLflow database for all tests, which takes seconds to make; models keep them apart."""
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"
    MlflowClient(uri, registry_uri=uri).search_registered_models()
    return uri


@pytest.fixture
def place(tracking_uri: str, tmp_path: Path) -> tuple[str, str, str]:
    """Arguments of `ModelRegistry`: MLflow, database and a model name of the test's own."""
    return tracking_uri, f"sqlite:///{tmp_path}/acie.db", f"galaxy-{secrets.token_hex(4)}"


@pytest.fixture
def registry(place: tuple[str, str, str]) -> ModelRegistry:
    return ModelRegistry(*place)


@pytest.fixture
def trained(registry: ModelRegistry) -> Callable[..., int]:
    """Register the n-th model and take it to a state."""

    def make(number: int, state: str = "candidate") -> int:
        manifest = InputRef("model", f"m{number}", f"g{number}", f"{number:064x}")
        version = registry.register(
            f"run{number}",
            f"s3://models/{number}",
            manifest,
            metrics={"loss": number / 10},
            actor="trainer",
            reason="trained",
        )
        for to in FORWARD[: FORWARD.index(state) + 1] if state != "candidate" else ():
            registry.promote(version, to, "tester", "test", evidence={"passed": True})
        return version

    return make
