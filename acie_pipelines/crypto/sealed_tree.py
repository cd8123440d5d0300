"""Sealing of directory trees.

Belongs here: walking a tree, sealing what changed, publishing the manifest.
Does not belong here: what a manifest looks like (`tree_manifest`), restoring (`tree_restoring`).

A run can be killed at any moment. Archives appear whole, the manifest last; until then an earlier
version of the tree stays complete. The next run reads the files again, keeps every archive that
holds what it should and writes the others.
"""

import fcntl
import hashlib
import io
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from acie_pipelines.crypto.archive import ArchiveHeader, read_header, seal, unseal
from acie_pipelines.crypto.archive_files import SUFFIX, Outcome, authenticate, open_regular
from acie_pipelines.crypto.destination import STAGING, open_directory
from acie_pipelines.crypto.tree_manifest import (
    Omission,
    TreeEntry,
    TreeKeys,
    TreeManifest,
    new_tree_id,
    stays_inside,
    tree_id_of,
)
from acie_pipelines.crypto.vault import KeyVault
from acie_pipelines.errors import AcieError, IntegrityError, StorageError, TamperedDataError
from acie_pipelines.observations.identity import fingerprint_stream
from acie_pipelines.storage import atomic_writer, storage_errors

__all__ = ["MANIFEST", "Report", "SealedTree", "object_path", "open_tree", "seal_tree"]

Report = Callable[[Outcome], None]

MANIFEST = "manifest.acie"
OBJECTS = "objects"
IDENTITY = "tree"
_ID = re.compile("[0-9a-f]{32}")
_OURS = re.compile(rf"[0-9a-f]{{64}}{re.escape(SUFFIX)}|\..*\.tmp")
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFBLK: "a block device",
    stat.S_IFCHR: "a character device",
}


@dataclass(frozen=True)
class SealedTree:
    """A sealed tree whose manifest has been authenticated.

    Attributes
    ----------
    path
        Where it is.
    manifest, keys
        What it holds, and what opens it.
    digest
        SHA-256 of the sealed manifest: names this version of the tree among all.
    """

    path: Path
    manifest: TreeManifest
    keys: TreeKeys
    digest: str


def object_path(path: Path, object_id: str) -> Path:
    """Archive of a file within a sealed tree."""
    return path / OBJECTS / object_id[:2] / f"{object_id}{SUFFIX}"


def object_header(entry: TreeEntry, keys: TreeKeys) -> ArchiveHeader:
    """Header that the archive of a file must have."""
    key_id = keys.archive.key_id
    return ArchiveHeader(name=f"object/{entry.object_id}", key_id=key_id, **vars(entry.fingerprint))


def open_tree(
    path: Path, keys: KeyVault, *, expected: str | None = None, allow_revoked: bool = False
) -> SealedTree:
    """Authenticate the manifest of a sealed tree.

    Parameters
    ----------
    path
        Made by `seal_tree`.
    keys
        Vault with its key.
    expected
        `SealedTree.digest` of the version that it must be. Without it, a whole tree that was put
        back to an earlier version is as good as it was then.
    allow_revoked
        Open a tree under a revoked key too, which may be a forgery.

    Raises
    ------
    TamperedDataError
        If the manifest is not authentic, or of another version.
    StorageError
        If there is none.
    """
    with open_regular(path / MANIFEST) as source:
        claimed = read_header(source)
        tree_id = tree_id_of(claimed.name)
        archive_key = keys.archive_key(claimed.key_id, allow_revoked=allow_revoked)
        tree_keys = TreeKeys.derive(archive_key, tree_id)
        source.seek(0)
        content = io.BytesIO()
        unseal(source, content, archive_key=tree_keys.archive)
        source.seek(0)
        digest = hashlib.sha256(source.read()).hexdigest()
    manifest = TreeManifest.from_json(content.getvalue())
    if manifest.name != claimed.name:
        raise TamperedDataError(path, "has a manifest of another tree", "use another copy")
    if expected is not None and digest != expected:
        raise TamperedDataError(
            path,
            f"is version {manifest.generation} with digest {digest[:16]}, not the one expected",
            "it was replaced by another version; use another copy",
        )
    return SealedTree(path, manifest, tree_keys, digest)


