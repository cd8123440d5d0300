"""How commands come to keys: by the environment, or by asking the person at the terminal.

Belongs here: the prompt without echo, the option to read what is under revoked keys, and where
public keys come from.
Does not belong here: commands.
"""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from acie_pipelines.errors import ConfigurationError
from acie_pipelines.settings import Settings

if TYPE_CHECKING:
    from acie_pipelines.crypto.public_keys import PublicKeys
    from acie_pipelines.crypto.vault import EnvironmentVault, FileVault
    from acie_pipelines.secure.owner import DataOwner

__all__ = [
    "AllowRevoked",
    "PublicKeysFile",
    "ask_passphrase",
    "open_keys",
    "open_owner",
    "open_public_keys",
]

AllowRevoked = Annotated[
    bool, typer.Option("--allow-revoked", help="Read what is under revoked keys too.")
]

PublicKeysFile = Annotated[
    Path | None,
    typer.Option(
        "--public-keys",
        envvar="ACIE_PUBLIC_KEYS_FILE",
        help="What `acie keys export-public` wrote; by default the vault is opened for its keys.",
    ),
]


def ask_passphrase(prompt: str) -> str:
    """Ask the person at the terminal, without echo.

    Raises
    ------
    ConfigurationError
        If there is no terminal; unattended, the environment says it.
    """
    if not sys.stdin.isatty():
        raise ConfigurationError(
            prompt, "nobody is at the terminal", "set ACIE_KEYS_PASSPHRASE or its _FILE"
        )
    return str(typer.prompt(prompt, hide_input=True, err=True))


def open_keys(*, allow_revoked: bool = False) -> "FileVault | EnvironmentVault":
    """Open the vault of the settings; it asks when it first needs to."""
    from acie_pipelines.crypto.vault import open_vault

    # Without a terminal the vault's own error says what to set.
    ask = ask_passphrase if sys.stdin.isatty() else None
    keys_file = Settings.from_environment().keys_file
    return open_vault(keys_file, ask=ask, allow_revoked=allow_revoked)


def open_owner(*, allow_revoked: bool = False) -> "DataOwner":
    """Open the vault as the data's owner: it is unlocked and proved before any work begins."""
    from acie_pipelines.secure.owner import DataOwner

    return DataOwner(open_keys(allow_revoked=allow_revoked))


def open_public_keys(document: Path | None) -> "PublicKeys":
    """Take public keys from a document, without any vault, or else from the owner's, proved."""
    from acie_pipelines.crypto.public_keys import read_public_keys

    return open_owner().public_keys() if document is None else read_public_keys(document)
