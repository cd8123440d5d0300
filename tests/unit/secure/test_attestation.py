"""What was put back, edited or said by somebody else is found; what was never attested is said."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from acie_pipelines.crypto.archive_key import ArchiveKey
from acie_pipelines.crypto.vault import FileVault
from acie_pipelines.errors import (
    IntegrityError,
    LostKeyError,
    RevokedKeyError,
    RollbackError,
    TamperedDataError,
)
from acie_pipelines.provenance import Manifest, Output, current_manifest, new_generation
from acie_pipelines.secure.attestation import Attestation, Attestations
from acie_pipelines.secure.owner import DataOwner
from acie_pipelines.storage import Store

KIND, KEY = "ciphertexts", "field-0123456789ab"
EMPTY_SHA256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def publish(store: Store, version: str, key: str = KEY) -> Manifest:
    with new_generation(
        store, KIND, key, inputs=(), code_version=version, parameters={}
    ) as generation:
        store.write_bytes(f"{generation.prefix}/tiles.bin", b"")
        return generation.commit((Output("tiles.bin", EMPTY_SHA256),), {"version": version})


@pytest.fixture(scope="module")
def vault_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("attesting") / "keys.json"
    FileVault.create(path, 1024, allow_insecure_size=True)
    return path


@pytest.fixture
def owner(vault_file: Path, tmp_path: Path) -> DataOwner:
    shutil.copy(vault_file, tmp_path / "keys.json")
    return DataOwner(FileVault(tmp_path / "keys.json", allow_insecure_size=True))


@pytest.fixture
def attestations(tmp_path: Path) -> Attestations:
    return Attestations(f"sqlite:///{tmp_path / 'ledger.db'}")


def rows(attestations: Attestations) -> sa.Table:
    return sa.Table("acie_attestations", sa.MetaData(), autoload_with=attestations.engine)


def test_the_newest_generation_is_authenticated(
    store: Store, owner: DataOwner, attestations: Attestations
) -> None:
    first = publish(store, "1")
    assert owner.current_manifest(store, attestations, KIND, KEY) == (first, None)
    said = owner.attest(store, attestations, KIND, KEY)
    assert (said.number, said.generation, said.digest) == (1, first.generation, first.digest)
    assert owner.current_manifest(store, attestations, KIND, KEY) == (first, said)
    # Saying it twice changes nothing; each dataset is counted by itself.
    assert owner.attest(store, attestations, KIND, KEY) == said
    publish(store, "1", "other-0123456789ab")
    assert owner.attest(store, attestations, KIND, "other-0123456789ab").number == 1
    second = publish(store, "2")
    with pytest.raises(IntegrityError, match="never attested by its owner") as caught:
        owner.current_manifest(store, attestations, KIND, KEY)
    assert not isinstance(caught.value, RollbackError)
    assert owner.attest(store, attestations, KIND, KEY).number == 2
    assert owner.current_manifest(store, attestations, KIND, KEY)[0] == second
    with pytest.raises(IntegrityError, match=f"was replaced by {second.generation}"):
        attestations.attest(store, first, owner.vault.archive_key())


def test_an_older_state_of_the_store_is_found(
    store: Store, owner: DataOwner, attestations: Attestations, tmp_path: Path
) -> None:
    first = publish(store, "1")
    owner.attest(store, attestations, KIND, KEY)
    shutil.copytree(store.url, tmp_path / "backup")
    publish(store, "2")
    owner.attest(store, attestations, KIND, KEY)
    shutil.rmtree(store.url)
    shutil.copytree(tmp_path / "backup", store.url)
    # Ciphertexts, manifest and pointer fit together: hashes alone do not tell.
    assert current_manifest(store, KIND, KEY) == first
    for attempt in (
        lambda: owner.current_manifest(store, attestations, KIND, KEY),
        lambda: owner.attest(store, attestations, KIND, KEY),
        lambda: attestations.compare(first),
    ):
        with pytest.raises(RollbackError, match="superseded"):
            attempt()
    # A new generation is the way out.
    publish(store, "3")
    assert owner.attest(store, attestations, KIND, KEY).number == 3


def test_an_older_state_from_before_the_first_attestation_is_found(
    store: Store, owner: DataOwner, attestations: Attestations
) -> None:
    publish(store, "1")
    pointer = store.read_bytes(f"{KIND}/{KEY}/current.json")
    publish(store, "2")
    owner.attest(store, attestations, KIND, KEY)
    store.write_bytes(f"{KIND}/{KEY}/current.json", pointer)
    with pytest.raises(IntegrityError, match="never attested"):
        owner.current_manifest(store, attestations, KIND, KEY)


def test_a_manifest_edited_with_every_hash_made_to_fit_is_found(
    store: Store, owner: DataOwner, attestations: Attestations
) -> None:
    made = publish(store, "1")
    owner.attest(store, attestations, KIND, KEY)
    forged = replace(made, attributes={"version": "forged"})
    store.write_bytes(f"{made.prefix}/manifest.json", forged.to_json())
    pointer = json.loads(store.read_bytes(f"{KIND}/{KEY}/current.json"))
    pointer["digest"] = forged.digest
    store.write_bytes(f"{KIND}/{KEY}/current.json", json.dumps(pointer).encode())
    assert current_manifest(store, KIND, KEY) == forged
    with pytest.raises(IntegrityError, match="not the manifest that its owner attested"):
        owner.current_manifest(store, attestations, KIND, KEY)
    with pytest.raises(IntegrityError, match="not the manifest that its owner attested"):
        owner.attest(store, attestations, KIND, KEY)


@pytest.mark.parametrize("by", ["another secret", "another vault"])
def test_a_statement_made_with_another_key_is_found(
    store: Store, owner: DataOwner, attestations: Attestations, by: str
) -> None:
    """As somebody would who can write to the store and to the database."""
    publish(store, "1")
    owner.attest(store, attestations, KIND, KEY)
    forged = publish(store, "2")
    own_id = owner.vault.archive_key().key_id
    key = ArchiveKey(own_id if by == "another secret" else "0123456789abcdef", bytes(32))
    attestations.attest(store, forged, key)
    assert attestations.compare(forged) is not None
    expected = TamperedDataError if by == "another secret" else LostKeyError
    with pytest.raises(expected):
        owner.current_manifest(store, attestations, KIND, KEY)


@pytest.mark.parametrize("field", ["kind", "key", "number", "generation", "digest", "key_id"])
def test_everything_said_is_covered(
    store: Store, owner: DataOwner, attestations: Attestations, field: str
) -> None:
    publish(store, "1")
    said = owner.attest(store, attestations, KIND, KEY)
    other: int | str = 7 if field == "number" else "0" * 64
    with pytest.raises(TamperedDataError):
        replace(said, **{field: other}).prove(owner.vault.archive_key())
    said.prove(owner.vault.archive_key())


def test_a_statement_moved_to_a_higher_number_is_found(
    store: Store, owner: DataOwner, attestations: Attestations
) -> None:
    first = publish(store, "1")
    owner.attest(store, attestations, KIND, KEY)
    pointer = store.read_bytes(f"{KIND}/{KEY}/current.json")
    publish(store, "2")
    owner.attest(store, attestations, KIND, KEY)
    table = rows(attestations)
    with attestations.engine.execution_options(acie_write=True).begin() as connection:
        connection.execute(sa.update(table).where(table.c.number == 1).values(number=3))
    store.write_bytes(f"{KIND}/{KEY}/current.json", pointer)
    found = attestations.compare(first)
    assert isinstance(found, Attestation) and found.number == 3
    with pytest.raises(TamperedDataError, match="attestation 3"):
        owner.current_manifest(store, attestations, KIND, KEY)


def test_rotated_keys_prove_and_revoked_ones_must_be_replaced(
    store: Store, owner: DataOwner, attestations: Attestations
) -> None:
    publish(store, "1")
    first = owner.attest(store, attestations, KIND, KEY)
    vault = owner.vault
    assert isinstance(vault, FileVault)
    vault.rotate(1024)
    assert owner.current_manifest(store, attestations, KIND, KEY)[1] == first
    vault.revoke(first.key_id, "copied by a guest")
    with pytest.raises(RevokedKeyError, match="acie secure attest"):
        owner.current_manifest(store, attestations, KIND, KEY)
    again = owner.attest(store, attestations, KIND, KEY)
    assert again.number == 2 and again.key_id != first.key_id
    assert owner.current_manifest(store, attestations, KIND, KEY)[1] == again
