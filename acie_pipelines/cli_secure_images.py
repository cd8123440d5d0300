"""`acie secure difference`, `acie secure coadd` and `acie secure decrypt`.

Belongs here: parsing and printing. Does not belong here: work.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from acie_pipelines.cli_secure_stream import Observation, PlaneName, only_plane, showing
from acie_pipelines.cli_vault import AllowRevoked, PublicKeysFile, open_owner, open_public_keys
from acie_pipelines.errors import ConfigurationError
from acie_pipelines.settings import Settings

if TYPE_CHECKING:
    from acie_pipelines.secure.batches import Work
    from acie_pipelines.storage import Store

__all__ = ["coadd", "decrypt", "difference"]

_READ = "read it as the owner with `acie secure decrypt"


def difference(
    key: Observation,
    reference: Annotated[
        str, typer.Option(help="Template of the field in the clear: a file, or an observation key.")
    ],
    plane: PlaneName = None,
    reference_plane: Annotated[
        str | None, typer.Option(help="Plane of the reference, if it has several.")
    ] = None,
    public_keys: PublicKeysFile = None,
) -> None:
    """Subtract a plaintext reference image from an encrypted observation, with public keys alone.

    Both must lie on one grid of pixels. `acie secure worker` helps with the tiles.
    """
    from acie_pipelines.provenance import current_manifest
    from acie_pipelines.secure.encrypted_images import difference_work
    from acie_pipelines.secure.references import reference_tiles

    store = _store()
    ciphertexts = current_manifest(store, "ciphertexts", key)
    tiles = reference_tiles(store, ciphertexts, reference)
    work = difference_work(
        ciphertexts,
        only_plane(ciphertexts, plane),
        tiles,
        _code_version("difference"),
        reference_plane=only_plane(tiles, reference_plane),
    )
    _make(store, work, public_keys)


def coadd(
    keys: Annotated[list[str], typer.Argument(help="Observation keys of the epochs of one field.")],
    weight: Annotated[
        list[float] | None, typer.Option(help="Of each epoch, in order; 1 by default.")
    ] = None,
    plane: PlaneName = None,
    public_keys: PublicKeysFile = None,
) -> None:
    """Add encrypted epochs of one field up, with public keys alone.

    All must lie on one grid of pixels. `acie secure worker` helps with the tiles.
    """
    from acie_pipelines.provenance import current_manifest
    from acie_pipelines.secure.encrypted_images import coadd_work

    store = _store()
    epochs = [current_manifest(store, "ciphertexts", key) for key in keys]
    name = only_plane(epochs[0], plane)
    work = coadd_work(epochs, name, weight or [1.0] * len(epochs), _code_version("coadd"))
    _make(store, work, public_keys)


def decrypt(
    dataset: Annotated[
        str,
        typer.Argument(help="What `difference` or `coadd` printed, or `ciphertexts/KEY`."),
    ],
    out: Annotated[Path, typer.Option(help="FITS file that receives the image.")],
    plane: PlaneName = None,
    allow_revoked: AllowRevoked = False,
) -> None:
    """Decrypt an image as its owner, tile by tile into a FITS file.

    An observation that was put back to an earlier state, or edited, is refused.
    """
    from acie_pipelines.secure.attestation import Attestations
    from acie_pipelines.secure.encrypted_images import COADD, DIFFERENCE
    from acie_pipelines.secure.image_reading import write_fits

    kind, _, key = dataset.partition("/")
    if kind not in ("ciphertexts", COADD, DIFFERENCE):
        raise ConfigurationError(
            dataset, "is no encrypted image", f"name one of ciphertexts, {COADD}, {DIFFERENCE}/..."
        )
    store = _store()
    owner = open_owner(allow_revoked=allow_revoked)
    attestations = Attestations(Settings.from_environment().database_url)
    manifest, attestation = owner.current_manifest(store, attestations, kind, key)
    name = only_plane(manifest, plane)
    if attestation is None:
        typer.echo(f"{manifest.prefix}: not authenticated, its owner never attested it", err=True)
    private_key = owner.vault.private_key(manifest.attributes["key_id"])
    write_fits(store, manifest, name, private_key, out)
    typer.echo(f"{out}: {manifest.prefix}, plane {name}")


def _store() -> "Store":
    from acie_pipelines.storage import Store

    return Store(Settings.from_environment().storage_url)


def _code_version(command: str) -> str:
    from acie_pipelines import __version__

    return f"acie {__version__}, {command} 1"


def _make(store: "Store", work: "Work", public_keys: Path | None) -> None:
    from acie_pipelines.secure.batches import make
    from acie_pipelines.secure.queue import WorkQueue

    queue = WorkQueue(Settings.from_environment().database_url)
    keys = open_public_keys(public_keys)
    with showing() as show:
        made = make(
            queue, store, keys, work, lambda done, total: show("groups of tiles", done, total)
        )
    typer.echo(f"{made.kind}/{made.key}")
    typer.echo(f"{_READ} {made.kind}/{made.key} --out image.fits`", err=True)
