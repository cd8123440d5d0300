"""`acie secure restore-legacy`.

Belongs here: parsing and printing of that command. Does not belong here: work.
"""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from acie_pipelines.cli_outcomes import Json, report
from acie_pipelines.cli_vault import open_owner
from acie_pipelines.crypto.legacy_rc2 import Digest

if TYPE_CHECKING:
    from acie_pipelines.crypto.archive_files import Outcome

__all__ = ["restore_legacy"]

_VARIABLE = "ACIE_LEGACY_PASSPHRASE"


def restore_legacy(
    files: Annotated[list[Path], typer.Argument(help="Files of `openssl enc -rc2-cbc`.")],
    into: Annotated[Path, typer.Option("--out", help="Directory that receives the results.")],
    sealed: Annotated[
        bool, typer.Option("--seal", help="Write sealed archives; no plaintext is written.")
    ] = False,
    digest: Annotated[Digest, typer.Option(help="As in openssl's -md.")] = Digest.SHA256,
    pbkdf2: Annotated[bool, typer.Option("--pbkdf2", help="As in openssl's -pbkdf2.")] = False,
    iterations: Annotated[int, typer.Option(min=1, help="Of --pbkdf2.")] = 10_000,
    as_json: Json = False,
) -> None:
    """Read legacy RC2 archives; there is no way to write them.

    The passphrase is asked for, or taken from ACIE_LEGACY_PASSPHRASE. Exit code 0 only if all
    could be decrypted.
    """
    from acie_pipelines.crypto import legacy_rc2
    from acie_pipelines.crypto.archive_files import attempt_each
    from acie_pipelines.crypto.destination import Destination

    Console(stderr=True).print(
        "[bold red]warning:[/] RC2-CBC protects nothing today, and nothing shows whether these "
        "files were changed or the passphrase is right. Compare the results with what you know of "
        "them, seal them with `acie secure seal`, and delete the RC2 files.",
        soft_wrap=True,
        highlight=False,
    )
    text = os.environ.get(_VARIABLE) or typer.prompt("Passphrase", hide_input=True, err=True)
    key = legacy_rc2.LegacyKey(os.fsencode(text), digest, iterations if pbkdf2 else None)
    if sealed:
        archive_key = open_owner().vault.archive_key()

        def work(path: Path) -> "Outcome":
            return legacy_rc2.seal_legacy(path, into, key, archive_key)

        fine = report("sealing", attempt_each(files, work), len(files), as_json=as_json)
    else:
        with Destination(into) as destination:
            outcomes = attempt_each(
                files, lambda path: legacy_rc2.restore_legacy(path, destination, key)
            )
            fine = report("restoring", outcomes, len(files), as_json=as_json)
    raise typer.Exit(0 if fine else 1)