def seal_tree(directory: Path, out: Path, keys: KeyVault, report: Report) -> SealedTree:
    """Seal a directory tree, or bring a sealed one up to date.

    Files are sealed one by one; symbolic links are recorded as links, hard links as names of one
    file. Devices, pipes and sockets are refused. What cannot be read is reported, and listed as
    omitted or stays as it was sealed before; the rest goes on.

    Parameters
    ----------
    directory
        Tree to seal; nothing in it is changed.
    out
        Receives it, outside of `directory`: missing, empty, or an earlier version.
    keys
        Vault; the current archive key is used. After a rotation or revocation everything is sealed
        anew.
    report
        Called with every file, link and omission.

    Raises
    ------
    StorageError
        If `out` is in use, holds something else, or cannot be written; an earlier version in it is
        intact.
    TamperedDataError
        If the earlier version in it is not authentic.
    """
    source, target = directory.resolve(), out.resolve()
    if not source.is_dir():
        raise StorageError(directory, "is no directory", "name the root of a tree")
    if source == target or source in target.parents or target in source.parents:
        raise StorageError(out, f"and {directory} contain one another", "choose another directory")
    archive_key = keys.archive_key()
    with _locked(target):
        previous = None
        if (target / MANIFEST).exists():
            # Of a version under another key nothing is taken over but its number.
            previous = open_tree(target, keys, allow_revoked=True)
        tree_id = _identity(target) if previous is None else previous.manifest.tree_id
        run = _Run(target, TreeKeys.derive(archive_key, tree_id), previous, report)
        try:
            run.walk(source)
        except _OutputError as error:
            raise error.error from None
        sealed = _publish(run, tree_id)
        _prune(sealed)
    return sealed


class _Run:
    """One pass over a tree."""

    def __init__(
        self, target: Path, keys: TreeKeys, previous: SealedTree | None, report: Report
    ) -> None:
        self.target, self.keys, self.previous, self.report = target, keys, previous, report
        self.entries: list[TreeEntry] = []
        self.omitted: list[Omission] = []
        self._inodes: dict[tuple[int, int], str] = {}

    @property
    def same_key(self) -> bool:
        """Whether the earlier version is sealed under the key of this run."""
        previous = self.previous
        return previous is not None and previous.keys.archive.key_id == self.keys.archive.key_id

    def walk(self, source: Path) -> None:
        """Visit everything below a directory, without recursion: trees can be deep."""
        with storage_errors(source):
            root = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            pending: list[tuple[str, ...]] = [()]
            while pending:
                parts = pending.pop()
                try:
                    directory, names = _listing(root, parts, "/".join(parts) or str(source))
                except StorageError as error:
                    if not parts:
                        raise
                    self._failed("/".join(parts), error)
                    continue
                try:
                    for name in names:
                        path = "/".join((*parts, name))
                        if self._visit(directory, name, path):
                            pending.append((*parts, name))
                finally:
                    os.close(directory)
        finally:
            os.close(root)

    def _visit(self, directory: int, name: str, path: str) -> bool:
        """Take in one name; whether it is a directory to visit."""
        try:
            with storage_errors(path):
                status = os.stat(name, dir_fd=directory, follow_symlinks=False)
                if stat.S_ISLNK(status.st_mode):
                    target = os.readlink(name, dir_fd=directory)
                    self.entries.append(TreeEntry(path, "symlink", target=target))
        except StorageError as error:
            self._failed(path, error)
            return False
        if stat.S_ISDIR(status.st_mode) and path != STAGING:
            mode, time = status.st_mode & 0o777, status.st_mtime_ns
            self.entries.append(TreeEntry(path, "directory", mode, time))
            return True
        if stat.S_ISREG(status.st_mode):
            self._regular(directory, name, path, (status.st_dev, status.st_ino))
        elif not stat.S_ISLNK(status.st_mode):
            kind = _KINDS.get(stat.S_IFMT(status.st_mode), "what a killed restoration left")
            self.omitted.append(Omission(path, f"is {kind}"))
            refusal = StorageError(path, f"is {kind}", "it is left out; remove it if not needed")
            self.report(Outcome.failure(path, refusal))
        return False

    def _regular(self, directory: int, name: str, path: str, inode: tuple[int, int]) -> None:
        first = self._inodes.get(inode)
        if first is not None:
            self.entries.append(TreeEntry(path, "hardlink", target=first))
            self.report(Outcome(path, "sealed", f"is {first}"))
            return
        try:
            with storage_errors(path):
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
                handle = os.fdopen(os.open(name, flags, dir_fd=directory), "rb")
            with handle:
                entry, outcome = self._seal(handle, path)
        except (StorageError, IntegrityError) as error:
            self._failed(path, error)
            return
        self.entries.append(entry)
        self._inodes[inode] = path
        self.report(outcome)

    def _seal(self, handle: IO[bytes], path: str) -> tuple[TreeEntry, Outcome]:
        with storage_errors(path):
            before = os.fstat(handle.fileno())
            identity = fingerprint_stream(handle)
            handle.seek(0)
        entry = TreeEntry(
            path=path,
            kind="file",
            mode=before.st_mode & 0o777,
            mtime_ns=before.st_mtime_ns,
            object_id=self.keys.object_id(path, identity),
            sparse=before.st_blocks * 512 < before.st_size,
            **vars(identity),
        )
        expected = object_header(entry, self.keys)
        archive = object_path(self.target, entry.object_id)
        kept = _holds(archive, expected, self.keys)
        if not kept:
            try:
                with atomic_writer(archive) as sink:
                    key = self.keys.archive
                    seal(handle, sink, archive_key=key, name=expected.name, **vars(identity))
            except StorageError as error:
                raise _OutputError(error) from error
        after = os.fstat(handle.fileno())
        if (after.st_size, after.st_mtime_ns) != (before.st_size, before.st_mtime_ns):
            raise IntegrityError(path, "changed while it was being read", "run again")
        return entry, Outcome.of(path, "unchanged" if kept else "sealed", "", expected)

    def _failed(self, path: str, error: AcieError) -> None:
        """Report what could not be read; an earlier version of it stays."""
        self.report(Outcome.failure(path, error))
        known = {entry.path for entry in self.entries}
        earlier = () if self.previous is None else self.previous.manifest.entries
        kept = [
            entry
            for entry in earlier
            if (entry.path == path or entry.path.startswith(f"{path}/"))
            and entry.path not in known
            and entry.kind != "hardlink"
        ]
        if kept and not self.same_key:
            raise StorageError(
                path,
                "cannot be read, and was sealed before under another key",
                "make it readable and run again; the earlier version is intact",
            ) from error
        self.entries.extend(kept)
        if not kept:
            self.omitted.append(Omission(path, error.reason))


