"""Paths of the data files, and small helpers that every test here uses."""

from pathlib import Path

import pytest

from acie_pipelines import sample_data
from acie_pipelines.storage import Store

DATA = Path(__file__).parent / "data"


@pytest.fixture
def data() -> Path:
    return DATA


@pytest.fixture
def samples() -> Path:
    return Path(next(iter(sample_data.__path__))) / "observations"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))
