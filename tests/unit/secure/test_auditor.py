"""An auditor finds what was changed, and opens neither keys nor plaintext."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import pytest

from acie_pipelines.crypto.archive_key import ArchiveKey
from acie_pipelines.crypto.archive_observation import archive_observation
from acie_pipelines.crypto.keys import PaillierPublicKey
from acie_pipelines.errors import IntegrityError, RollbackError
from acie_pipelines.ledger import Ledger
from acie_pipelines.provenance import Manifest, Output, current_manifest, new_generation
from acie_pipelines.secure.attestation import ATTESTED_KINDS, Attestations
from acie_pipelines.secure.auditor import Auditor
from acie_pipelines.storage import Store
from tests.unit.secure.import_graph import imports_of

CONTENT = bytes(range(256)) * 10
SHA256 = hashlib.sha256(CONTENT).hexdigest()
KEY = f"field-{SHA256[:12]}"
ARCHIVE_KEY = ArchiveKey("0123456789abcdef", bytes(range(32)))
PUBLIC_KEY = PaillierPublicKey(15)


def commit(
    store: Store,
    kind: str,
    content: bytes,
    name: str,
    attributes: dict[str, Any],
    *made_of: Manifest,
) -> Manifest:
    inputs = tuple(manifest.as_input() for manifest in made_of)
    with new_generation(
        store, kind, KEY, inputs=inputs, code_version="1", parameters={}
    ) as generation:
        store.write_bytes(f"{generation.prefix}/{name}", content)
        return generation.commit((Output(name, hashlib.sha256(content).hexdigest()),), attributes)


def auditor_of(store: Store, ledger: Ledger) -> Auditor:
    return Auditor(store, ledger, Attestations(str(ledger.engine.url)))


def fill(
    store: Store, *, sha256: str = SHA256, key_id: str = PUBLIC_KEY.key_id, summed: int = 2
) -> None:
    source = commit(store, "observation", CONTENT, "original/a.fits", {"sha256": sha256})
    tiles = commit(store, "tiles", b"plaintext tiles", "tiles.bin", {}, source)
    attributes = {"key_id": key_id, "modulus": f"{PUBLIC_KEY.n:x}"}
    made = commit(
        store,
        "ciphertexts",
        b"ciphertexts",
        "tiles.bin",
        attributes | {"tiles": [{"plane": "a"}, {"plane": "a"}]},
        tiles,
    )
    sums = {"planes": [{"name": "a", "tiles": [{}] * summed}]}
    commit(store, "encrypted_statistics", b"sums", "sums.bin", attributes | sums, made)
    archive_observation(store, source, ARCHIVE_KEY, code_version="1")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    ledger.register(SHA256, KEY, "/inbox/a.fits", len(CONTENT))
    return ledger


class Watched(Store):
    """A store that remembers what was read."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.read: list[str] = []

    def open(self, name: str) -> IO[bytes]:
        self.read.append(name)
        return super().open(name)

    def read_bytes(self, name: str) -> bytes:
        self.read.append(name)
        return super().read_bytes(name)


def test_everything_sealed_is_verified_and_no_plaintext_is_read(
    store: Store, ledger: Ledger
) -> None:
    fill(store)
    watched = Watched(store.url)
    seen: list[str] = []
    auditor = auditor_of(watched, ledger)
    assert auditor.verify(KEY, lambda manifest: seen.append(manifest.kind)) == 5
    assert sorted(seen) == [
        "archive",
        "ciphertexts",
        "encrypted_statistics",
        "observation",
        "tiles",
    ]
    contents = [
        name for name in watched.read if not name.endswith(("manifest.json", "current.json"))
    ]
    assert {name.split("/")[0] for name in contents} == {
        "ciphertexts",
        "encrypted_statistics",
        "archive",
    }
    # Without the plaintext, it finds the same.
    for kind in ("observation", "tiles"):
        for path in Path(store.url, kind).rglob("*"):
            if path.is_file() and path.suffix != ".json":
                path.unlink()
    assert auditor.verify_all(lambda manifest: None) == 5


def test_the_auditor_imports_no_vault() -> None:
    assert "acie_pipelines.crypto.vault" not in imports_of("acie_pipelines.secure.auditor")


def rewrite(store: Store, kind: str, change: Callable[[bytes], bytes], suffix: str) -> None:
    folder = Path(store.url) / current_manifest(store, kind, KEY).prefix
    (path,) = (p for p in folder.rglob("*") if p.is_file() and p.name.endswith(suffix))
    path.write_bytes(change(path.read_bytes()))


