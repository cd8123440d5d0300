"""Verification and restoration of sealed trees.

Belongs here: what is checked against the manifest, and the order in which a tree comes back.
Does not belong here: sealing (`sealed_tree`), putting files in place (`destination`).

Directories come first, then files, hard links, and symbolic links last, so that nothing is ever
written through a link; modes and times of directories are set at the end, from the bottom up.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from acie_pipelines.crypto.archive import read_header, unseal
from acie_pipelines.crypto.archive_files import Outcome, authenticate, open_regular
from acie_pipelines.crypto.destination import Destination
from acie_pipelines.crypto.sealed_tree import (
    IDENTITY,
    MANIFEST,
    OBJECTS,
    Report,
    SealedTree,
    object_header,
    object_path,
    open_tree,
)
from acie_pipelines.crypto.tree_manifest import TreeEntry, stays_inside
from acie_pipelines.crypto.vault import KeyVault
from acie_pipelines.errors import AcieError, IntegrityError, StorageError, TamperedDataError
from acie_pipelines.observations.identity import fingerprint_stream
from acie_pipelines.storage import storage_errors

__all__ = ["restore_tree", "verify_tree"]

_COPY = "use another copy of the tree"


def verify_tree(
    path: Path, keys: KeyVault, report: Report, *, expected: str | None = None
) -> SealedTree:
    """Verify a sealed tree to its last byte; nothing is written.

    Parameters
    ----------
    path
        Made by `acie_pipelines.crypto.sealed_tree.seal_tree`.
    keys
        Vault with its key.
    report
        Called with every file, whatever is missing, and whatever does not belong to the tree.
    expected
        Digest of the version that it must be.

    Raises
    ------
    TamperedDataError
        If the manifest is not authentic or of another version: then nothing else can be said.
    """
    sealed = open_tree(path, keys, expected=expected)

    def verify(entry: TreeEntry) -> Outcome:
        archive = object_path(path, entry.object_id)
        header = object_header(entry, sealed.keys)
        if not archive.exists():
            raise TamperedDataError(entry.path, "its archive is missing", _COPY)
        if authenticate(archive, sealed.keys.archive)[0] != header:
            raise _swapped(entry)
        return Outcome.of(entry.path, "verified", "", header)

    _each(_of_kind(sealed, "file"), verify, report)
    for stray in _strays(sealed):
        report(Outcome.failure(stray, stray_error(stray)))
    _report_omissions(sealed, report)
    return sealed


def restore_tree(
    path: Path,
    directory: Path,
    keys: KeyVault,
    report: Report,
    *,
    expected: str | None = None,
) -> SealedTree:
    """Restore a sealed tree.

    What is there already and as it should be stays; what is there and differs is reported and
    never replaced. So an interrupted restoration is completed by running it again.

    Parameters
    ----------
    path
        Made by `acie_pipelines.crypto.sealed_tree.seal_tree`.
    directory
        Receives the tree. It must not be below `path`, nor the other way round.
    keys
        Vault with its key.
    report
        Called with every file and link.
    expected
        Digest of the version that it must be.

    Raises
    ------
    TamperedDataError
        If the manifest is not authentic, malformed, or of another version.
    StorageError
        If the destination cannot be used.
    """
    sealed = open_tree(path, keys, expected=expected)
    source, target = path.resolve(), directory.resolve()
    if source == target or source in target.parents or target in source.parents:
        raise StorageError(directory, f"and {path} contain one another", "choose another directory")
    links = sealed.manifest.links
    with Destination(directory) as destination:
        made: list[TreeEntry] = []

        def make_directory(entry: TreeEntry) -> Outcome | None:
            destination.directory(entry.path)
            made.append(entry)
            return None

        def restore(entry: TreeEntry) -> Outcome:
            return _restore_file(sealed, entry, destination)

        def link(entry: TreeEntry) -> Outcome:
            changed = destination.hard_link(entry.path, entry.target)
            return Outcome(entry.path, "restored" if changed else "unchanged", f"is {entry.target}")

        def symlink(entry: TreeEntry) -> Outcome:
            if not stays_inside(os.fsencode(entry.path), links):
                raise IntegrityError(
                    entry.path,
                    f"is a link to {entry.target}, outside of the tree",
                    "it was not restored; make it by hand if it is wanted",
                )
            changed = destination.symbolic_link(entry.path, entry.target)
            return Outcome(entry.path, "restored" if changed else "unchanged", f"-> {entry.target}")

        def finish(entry: TreeEntry) -> Outcome | None:
            destination.finish_directory(entry.path, entry.mode, entry.mtime_ns)
            return None

        _each(_of_kind(sealed, "directory"), make_directory, report)
        _each(_of_kind(sealed, "file"), restore, report)
        _each(_of_kind(sealed, "hardlink"), link, report)
        _each(_of_kind(sealed, "symlink"), symlink, report)
        _each(made[::-1], finish, report)
    _report_omissions(sealed, report)
    return sealed


def _restore_file(sealed: SealedTree, entry: TreeEntry, destination: Destination) -> Outcome:
    result = destination.path / entry.path
    expected = object_header(entry, sealed.keys)
    with destination.open(entry.path) as present:
        if present is not None:
            if fingerprint_stream(present) != entry.fingerprint:
                raise StorageError(result, "exists already with other content", "move it away")
            with storage_errors(result):
                destination.dress(present, entry.mode, entry.mtime_ns)
            return Outcome.of(entry.path, "unchanged", result, expected)
    archive = object_path(sealed.path, entry.object_id)
    if not archive.exists():
        raise TamperedDataError(entry.path, "its archive is missing", _COPY)
    with open_regular(archive) as source:
        if read_header(source) != expected:
            raise _swapped(entry)
        source.seek(0)
        with destination.file(
            entry.path, mode=entry.mode, mtime_ns=entry.mtime_ns, sparse=entry.sparse
        ) as sink:
            unseal(source, sink, archive_key=sealed.keys.archive)
    return Outcome.of(entry.path, "restored", result, expected)


def _each(
    entries: list[TreeEntry],
    work: Callable[[TreeEntry], Outcome | None],
    report: Report,
) -> None:
    for entry in entries:
        try:
            outcome = work(entry)
        except AcieError as error:
            outcome = Outcome.failure(entry.path, error)
        if outcome is not None:
            report(outcome)


def _of_kind(sealed: SealedTree, kind: str) -> list[TreeEntry]:
    entries = [entry for entry in sealed.manifest.entries if entry.kind == kind]
    return sorted(entries, key=lambda entry: os.fsencode(entry.path).split(b"/"))


def _strays(sealed: SealedTree) -> Iterator[str]:
    """Whatever lies in a sealed tree that its manifest does not account for."""
    root = sealed.path
    wanted = {object_path(root, e.object_id) for e in sealed.manifest.entries if e.object_id}
    wanted |= {root / MANIFEST, root / OBJECTS, root / IDENTITY}
    wanted |= {path.parent for path in wanted if path.parent.parent == root / OBJECTS}
    for folder, directories, files in os.walk(root):
        for name in sorted([*directories, *files]):
            if Path(folder) / name not in wanted:
                yield (Path(folder) / name).relative_to(root).as_posix()
    identity = root / IDENTITY
    if not identity.is_file() or identity.read_bytes() != sealed.manifest.tree_id.encode():
        yield IDENTITY


def stray_error(name: str) -> AcieError:
    """Error for something that does not belong to a tree."""
    return TamperedDataError(
        name,
        "does not belong to this version of the tree",
        "an interrupted `acie secure seal-tree` is completed by running it again; else remove it",
    )


def _swapped(entry: TreeEntry) -> TamperedDataError:
    return TamperedDataError(entry.path, "its archive holds another file", _COPY)


def _report_omissions(sealed: SealedTree, report: Report) -> None:
    for omission in sealed.manifest.omitted:
        report(Outcome(omission.path, "omitted", reason=omission.reason))
