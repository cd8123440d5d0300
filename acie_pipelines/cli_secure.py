"""`acie secure ...`: the group, and its commands for single files.

Belongs here: parsing and printing; commands of other areas are written as functions in modules of
their own (``cli_secure_<area>``) and registered at the end of this one.
Does not belong here: work.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from acie_pipelines.cli_outcomes import Json, report
from acie_pipelines.cli_secure_attest import attest
from acie_pipelines.cli_secure_images import coadd, decrypt, difference
from acie_pipelines.cli_secure_legacy import restore_legacy
from acie_pipelines.cli_secure_models import classify
from acie_pipelines.cli_secure_retrieval import index, query
from acie_pipelines.cli_secure_stream import filters, stream
from acie_pipelines.cli_secure_trees import restore_tree, seal_tree, verify_tree
from acie_pipelines.cli_secure_worker import show_queue, worker
from acie_pipelines.cli_vault import AllowRevoked, open_owner

if TYPE_CHECKING:
    from acie_pipelines.crypto.archive_files import Outcome

__all__ = ["secure"]

secure = typer.Typer(
    help="Encrypted pipelines: sealed archives, and computing on ciphertexts.",
    no_args_is_help=True,
)


@secure.command()
def seal(
    files: Annotated[list[Path], typer.Argument(help="Files to seal; they stay as they are.")],
    into: Annotated[
        Path | None, typer.Option("--out", help="Directory of the archives; else beside each file.")
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            help="Classifier of `acie train-images`: galaxy stamps are sealed with their class."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Seal files: fingerprint, classify, encrypt, authenticate; FILE becomes FILE.acie.

    Name, size and fingerprints can be read without the key; the class cannot. Exit code 0 only if
    all are sealed.
    """
    from acie_pipelines.crypto.archive_files import SUFFIX, attempt_each

    owner = open_owner()
    describe = None
    if model is not None:
        from acie_pipelines.models.file_classifier import FileClassifier

        describe = FileClassifier(model)

    def work(path: Path) -> "Outcome":
        return owner.seal(path, (into or path.parent) / f"{path.name}{SUFFIX}", describe)

    raise typer.Exit(
        0 if report("sealing", attempt_each(files, work), len(files), as_json=as_json) else 1
    )


@secure.command()
def restore(
    archives: Annotated[list[Path], typer.Argument(help="Archives made by `acie secure seal`.")],
    into: Annotated[Path, typer.Option("--out", help="Directory that receives the files.")],
    allow_revoked: AllowRevoked = False,
    as_json: Json = False,
) -> None:
    """Restore files; each appears under its name only after everything has been verified.

    Existing files are never replaced. Exit code 0 only if all are restored.
    """
    from acie_pipelines.crypto.archive_files import attempt_each
    from acie_pipelines.crypto.destination import Destination

    owner = open_owner(allow_revoked=allow_revoked)
    with Destination(into) as destination:
        outcomes = attempt_each(archives, lambda path: owner.restore(path, destination))
        fine = report("restoring", outcomes, len(archives), as_json=as_json)
    raise typer.Exit(0 if fine else 1)


@secure.command()
def verify(
    archives: Annotated[list[Path], typer.Argument(help="Archives made by `acie secure seal`.")],
    allow_revoked: AllowRevoked = False,
    as_json: Json = False,
) -> None:
    """Verify archives to their last byte; nothing is written.

    Exit code 0 only if all are authentic.
    """
    from acie_pipelines.crypto.archive_files import attempt_each

    owner = open_owner(allow_revoked=allow_revoked)
    outcomes = attempt_each(archives, owner.verify)
    fine = report("verifying", outcomes, len(archives), as_json=as_json)
    raise typer.Exit(0 if fine else 1)


secure.command()(attest)
secure.command()(classify)
secure.command("restore-legacy")(restore_legacy)
secure.command("seal-tree")(seal_tree)
secure.command("restore-tree")(restore_tree)
secure.command("verify-tree")(verify_tree)
secure.add_typer(index, name="index")
secure.command()(query)
secure.command()(difference)
secure.command()(coadd)
secure.command()(decrypt)
secure.command()(filters)
secure.command()(stream)
secure.command()(worker)
secure.command("queue")(show_queue)
