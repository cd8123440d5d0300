"""A process without the private key evaluates a model, or says in one line why not."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from acie_pipelines.crypto.keys import PaillierPrivateKey, generate_keypair
from acie_pipelines.crypto.public_keys import KeyRecord, KeyState, PublicKeys
from acie_pipelines.errors import CryptoError
from acie_pipelines.secure import model_worker
from acie_pipelines.secure.layers import SecureLinear
from acie_pipelines.secure.model_format import to_bytes
from acie_pipelines.secure.models import SecureModel
from acie_pipelines.secure.roles import worker_environment
from acie_pipelines.secure.signals import Signal
from tests.unit.secure.import_graph import imports_of

NOW = "2026-01-01T00:00:00+00:00"


@pytest.fixture(scope="module")
def key() -> PaillierPrivateKey:
    return generate_keypair(2048)


@pytest.fixture(scope="module")
def model() -> SecureModel:
    signal = Signal.inputs((3,), maximum=1.0, fractional_bits=7)
    weights = [[1.0, -0.5, 0.25], [0.125, 1.0, 0.0]]
    return SecureModel((SecureLinear.quantise(weights, [1.0, 2.0], signal, weight_bits=8),))


def public_keys(key: PaillierPrivateKey) -> PublicKeys:
    record = KeyRecord(key.public_key, 1, NOW, KeyState.CURRENT, NOW)
    return PublicKeys("owner", (record,))


def test_a_process_evaluates_what_the_owner_reads(
    key: PaillierPrivateKey, model: SecureModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The owner's way to the key does not reach the worker.
    monkeypatch.setenv("ACIE_KEYS", json.dumps({"schema": "acie.keys/2"}))
    x = np.array([[1.0, 0.5, -0.25], [0.0, -1.0, 1.0]])
    request = model.interface.encrypt(x, key)
    result = model_worker.evaluate_in_process(model, request, public_keys(key))
    expected = x @ np.array([[1.0, -0.5, 0.25], [0.125, 1.0, 0.0]]).T + [1.0, 2.0]
    assert np.array_equal(model.interface.finish(result, key, 2), expected)


def test_what_the_process_refuses_is_one_line(key: PaillierPrivateKey, model: SecureModel) -> None:
    tensor = model.interface.encrypt(np.zeros((1, 3)), key)
    with pytest.raises(CryptoError, match=r"worker process: failed: .* has shape"):
        model_worker.evaluate_in_process(model, tensor[:2], public_keys(key))


def test_a_model_swapped_on_the_way_is_refused(
    key: PaillierPrivateKey, model: SecureModel, tmp_path: Path
) -> None:
    (tmp_path / "model").write_bytes(to_bytes(model))
    (tmp_path / "keys.json").write_bytes(public_keys(key).to_json())
    command = [sys.executable, "-m", model_worker.__name__, "model", "keys.json"]
    done = subprocess.run(
        [*command, "request", "result", "0" * 64],
        cwd=tmp_path,
        env=worker_environment(os.environ),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("secure model: is not 0000000000000000")
    assert not (tmp_path / "result").exists()


def test_no_import_leads_to_the_vault_or_to_torch() -> None:
    reached = imports_of("acie_pipelines.secure.model_worker")
    assert "acie_pipelines.secure.layers" in reached
    assert not [n for n in reached if n.startswith(("acie_pipelines.crypto.vault", "torch"))]
