"""A worker computes without a private key, and stops when one comes along."""

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from acie_pipelines.crypto.cipher_tensor import CipherTensor
from acie_pipelines.crypto.keys import PaillierPrivateKey, generate_keypair
from acie_pipelines.crypto.packing import unpacked_layout
from acie_pipelines.crypto.public_keys import KeyRecord, KeyState, PublicKeys
from acie_pipelines.crypto.tensor_format import from_bytes, to_bytes
from acie_pipelines.errors import CryptoError, LostKeyError, RevokedKeyError, RoleError
from acie_pipelines.secure.roles import ComputeWorker, refuse_secrets, worker_environment
from tests.unit.secure.import_graph import imports_of

PAIR = generate_keypair(1024, allow_insecure_size=True)
NOW = "2025-01-01T00:00:00+00:00"


def public_keys(pair: PaillierPrivateKey = PAIR, state: KeyState = KeyState.CURRENT) -> PublicKeys:
    return PublicKeys("test keys", (KeyRecord(pair.public_key, 1, NOW, state, NOW),))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Whatever vault the working tree has must not decide a test."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_no_import_leads_from_the_worker_to_the_vault() -> None:
    assert "acie_pipelines.crypto.vault" in imports_of("acie_pipelines.resources")
    reached = imports_of("acie_pipelines.secure.roles")
    assert "acie_pipelines.crypto.cipher_tensor" in reached
    assert not [name for name in reached if name.startswith("acie_pipelines.crypto.vault")]


WORKER = textwrap.dedent(
    """
    import os, sys
    from pathlib import Path
    from acie_pipelines.secure.roles import ComputeWorker, refuse_secrets
    worker = ComputeWorker.open(Path("public.json"), allow_insecure_size=True)
    refuse_secrets(os.environ, sys.argv, places=[Path.cwd()], keys=worker.keys)
    tensor = worker.receive(Path("in.bin").read_bytes())
    Path("out.bin").write_bytes(worker.send(tensor * 3 - 1))
    assert not [name for name in sys.modules if "vault" in name], sys.modules
    """
)


def start_worker(folder: Path, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WORKER], cwd=folder, env=environ, capture_output=True, text=True
    )


def test_a_worker_process_computes_what_its_owner_can_read(tmp_path: Path) -> None:
    folder = tmp_path / "worker"
    folder.mkdir()
    values = np.array([[1.5, -2.25], [0.125, 4.0]])
    layout = unpacked_layout(key_bits=1024, value_bits=40, fractional_bits=16)
    sent = to_bytes(CipherTensor.encrypt(values, PAIR.public_key, layout))
    (folder / "public.json").write_bytes(public_keys().to_json())
    (folder / "in.bin").write_bytes(sent)
    owner = os.environ | {
        "ACIE_KEYS": json.dumps({"schema": "acie.keys/2"}),
        "ACIE_KEYS_PASSPHRASE": "correct horse battery",
        "ACIE_STORAGE_URL": str(tmp_path),
        "AWS_SECRET_ACCESS_KEY": "x",
    }
    done = start_worker(folder, worker_environment(owner))
    assert done.returncode == 0, done.stderr
    result = from_bytes((folder / "out.bin").read_bytes(), PAIR.public_key)
    assert (result.decrypt(PAIR) == values * 3 - 1).all()
    # Started with its owner's variables instead, it stops before it reads anything.
    (folder / "out.bin").unlink()
    refused = start_worker(folder, owner)
    assert refused.returncode != 0 and "RoleError: $ACIE_KEYS" in refused.stderr
    assert "correct horse" not in refused.stderr
    assert not (folder / "out.bin").exists()


def test_environment_is_an_allow_list() -> None:
    given = {
        "PATH": "/bin",
        "LC_ALL": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "ACIE_PUBLIC_KEYS_FILE": "/keys/public.json",
    }
    withheld = {
        "ACIE_KEYS": "",
        "ACIE_KEYS_FILE": "/keys.json",
        "ACIE_KEYS_PASSPHRASE": "x",
        "ACIE_KEYS_WRAPPING_KEY_FILE": "/k",
        "ACIE_HOME": "/h",
        "ACIE_STORAGE_URL": "/s",
        "ACIE_DATABASE_URL": "postgresql://u:p@h/d",
        "DAGSTER_HOME": "/d",
        "MLFLOW_TRACKING_URI": "http://m",
        "AWS_SECRET_ACCESS_KEY": "x",
        "PGPASSWORD": "x",
        "ANYTHING_NEW": "x",
    }
    assert worker_environment(given | withheld) == given
    refuse_secrets(given, ["worker", "--tiles", "3"], keys=public_keys())


