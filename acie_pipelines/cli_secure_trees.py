"""`acie secure seal-tree`, `restore-tree` and `verify-tree`.

Belongs here: parsing and printing of those commands. Does not belong here: work.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from acie_pipelines.cli_outcomes import Json, print_outcome, progress
from acie_pipelines.cli_vault import AllowRevoked, open_owner

if TYPE_CHECKING:
    from acie_pipelines.crypto.archive_files import Outcome
    from acie_pipelines.crypto.sealed_tree import SealedTree
    from acie_pipelines.crypto.vault import KeyVault

__all__ = ["restore_tree", "seal_tree", "verify_tree"]

Expect = Annotated[
    str | None,
    typer.Option(help="Digest that seal-tree printed: refuse any other version of the tree."),
]
Sealed = Annotated[Path, typer.Argument(help="Directory that seal-tree wrote.")]


def seal_tree(
    directory: Annotated[Path, typer.Argument(help="Tree to seal; it stays as it is.")],
    out: Annotated[Path, typer.Argument(help="Sealed tree: new, or brought up to date.")],
    as_json: Json = False,
) -> None:
    """Seal a directory tree; names and structure are hidden, sizes and fingerprints are not.

    A run that was killed continues when it is started again. Pipes, sockets and devices are left
    out. Exit code 0 only if everything is sealed.
    """
    from acie_pipelines.crypto.sealed_tree import seal_tree as work

    _run("sealing", lambda keys, report: work(directory, out, keys, report), as_json)


def restore_tree(
    sealed: Sealed,
    out: Annotated[Path, typer.Argument(help="Directory that receives the tree.")],
    expect: Expect = None,
    allow_revoked: AllowRevoked = False,
    as_json: Json = False,
) -> None:
    """Restore a sealed tree; each file appears only after everything in it has been verified.

    Existing files are never replaced, links that lead outside are not made. Exit code 0 only if
    everything that was sealed is there.
    """
    from acie_pipelines.crypto.tree_restoring import restore_tree as work

    _run(
        "restoring",
        lambda keys, report: work(sealed, out, keys, report, expected=expect),
        as_json,
        allow_revoked=allow_revoked,
    )


def verify_tree(
    sealed: Sealed,
    expect: Expect = None,
    allow_revoked: AllowRevoked = False,
    as_json: Json = False,
) -> None:
    """Verify a sealed tree to its last byte, and that nothing is missing or was added.

    Exit code 0 only if all is well.
    """
    from acie_pipelines.crypto.tree_restoring import verify_tree as work

    _run(
        "verifying",
        lambda keys, report: work(sealed, keys, report, expected=expect),
        as_json,
        allow_revoked=allow_revoked,
    )


def _run(
    what: str,
    work: "Callable[[KeyVault, Callable[[Outcome], None]], SealedTree]",
    as_json: bool,
    *,
    allow_revoked: bool = False,
) -> None:
    failures = 0
    keys = open_owner(allow_revoked=allow_revoked).vault
    with progress(what, None) as advance:

        def report(outcome: "Outcome") -> None:
            nonlocal failures
            failures += outcome.failed
            print_outcome(outcome, as_json=as_json)
            advance()

        tree = work(keys, report)
    files = sum(entry.kind == "file" for entry in tree.manifest.entries)
    summary = {
        "tree": tree.manifest.tree_id,
        "version": tree.manifest.generation,
        "digest": tree.digest,
        "files": files,
        "failures": failures,
    }
    if as_json:
        typer.echo(json.dumps(summary))
    else:
        typer.echo(
            f"version {summary['version']} of tree {summary['tree']}: {files} files, "
            f"{failures} failures\ndigest {tree.digest}"
        )
    raise typer.Exit(1 if failures else 0)
