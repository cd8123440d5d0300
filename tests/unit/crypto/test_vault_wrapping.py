"""Secrets at rest: known answers, the wrong passphrase, and every edit of a protected vault."""

import base64
import copy
import json
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from acie_pipelines.crypto.keys import PaillierPrivateKey
from acie_pipelines.crypto.public_keys import PublicKeys
from acie_pipelines.crypto.vault import FileVault
from acie_pipelines.crypto.vault_document import KeySecrets, VaultContents, parse_vault
from acie_pipelines.crypto.vault_wrapping import (
    KeyEncryptionKey,
    Passphrase,
    Protection,
    ScryptParameters,
    Wrapper,
    WrappingKey,
)
from acie_pipelines.errors import KeyVaultError, TamperedDataError

WORDS = "correct horse battery staple"
COST = 1 << 14
ENVIRON = {"ACIE_KEYS_PASSPHRASE": WORDS}


def test_scrypt_known_answer() -> None:
    """RFC 7914, section 12, third vector; the first 32 of its 64 bytes."""
    key = KeyEncryptionKey.of_passphrase(
        Passphrase("pleaseletmein"), ScryptParameters(b"SodiumChloride", 16384, 8, 1)
    )
    assert key.secret.hex() == "7023bdcb3afd7348461c06cd81fd38ebfda8fbba904f8e3ea9b543f6545da1f2"


def test_composed_and_decomposed_passphrases_are_one() -> None:
    parameters = ScryptParameters(bytes(32), COST)
    spelt = {
        KeyEncryptionKey.of_passphrase(Passphrase(text), parameters).secret
        for text in ("Gal\u00e1xias e qu\u00e1sares", "Gala\u0301xias e qua\u0301sares")
    }
    assert len(spelt) == 1


def test_commitment_and_key_follow_rfc_5869() -> None:
    """Computed a second way, from HMAC alone."""
    import hashlib
    import hmac

    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    secret, salt = bytes(range(32)), bytes(range(32, 64))
    pseudorandom = hmac.digest(salt, secret, hashlib.sha256)
    key, commitment = (
        hmac.digest(pseudorandom, info + b"\x01", hashlib.sha256)
        for info in (b"acie.keys/2 AES-256-GCM key", b"acie.keys/2 key commitment")
    )
    wrapper = Wrapper(KeyEncryptionKey(secret, None), salt)
    assert wrapper.protection.commitment == commitment
    data = base64.b64decode(wrapper.wrap(b"payload", b"associated"))
    assert AESGCM(key).decrypt(data[:12], data[12:], b"associated") == b"payload"


@pytest.mark.parametrize("n", [1 << 13, 1 << 21, (1 << 14) + 1, 0, -1, True, 16384.0])
def test_costs_out_of_bounds_are_refused(n: Any) -> None:
    with pytest.raises(ValueError, match="out of bounds"):
        ScryptParameters(bytes(32), n)


def test_protection_has_one_spelling() -> None:
    fields = Protection(ScryptParameters(bytes(32), COST), bytes(32), bytes(32)).fields()
    assert Protection.parse(fields).fields() == fields
    for damage in (
        {"method": "pbkdf2"},
        {"salt": "00"},
        {"salt": fields["salt"].replace("0", " 0", 1)},
        {"scrypt_salt": "zz"},
        {"n": "16384"},
        {"more": 1},
    ):
        with pytest.raises(ValueError, match=r"how it is protected|out of bounds|hexadecimal"):
            Protection.parse(fields | damage)


@pytest.fixture(scope="session")
def contents(private_key: PaillierPrivateKey, other_key: PaillierPrivateKey) -> VaultContents:
    first = VaultContents(PublicKeys("vault", ()), {}).rotated(KeySecrets.of(private_key))
    return first.rotated(KeySecrets.of(other_key)).revoked(private_key.key_id, "laptop stolen")


@pytest.fixture(scope="session")
def protected(contents: VaultContents) -> bytes:
    return contents.to_json(KeyEncryptionKey.new(Passphrase(WORDS), n=COST))


def opened(
    folder: Path, data: bytes, environ: dict[str, str] | None = None, ask: Any = None
) -> FileVault:
    path = folder / "keys.json"
    path.touch(0o600)
    path.write_bytes(data)
    variables = ENVIRON if environ is None else environ
    return FileVault(path, environ=variables, ask=ask, allow_insecure_size=True)


def secrets_in(contents: VaultContents) -> list[str]:
    shown = [WORDS]
    for held in contents.secrets.values():
        shown += held.fields().values()
        shown += [str(held.private_key.p), repr(held.archive_key.secret)[2:-1]]
    return shown


