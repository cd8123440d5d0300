"""The vault: who may read it, how it is written, and that it never leaks."""

import base64
import json
import os
import pickle
import stat
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from acie_pipelines.crypto.archive_key import ArchiveKey
from acie_pipelines.crypto.keys import PaillierPrivateKey, generate_keypair
from acie_pipelines.crypto.vault import (
    EnvironmentVault,
    FileVault,
    KeyVault,
    open_vault,
)
from acie_pipelines.errors import CryptoError, KeyVaultError

PAIR = generate_keypair(1024, allow_insecure_size=True)
SECRET = bytes(range(1, 33))
T1, T2 = "2024-01-01T00:00:00+00:00", "2025-01-01T00:00:00+00:00"


def entry_of(pair: PaillierPrivateKey, secret: bytes = SECRET, **changes: Any) -> dict[str, Any]:
    """An entry of the earlier schema."""
    archive_key = base64.b64encode(secret).decode()
    held = {"p": f"{pair.p:x}", "q": f"{pair.q:x}", "archive_key": archive_key, "created": T1}
    return held | changes


def document(**changes: Any) -> dict[str, Any]:
    """A vault that is not protected."""
    secrets = {"p": f"{PAIR.p:x}", "q": f"{PAIR.q:x}"}
    secrets["archive_key"] = base64.b64encode(SECRET).decode()
    public = {"modulus": f"{PAIR.public_key.n:x}", "version": 1, "created": T1}
    entry = public | {"state": "current", "since": T1, "reason": "", "secrets": secrets | changes}
    return {"schema": "acie.keys/2", "protection": None, "keys": {PAIR.key_id: entry}}


def earlier(**changes: Any) -> dict[str, Any]:
    """A vault of the earlier schema."""
    keys = {PAIR.key_id: entry_of(PAIR, **changes)}
    return {"schema": "acie.keys/1", "current": PAIR.key_id, "keys": keys}


def written(path: Path, content: Any, mode: int = 0o600) -> FileVault:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    path.chmod(mode)
    return FileVault(path, allow_insecure_size=True)


def assert_hides_secrets(error: BaseException) -> None:
    """Neither the message nor anything chained to the exception may carry a secret."""
    seen: list[BaseException] = []
    link: BaseException | None = error
    while link is not None:
        seen.append(link)
        link = link.__cause__ or link.__context__
    shown = "".join(traceback.format_exception(error))
    shown += "".join(f"{link!r}{vars(link)}" for link in seen)
    for secret in (f"{PAIR.p:x}", f"{PAIR.q:x}", str(PAIR.p), base64.b64encode(SECRET).decode()):
        assert secret[:24] not in shown


def test_created_vault_is_private_complete_and_usable(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "keys.json"
    vault = FileVault.create(path, 1024, allow_insecure_size=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) & 0o077 == 0
    assert [entry.name for entry in path.parent.iterdir()] == ["keys.json"]
    (key_id,) = vault.key_ids()
    private = vault.private_key()
    assert private == vault.private_key(key_id)
    assert private.public_key == vault.public_key()
    assert vault.archive_key().key_id == key_id
    assert len(vault.archive_key().secret) == 32
    assert json.loads(path.read_text())["schema"] == "acie.keys/2"
    assert vault.protection() is None


def test_an_existing_vault_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text("precious")
    with pytest.raises(KeyVaultError, match="exists already"):
        FileVault.create(path, 1024, allow_insecure_size=True)
    assert path.read_text() == "precious"
    assert [entry.name for entry in tmp_path.iterdir()] == ["keys.json"]


def test_unwritable_place_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(KeyVaultError, match="cannot be written"):
        FileVault.create(tmp_path / "file" / "keys.json", 1024, allow_insecure_size=True)


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o660, 0o601, 0o610, 0o644])
def test_widely_readable_file_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    vault = written(tmp_path / "keys.json", document(), mode)
    with pytest.raises(KeyVaultError, match=f"chmod 600 {tmp_path}/keys.json") as caught:
        vault.private_key()
    assert_hides_secrets(caught.value)


