"""The document that hands public keys to others: what it says, and what it refuses."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from acie_pipelines.crypto.keys import PaillierPrivateKey
from acie_pipelines.crypto.public_keys import KeyRecord, KeyState, PublicKeys, read_public_keys
from acie_pipelines.errors import (
    CryptoError,
    KeyVaultError,
    LostKeyError,
    RevokedKeyError,
    RoleError,
)

T1, T2 = "2025-01-01T00:00:00+00:00", "2025-06-01T00:00:00+00:00"


@pytest.fixture
def keys(private_key: PaillierPrivateKey, other_key: PaillierPrivateKey) -> PublicKeys:
    return PublicKeys(
        "test keys",
        (
            KeyRecord(other_key.public_key, 1, T1, KeyState.ROTATED, T2),
            KeyRecord(private_key.public_key, 2, T2, KeyState.CURRENT, T2),
        ),
    )


def parse(data: bytes) -> PublicKeys:
    return PublicKeys.from_json(data, "test keys", allow_insecure_size=True)


def test_round_trip(keys: PublicKeys) -> None:
    again = parse(keys.to_json())
    assert again == keys
    assert again.fingerprint == keys.fingerprint
    assert again.key_ids() == (keys.records[1].key_id, keys.records[0].key_id)
    assert again.public_key() == keys.records[1].public_key


def test_document_holds_public_facts_only(keys: PublicKeys) -> None:
    revoked = KeyRecord(
        keys.records[0].public_key, 1, T1, KeyState.REVOKED, T2, reason="laptop of Eve stolen"
    )
    data = PublicKeys("test keys", (revoked, keys.records[1])).to_json()
    assert b"Eve" not in data
    for entry in json.loads(data)["keys"].values():
        assert set(entry) == {"modulus", "version", "created", "state", "since"}


def test_rotated_keys_are_found_by_id_and_revoked_ones_on_request(keys: PublicKeys) -> None:
    old = keys.records[0]
    assert keys.find(old.key_id) == old
    revoked = KeyRecord(old.public_key, 1, T1, KeyState.REVOKED, T2, reason="stolen")
    others = PublicKeys("test keys", (revoked, keys.records[1]))
    with pytest.raises(RevokedKeyError, match=f"{old.key_id}.*{re.escape(T2)}.*allow_revoked"):
        others.find(old.key_id)
    assert others.find(old.key_id, allow_revoked=True) == revoked


def test_lost_keys_are_named_with_what_to_do(keys: PublicKeys) -> None:
    with pytest.raises(LostKeyError, match=r"key 0000000000000000.*backup") as caught:
        keys.find("0" * 16)
    assert keys.records[0].key_id in str(caught.value)
    with pytest.raises(LostKeyError, match="acie keys rotate"):
        PublicKeys("test keys", (keys.records[0],)).find()


def test_short_keys_are_refused_by_default(keys: PublicKeys) -> None:
    with pytest.raises(CryptoError, match="at least 2048"):
        PublicKeys.from_json(keys.to_json(), "test keys")


@pytest.mark.parametrize("schema", ["acie.keys/1", "acie.keys/2"])
def test_vaults_are_refused(schema: str) -> None:
    with pytest.raises(RoleError, match="is a key vault"):
        parse(json.dumps({"schema": schema, "keys": {}}).encode())


def other_odd(modulus: str) -> str:
    return modulus[:-1] + ("3" if modulus.endswith("1") else "1")


def change(entry: dict[str, Any], **fields: Any) -> None:
    entry.update(fields)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda d, e: d.update(schema="acie.public-keys/9"), "schema"),
        (lambda d, e: d.update(more=1), "schema"),
        (lambda d, e: d.update(keys=[1]), "malformed"),
        (lambda d, e: d.update(keys={"x" * 16: e}), "16 hexadecimal"),
        (lambda d, e: d.update(keys={"0" * 16: e}), "does not have that id"),
        (lambda d, e: change(e, p="1"), "exactly the fields"),
        (lambda d, e: e.pop("since"), "exactly the fields"),
        (lambda d, e: change(e, modulus=other_odd(e["modulus"])), "does not have that id"),
        (lambda d, e: change(e, modulus="0" + e["modulus"]), "no modulus"),
        (lambda d, e: change(e, modulus=e["modulus"].upper()), "no modulus"),
        (lambda d, e: change(e, modulus=7), "no modulus"),
        (lambda d, e: change(e, modulus="e"), "no odd composite"),
        (lambda d, e: change(e, modulus="f" * 5000), "more than 16384 bits"),
        (lambda d, e: change(e, version=True), "no version"),
        (lambda d, e: change(e, version=0), "no version"),
        (lambda d, e: change(e, state="active"), "no known state"),
        (lambda d, e: change(e, state=["current"]), "no known state"),
        (lambda d, e: change(e, since="2025-01-01T00:00:00"), "ISO 8601"),
        (lambda d, e: change(e, created=5), "ISO 8601"),
        (lambda d, e: [change(x, version=1) for x in d["keys"].values()], "same version"),
        (lambda d, e: [change(x, state="current") for x in d["keys"].values()], "more than one"),
    ],
)
def test_malformed_documents_are_refused(
    keys: PublicKeys, damage: Callable[[Any, Any], object], reason: str
) -> None:
    document = json.loads(keys.to_json())
    damage(document, next(iter(document["keys"].values())))
    with pytest.raises(CryptoError, match=reason):
        parse(json.dumps(document).encode())


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"schema": 1}'])
def test_what_is_no_document(data: bytes) -> None:
    with pytest.raises(CryptoError, match="schema"):
        parse(data)


def test_reading_a_file(tmp_path: Path, keys: PublicKeys) -> None:
    path = tmp_path / "public.json"
    with pytest.raises(KeyVaultError, match="cannot be read"):
        read_public_keys(path)
    path.write_bytes(keys.to_json())
    found = read_public_keys(path, allow_insecure_size=True)
    assert found.records == keys.records
    assert str(path) in found.subject