class _OutputError(Exception):
    """The sealed tree cannot be written: unlike a bad file, that stops the run."""

    def __init__(self, error: StorageError) -> None:
        super().__init__()
        self.error = error


def _listing(root: int, parts: tuple[str, ...], path: str) -> tuple[int, list[str]]:
    """Open a directory and list it in the order of the names' bytes."""
    with storage_errors(path):
        directory = open_directory(root, parts)
        try:
            with os.scandir(directory) as found:
                return directory, sorted((entry.name for entry in found), key=os.fsencode)
        except BaseException:
            os.close(directory)
            raise


def _holds(archive: Path, expected: ArchiveHeader, keys: TreeKeys) -> bool:
    """Whether an archive is there, whole and authentic; a damaged one is sealed anew."""
    if not archive.exists():
        return False
    try:
        return authenticate(archive, keys.archive)[0] == expected
    except TamperedDataError:
        return False


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Keep other runs out of a sealed tree; the lock ends with the process."""
    with storage_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StorageError(
                target, "is being sealed by another process", "wait until that has ended"
            ) from None
        yield
    finally:
        os.close(descriptor)


def _identity(target: Path) -> str:
    """Id of a tree that has no manifest yet: of the run that was killed, or a new one."""
    marker = target / IDENTITY
    with storage_errors(target):
        if marker.exists():
            tree_id = marker.read_text("ascii", "replace")
            if not _ID.fullmatch(tree_id):
                raise TamperedDataError(marker, "holds no id of a tree", "use another directory")
            return tree_id
        if any(not _OURS.fullmatch(path.name) for path in target.iterdir()):
            raise StorageError(
                target, "is neither empty nor a sealed tree", "choose an empty directory"
            )
    tree_id = new_tree_id()
    with atomic_writer(marker) as sink:
        sink.write(tree_id.encode())
    return tree_id


def _publish(run: _Run, tree_id: str) -> SealedTree:
    """Write the manifest, unless nothing has changed."""
    entries = tuple(sorted(run.entries, key=lambda entry: os.fsencode(entry.path).split(b"/")))
    omitted, previous = tuple(run.omitted), run.previous
    generation = 1 if previous is None else previous.manifest.generation + 1
    manifest = TreeManifest(tree_id, generation, entries, omitted)
    for entry in entries:
        if entry.kind == "symlink":
            inside = stays_inside(os.fsencode(entry.path), manifest.links)
            reason = "" if inside else "leads outside of the tree and will not be restored"
            run.report(Outcome(entry.path, "sealed", f"-> {entry.target}", reason=reason))
    if previous is not None and run.same_key:
        held = previous.manifest
        if (held.entries, held.omitted) == (entries, omitted):
            return previous
    content = manifest.to_json()
    TreeManifest.from_json(content)  # what could not be read again is not published
    sink, source = io.BytesIO(), io.BytesIO(content)
    identity = fingerprint_stream(source)
    source.seek(0)
    seal(source, sink, archive_key=run.keys.archive, name=manifest.name, **vars(identity))
    with atomic_writer(run.target / MANIFEST) as handle:
        handle.write(sink.getvalue())
    digest = hashlib.sha256(sink.getvalue()).hexdigest()
    return SealedTree(run.target, manifest, run.keys, digest)


def _prune(sealed: SealedTree) -> None:
    """Remove archives of earlier versions and what killed runs left."""
    wanted = {object_path(sealed.path, e.object_id) for e in sealed.manifest.entries if e.object_id}
    with storage_errors(sealed.path):
        for path in [*sealed.path.glob("*"), *sealed.path.glob(f"{OBJECTS}/*/*")]:
            if _OURS.fullmatch(path.name) and path not in wanted:
                path.unlink()
        for folder in sealed.path.glob(f"{OBJECTS}/*"):
            if not any(folder.iterdir()):
                folder.rmdir()