def test_file_of_another_owner_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vault = written(tmp_path / "keys.json", document())
    monkeypatch.setattr(os, "geteuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.raises(KeyVaultError, match="belongs to user"):
        vault.public_key()


def test_read_only_mount_is_trusted_through_symlinks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As Kubernetes mounts a Secret: keys.json -> ..data/keys.json, ..data -> ..2024_01_01.
    (tmp_path / "..2024_01_01").mkdir()
    written(tmp_path / "..2024_01_01" / "keys.json", document(), 0o644)
    (tmp_path / "..data").symlink_to("..2024_01_01")
    (tmp_path / "keys.json").symlink_to("..data/keys.json")
    vault = FileVault(tmp_path / "keys.json", allow_insecure_size=True)
    with pytest.raises(KeyVaultError, match="read by others"):
        vault.private_key()
    monkeypatch.setattr(
        os, "fstatvfs", lambda _: SimpleNamespace(f_flag=os.ST_RDONLY | os.ST_NOSUID)
    )
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    assert vault.private_key() == PAIR


def test_missing_vault_says_which_command_makes_one(tmp_path: Path) -> None:
    for vault in (FileVault(tmp_path / "none.json"), EnvironmentVault(environ={})):
        for use in (vault.key_ids, vault.public_key, vault.private_key, vault.archive_key):
            with pytest.raises(KeyVaultError, match="acie keys generate"):
                use()


def test_directories_and_pipes_are_no_vault(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(KeyVaultError, match="not a regular file"):
            FileVault(path).key_ids()


WRONG_ID = "0" * 16


def without(field: str) -> dict[str, Any]:
    changed = document()
    del changed["keys"][PAIR.key_id][field]
    return changed


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "schema"),
        ("{", "schema"),
        ("[]", "schema"),
        ("[" * 100_000, "schema"),
        (json.dumps(document())[:-40], "schema"),
        (document() | {"schema": "acie.keys/3"}, "schema"),
        (document() | {"keys": [1]}, "no entries"),
        (document() | {"keys": {PAIR.key_id: "entry"}}, "no entries"),
        (document() | {"keys": {WRONG_ID: document()["keys"][PAIR.key_id]}}, "have that id"),
        (document() | {"protection": {}}, "how it is protected"),
        (document() | {"protection": 5}, "how it is protected"),
        ({"schema": "acie.keys/2", "keys": {}}, "lacks its protection"),
        (without("secrets"), "lacks its protection or the secrets"),
        (without("modulus"), "no modulus"),
        (without("state"), "no known state"),
        (document(p="not hex" + f"{PAIR.p:x}"), "hexadecimal"),
        (document(p=None), "hexadecimal"),
        (document(p=f"-{PAIR.p:x}"), "hexadecimal"),
        (document(p=f"{PAIR.q:x}"), "two primes"),
        (document(p=f"{PAIR.p + 4:x}"), "does not have that id"),
        (document(p=f"{PAIR.p + 1:x}"), "two primes"),
        (document(archive_key="????"), "32 bytes"),
        (document(archive_key=base64.b64encode(SECRET[:31]).decode()), "32 bytes"),
        (document(archive_key=None), "32 bytes"),
        (earlier() | {"current": WRONG_ID}, "current"),
        (earlier() | {"current": [1]}, "current"),
        (earlier(p="not hex" + f"{PAIR.p:x}"), "hexadecimal"),
        (earlier(p=f"{PAIR.p + 4:x}"), "does not have that id"),
        (earlier(archive_key=None), "32 bytes"),
        (earlier(created=None), "ISO 8601"),
    ],
)
def test_damaged_vault_is_refused_without_leaking(
    tmp_path: Path, content: Any, reason: str
) -> None:
    vault = written(tmp_path / "keys.json", content)
    with pytest.raises(KeyVaultError, match=reason) as caught:
        vault.private_key()
    assert_hides_secrets(caught.value)
    with pytest.raises(KeyVaultError, match=reason):
        vault.archive_key()


