"""The manifest of a sealed tree: every name in it, and which archive holds each file.

Belongs here: the manifest's form and what makes it acceptable, the keys of a tree, its layout.
Does not belong here: sealing (`sealed_tree`) and restoring (`tree_restoring`).

Layout of a sealed tree::

    tree                             its random id, 32 hexadecimal digits
    objects/<2 digits>/<id>.acie     one archive (`archive`) per file
    manifest.acie                    an archive of the manifest, canonical JSON, written last

Names, modes, times, links and the directory structure are in the sealed manifest only. Without the
key one sees how many files there are, their sizes, their fingerprints and the key id.

Every tree has keys of its own, derived by HKDF-SHA256 (RFC 5869) from the archive key and the
tree's id, so that nothing sealed elsewhere opens in it, be it sealed by the same owner. An object's
id is an HMAC-SHA256 (RFC 2104) of path and fingerprints: it tells neither, and a file that has not
changed has its old id. A random number in the manifest keeps its fingerprints, which can be read,
from confirming guesses of the names.
"""

import hmac
import json
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Self, get_args

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from acie_pipelines.crypto.archive_key import ArchiveKey
from acie_pipelines.crypto.destination import STAGING, safe_parts
from acie_pipelines.errors import TamperedDataError
from acie_pipelines.observations.identity import Fingerprint

__all__ = [
    "Omission",
    "TreeEntry",
    "TreeKeys",
    "TreeManifest",
    "new_tree_id",
    "stays_inside",
    "tree_id_of",
]

Kind = Literal["file", "directory", "symlink", "hardlink"]
_SCHEMA = "acie.tree/1"
_ID = re.compile("[0-9a-f]{32}")
_HEX = re.compile("[0-9a-f]{64}")
_MAXIMUM_LINKS = 40
_MAXIMUM_TARGET_BYTES = 4095
_MAXIMUM_TIME_NS = 1 << 63


@dataclass(frozen=True)
class TreeEntry:
    """One name in a tree.

    Attributes
    ----------
    path
        Relative to the tree, ``/``-separated; bytes that are no UTF-8 as lone surrogates, the way
        `os.fsdecode` writes them.
    kind
        What it is.
    mode, mtime_ns
        Permission bits without set-user-id, set-group-id and sticky bit, and time of the last
        change; 0 for links.
    target
        Text of a symbolic link; path of the file that a hard link is another name of.
    object_id, size, sha256, streebog256
        Archive of a file, and its identity.
    sparse
        Whether the file had holes; they are restored as holes.
    """

    path: str
    kind: Kind
    mode: int = 0
    mtime_ns: int = 0
    target: str = ""
    object_id: str = ""
    size: int = 0
    sha256: str = ""
    streebog256: str = ""
    sparse: bool = False

    @property
    def fingerprint(self) -> Fingerprint:
        """Identity of a file's content."""
        return Fingerprint(self.sha256, self.streebog256, self.size)


@dataclass(frozen=True)
class Omission:
    """A name that was found but not sealed, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class TreeKeys:
    """Keys of one tree.

    Attributes
    ----------
    archive
        Seals its objects and manifest.
    names
        Key of the object ids.
    """

    archive: ArchiveKey
    names: bytes

    def __repr__(self) -> str:
        return f"TreeKeys({self.archive!r})"

    @classmethod
    def derive(cls, archive_key: ArchiveKey, tree_id: str) -> "TreeKeys":
        """Derive them from an archive key of the vault."""

        def expand(info: bytes) -> bytes:
            salt = bytes.fromhex(tree_id)
            return HKDF(algorithm=SHA256(), length=32, salt=salt, info=info).derive(
                archive_key.secret
            )

        sealing = ArchiveKey(archive_key.key_id, expand(b"acie.tree/1 archives"))
        return cls(sealing, expand(b"acie.tree/1 object ids"))

    def object_id(self, path: str, identity: Fingerprint) -> str:
        """Id of the archive of a file: 64 hexadecimal digits."""
        encoded = os.fsencode(path)
        message = len(encoded).to_bytes(8, "big") + encoded
        message += bytes.fromhex(identity.sha256 + identity.streebog256)
        return hmac.digest(self.names, message, "sha256").hex()


@dataclass(frozen=True)
class TreeManifest:
    """What a sealed tree holds.

    Attributes
    ----------
    tree_id
        32 hexadecimal digits, drawn when the tree was first sealed.
    generation
        Counts the versions from 1.
    entries
        Sorted by path, so that directories come before what they hold.
    omitted
        What was found but not sealed.
    """

    tree_id: str
    generation: int
    entries: tuple[TreeEntry, ...]
    omitted: tuple[Omission, ...]

    @property
    def name(self) -> str:
        """Name that its archive is sealed under."""
        return f"manifest/{self.tree_id}/{self.generation}"

    @property
    def links(self) -> dict[bytes, bytes]:
        """Symbolic links and their texts, as the file system has them."""
        return {
            os.fsencode(entry.path): os.fsencode(entry.target)
            for entry in self.entries
            if entry.kind == "symlink"
        }

    def to_json(self) -> bytes:
        """Canonical JSON with a random number in it."""
        return _canonical(self, secrets.token_hex(32))

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read and check a manifest.

        Raises
        ------
        TamperedDataError
            If it is not what `to_json` writes, or names anything a tree cannot hold: a path that
            leaves it, a name below something that is no directory, one name twice, a hard link to
            something that is no file.
        """
        try:
            document = json.loads(data)
            manifest = cls(
                document["tree_id"],
                document["generation"],
                tuple(_read(TreeEntry, record) for record in document["entries"]),
                tuple(_read(Omission, record) for record in document["omitted"]),
            )
            valid = data == _canonical(manifest, document["blind"]) and _acceptable(manifest)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            valid = False
        if not valid:
            raise TamperedDataError(
                "manifest of a sealed tree", "is malformed", "use another copy of the tree"
            )
        return manifest


