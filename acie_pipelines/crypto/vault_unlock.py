"""Where the passphrase or wrapping key of a vault comes from; never from the command line.

Belongs here: the environment variables and mounted files that open a vault unattended.
Does not belong here: what is done with them (`vault_wrapping`), prompts of commands.

A passphrase stands in ``ACIE_KEYS_PASSPHRASE``, or in the file that ``ACIE_KEYS_PASSPHRASE_FILE``
names. A wrapping key, 32 random bytes in base64 (``openssl rand -base64 32``), stands in
``ACIE_KEYS_WRAPPING_KEY``, or in the file that ``ACIE_KEYS_WRAPPING_KEY_FILE`` names. Files are
guarded like the vault itself; a Kubernetes Secret mounted read-only will do. `acie keys protect`
takes a new one from the same variables with ``ACIE_KEYS_NEW_`` in front.
"""

import base64
import binascii
from collections.abc import Callable, Mapping
from pathlib import Path

from acie_pipelines.crypto.vault_file import read_private
from acie_pipelines.crypto.vault_wrapping import (
    KEY_BYTES,
    KeyEncryptionKey,
    Passphrase,
    Protection,
    UnlockSecret,
    WrappingKey,
)
from acie_pipelines.errors import KeyVaultError

__all__ = ["Ask", "key_to", "unlock_secret"]

# Shows a prompt and returns what was typed.
Ask = Callable[[str], str]

_PREFIX = "ACIE_KEYS_"
_NEW_PREFIX = "ACIE_KEYS_NEW_"


def unlock_secret(environ: Mapping[str, str], *, new: bool = False) -> UnlockSecret | None:
    """Take the passphrase or wrapping key that the environment provides.

    Parameters
    ----------
    environ
        Variables to read.
    new
        Read the variables of the secret that shall open the vault from now on.

    Returns
    -------
    UnlockSecret or None
        ``None`` if no variable is set.

    Raises
    ------
    KeyVaultError
        If more than one variable is set, a file cannot be read or can be read by others, or it
        holds something else.
    """
    prefix = _NEW_PREFIX if new else _PREFIX
    names = [
        prefix + name
        for name in ("PASSPHRASE", "PASSPHRASE_FILE", "WRAPPING_KEY", "WRAPPING_KEY_FILE")
    ]
    given = [name for name in names if environ.get(name)]
    if not given:
        return None
    if len(given) > 1:
        raise KeyVaultError(
            " and ".join(f"${name}" for name in given), "are both set", "set only one of them"
        )
    (name,) = given
    subject, text = f"${name}", environ[name]
    if name.endswith("_FILE"):
        subject = f"file {text} in ${name}"
        data = read_private(Path(text), subject, f"mount it, or unset {name}")
        decoded: str | None
        try:
            decoded = data.decode()
        except UnicodeDecodeError:
            decoded = None
        if decoded is None:
            raise KeyVaultError(subject, "is not text", "write it as text in UTF-8")
        text = decoded.removesuffix("\n").removesuffix("\r")
    if "PASSPHRASE" in name:
        if not text:
            raise KeyVaultError(subject, "is empty", "write the passphrase into it")
        return Passphrase(text)
    return _wrapping_key(text, subject)


def key_to(
    protection: Protection, subject: str, environ: Mapping[str, str], ask: Ask | None
) -> KeyEncryptionKey:
    """Get the key of a protected vault from the environment, or from the person at the terminal.

    Parameters
    ----------
    protection
        What the vault says about itself.
    subject
        Which vault, for messages and the prompt.
    environ
        Variables to read.
    ask
        Asks for a passphrase if no variable is set; ``None`` where nobody can answer.

    Raises
    ------
    KeyVaultError
        Says what to set, if there is nothing to open the vault with.
    """
    secret = unlock_secret(environ)
    scrypt = protection.scrypt
    if secret is None and scrypt is not None and ask is not None:
        secret = Passphrase(ask(f"Passphrase of the {subject}"))
    if isinstance(secret, Passphrase) and scrypt is not None:
        return KeyEncryptionKey.of_passphrase(secret, scrypt)
    if isinstance(secret, WrappingKey) and scrypt is None:
        return KeyEncryptionKey(secret.secret, None)
    name = _PREFIX + ("WRAPPING_KEY" if scrypt is None else "PASSPHRASE")
    raise KeyVaultError(
        subject, f"is protected by a {protection.method}", f"set {name} or {name}_FILE"
    )


def _wrapping_key(text: str, subject: str) -> WrappingKey:
    key: bytes | None
    try:
        key = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        key = None
    if key is None or len(key) != KEY_BYTES:
        raise KeyVaultError(
            subject,
            f"does not hold {KEY_BYTES} bytes in base64",
            f"make a wrapping key with `openssl rand -base64 {KEY_BYTES}`",
        )
    return WrappingKey(key)
