"""`acie secure attest`, and what `acie verify` says about attestations.

Belongs here: parsing and printing. Does not belong here: work
(`acie_pipelines.secure.attestation`).
"""

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from acie_pipelines.cli_vault import open_keys, open_owner
from acie_pipelines.errors import IntegrityError
from acie_pipelines.settings import Settings

if TYPE_CHECKING:
    from acie_pipelines.provenance import Manifest

__all__ = ["attest", "newest_by_attestation"]

_out = Console()


def attest(
    key: Annotated[
        str | None, typer.Argument(help="Observation key; all of them if omitted.")
    ] = None,
) -> None:
    """State as the owner that sealed datasets are the newest, after verifying every hash.

    The graph does so itself with what passes its checks. This is for datasets made before it did,
    brought from elsewhere, or attested under a key that is revoked by now: look at what `acie
    verify` says of them first, because it is taken for yours from then on.
    """
    from acie_pipelines.secure.attestation import ATTESTED_KINDS, Attestations
    from acie_pipelines.storage import Store
    from acie_pipelines.verification import verify_observation

    settings = Settings.from_environment()
    store = Store(settings.storage_url)
    owner = open_owner()
    attestations = Attestations(settings.database_url)
    sealed = [
        (kind, name)
        for kind in ATTESTED_KINDS
        for name in ([key] if key is not None else store.names(kind))
        if store.exists(f"{kind}/{name}/current.json")
    ]
    if not sealed:
        raise IntegrityError(
            key or settings.storage_url, "holds nothing sealed", "see `acie status`"
        )
    for name in sorted({name for _, name in sealed}):
        verify_observation(store, name, lambda manifest: None)
    for kind, name in sealed:
        said = owner.attest(store, attestations, kind, name)
        _out.print(
            f"[green]attested[/] {kind}/{name}/{said.generation} [dim]number {said.number}[/]",
            soft_wrap=True,
            highlight=False,
        )


def newest_by_attestation(out: Console) -> "Callable[[Manifest], None]":
    """Make the judge of whether sealed datasets are the newest, by vault and database.

    Without a vault, statements are compared and not proved, which is said once.
    """
    from acie_pipelines.crypto.vault import ENVIRONMENT_VARIABLE
    from acie_pipelines.secure.attestation import Attestations

    settings = Settings.from_environment()
    attestations = Attestations(settings.database_url)
    has_vault = bool(os.environ.get(ENVIRONMENT_VARIABLE)) or settings.keys_file.exists()
    keys = open_keys() if has_vault else None
    if keys is None:
        out.print("[yellow]no key vault[/]: the owner's statements are compared, not proved")

    def judge(manifest: "Manifest") -> None:
        if keys is None:
            said = attestations.compare(manifest)
        else:
            said = attestations.authenticate(manifest, keys.archive_key)
        if said is None:
            out.print(
                f"[yellow]not authenticated[/] {manifest.kind}/{manifest.key}: its owner never "
                "attested it",
                soft_wrap=True,
                highlight=False,
            )

    return judge