def test_undecodable_bytes_do_not_leak(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(b"\xff" + json.dumps(document()).encode())
    path.chmod(0o600)
    with pytest.raises(KeyVaultError, match="schema") as caught:
        FileVault(path).key_ids()
    assert_hides_secrets(caught.value)


def test_unknown_key_lists_the_known_ids(tmp_path: Path) -> None:
    vault = written(tmp_path / "keys.json", document())
    with pytest.raises(KeyVaultError, match=PAIR.key_id):
        vault.private_key(WRONG_ID)


def test_short_keys_are_refused_by_default(tmp_path: Path) -> None:
    written(tmp_path / "keys.json", document())
    for use in (
        FileVault(tmp_path / "keys.json").private_key,
        FileVault(tmp_path / "keys.json").public_key,
    ):
        with pytest.raises(CryptoError, match="at least 2048"):
            use()


def test_environment_comes_before_the_file(tmp_path: Path) -> None:
    environ = {"ACIE_KEYS": json.dumps(document())}
    chosen: KeyVault = open_vault(tmp_path / "none.json", environ)
    assert chosen.key_ids() == (PAIR.key_id,)
    assert isinstance(open_vault(tmp_path / "keys.json", {}), FileVault)
    assert isinstance(open_vault(tmp_path / "keys.json", {"ACIE_KEYS": ""}), FileVault)
    vault = EnvironmentVault(environ=environ, allow_insecure_size=True)
    assert vault.private_key() == PAIR
    assert vault.archive_key().secret == SECRET
    with pytest.raises(KeyVaultError, match="schema") as caught:
        EnvironmentVault(environ={"ACIE_KEYS": environ["ACIE_KEYS"] + "}"}).key_ids()
    assert_hides_secrets(caught.value)


def test_nothing_prints_or_pickles_secrets(tmp_path: Path) -> None:
    vault = written(tmp_path / "keys.json", document())
    key = vault.archive_key()
    shown = f"{vault!r}{vars(vault)}{key!r}{key}{vault.private_key()!r}"
    for secret in (f"{PAIR.p:x}", str(PAIR.p), repr(SECRET), SECRET.hex()):
        assert secret not in shown
    for secret_object in (key, vault):
        with pytest.raises(KeyVaultError, match="cannot be pickled"):
            pickle.dumps(secret_object)
    with pytest.raises(KeyVaultError, match="not 32 bytes"):
        ArchiveKey(PAIR.key_id, SECRET[:16])


def test_vault_of_the_earlier_schema_is_read(tmp_path: Path) -> None:
    newer = generate_keypair(1024, allow_insecure_size=True)
    both = earlier()
    both["keys"][newer.key_id] = entry_of(newer, SECRET[::-1], created=T2)
    both["current"] = newer.key_id
    vault = written(tmp_path / "keys.json", both)
    before = vault.path.read_bytes()
    assert vault.key_ids() == (newer.key_id, PAIR.key_id)
    assert vault.private_key() == newer
    assert vault.private_key(PAIR.key_id) == PAIR
    assert vault.archive_key(PAIR.key_id).secret == SECRET
    assert [
        (record.key_id, record.version, record.state, record.since)
        for record in vault.public_keys().records
    ] == [(PAIR.key_id, 1, "rotated", T1), (newer.key_id, 2, "current", T2)]
    assert vault.path.read_bytes() == before


def test_first_change_upgrades_a_vault_of_the_earlier_schema(tmp_path: Path) -> None:
    vault = written(tmp_path / "keys.json", earlier())
    record = vault.rotate(1024)
    assert json.loads(vault.path.read_text())["schema"] == "acie.keys/2"
    assert vault.key_ids() == (record.key_id, PAIR.key_id)
    assert record.version == 2
    assert vault.private_key(PAIR.key_id) == PAIR
    assert vault.archive_key(PAIR.key_id).secret == SECRET
    assert vault.public_keys().find(PAIR.key_id).created == T1
