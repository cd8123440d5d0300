"""Small keys."""

import pytest

from acie_pipelines.crypto.keys import PaillierPrivateKey, generate_keypair


@pytest.fixture(scope="session")
def private_key() -> PaillierPrivateKey:
    return generate_keypair(1024, allow_insecure_size=True)


@pytest.fixture(scope="session")
def other_key() -> PaillierPrivateKey:
    return generate_keypair(1024, allow_insecure_size=True)
