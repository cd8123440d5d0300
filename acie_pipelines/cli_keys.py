"""`acie keys ...`.

Belongs here: parsing, prompts and printing of these commands. Does not belong here: work.
"""

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from acie_pipelines.cli_vault import ask_passphrase, open_keys, open_owner
from acie_pipelines.errors import KeyVaultError
from acie_pipelines.settings import Settings

if TYPE_CHECKING:
    from acie_pipelines.crypto.vault import FileVault

__all__ = ["keys"]

keys = typer.Typer(help="The key vault.", no_args_is_help=True)
out = Console()
err = Console(stderr=True)

_DEFAULT_BITS = 3072
Bits = Annotated[int, typer.Option(help="Modulus size; at least 2048.")]


@keys.command()
def generate(
    bits: Bits = _DEFAULT_BITS,
    if_missing: Annotated[bool, typer.Option(help="Keep an existing vault.")] = False,
) -> None:
    """Create the key vault: a Paillier key pair and an archive key.

    It is readable by you only, and protected by the passphrase or wrapping key that the environment
    provides (ACIE_KEYS_PASSPHRASE, ACIE_KEYS_WRAPPING_KEY, or either with _FILE).
    """
    from acie_pipelines.crypto.vault import FileVault
    from acie_pipelines.crypto.vault_unlock import unlock_secret

    path = Settings.from_environment().keys_file
    if if_missing and path.exists():
        return
    with err.status(f"making a key of {bits} bits"):
        vault = FileVault.create(path, bits, secret=unlock_secret(os.environ))
    out.print(
        f"key {vault.public_key().key_id} ({bits} bits) in {path}, "
        f"{_guard(vault.protection())}; keep a backup of this file",
        soft_wrap=True,
        highlight=False,
    )


@keys.command()
def rotate(bits: Bits = _DEFAULT_BITS) -> None:
    """Make a new key the current one; the one before stays to read what is under it."""
    vault = _own_vault()
    with err.status(f"making a key of {bits} bits"):
        record = vault.rotate(bits)
    out.print(
        f"key {record.key_id} (version {record.version}) is current; keep a new backup of "
        f"{vault.path}",
        soft_wrap=True,
        highlight=False,
    )


@keys.command()
def revoke(
    key_id: Annotated[str, typer.Argument(help="Id of the key.")],
    reason: Annotated[str, typer.Option(help="Why; kept in the vault.")],
) -> None:
    """Revoke a key for good: nothing is encrypted or sealed under it any more."""
    vault = _own_vault()
    record = vault.revoke(key_id, reason)
    out.print(f"key {record.key_id} (version {record.version}) is revoked", highlight=False)
    if not any(other.state == "current" for other in vault.public_keys().records):
        err.print("[yellow]no key is current now:[/] make one with `acie keys rotate`")


@keys.command("list")
def list_keys(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON lines, not a table.")] = False,
) -> None:
    """List the keys, the current one first. Needs no passphrase, and so proves nothing."""
    vault = open_keys()
    public, protection = vault.public_keys(), vault.protection()
    records = [public.find(key_id, allow_revoked=True) for key_id in public.key_ids()]
    if as_json:
        for record in records:
            body = {
                "key_id": record.key_id,
                "version": record.version,
                "bits": record.public_key.bits,
                "state": record.state.value,
                "since": record.since,
                "created": record.created,
                "reason": record.reason,
                "protection": protection,
            }
            typer.echo(json.dumps(body))
        return
    table = Table()
    for column in ("Key", "Version", "Bits", "State", "Since (UTC)"):
        table.add_column(column, no_wrap=True)
    table.add_column("Why")
    for record in records:
        table.add_row(
            record.key_id,
            str(record.version),
            str(record.public_key.bits),
            record.state.value,
            record.since[:10],
            record.reason,
        )
    out.print(table)
    out.print(f"{vault.subject}, {_guard(protection)}", soft_wrap=True, highlight=False)


@keys.command()
def protect() -> None:
    """Protect the vault by a passphrase or wrapping key, or by another one than before.

    The new one comes from ACIE_KEYS_NEW_PASSPHRASE or ACIE_KEYS_NEW_WRAPPING_KEY (or either with
    _FILE); for a vault that is not protected yet from the same without NEW_; else you are asked.
    """
    from acie_pipelines.crypto.vault_unlock import unlock_secret
    from acie_pipelines.crypto.vault_wrapping import Passphrase

    vault = _own_vault()
    protected = vault.protection() is not None
    secret = unlock_secret(os.environ, new=True)
    if secret is None and not protected:
        secret = unlock_secret(os.environ)
    if protected:
        vault.authenticate()  # asks for the old one before the new one
    if secret is None:
        first = ask_passphrase("New passphrase")
        if ask_passphrase("The same again") != first:
            raise KeyVaultError("the passphrase", "differs the second time", "run it again")
        secret = Passphrase(first)
    vault.protect(secret)
    out.print(f"{vault.subject} is {_guard(vault.protection())}", soft_wrap=True, highlight=False)
    err.print("copies made before still open the old way: destroy them, or rotate the key")


@keys.command("export-public")
def export_public(
    path: Annotated[Path, typer.Argument(help="File to write; `-` for standard output.")],
) -> None:
    """Write the document that workers compute with: moduli and states, no secret."""
    from acie_pipelines.storage import atomic_writer

    public = open_owner().public_keys()
    if str(path) == "-":
        sys.stdout.buffer.write(public.to_json())
    else:
        with atomic_writer(path) as handle:
            handle.write(public.to_json())
    err.print(
        f"{len(public.records)} keys, SHA-256 {public.fingerprint}", soft_wrap=True, highlight=False
    )


def _own_vault() -> "FileVault":
    """Open the vault file to change it."""
    from acie_pipelines.crypto.vault import FileVault

    vault = open_keys()
    if not isinstance(vault, FileVault):
        raise KeyVaultError(
            vault.subject,
            "cannot be changed in place",
            "unset it and change the vault file it was copied from",
        )
    return vault


def _guard(protection: str | None) -> str:
    return f"protected by a {protection}" if protection else "NOT protected but for its file mode"
