"""Legacy RC2 files: known answers, the openssl program as the other side, and no way to write."""

import hashlib
import io
import json
import shutil
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.decrepit.ciphers.algorithms import RC2
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from typer.testing import CliRunner

from acie_native import Streebog256
from acie_pipelines.cli import app
from acie_pipelines.crypto.archive_files import verify_file
from acie_pipelines.crypto.legacy_rc2 import Digest, LegacyKey, decrypt_rc2
from acie_pipelines.crypto.vault import FileVault
from acie_pipelines.errors import CryptoError

SALT = bytes(range(8))
KEY = LegacyKey(b"correct horse")


def encrypted(content: bytes, key: LegacyKey = KEY) -> bytes:
    """What `openssl enc -rc2-cbc` writes, with a given salt."""
    secret, vector = key.derive(SALT)
    pad = 8 - len(content) % 8
    encryptor = Cipher(RC2(secret), modes.CBC(vector)).encryptor()
    return b"Salted__" + SALT + encryptor.update(content + bytes([pad]) * pad)


def decrypted(data: bytes, key: LegacyKey = KEY) -> bytes:
    return b"".join(decrypt_rc2(io.BytesIO(data), "old.rc2", key))


@pytest.mark.parametrize(
    ("key", "plain", "cipher"),
    [
        # RFC 2268, section 5, the vector of 16 bytes with 128 effective bits.
        ("88bca90e90875a7f0f79c384627bafb2", "0000000000000000", "2269552ab0f85ca6"),
    ],
)
def test_rfc_2268(key: str, plain: str, cipher: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LegacyKey, "derive", lambda self, salt: (bytes.fromhex(key), bytes(8)))
    first = bytes.fromhex(cipher)
    # Another block, chained to it, that decrypts to eight bytes of padding.
    encryptor = Cipher(RC2(bytes.fromhex(key)), modes.CBC(first)).encryptor()
    data = b"Salted__" + SALT + first + encryptor.update(b"\x08" * 8)
    assert decrypted(data).hex() == plain


@pytest.mark.parametrize("name", [Digest.MD5, Digest.SHA256])
def test_evp_bytes_to_key_is_chained_digests(name: Digest) -> None:
    key = LegacyKey(b"correct horse", name)

    def digest(data: bytes) -> bytes:
        return hashlib.new(key.digest, data, usedforsecurity=False).digest()

    first = digest(b"correct horse" + SALT)
    second = digest(first + b"correct horse" + SALT)
    found = key.derive(SALT)
    assert found == ((first + second)[:16], (first + second)[16:24])


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 1 << 20, (1 << 20) - 8, (1 << 21) + 3])
def test_round_trip_around_blocks(size: int) -> None:
    content = hashlib.shake_128(b"sky").digest(size)
    assert decrypted(encrypted(content)) == content


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"Salted__",
        b"Salted__" + SALT,
        b"U2FsdGVkX1" + bytes(40),
        encrypted(b"sky")[:-1],
        encrypted(b"sky")[:-8],
        encrypted(bytes(80))[:-8],
    ],
)
def test_other_and_damaged_files_are_refused(data: bytes) -> None:
    with pytest.raises(CryptoError) as caught:
        decrypted(data)
    assert "\n" not in str(caught.value)
    assert "correct" not in str(caught.value) + repr(KEY)


def test_a_wrong_passphrase_is_mostly_noticed() -> None:
    data, noticed = encrypted(b"sky" * 100), 0
    for number in range(100):
        try:
            assert decrypted(data, LegacyKey(f"wrong {number}".encode())) != b"sky" * 100
        except CryptoError:
            noticed += 1
    assert noticed >= 97


OPENSSL = shutil.which("openssl")


def openssl_has_rc2() -> bool:
    if OPENSSL is None:
        return False
    arguments = [OPENSSL, "enc", "-rc2-cbc", "-provider", "legacy", "-provider", "default"]
    done = subprocess.run([*arguments, "-k", "x", "-pbkdf2"], input=b"x", capture_output=True)
    return done.returncode == 0


@pytest.mark.skipif(not openssl_has_rc2(), reason="no openssl program with RC2 here")
@pytest.mark.parametrize(
    ("options", "key"),
    [
        (["-md", "md5"], ("md5", None)),
        (["-md", "sha256"], ("sha256", None)),
        (["-md", "sha512"], ("sha512", None)),
        (["-pbkdf2"], ("sha256", 10_000)),
        (["-pbkdf2", "-iter", "2500", "-md", "sha1"], ("sha1", 2500)),
    ],
)
def test_files_of_openssl(
    options: list[str], key: tuple[str, int | None], tmp_path: Path, image_file: Path
) -> None:
    path = tmp_path / "old.rc2"
    assert OPENSSL is not None
    program = [OPENSSL, "enc", "-rc2-cbc", "-provider", "legacy", "-provider", "default"]
    files = ["-in", str(image_file), "-out", str(path)]
    subprocess.run(
        [*program, *options, "-pass", "env:SECRET", *files],
        check=True,
        env={"SECRET": "pass word"},
        capture_output=True,
    )
    found = decrypted(path.read_bytes(), LegacyKey(b"pass word", Digest(key[0]), key[1]))
    assert found == image_file.read_bytes()


def run(*arguments: object, **options: str) -> tuple[int, list[dict[str, object]], str]:
    command = ["secure", "restore-legacy", *map(str, arguments), "--json"]
    result = CliRunner().invoke(app, command, **options)  # type: ignore[arg-type]
    lines = [json.loads(line) for line in result.stdout.splitlines() if line.strip()]
    return result.exit_code, lines, result.stderr


def test_commands(vault: FileVault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good, bad, out = tmp_path / "m31.fits.rc2", tmp_path / "bad.enc", tmp_path / "out"
    content = b"SIMPLE  =  T" * 1000
    good.write_bytes(encrypted(content))
    bad.write_bytes(b"nonsense")
    monkeypatch.setenv("ACIE_LEGACY_PASSPHRASE", "correct horse")
    code, lines, errors = run(bad, good, "--out", out)
    assert "warning: RC2-CBC protects nothing" in errors
    assert code == 1
    assert [line["status"] for line in lines] == ["failed", "restored"]
    assert lines[1]["streebog256"] == Streebog256(content).hexdigest()
    assert (out / "m31.fits").read_bytes() == content
    assert (out / "m31.fits").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in out.iterdir()] == ["m31.fits"]
    assert run(good, "--out", out)[0] == 1  # existing files stay

    monkeypatch.delenv("ACIE_LEGACY_PASSPHRASE")
    sealed = tmp_path / "sealed"
    code, lines, _ = run(good, "--out", sealed, "--seal", input="correct horse\n")
    assert (code, lines[0]["status"]) == (0, "sealed")
    (archive,) = sealed.iterdir()
    assert verify_file(archive, vault).sha256 == hashlib.sha256(content).hexdigest()
    code, lines, _ = run(good, "--out", tmp_path / "more", "--seal", input="incorrect\n")
    assert code == 1 or lines[0]["sha256"] != hashlib.sha256(content).hexdigest()


def test_the_module_cannot_encrypt() -> None:
    from acie_pipelines.crypto import legacy_rc2

    assert "encryptor" not in Path(legacy_rc2.__file__).read_text()
