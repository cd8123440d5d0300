"""`acie secure index ...` and `acie secure query`.

Belongs here: parsing and printing. Does not belong here: work.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from acie_pipelines.cli_vault import open_owner
from acie_pipelines.errors import IntegrityError
from acie_pipelines.settings import Settings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from acie_pipelines.secure.retrieval.public_part import PublicIndex

__all__ = ["index", "query"]

index = typer.Typer(help="Indexes of reference prototypes (ACIE_INDEX_URL).", no_args_is_help=True)
out = Console()
err = Console(stderr=True)

Json = Annotated[bool, typer.Option("--json", help="Print JSON lines instead of a table.")]
Name = Annotated[str, typer.Option("--index", help="Which index.")]


@index.command("build")
def build_index(
    name: Name = "galaxies",
    stamps: Annotated[
        Path | None,
        typer.Option(help="Directory of EFIGI stamps and labels; the bundled ones by default."),
    ] = None,
    dimensions: Annotated[int, typer.Option(min=1, max=256, help="Length of the vectors.")] = 64,
) -> None:
    """Build an index of labelled galaxies, in place of one of the same name."""
    from acie_pipelines.samples import GALAXY_IMAGES
    from acie_pipelines.secure.retrieval.index import IndexStore
    from acie_pipelines.secure.retrieval.stamps import StampEmbedding, stamp_prototypes
    from acie_pipelines.training.efigi import read_efigi

    images = read_efigi(stamps or GALAXY_IMAGES)
    embedding = StampEmbedding.fit(images.stamps, dimensions)
    store = IndexStore(Settings.from_environment().index_url)
    record = store.write(name, stamp_prototypes(images, embedding), embedding.to_bytes())
    typer.echo(f"{record.name}: {record.prototypes} prototypes, digest {record.digest}")


@index.command("list")
def list_indexes(as_json: Json = False) -> None:
    """List the indexes."""
    from acie_pipelines.secure.retrieval.index import IndexStore

    records = IndexStore(Settings.from_environment().index_url).list()
    if as_json:
        for record in records:
            typer.echo(json.dumps(vars(record)))
        return
    table = Table("Index", "Prototypes", "Dimensions", "Digest")
    for record in records:
        table.add_row(record.name, str(record.prototypes), str(record.dimensions), record.digest)
    out.print(table)


@index.command("export")
def export_index(
    into: Annotated[Path, typer.Option("--out", help="File to write.")],
    name: Name = "galaxies",
) -> None:
    """Write what others need to ask an index: how pictures become vectors, and no prototype."""
    from acie_pipelines.secure.retrieval.index import IndexStore
    from acie_pipelines.storage import atomic_writer

    opened = IndexStore(Settings.from_environment().index_url).open(name)
    with atomic_writer(into) as sink:
        sink.write(opened.public().to_bytes())
    typer.echo(f"{into}: index {name}, digest {opened.record.digest}")


@index.command("answer")
def answer_query(
    question: Annotated[Path, typer.Argument(help="Written by `acie secure query --ask`.")],
    public_keys: Annotated[
        Path, typer.Option(help="Of whoever asks, from `acie keys export-public`.")
    ],
    into: Annotated[Path, typer.Option("--out", help="File to write; send it back.")],
) -> None:
    """Answer somebody's encrypted query, as the owner of an index; nothing of it can be read."""
    from acie_pipelines.crypto.public_keys import read_public_keys
    from acie_pipelines.secure.retrieval.worker import ask_worker
    from acie_pipelines.storage import atomic_writer

    keys = read_public_keys(public_keys)
    reply = ask_worker(_read(question), keys, Settings.from_environment().index_url)
    with atomic_writer(into) as sink:
        sink.write(reply)


