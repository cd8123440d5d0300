"""`acie keys` as a person at a shell, or a script, meets it."""

import json
import os
import pty
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from acie_pipelines.cli import app
from acie_pipelines.crypto import vault as vault_module
from acie_pipelines.crypto.keys import PaillierPrivateKey, generate_keypair
from acie_pipelines.crypto.public_keys import read_public_keys
from acie_pipelines.crypto.vault import FileVault
from acie_pipelines.errors import AcieError, ConfigurationError, KeyVaultError
from acie_pipelines.secure.roles import ComputeWorker
from acie_pipelines.settings import Settings

WORDS = "correct horse battery staple"


@pytest.fixture(scope="module")
def spare() -> PaillierPrivateKey:
    return generate_keypair(2048)


@pytest.fixture
def keys(
    settings: Settings,
    vault: FileVault,
    spare: PaillierPrivateKey,
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., str]:
    """Run a command; errors stay exceptions."""
    monkeypatch.setattr(vault_module, "generate_keypair", lambda *_, **__: spare)

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["keys", *arguments])
        if isinstance(result.exception, AcieError):
            raise result.exception
        assert result.exit_code == 0, result.output
        return result.stdout

    return run


def listed(keys: Callable[..., str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in keys("list", "--json").splitlines()]


def test_life_of_a_key(keys: Callable[..., str], settings: Settings, tmp_path: Path) -> None:
    (first,) = listed(keys)
    assert (first["state"], first["version"], first["protection"]) == ("current", 1, None)
    assert "NOT protected" in keys("list")
    assert "(version 2) is current" in keys("rotate", "--bits", "2048")
    newest, older = listed(keys)
    assert (newest["state"], newest["version"]) == ("current", 2)
    assert (older["key_id"], older["state"]) == (first["key_id"], "rotated")

    key_id = str(newest["key_id"])
    assert "is revoked" in keys("revoke", key_id, "--reason", "laptop stolen")
    newest = listed(keys)[0]
    assert (newest["state"], newest["reason"]) == ("revoked", "laptop stolen")
    with pytest.raises(KeyVaultError, match="revoked already"):
        keys("revoke", key_id, "--reason", "again")
    table = keys("list")
    assert "laptop stolen" in table and "rotated" in table

    document = tmp_path / "public.json"
    keys("export-public", str(document))
    exported = read_public_keys(document)
    assert exported.records[0].key_id == first["key_id"]
    assert [record.state.value for record in exported.records] == ["rotated", "revoked"]
    assert keys("export-public", "-").encode() == document.read_bytes()
    held = json.loads(settings.keys_file.read_text())["keys"].values()
    for secret in (value for entry in held for value in entry["secrets"].values()):
        assert secret not in document.read_text()
    assert ComputeWorker.open(document).public_key(str(first["key_id"])).bits == 2048


def test_protection_comes_from_the_environment(
    keys: Callable[..., str], settings: Settings, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("ACIE_KEYS_PASSPHRASE", WORDS)
    assert "protected by a passphrase" in keys("protect")
    assert listed(keys)[0]["protection"] == "passphrase"
    assert "archive_key" not in settings.keys_file.read_text()
    keys("rotate", "--bits", "2048")
    # Another one, of the other kind, from a file.
    path = tmp_path / "wrapping-key"
    path.touch(0o600)
    path.write_text("A" * 43 + "=\n")
    monkeypatch.setenv("ACIE_KEYS_NEW_WRAPPING_KEY_FILE", str(path))
    assert "protected by a wrapping key" in keys("protect")
    monkeypatch.delenv("ACIE_KEYS_NEW_WRAPPING_KEY_FILE")
    monkeypatch.delenv("ACIE_KEYS_PASSPHRASE")
    assert len(listed(keys)) == 2
    with pytest.raises(KeyVaultError, match="set ACIE_KEYS_WRAPPING_KEY"):
        keys("export-public", "-")
    monkeypatch.setenv("ACIE_KEYS_WRAPPING_KEY_FILE", str(path))
    assert "acie.public-keys/1" in keys("export-public", "-")


def test_generation_is_protected_by_what_is_set(
    keys: Callable[..., str], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.keys_file.unlink()
    monkeypatch.setenv("ACIE_KEYS_PASSPHRASE", "too short")
    with pytest.raises(KeyVaultError, match="fewer than 12"):
        keys("generate", "--bits", "2048")
    assert not settings.keys_file.exists()
    monkeypatch.setenv("ACIE_KEYS_PASSPHRASE", WORDS)
    assert "protected by a passphrase" in keys("generate", "--bits", "2048")
    before = settings.keys_file.read_bytes()
    keys("generate", "--if-missing")
    with pytest.raises(KeyVaultError, match="acie keys rotate"):
        keys("generate")
    assert settings.keys_file.read_bytes() == before


def test_vault_in_the_environment_is_not_changed(
    keys: Callable[..., str], settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACIE_KEYS", settings.keys_file.read_text())
    assert len(listed(keys)) == 1
    for command in (["rotate"], ["revoke", "0" * 16, "--reason", "x"], ["protect"]):
        with pytest.raises(KeyVaultError, match=r"\$ACIE_KEYS: cannot be changed in place"):
            keys(*command)


def test_nobody_to_ask(keys: Callable[..., str], settings: Settings) -> None:
    before = settings.keys_file.read_bytes()
    with pytest.raises(ConfigurationError, match="nobody is at the terminal"):
        keys("protect")
    assert settings.keys_file.read_bytes() == before


def at_terminal(arguments: list[str], answers: list[str]) -> tuple[int, str]:
    """Run `acie` on a terminal of its own and type an answer at each prompt."""
    acie = str(Path(sys.executable).with_name("acie"))
    master, terminal = pty.openpty()
    process = subprocess.Popen(
        [acie, *arguments], stdin=terminal, stdout=terminal, stderr=terminal, start_new_session=True
    )
    os.close(terminal)
    shown, waiting, deadline = b"", list(answers), time.monotonic() + 300
    while time.monotonic() < deadline:
        if select.select([master], [], [], 0.1)[0]:
            try:
                shown += os.read(master, 4096)
            except OSError:
                break
        elif waiting and shown.rstrip().endswith(b":"):
            os.write(master, waiting.pop(0).encode() + b"\n")
            shown += b"\n"
        elif process.poll() is not None:
            break
    os.close(master)
    return process.wait(10), shown.decode()


def test_passphrase_at_a_terminal(settings: Settings, vault: FileVault) -> None:
    code, shown = at_terminal(["keys", "protect"], [WORDS, WORDS])
    assert code == 0 and "protected by a passphrase" in shown
    assert WORDS not in shown
    assert vault.protection() == "passphrase"
    code, shown = at_terminal(["keys", "export-public", "-"], [WORDS])
    assert code == 0 and "acie.public-keys/1" in shown and WORDS not in shown
