"""The owner proves the vault before anything is protected with it, and reads what is its own."""

import json
from pathlib import Path

import numpy as np
import pytest

from acie_pipelines.crypto.destination import Destination
from acie_pipelines.crypto.packing import layout_for
from acie_pipelines.crypto.tensor_format import from_bytes
from acie_pipelines.crypto.vault import FileVault
from acie_pipelines.crypto.vault_wrapping import WrappingKey
from acie_pipelines.errors import RevokedKeyError, TamperedDataError
from acie_pipelines.secure.owner import DataOwner
from acie_pipelines.secure.roles import ComputeWorker

ENVIRON = {"ACIE_KEYS_WRAPPING_KEY": "A" * 43 + "="}


def opened(path: Path, *, allow_revoked: bool = False) -> FileVault:
    return FileVault(path, environ=ENVIRON, allow_revoked=allow_revoked, allow_insecure_size=True)


@pytest.fixture
def vault(tmp_path: Path) -> FileVault:
    path = tmp_path / "keys.json"
    FileVault.create(path, 1024, secret=WrappingKey(bytes(32)), allow_insecure_size=True)
    return opened(path)


def test_owner_and_worker_share_public_keys_only(vault: FileVault) -> None:
    owner = DataOwner(vault)
    worker = ComputeWorker(owner.public_keys())
    values = np.arange(-20, 20, dtype=np.int16)
    layout = layout_for(values.dtype, key_bits=1024)
    received = worker.receive(worker.send(owner.encrypt(values, layout)))
    answer = from_bytes(worker.send(received + received), owner.vault.public_key())
    assert (owner.decrypt(answer) == 2 * values).all()


def test_a_forged_vault_is_refused_before_anything_is_encrypted(vault: FileVault) -> None:
    document = json.loads(vault.path.read_text())
    (entry,) = document["keys"].values()
    entry["created"] = "2020-01-01T00:00:00+00:00"
    vault.path.write_text(json.dumps(document))
    with pytest.raises(TamperedDataError):
        DataOwner(opened(vault.path))


def test_sealing_and_restoring_through_states(vault: FileVault, tmp_path: Path) -> None:
    source, archive = tmp_path / "a.fits", tmp_path / "a.fits.acie"
    source.write_bytes(b"what the telescope saw")
    owner = DataOwner(vault)
    sealed = owner.seal(source, archive)
    values = np.arange(5)
    tensor = owner.encrypt(values, layout_for(8, key_bits=1024))
    vault.rotate(1024)
    assert owner.verify(archive).status == "verified"
    assert (owner.decrypt(tensor) == values).all()
    vault.revoke(sealed.key_id, "copied by a guest")
    with Destination(tmp_path / "out") as out:
        with pytest.raises(RevokedKeyError, match=sealed.key_id):
            owner.restore(archive, out)
        with pytest.raises(RevokedKeyError, match=sealed.key_id):
            owner.decrypt(tensor)
        allowed = DataOwner(opened(vault.path, allow_revoked=True))
        assert allowed.restore(archive, out).status == "restored"
    assert (allowed.decrypt(tensor) == values).all()
    assert (tmp_path / "out" / "a.fits").read_bytes() == source.read_bytes()
    # New data are under the new key all the same.
    assert allowed.seal(source, tmp_path / "b.acie").key_id != sealed.key_id
    assert str(vault.path) in repr(owner)
