"""`acie secure filters` and `acie secure stream`.

Belongs here: parsing and printing. Does not belong here: work.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from acie_pipelines.cli_vault import PublicKeysFile, open_owner, open_public_keys
from acie_pipelines.errors import ConfigurationError, IntegrityError
from acie_pipelines.settings import Settings

if TYPE_CHECKING:
    from acie_pipelines.provenance import Manifest

__all__ = ["Observation", "PlaneName", "filters", "only_plane", "showing", "stream"]

Observation = Annotated[str, typer.Argument(help="Observation key, as `acie ingest` printed it.")]
PlaneName = Annotated[
    str | None, typer.Option("--plane", help="Plane of the observation; needed if it has several.")
]


def only_plane(dataset: "Manifest", named: str | None) -> str:
    """Name of the plane to work on: the one that was named, or the only one there is."""
    names = [str(record["name"]) for record in dataset.attributes["planes"]]
    if named is None and len(names) == 1:
        return names[0]
    if named not in names:
        raise IntegrityError(
            dataset.prefix,
            f"has no plane {named!r}" if named else f"has {len(names)} planes",
            f"choose one with --plane: {', '.join(names)}",
        )
    return named


@contextmanager
def showing() -> Iterator[Callable[[str, int, int], None]]:
    """Show on standard error how many units of a stage are done."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bar:
        tasks = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)

        yield show


def filters(
    key: Observation,
    templates: Annotated[Path, typer.Argument(help="NumPy file: templates, (n, height, width).")],
    out: Annotated[Path, typer.Option(help="File of the model.")],
    plane: PlaneName = None,
    weight_bits: Annotated[int, typer.Option(min=2, max=32, help="Width of the weights.")] = 8,
) -> None:
    """Make matched filters for a plane, a model for `acie secure stream`.

    Only the plane's noise and the width of its values go into the model.
    """
    import numpy as np

    from acie_pipelines.provenance import current_manifest
    from acie_pipelines.secure.features import matched_filters
    from acie_pipelines.secure.model_format import digest, to_bytes
    from acie_pipelines.secure.retrieval.window_units import plane_signal
    from acie_pipelines.storage import Store, atomic_writer

    try:
        shapes = np.load(templates, allow_pickle=False)
        height, width = shapes.shape[1:]
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            templates, f"holds no templates ({error})", "save an array (n, height, width)"
        ) from error
    tiles = current_manifest(Store(Settings.from_environment().storage_url), "tiles", key)
    signal = plane_signal(tiles, only_plane(tiles, plane), (height, width))
    data = to_bytes(matched_filters(shapes, signal, weight_bits=weight_bits))
    with atomic_writer(out) as handle:
        handle.write(data)
    typer.echo(f"{out}: {len(shapes)} filters of {height} x {width} pixels, {digest(data)[:16]}")


def stream(
    key: Observation,
    model: Annotated[Path, typer.Option(help="Model of windows, as `acie secure filters` makes.")],
    plane: PlaneName = None,
    public_keys: PublicKeysFile = None,
    check: Annotated[
        bool, typer.Option("--check", help="As the owner: see that no light was lost on the way.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="As the owner: HDF5 file of the decrypted features.")
    ] = None,
) -> None:
    """Evaluate a model on every tile of an observation's plane under encryption.

    Tiles are encrypted window by window, and evaluated with the public key alone, in constant
    memory. Both are units of the queue: `acie secure worker --encrypt` and `acie secure worker`
    help, and a run that was stopped continues.
    """
    from acie_pipelines.provenance import current_manifest
    from acie_pipelines.secure.model_format import from_bytes
    from acie_pipelines.secure.queue import WorkQueue
    from acie_pipelines.secure.retrieval.feature_file import write_features
    from acie_pipelines.secure.retrieval.streaming import StreamReport, check_stream, run_stream
    from acie_pipelines.storage import Store

    if not model.is_file():
        raise ConfigurationError(model, "does not exist", "make one with `acie secure filters`")
    settings = Settings.from_environment()
    store = Store(settings.storage_url)
    tiles = current_manifest(store, "tiles", key)
    name = only_plane(tiles, plane)
    keys = open_public_keys(public_keys)
    with showing() as show:

        def progress(report: StreamReport) -> None:
            show(report.stage, report.tiles, report.tiles_total)

        queue = WorkQueue(settings.database_url)
        chosen = from_bytes(model.read_bytes())
        made = run_stream(queue, store, tiles, name, chosen, keys, progress=progress)
    typer.echo(f"{made.prefix}: {len(made.attributes['tiles'])} tiles")
    if not (check or out):
        return
    private_key = open_owner().vault.private_key(made.attributes["key_id"])
    if check:
        flux = check_stream(store, made, tiles, private_key)
        typer.echo(f"flux is conserved: {flux:.10g}")
    if out is not None:
        typer.echo(f"{out}: {write_features(store, made, private_key, out)} windows")