@pytest.mark.parametrize(
    "name", ["ACIE_KEYS", "ACIE_KEYS_FILE", "ACIE_KEYS_PASSPHRASE", "ACIE_KEYS_WRAPPING_KEY"]
)
def test_variables_of_the_vault_are_refused(name: str) -> None:
    with pytest.raises(RoleError, match=rf"^\${name}: leads to a private key") as caught:
        refuse_secrets({name: "secret-value"}, [])
    assert "secret-value" not in str(caught.value)


P, Q = PAIR.p, PAIR.q
SECRETS = {
    "p in decimal": str(P),
    "q in hexadecimal": f"{Q:x}",
    "p with a name": f"prime=0x{P:X}",
    "order of the units": str((P - 1) * (Q - 1)),
    "half of it, as Carmichael's function": f"{(P - 1) * (Q - 1) // 2:x}",
    "a vault": json.dumps({"schema": "acie.keys/2", "keys": {}}),
    "a vault of the earlier schema": json.dumps({"schema": "acie.keys/1", "keys": {}}),
    "a vault in JSON in JSON": json.dumps(json.dumps({"schema": "acie.keys/2"})),
    "a key in PEM": "-----BEGIN ENCRYPTED PRIVATE KEY-----",
}


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS.keys())
def test_secrets_are_found_wherever_they_are(tmp_path: Path, secret: str) -> None:
    keys = public_keys()
    with pytest.raises(RoleError, match=r"^\$HARMLESS"):
        refuse_secrets({"HARMLESS": secret}, [], keys=keys)
    with pytest.raises(RoleError, match=r"^argument 1"):
        refuse_secrets({}, ["worker", secret], keys=keys)
    path = tmp_path / "below" / "notes.txt"
    path.parent.mkdir()
    path.write_text(secret)
    for environ, argv, where in (
        ({"CONFIG": str(path)}, [], r"^file in \$CONFIG"),
        ({"LIST": f"/nowhere{os.pathsep}{path}"}, [], r"^file in \$LIST"),
        ({}, ["worker", f"--config={path}"], "^file in argument 1"),
    ):
        with pytest.raises(RoleError, match=where) as caught:
            refuse_secrets(environ, argv, keys=keys)
        assert str(path) in str(caught.value) and secret not in str(caught.value)
    with pytest.raises(RoleError, match=r"^file "):
        refuse_secrets({}, [], places=[tmp_path], keys=keys)


def test_public_numbers_are_no_secrets(tmp_path: Path) -> None:
    keys = public_keys()
    n = PAIR.public_key.n
    ciphertext = int.from_bytes(PAIR.public_key.context.encrypt(np.ones((1, 16), "u8")).tobytes())
    (tmp_path / "public.json").write_bytes(keys.to_json())
    (tmp_path / "numbers").write_text(f"{n} {n:x} {n * n} {ciphertext} {ciphertext:x} {3**500}")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    refuse_secrets({"N": f"{n:x}", "NUL": "a\0b"}, ["x" * 5000], places=[tmp_path], keys=keys)


def test_a_vault_in_its_usual_place_is_refused(tmp_path: Path) -> None:
    for environ, path in (
        ({}, tmp_path / "dagster_home" / "acie" / "keys.json"),
        ({"ACIE_HOME": str(tmp_path / "home")}, tmp_path / "home" / "keys.json"),
    ):
        path.parent.mkdir(parents=True)
        path.write_text('{"schema": "acie.keys/2"}')
        with pytest.raises(RoleError, match=f"^key vault {path}"):
            refuse_secrets(environ, [])
        path.unlink()
        refuse_secrets(environ, [])


def test_a_vault_left_open_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "inherited.json"
    path.write_text('{"schema": "acie.keys/2"}')
    refuse_secrets({}, [])
    with path.open() as _, pytest.raises(RoleError, match=f"^open file {path}"):
        refuse_secrets({}, [])


def test_worker_refuses_other_and_revoked_keys() -> None:
    layout = unpacked_layout(key_bits=1024, value_bits=40)
    data = to_bytes(CipherTensor.encrypt(np.arange(3), PAIR.public_key, layout))
    other = generate_keypair(1024, allow_insecure_size=True)
    with pytest.raises(LostKeyError, match=PAIR.key_id):
        ComputeWorker(public_keys(other)).receive(data)
    with pytest.raises(RevokedKeyError, match=PAIR.key_id):
        ComputeWorker(public_keys(state=KeyState.REVOKED)).receive(data)
    for damaged in (data[:10], b"x" + data[1:]):
        with pytest.raises(CryptoError, match="encrypted tensor"):
            ComputeWorker(public_keys()).receive(damaged)
    rotated = ComputeWorker(public_keys(state=KeyState.ROTATED))
    received = rotated.receive(data)
    sent = rotated.send(received)
    assert sent != data
    assert (from_bytes(sent, PAIR.public_key).decrypt(PAIR) == np.arange(3)).all()
    assert PAIR.key_id in repr(rotated)