def query(
    galaxy: Annotated[
        str, typer.Argument(help="JPEG or PNG of 88 x 88 pixels, or the name of a bundled galaxy.")
    ],
    name: Name = "galaxies",
    public: Annotated[
        Path | None,
        typer.Option("--index-public", help="From `acie secure index export`, for --index."),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="How many to show.")] = 5,
    label: Annotated[
        str | None, typer.Option(help="Only this class; the index's owner sees it.")
    ] = None,
    digest: Annotated[
        str | None, typer.Option(help="Digest that the index must have, from its owner.")
    ] = None,
    question: Annotated[
        Path | None, typer.Option("--ask", help="Only write the encrypted query, to be sent.")
    ] = None,
    reply: Annotated[
        Path | None, typer.Option("--answer", help="Read the answer that came back; ask nobody.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Find the labelled galaxies that look most like this one, without showing it.

    The picture becomes a vector here and is encrypted here. A process without private key scores
    every galaxy of the index against it; what it sends back is decrypted and ranked here. Where the
    index is elsewhere: query --index-public --ask here, `index answer` there, query --answer here.
    """
    from acie_pipelines.secure.retrieval.encrypted_query import EncryptedScores, ask, rank
    from acie_pipelines.secure.retrieval.prototypes import Condition
    from acie_pipelines.secure.retrieval.stamps import StampEmbedding
    from acie_pipelines.secure.retrieval.worker import ask_worker
    from acie_pipelines.storage import atomic_writer

    settings = Settings.from_environment()
    owner = open_owner()
    private_key = owner.vault.private_key()
    opened = _public_index(settings, name, public)
    opened.record.expect(digest)
    stamp = _stamp(galaxy)
    [vector] = StampEmbedding.from_bytes(opened.embedding).embed(stamp[None])
    asked = ask(opened.record, vector, private_key, condition=Condition(label=label))
    message = asked.to_bytes()
    if question is not None:
        with atomic_writer(question) as sink:
            sink.write(message)
        return
    if reply is not None:
        answered = _read(reply)
    else:
        with err.status("scoring under encryption"):
            answered = ask_worker(message, owner.public_keys(), settings.index_url)
    scores = EncryptedScores.from_bytes(answered, private_key.public_key)
    hits = rank(scores, asked, vector, private_key, top)
    if as_json:
        for hit in hits:
            typer.echo(json.dumps(hit.metadata | {"squared_distance": -hit.score}))
        return
    table = Table("Galaxy", "Class", "Squared distance")
    for hit in hits:
        table.add_row(hit.metadata["key"], hit.metadata["label"], str(-hit.score))
    out.print(table)
    out.print(
        f"{len(scores.prototypes)} galaxies scored under key {private_key.key_id}; "
        f"{len(message) / 1024:.0f} KiB sent, {len(answered) / 1024:.0f} KiB received"
    )


def _public_index(settings: Settings, name: str, public: Path | None) -> "PublicIndex":
    from acie_pipelines.secure.retrieval.index import IndexStore
    from acie_pipelines.secure.retrieval.public_part import PublicIndex

    if public is not None:
        return PublicIndex.from_bytes(_read(public), public)
    return IndexStore(settings.index_url).open(name).public()


def _read(path: Path) -> bytes:
    from acie_pipelines.storage import storage_errors

    with storage_errors(path):
        return path.read_bytes()


def _stamp(galaxy: str) -> "NDArray[np.uint8]":
    """Read a picture, or one of the bundled stamps, shape ``(3, 88, 88)``."""
    from acie_pipelines.models.stamp_files import read_stamps
    from acie_pipelines.samples import GALAXY_IMAGES
    from acie_pipelines.training.efigi import read_efigi

    path = Path(galaxy)
    if path.is_file():
        [stamp] = read_stamps([path])
        return np.asarray(stamp)
    images = read_efigi(GALAXY_IMAGES)
    if galaxy not in images.names:
        raise IntegrityError(
            galaxy,
            "is neither a file nor a bundled galaxy",
            "give a picture, or a name like PGC0001309",
        )
    return np.asarray(images.stamps[images.names.index(galaxy)])