def test_protected_vault_hides_every_secret_and_opens(
    tmp_path: Path, contents: VaultContents, protected: bytes
) -> None:
    assert not [secret for secret in secrets_in(contents) if secret.encode() in protected]
    vault = opened(tmp_path, protected)
    assert vault.protection() == "passphrase"
    vault.authenticate()
    for key_id, held in contents.secrets.items():
        assert vault.private_key(key_id, allow_revoked=True) == held.private_key
        assert vault.archive_key(key_id, allow_revoked=True) == held.archive_key


def test_public_part_needs_no_passphrase(
    tmp_path: Path, contents: VaultContents, protected: bytes
) -> None:
    vault = opened(tmp_path, protected, {})
    assert vault.public_keys().records == contents.public.records
    assert vault.public_key() == contents.public.public_key()
    for use in (vault.private_key, vault.archive_key, vault.authenticate):
        with pytest.raises(KeyVaultError, match="set ACIE_KEYS_PASSPHRASE or"):
            use()


def test_wrong_passphrase(tmp_path: Path, contents: VaultContents, protected: bytes) -> None:
    vault = opened(tmp_path, protected, {"ACIE_KEYS_PASSPHRASE": "incorrect horse battery"})
    with pytest.raises(KeyVaultError, match="not opened by this passphrase") as caught:
        vault.private_key()
    assert "incorrect horse" not in "".join(traceback.format_exception(caught.value))


def test_terminal_is_asked_once_and_only_if_need_be(tmp_path: Path, protected: bytes) -> None:
    asked: list[str] = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return WORDS

    vault = opened(tmp_path, protected, {}, ask)
    vault.public_key()
    assert asked == []
    vault.private_key()
    vault.archive_key()
    assert asked == [f"Passphrase of the key vault {vault.path}"]
    opened(tmp_path, protected, ENVIRON, ask).private_key()
    assert len(asked) == 1


def test_wrapping_key(tmp_path: Path, contents: VaultContents) -> None:
    secret = bytes(range(32))
    data = contents.to_json(KeyEncryptionKey.new(WrappingKey(secret)))
    environ = {"ACIE_KEYS_WRAPPING_KEY": base64.b64encode(secret).decode()}
    vault = opened(tmp_path, data, environ)
    assert vault.protection() == "wrapping key"
    assert vault.private_key() in [held.private_key for held in contents.secrets.values()]
    other = {"ACIE_KEYS_WRAPPING_KEY": base64.b64encode(secret[::-1]).decode()}
    with pytest.raises(KeyVaultError, match="not opened by this wrapping key"):
        opened(tmp_path, data, other).private_key()
    # Neither takes the place of the other.
    with pytest.raises(KeyVaultError, match="protected by a wrapping key; set ACIE_KEYS_WRAPPING"):
        opened(tmp_path, data).private_key()


def test_versions_share_neither_salt_nor_ciphertext(contents: VaultContents) -> None:
    key = KeyEncryptionKey.new(WrappingKey(bytes(32)))
    documents = [json.loads(contents.to_json(key)) for _ in range(2)]
    for first, second in zip(*(list(d["keys"].values()) for d in documents), strict=True):
        assert first["secrets"] != second["secrets"]
    assert documents[0]["protection"]["salt"] != documents[1]["protection"]["salt"]


def swap(d: dict[str, Any]) -> None:
    first, second = d["keys"].values()
    first["secrets"], second["secrets"] = second["secrets"], first["secrets"]


def states(d: dict[str, Any], **wanted: str) -> None:
    for entry in d["keys"].values():
        entry["state"] = wanted.get(entry["state"], entry["state"])


def flip(d: dict[str, Any], position: int) -> None:
    entry = list(d["keys"].values())[-1]
    data = bytearray(base64.b64decode(entry["secrets"]))
    data[position] ^= 1
    entry["secrets"] = base64.b64encode(data).decode()