def new_tree_id() -> str:
    """Draw the id of a tree."""
    return secrets.token_hex(16)


def tree_id_of(name: str) -> str:
    """Id of the tree that a manifest's archive claims to belong to.

    Raises
    ------
    TamperedDataError
        If it is no manifest.
    """
    parts = name.split("/")
    if len(parts) != 3 or parts[0] != "manifest" or not _ID.fullmatch(parts[1]):
        raise TamperedDataError("manifest.acie", "is no manifest of a tree", "use another copy")
    return parts[1]


def stays_inside(path: bytes, links: Mapping[bytes, bytes]) -> bool:
    """Whether a symbolic link, and all those it leads through, stay inside their tree.

    What lies outside cannot be reached by a link that this accepts, whatever else is in the tree:
    each ``..`` is taken where the links before it lead to, not from the text alone.

    Parameters
    ----------
    path
        The link.
    links
        Text of every symbolic link of the tree, that one among them.
    """
    resolved = path.split(b"/")[:-1]
    pending = [path.rsplit(b"/", 1)[-1]]
    followed = 0
    while pending:
        part = pending.pop()
        if part in (b"", b"."):
            continue
        if part == b"..":
            if not resolved:
                return False
            resolved.pop()
            continue
        target = links.get(b"/".join([*resolved, part]))
        if target is None:
            resolved.append(part)
            continue
        followed += 1
        if followed > _MAXIMUM_LINKS or target.startswith(b"/"):
            return False
        pending.extend(reversed(target.split(b"/")))
    return True


def _canonical(manifest: TreeManifest, blind: str) -> bytes:
    document = asdict(manifest) | {"schema": _SCHEMA, "blind": blind}
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _read(kind: type[Any], record: dict[str, Any]) -> Any:
    """Make a record; every field must be there and have its type."""
    known = {field.name: field.type for field in fields(kind)}
    for name, value in record.items():
        wanted = known[name] if isinstance(known[name], type) else str
        if type(value) is not wanted:
            raise TypeError(name)
    if record.get("kind", "file") not in get_args(Kind):
        raise ValueError("kind")
    return kind(**record)


def _acceptable(manifest: TreeManifest) -> bool:
    if not (_ID.fullmatch(manifest.tree_id) and type(manifest.generation) is int):
        return False
    return manifest.generation > 0 and _consistent(manifest.entries)


def _consistent(entries: Sequence[TreeEntry]) -> bool:
    # Compared as bytes: two spellings of a string can be one name on disk.
    names = [tuple(os.fsencode(part) for part in safe_parts(entry.path)) for entry in entries]
    kinds = dict(zip(names, (entry.kind for entry in entries), strict=True))
    objects = [entry.object_id for entry in entries if entry.kind == "file"]
    return (
        len(kinds) == len(entries)
        and len(set(objects)) == len(objects)
        and all(name[0] != os.fsencode(STAGING) for name in names)
        and all(kinds.get(name[:-1], "directory") == "directory" for name in names)
        and all(len(name) == 1 or name[:-1] in kinds for name in names)
        and all(_plausible(entry, kinds) for entry in entries)
    )


def _plausible(entry: TreeEntry, kinds: Mapping[tuple[bytes, ...], Kind]) -> bool:
    if not (0 <= entry.mode <= 0o777 and abs(entry.mtime_ns) < _MAXIMUM_TIME_NS):
        return False
    match entry.kind:
        case "file":
            hexadecimal = (entry.object_id, entry.sha256, entry.streebog256)
            return entry.size >= 0 and all(map(_HEX.fullmatch, hexadecimal))
        case "directory":
            return True
        case "symlink":
            target = os.fsencode(entry.target)
            return 0 < len(target) <= _MAXIMUM_TARGET_BYTES and b"\0" not in target
        case "hardlink":
            name = tuple(os.fsencode(part) for part in safe_parts(entry.target))
            return kinds.get(name) == "file"
