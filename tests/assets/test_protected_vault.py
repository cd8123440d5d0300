"""The graph with a vault under a passphrase: it runs unattended, and encrypts under public keys."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from acie_pipelines.crypto.keys import generate_keypair
from acie_pipelines.crypto.tile_decryption import verify_decryption
from acie_pipelines.crypto.vault import FileVault
from acie_pipelines.crypto.vault_wrapping import Passphrase
from acie_pipelines.errors import CryptoError
from acie_pipelines.ledger import Ledger
from acie_pipelines.provenance import current_manifest
from acie_pipelines.resources import PublicKeysResource
from acie_pipelines.runs import JobOutcome
from acie_pipelines.secure.attestation import ATTESTED_KINDS, Attestations
from acie_pipelines.secure.auditor import Auditor
from acie_pipelines.settings import Settings
from acie_pipelines.storage import Store

WORDS = "correct horse battery staple"


def test_public_keys_come_from_the_document_if_there_is_one(
    settings: Settings, vault: FileVault, tmp_path: Path
) -> None:
    resource = PublicKeysResource(keys_file=str(settings.keys_file), public_keys_file=None)
    assert resource.open().records == vault.public_keys().records
    document = tmp_path / "public.json"
    document.write_bytes(vault.public_keys().to_json())
    settings.keys_file.unlink()
    with pytest.raises(CryptoError, match="acie keys generate"):
        resource.open()
    exported = PublicKeysResource(
        keys_file=str(settings.keys_file), public_keys_file=str(document)
    ).open()
    assert exported.public_key().bits == 2048
    assert b"PrivateKey" not in pickle.dumps(exported)


def test_keys_to_encrypt_under_are_proved(
    settings: Settings, vault: FileVault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever can change the public part of a vault must not choose whom data are encrypted for."""
    document = tmp_path / "public.json"
    document.write_bytes(vault.public_keys().to_json())
    vault.protect(Passphrase(WORDS))
    monkeypatch.setenv("ACIE_KEYS_PASSPHRASE", WORDS)
    resource = PublicKeysResource(keys_file=str(settings.keys_file), public_keys_file=None)
    assert resource.proved() == resource.open()
    stored = json.loads(settings.keys_file.read_bytes())
    foreign = generate_keypair(2048).public_key
    [record] = stored["keys"].values()
    stored["keys"] = {foreign.key_id: record | {"modulus": f"{foreign.n:x}"}}
    settings.keys_file.write_text(json.dumps(stored))
    assert resource.open().public_key() == foreign
    with pytest.raises(CryptoError):
        resource.proved()
    settings.keys_file.unlink()
    exported = PublicKeysResource(keys_file=str(settings.keys_file), public_keys_file=str(document))
    assert exported.proved().public_key().bits == 2048


@pytest.mark.slow
def test_unattended_with_a_passphrase_and_audited_without(
    settings: Settings,
    vault: FileVault,
    instance: dg.DagsterInstance,
    spectrum_file: Path,
    process_file: Callable[..., tuple[str, JobOutcome]],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    vault.protect(Passphrase(WORDS))
    document = tmp_path / "public.json"
    document.write_bytes(vault.public_keys().to_json())
    monkeypatch.setenv("ACIE_PUBLIC_KEYS_FILE", str(document))
    with_document = Settings.from_environment()

    # Nobody gave the passphrase: the step that needs it says what to set.
    _, refused = process_file(spectrum_file, with_document, instance)
    assert refused.cause is not None
    assert "set ACIE_KEYS_PASSPHRASE" in refused.cause.reason
    monkeypatch.setenv("ACIE_KEYS_PASSPHRASE", WORDS)
    key, outcome = process_file(spectrum_file, with_document, instance)
    assert outcome.success, outcome.cause
    assert all(check.passed for check in outcome.checks)

    # A rotation later, what was encrypted before is still read with the older key.
    store = Store(settings.storage_url)
    ciphertexts, tiles = (current_manifest(store, kind, key) for kind in ("ciphertexts", "tiles"))
    opened = FileVault(settings.keys_file)
    new = opened.rotate(2048)
    assert ciphertexts.attributes["key_id"] != new.key_id
    private_key = opened.private_key(ciphertexts.attributes["key_id"])
    assert verify_decryption(store, ciphertexts, tiles, private_key, 1).tiles == 1

    # What passed its checks is attested, also under a key that is rotated by now.
    for kind in ATTESTED_KINDS:
        made = current_manifest(store, kind, key)
        said = Attestations(settings.database_url).authenticate(made, opened.archive_key)
        assert said is not None and said.key_id != new.key_id, kind

    # The auditor needs neither the vault nor the passphrase.
    settings.keys_file.unlink()
    monkeypatch.delenv("ACIE_KEYS_PASSPHRASE")
    audited: list[str] = []
    attestations = Attestations(settings.database_url)
    auditor = Auditor(store, Ledger(settings.database_url), attestations)
    auditor.verify(key, lambda manifest: audited.append(manifest.kind))
    assert sorted(audited) == sorted([*ATTESTED_KINDS, "observation", "tiles"])
    for path in (path for path in settings.home.parent.rglob("*") if path.is_file()):
        assert WORDS.encode() not in path.read_bytes(), path