def latest(d: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = list(d["keys"].values())[-1]
    return found


def oldest(d: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(iter(d["keys"].values()))
    return found


# What somebody who can write the file, but not open it, may try.
EDITS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a revoked key is made a rotated one": lambda d: states(d, revoked="rotated"),
    "states are exchanged": lambda d: states(d, revoked="current", current="rotated"),
    "the current key is revoked": lambda d: states(d, current="revoked"),
    "the time of a revocation": lambda d: oldest(d).update(since="2020-01-01T00:00:00+00:00"),
    "the reason of a revocation": lambda d: oldest(d).update(reason="routine"),
    "the time of creation": lambda d: latest(d).update(created="2020-01-01T00:00:00+00:00"),
    "a version": lambda d: latest(d).update(version=9),
    "secrets are exchanged": swap,
    "an entry is removed": lambda d: d["keys"].pop(next(iter(d["keys"]))),
    "the nonce": lambda d: flip(d, 0),
    "the ciphertext": lambda d: flip(d, 40),
    "the tag": lambda d: flip(d, -1),
    "secrets are cut": lambda d: latest(d).update(secrets=latest(d)["secrets"][:8]),
    "secrets are no base64": lambda d: latest(d).update(secrets="????"),
    "secrets are no text": lambda d: latest(d).update(secrets=None),
    "secrets in the clear": lambda d: latest(d).update(secrets={"p": "3", "q": "5"}),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS.keys())
def test_edits_are_found_when_the_vault_is_opened(
    tmp_path: Path,
    contents: VaultContents,
    protected: bytes,
    edit: Callable[[dict[str, Any]], object],
) -> None:
    document = json.loads(protected)
    edit(document)
    vault = opened(tmp_path, json.dumps(document).encode())
    current = contents.public.find().key_id
    with pytest.raises(TamperedDataError, match=r"keys\.json: was changed by somebody") as caught:
        vault.private_key(current, allow_revoked=True)
    shown = "".join(traceback.format_exception(caught.value))
    assert not [secret for secret in secrets_in(contents) if secret in shown]
    for use in (vault.authenticate, lambda: vault.rotate(1024)):
        with pytest.raises(TamperedDataError):
            use()
    assert json.loads(vault.path.read_bytes()) == document


SAFE = st.characters(min_codepoint=32, max_codepoint=126)


@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_any_other_character_is_refused_or_means_the_same(
    data: st.DataObject, contents: VaultContents
) -> None:
    """Wherever it stands in the file: white space may change, what it says may not."""
    key = KeyEncryptionKey.new(WrappingKey(bytes(32)))
    text = contents.to_json(key).decode()
    position = data.draw(st.integers(0, len(text) - 1))
    changed = text[:position] + data.draw(SAFE) + text[position + 1 :]
    try:
        document = parse_vault(changed.encode(), "vault")
        assert document.protection is not None
        wrapper = Wrapper.opening(key, document.protection, "vault")
        found = document.contents(wrapper)
    except (KeyVaultError, TamperedDataError):
        return
    assert found.public.records == contents.public.records
    assert {k: v.fields() for k, v in found.secrets.items()} == {
        k: v.fields() for k, v in contents.secrets.items()
    }


def test_another_modulus_is_found(
    tmp_path: Path, contents: VaultContents, protected: bytes
) -> None:
    """An attacker's own key as the current one: who encrypts does not notice, the owner does."""
    from acie_pipelines.crypto.keys import generate_keypair

    theirs = generate_keypair(1024, allow_insecure_size=True)
    document = json.loads(protected)
    current = contents.public.find().key_id
    entry = document["keys"].pop(current)
    document["keys"][theirs.key_id] = entry | {"modulus": f"{theirs.public_key.n:x}"}
    vault = opened(tmp_path, json.dumps(document).encode())
    assert vault.public_key() == theirs.public_key
    assert vault.public_keys().fingerprint != contents.public.fingerprint
    for use in (vault.authenticate, vault.private_key):
        with pytest.raises(TamperedDataError):
            use()


def test_a_vault_made_by_somebody_else_is_not_opened(
    tmp_path: Path, contents: VaultContents, protected: bytes
) -> None:
    theirs = contents.to_json(KeyEncryptionKey.new(Passphrase("somebody else's words"), n=COST))
    with pytest.raises(KeyVaultError, match="not opened by this passphrase"):
        opened(tmp_path, theirs).authenticate()
    # Nor with the commitment and salts of the true one.
    document = json.loads(theirs) | {"protection": json.loads(protected)["protection"]}
    with pytest.raises(TamperedDataError):
        opened(tmp_path, json.dumps(document).encode()).authenticate()
    # Taking the protection away leaves nothing to read.
    bare = json.loads(protected) | {"protection": None}
    with pytest.raises(KeyVaultError, match="hexadecimal"):
        opened(tmp_path, json.dumps(bare).encode()).authenticate()


def test_secrets_are_neither_printed_nor_pickled(tmp_path: Path, protected: bytes) -> None:
    key = KeyEncryptionKey.new(WrappingKey(b"\xaa" * 32))
    vault = opened(tmp_path, protected)
    held = vault.authenticate()
    assert held is None
    for item in (Passphrase(WORDS), WrappingKey(b"\xaa" * 32), key, vault):
        shown = f"{item!r} {item}"
        assert WORDS not in shown and "\\xaa" not in shown and "aaaa" not in shown
        with pytest.raises(KeyVaultError, match="cannot be pickled"):
            pickle.dumps(item)
        with pytest.raises(KeyVaultError, match="cannot be pickled"):
            copy.copy(item)


@pytest.mark.parametrize("text", ["", "short", "eleven char"])
def test_short_passphrases_protect_nothing(text: str) -> None:
    with pytest.raises(KeyVaultError, match="fewer than 12 characters") as caught:
        KeyEncryptionKey.new(Passphrase(text), n=COST)
    assert not text or text not in str(caught.value)