def flip(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        ("ciphertexts", ".bin"),
        ("encrypted_statistics", ".bin"),
        ("archive", ".acie"),
        ("observation", "manifest.json"),
        ("tiles", "manifest.json"),
        ("ciphertexts", "manifest.json"),
        ("encrypted_statistics", "manifest.json"),
        ("archive", "manifest.json"),
    ],
)
def test_changes_are_found(store: Store, ledger: Ledger, kind: str, suffix: str) -> None:
    fill(store)

    def change(content: bytes) -> bytes:
        return flip(content) if suffix != "manifest.json" else content.replace(b'"1"', b'"2"', 1)

    rewrite(store, kind, change, suffix)
    with pytest.raises(IntegrityError, match=f"^{kind}/"):
        auditor_of(store, ledger).verify(KEY, lambda manifest: None)


def test_another_fingerprint_than_the_ledgers_is_found(store: Store, ledger: Ledger) -> None:
    fill(store, sha256="0" * 64)
    with pytest.raises(IntegrityError, match="fingerprint that the ledger recorded"):
        auditor_of(store, ledger).verify(KEY, lambda manifest: None)


def test_a_key_id_that_is_not_the_moduluss_is_found(store: Store, ledger: Ledger) -> None:
    fill(store, key_id="0" * 16)
    with pytest.raises(IntegrityError, match="names a key that its modulus does not have"):
        auditor_of(store, ledger).verify(KEY, lambda manifest: None)


def test_sums_of_other_tiles_are_found(store: Store, ledger: Ledger) -> None:
    fill(store, summed=1)
    with pytest.raises(IntegrityError, match="not sums of the ciphertexts that they name"):
        auditor_of(store, ledger).verify(KEY, lambda manifest: None)


@pytest.mark.parametrize("kind", ATTESTED_KINDS)
def test_what_was_put_back_is_found_without_keys(store: Store, ledger: Ledger, kind: str) -> None:
    fill(store)
    auditor = auditor_of(store, ledger)
    pointer = store.read_bytes(f"{kind}/{KEY}/current.json")
    auditor.attestations.attest(store, current_manifest(store, kind, KEY), ARCHIVE_KEY)
    for path in Path(store.url, kind).rglob("current.json"):
        path.unlink()
    fill(store)
    auditor.attestations.attest(store, current_manifest(store, kind, KEY), ARCHIVE_KEY)
    auditor.verify_all(lambda manifest: None)
    store.write_bytes(f"{kind}/{KEY}/current.json", pointer)
    with pytest.raises(RollbackError, match=f"^{kind}/"):
        auditor.verify_all(lambda manifest: None)


def test_an_archive_of_another_file_is_found(store: Store, ledger: Ledger, tmp_path: Path) -> None:
    """The whole archive of another file put in its place, and every hash made to fit."""
    fill(store)
    other = Store(str(tmp_path / "other"))
    source = commit(other, "observation", CONTENT[::-1], "original/a.fits", {"sha256": SHA256})
    theirs = archive_observation(other, source, ARCHIVE_KEY, code_version="1")
    mine = current_manifest(store, "archive", KEY)
    forged = Manifest(
        **{
            **vars(mine),
            "outputs": theirs.outputs,
            "attributes": dict(theirs.attributes),
        }
    )
    name = theirs.outputs[0].path
    shutil.copy(f"{other.url}/{theirs.prefix}/{name}", f"{store.url}/{mine.prefix}/{name}")
    store.write_bytes(f"{mine.prefix}/manifest.json", forged.to_json())
    pointer = json.loads(store.read_bytes(f"archive/{KEY}/current.json"))
    pointer["digest"] = forged.digest
    store.write_bytes(f"archive/{KEY}/current.json", json.dumps(pointer).encode())
    with pytest.raises(IntegrityError, match="does not claim to hold the file that was ingested"):
        auditor_of(store, ledger).verify(KEY, lambda manifest: None)


def test_what_the_ledger_does_not_know_is_refused(store: Store, tmp_path: Path) -> None:
    fill(store)
    empty = Ledger(f"sqlite:///{tmp_path / 'empty.db'}")
    with pytest.raises(IntegrityError, match="not in the ledger"):
        auditor_of(store, empty).verify_all(lambda manifest: None)
