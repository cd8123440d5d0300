"""Archives of whole observations in the store, and their restoration.

Belongs here: the dataset kind ``archive``, one sealed file per original file.
Does not belong here: the archive format itself (`archive`).
"""

from pathlib import Path
from typing import IO, Any, Protocol

from acie_pipelines.crypto.archive import read_header, seal, unseal
from acie_pipelines.crypto.archive_key import ArchiveKey
from acie_pipelines.crypto.destination import Destination
from acie_pipelines.errors import IntegrityError, TamperedDataError
from acie_pipelines.observations.identity import fingerprint_stream
from acie_pipelines.provenance import (
    Manifest,
    Output,
    file_sha256,
    new_generation,
    reusable_manifest,
)
from acie_pipelines.storage import Store

__all__ = ["Describer", "archive_observation", "restore_archive"]

_ORIGINAL = "original/"
_SUFFIX = ".acie"


class Describer(Protocol):
    """Finds what to note about a file, as `acie_pipelines.models.file_classifier` does."""

    sha256: str

    def __call__(self, path: Path, source: IO[bytes]) -> tuple[dict[str, Any] | None, str]:
        """Give the note, or ``None`` and why there is none."""
        ...


def archive_observation(
    store: Store,
    observation: Manifest,
    archive_key: ArchiveKey,
    *,
    code_version: str,
    describe: Describer | None = None,
) -> Manifest:
    """Seal every original file of an observation.

    Parameters
    ----------
    store
        Holds the observation and receives the archive.
    observation
        Manifest of kind ``observation``; its outputs below ``original/`` are archived.
    archive_key
        Secret of the vault entry that shall open the archive.
    code_version
        Version of the code, part of the archive's identity.
    describe
        Finds what is noted about each file inside its archive, readable with the key only; its
        ``sha256`` is part of the archive's identity.

    Returns
    -------
    Manifest
        Of kind ``archive``: one output per original file, its attributes name the key and per
        file the name, size and fingerprints.

    Raises
    ------
    IntegrityError
        If an original file is not what the observation's manifest says.
    """
    originals = [
        output
        for output in observation.outputs
        if output.region is None and output.path.startswith(_ORIGINAL)
    ]
    if not originals:
        raise IntegrityError(
            f"{observation.kind}/{observation.key}",
            "holds no original file",
            "ingest the observation again",
        )
    inputs = (observation.as_input(),)
    parameters = {"key_id": archive_key.key_id}
    if describe is not None:
        parameters["described_by"] = describe.sha256
    recorded = reusable_manifest(
        store,
        "archive",
        observation.key,
        inputs=inputs,
        code_version=code_version,
        parameters=parameters,
    )
    if recorded is not None:
        return recorded
    outputs: list[Output] = []
    files: list[dict[str, Any]] = []
    with new_generation(
        store,
        "archive",
        observation.key,
        inputs=inputs,
        code_version=code_version,
        parameters=parameters,
    ) as generation:
        for original in originals:
            path = original.path.removeprefix(_ORIGINAL)
            name = f"{observation.prefix}/{original.path}"
            with store.open(name) as source:
                identity = fingerprint_stream(source)
            if identity.sha256 != original.sha256:
                raise IntegrityError(
                    name, "is not the file its manifest describes", "ingest the observation again"
                )
            sealed = f"{path}{_SUFFIX}"
            note = None
            if describe is not None:
                with store.open(name) as source:
                    note, _ = describe(Path(path), source)
            with (
                store.open(name) as source,
                store.writer(f"{generation.prefix}/{sealed}") as sink,
            ):
                content = vars(identity) | {"note": note}
                seal(source, sink, archive_key=archive_key, name=path, **content)
            outputs.append(Output(sealed, file_sha256(store, f"{generation.prefix}/{sealed}")))
            files.append(
                {
                    "archive": sealed,
                    "name": path,
                    "bytes": identity.size,
                    "sha256": identity.sha256,
                    "streebog256": identity.streebog256,
                }
            )
        return generation.commit(
            tuple(outputs),
            {
                "key_id": archive_key.key_id,
                "files": files,
                "bytes": sum(int(entry["bytes"]) for entry in files),
            },
        )


def restore_archive(
    store: Store, archive: Manifest, archive_key: ArchiveKey, directory: Path
) -> list[Path]:
    """Unseal every file of an archive below a directory.

    Parameters
    ----------
    store, archive
        Dataset of kind ``archive``.
    archive_key
        Secret of the vault entry named in its attributes.
    directory
        Receives the files under their original names; existing files are never replaced.

    Returns
    -------
    list of Path
        The restored files.

    Raises
    ------
    TamperedDataError
        If a file is not what was sealed under that name; files before it have been restored.
    """
    restored: list[Path] = []
    with Destination(directory) as destination:
        for entry in archive.attributes["files"]:
            name = str(entry["name"])
            with (
                store.open(f"{archive.prefix}/{entry['archive']}") as source,
                destination.file(name) as sink,
            ):
                _restore(sink, source, archive_key, entry)
            restored.append(directory / name)
    return restored


def _restore(
    sink: IO[bytes], source: IO[bytes], archive_key: ArchiveKey, entry: dict[str, Any]
) -> None:
    # A file sealed under the same key could have been swapped in as a whole.
    header = read_header(source)
    claimed = (entry["name"], entry["bytes"], entry["sha256"], entry["streebog256"])
    if (header.name, header.size, header.sha256, header.streebog256) != claimed:
        raise TamperedDataError(
            str(entry["name"]), "the archive holds another file", "use another copy"
        )
    source.seek(0)
    unseal(source, sink, archive_key=archive_key)
