"""Small keys, and datasets made in units."""

from collections.abc import Callable
from pathlib import Path

import pytest

from acie_pipelines.crypto.keys import PaillierPrivateKey, generate_keypair
from acie_pipelines.crypto.public_keys import KeyRecord, KeyState, PublicKeys
from acie_pipelines.provenance import Manifest
from acie_pipelines.secure.batches import Work, make
from acie_pipelines.secure.queue import WorkQueue
from acie_pipelines.storage import Store

NOW = "2026-01-01T00:00:00+00:00"


@pytest.fixture(scope="session")
def private_key() -> PaillierPrivateKey:
    return generate_keypair(1024, allow_insecure_size=True)


@pytest.fixture(scope="session")
def other_key() -> PaillierPrivateKey:
    return generate_keypair(1024, allow_insecure_size=True)


@pytest.fixture(scope="session")
def public_keys(private_key: PaillierPrivateKey) -> PublicKeys:
    return PublicKeys("owner", (KeyRecord(private_key.public_key, 1, NOW, KeyState.CURRENT, NOW),))


@pytest.fixture
def queue(tmp_path: Path) -> WorkQueue:
    return WorkQueue(f"sqlite:///{tmp_path / 'queue.db'}")


@pytest.fixture
def made(queue: WorkQueue, store: Store, public_keys: PublicKeys) -> Callable[[Work], Manifest]:
    """Make a dataset in units, with the public key alone."""
    return lambda work: make(queue, store, public_keys, work)
