"""Generate, rotate, revoke: what each key may still do, and that none is ever lost."""

import io
import json
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
from contextlib import AbstractContextManager
from pathlib import Path
from unittest import mock

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from acie_pipelines.crypto import vault as vault_module
from acie_pipelines.crypto.archive_key import ArchiveKey
from acie_pipelines.crypto.cipher_tensor import CipherTensor
from acie_pipelines.crypto.keys import PaillierPrivateKey, generate_keypair
from acie_pipelines.crypto.packing import layout_for
from acie_pipelines.crypto.public_keys import KeyState
from acie_pipelines.crypto.vault import EnvironmentVault, FileVault
from acie_pipelines.crypto.vault_wrapping import WrappingKey
from acie_pipelines.errors import KeyVaultError, LostKeyError, RevokedKeyError

POOL = [generate_keypair(1024, allow_insecure_size=True) for _ in range(4)]


def wrapping_key(number: int) -> bytes:
    return bytes([number]) * 32


class Vault(RuleBasedStateMachine):
    """Any sequence of commands, against a model that is a dictionary of states."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "keys.json"
        self.environ: dict[str, str] = {}
        self.states: dict[str, str] = {}
        self.archive_keys: dict[str, ArchiveKey] = {}
        self.unused = list(POOL)

    def teardown(self) -> None:
        vault = self.open()
        for pair in POOL:
            if pair.key_id in self.states:
                assert vault.private_key(pair.key_id, allow_revoked=True) == pair
        self.folder.cleanup()

    def open(self) -> FileVault:
        return FileVault(self.path, environ=self.environ, allow_insecure_size=True)

    def new_key(self) -> AbstractContextManager[object]:
        return mock.patch.object(
            vault_module, "generate_keypair", lambda *_, **__: self.unused.pop()
        )

    def remember(self, key_id: str) -> None:
        for other, state in self.states.items():
            if state == "current":
                self.states[other] = "rotated"
        self.states[key_id] = "current"
        self.archive_keys[key_id] = self.open().archive_key(key_id)

    @initialize(protected=st.booleans())
    def generate(self, protected: bool) -> None:
        secret = None
        if protected:
            self.use(1)
            secret = WrappingKey(wrapping_key(1))
        with self.new_key():
            vault = FileVault.create(self.path, 1024, secret=secret, allow_insecure_size=True)
        self.remember(vault.public_key().key_id)

    def use(self, number: int) -> None:
        import base64

        text = base64.b64encode(wrapping_key(number)).decode()
        self.environ = {"ACIE_KEYS_WRAPPING_KEY": text}

    @precondition(lambda self: self.unused)
    @rule()
    def rotate(self) -> None:
        with self.new_key():
            record = self.open().rotate(1024)
        assert record.version == len(self.states) + 1
        self.remember(record.key_id)

    @rule(choice=st.integers(0, 9))
    def revoke(self, choice: int) -> None:
        key_id = sorted(self.states)[choice % len(self.states)]
        if self.states[key_id] == "revoked":
            with pytest.raises(KeyVaultError, match="revoked already"):
                self.open().revoke(key_id, "again")
        else:
            record = self.open().revoke(key_id, "laptop stolen")
            assert (record.state, record.reason) == (KeyState.REVOKED, "laptop stolen")
            self.states[key_id] = "revoked"

    @rule(number=st.integers(1, 3))
    def protect(self, number: int) -> None:
        self.open().protect(WrappingKey(wrapping_key(number)))
        self.use(number)

    @rule(reason=st.sampled_from(["", " \n ", "x" * 501]))
    def revoke_for_no_reason(self, reason: str) -> None:
        before = self.path.read_bytes()
        key_id = next(iter(self.states))
        with pytest.raises(KeyVaultError):
            self.open().revoke(key_id, reason)
        assert self.path.read_bytes() == before

    @invariant()
    def vault_is_as_the_model_says(self) -> None:
        if not self.states:
            return
        vault = self.open()
        assert {r.key_id: r.state.value for r in vault.public_keys().records} == self.states
        current = [key_id for key_id, state in self.states.items() if state == "current"]
        if current:
            assert [vault.archive_key().key_id] == current == [vault.key_ids()[0]]
        else:
            for use in (vault.public_key, vault.private_key, vault.archive_key):
                with pytest.raises(LostKeyError, match="no current key"):
                    use()
        for key_id, state in self.states.items():
            if state == "revoked":
                for refused in (vault.public_key, vault.private_key, vault.archive_key):
                    with pytest.raises(RevokedKeyError, match=key_id):
                        refused(key_id)
            assert vault.archive_key(key_id, allow_revoked=True) == self.archive_keys[key_id]
        assert stat.S_IMODE(self.path.stat().st_mode) == 0o600
        assert [entry.name for entry in self.path.parent.iterdir()] == ["keys.json"]


Vault.TestCase.settings = settings(max_examples=15, stateful_step_count=10, deadline=None)
TestVault = Vault.TestCase


def small_vault(path: Path) -> FileVault:
    return FileVault.create(path, 1024, allow_insecure_size=True)


def test_a_rotated_key_reads_what_was_made_under_it(tmp_path: Path) -> None:
    from hashlib import sha256

    from acie_native import Streebog256
    from acie_pipelines.crypto.archive import seal, unseal

    vault = small_vault(tmp_path / "keys.json")
    old = vault.public_key()
    values = np.arange(-50, 50, dtype=np.int16)
    tensor = CipherTensor.encrypt(values, old, layout_for(values.dtype, key_bits=old.bits))
    content = b"what the telescope saw"
    streebog = Streebog256()
    streebog.update(content)
    archive = io.BytesIO()
    seal(
        io.BytesIO(content),
        archive,
        archive_key=vault.archive_key(),
        name="a.fits",
        size=len(content),
        sha256=sha256(content).hexdigest(),
        streebog256=streebog.hexdigest(),
    )
    new = vault.rotate(1024)
    assert vault.archive_key().key_id == new.key_id != old.key_id

    def read(*, allow_revoked: bool) -> None:
        private = vault.private_key(old.key_id, allow_revoked=allow_revoked)
        assert (tensor.decrypt(private) == values).all()
        key = vault.archive_key(old.key_id, allow_revoked=allow_revoked)
        restored = io.BytesIO()
        unseal(io.BytesIO(archive.getvalue()), restored, archive_key=key)
        assert restored.getvalue() == content

    read(allow_revoked=False)
    vault.revoke(old.key_id, "copied by a guest")
    with pytest.raises(RevokedKeyError, match=f"{old.key_id}.*allow_revoked"):
        read(allow_revoked=False)
    read(allow_revoked=True)


def test_a_lost_key_is_named_with_what_to_do(tmp_path: Path) -> None:
    vault = small_vault(tmp_path / "keys.json")
    for use in (vault.public_key, vault.private_key, vault.archive_key):
        with pytest.raises(LostKeyError, match="0000000000000000") as caught:
            use("0" * 16)
        assert vault.key_ids()[0] in str(caught.value)
        assert "ACIE_KEYS_FILE" in str(caught.value) and "backup" in str(caught.value)
    with pytest.raises(LostKeyError, match="0000000000000000"):
        vault.revoke("0" * 16, "lost")


CHANGER = textwrap.dedent(
    """
    import os, pathlib, signal, sys
    from acie_pipelines.crypto import vault_file
    from acie_pipelines.crypto.vault import FileVault
    path, moment = pathlib.Path(sys.argv[1]), sys.argv[2]
    def die(*_):
        os.kill(os.getpid(), signal.SIGKILL)
    if moment == "written":
        os.fsync = die
    elif moment == "renamed":
        vault_file._sync_directory = die
    vault = FileVault(path, allow_insecure_size=True)
    for _ in range(2):
        print(vault.rotate(1024).key_id)
    """
)


@pytest.mark.parametrize(("moment", "keys"), [("written", 1), ("renamed", 2)])
def test_kill_during_rotation_loses_no_key(tmp_path: Path, moment: str, keys: int) -> None:
    vault = small_vault(tmp_path / "keys.json")
    before: PaillierPrivateKey = vault.private_key()
    done = subprocess.run([sys.executable, "-c", CHANGER, str(vault.path), moment])
    assert done.returncode == -signal.SIGKILL
    assert len(vault.key_ids()) == keys
    vault.authenticate()
    assert vault.private_key(before.key_id) == before
    vault.rotate(1024)
    assert [entry.name for entry in tmp_path.iterdir()] == ["keys.json"]


def test_concurrent_rotations_lose_no_key(tmp_path: Path) -> None:
    vault = small_vault(tmp_path / "keys.json")
    first = vault.public_key().key_id
    command = [sys.executable, "-c", CHANGER, str(vault.path), "never"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    made = {line for process in running for line in process.communicate()[0].split()}
    assert [process.returncode for process in running] == [0, 0]
    assert len(made) == 4
    assert set(vault.key_ids()) == made | {first}
    vault.authenticate()
    assert [record.version for record in vault.public_keys().records] == [1, 2, 3, 4, 5]
    states = [record.state.value for record in vault.public_keys().records]
    assert states == ["rotated"] * 4 + ["current"]


def test_what_changed_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    """The vault is protected anew between a rotation's start and its lock."""
    vault = small_vault(tmp_path / "keys.json")
    other = FileVault(vault.path, environ={}, allow_insecure_size=True)

    def meanwhile(*_: object, **__: object) -> PaillierPrivateKey:
        FileVault(vault.path, environ={}, allow_insecure_size=True).protect(
            WrappingKey(wrapping_key(1))
        )
        return POOL[0]

    with (
        mock.patch.object(vault_module, "generate_keypair", meanwhile),
        pytest.raises(KeyVaultError, match="set ACIE_KEYS_WRAPPING_KEY"),
    ):
        other.rotate(1024)
    assert len(vault.key_ids()) == 1
    assert vault.protection() == "wrapping key"


def test_a_vault_in_the_environment_keeps_its_states(tmp_path: Path) -> None:
    vault = small_vault(tmp_path / "keys.json")
    old = vault.public_key().key_id
    new = vault.rotate(1024)
    vault.revoke(old, "copied")
    environ = {"ACIE_KEYS": vault.path.read_text()}
    same = EnvironmentVault(environ=environ, allow_insecure_size=True)
    assert same.public_keys().records == vault.public_keys().records
    assert same.private_key().key_id == new.key_id
    with pytest.raises(RevokedKeyError):
        same.archive_key(old)
    assert json.loads(environ["ACIE_KEYS"])["schema"] == "acie.keys/2"
