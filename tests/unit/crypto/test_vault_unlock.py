"""Where a passphrase or wrapping key may come from."""

import base64
from pathlib import Path

import pytest

from acie_pipelines.crypto.vault_unlock import unlock_secret
from acie_pipelines.crypto.vault_wrapping import Passphrase, WrappingKey
from acie_pipelines.errors import KeyVaultError

KEY = bytes(range(32))
TEXT = base64.b64encode(KEY).decode()


def file(folder: Path, content: bytes, mode: int = 0o600) -> str:
    path = folder / "secret"
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


def test_nothing_is_set() -> None:
    assert unlock_secret({}) is None
    assert unlock_secret({"ACIE_KEYS_PASSPHRASE": ""}) is None
    assert unlock_secret({"ACIE_KEYS_NEW_PASSPHRASE": "x"}) is None
    assert unlock_secret({"ACIE_KEYS_PASSPHRASE": "x"}, new=True) is None


@pytest.mark.parametrize("new", [False, True])
def test_each_way(tmp_path: Path, new: bool) -> None:
    prefix = "ACIE_KEYS_NEW_" if new else "ACIE_KEYS_"
    for variables, expected in (
        ({"PASSPHRASE": " with spaces "}, Passphrase(" with spaces ")),
        ({"PASSPHRASE_FILE": file(tmp_path, b" spaces \n")}, Passphrase(" spaces ")),
        ({"WRAPPING_KEY": TEXT}, WrappingKey(KEY)),
    ):
        environ = {prefix + name: value for name, value in variables.items()}
        assert unlock_secret(environ, new=new) == expected
    environ = {f"{prefix}WRAPPING_KEY_FILE": file(tmp_path, TEXT.encode() + b"\n")}
    assert unlock_secret(environ, new=new) == WrappingKey(KEY)


def test_two_at_once_are_refused() -> None:
    environ = {"ACIE_KEYS_PASSPHRASE": "secret words", "ACIE_KEYS_WRAPPING_KEY": TEXT}
    with pytest.raises(KeyVaultError, match="both set") as caught:
        unlock_secret(environ)
    assert "secret words" not in str(caught.value) and TEXT not in str(caught.value)


@pytest.mark.parametrize("text", ["x", TEXT[:-4], TEXT + TEXT, KEY.hex(), "é" * 44])
def test_what_is_no_wrapping_key(text: str) -> None:
    with pytest.raises(KeyVaultError, match="openssl rand -base64 32") as caught:
        unlock_secret({"ACIE_KEYS_WRAPPING_KEY": text})
    assert len(text) == 1 or text not in str(caught.value)


def test_files_are_guarded_and_named(tmp_path: Path) -> None:
    def refusal(path: str, name: str = "ACIE_KEYS_PASSPHRASE_FILE") -> str:
        with pytest.raises(KeyVaultError) as caught:
            unlock_secret({name: path})
        return str(caught.value)

    assert "does not exist" in refusal(str(tmp_path / "none"))
    assert "can be read by others" in refusal(file(tmp_path, b"words", 0o644))
    assert "is empty" in refusal(file(tmp_path, b"\n"))
    raw = refusal(file(tmp_path, b"\xff" * 32), "ACIE_KEYS_WRAPPING_KEY_FILE")
    assert "is not text" in raw and str(tmp_path) in raw
