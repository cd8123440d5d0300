"""The owner's word for which generation of a sealed dataset is the newest.

Hashes carry no key: whoever can write to the store can put ciphertexts, manifest and pointer back
to an earlier, consistent state. The owner therefore records every generation that passed his checks
in his database, numbered, with an HMAC-SHA256 under a key from his vault. Who can write to the
store alone cannot bring an older generation back unnoticed; who can write to the database as well,
as an encrypting worker can, cannot make a statement of his own.

Workers publish without any of this. Auditors compare with the numbers and cannot check the HMAC.
A dataset that the owner never attested is *not authenticated*: neither right nor wrong.

Belongs here: making statements, comparing with them, and proving them.
Does not belong here: manifests (`acie_pipelines.provenance`), the vault.
"""

import hmac
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import sqlalchemy as sa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from acie_pipelines.crypto.archive_key import ArchiveKey
from acie_pipelines.database import UtcDateTime, create_all, engine, metadata, reading, writing
from acie_pipelines.errors import (
    IntegrityError,
    RevokedKeyError,
    RollbackError,
    TamperedDataError,
)
from acie_pipelines.manifest import Manifest, canonical_json
from acie_pipelines.provenance import current_manifest
from acie_pipelines.storage import Store

__all__ = ["ATTESTED_KINDS", "Attestation", "Attestations"]

ATTESTED_KINDS: Final = ("ciphertexts", "encrypted_statistics", "archive")
"""Kinds of datasets that the graph attests."""

_LABEL: Final = "acie.attestation/1"

_rows = sa.Table(
    "acie_attestations",
    metadata,
    sa.Column("kind", sa.String(64), nullable=False),
    sa.Column("key", sa.String(255), nullable=False),
    sa.Column("number", sa.BigInteger, nullable=False),
    sa.Column("generation", sa.String(64), nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("key_id", sa.String(16), nullable=False),
    sa.Column("mac", sa.String(64), nullable=False),
    sa.Column("at", UtcDateTime, nullable=False),
    sa.PrimaryKeyConstraint("kind", "key", "number"),
)


@dataclass(frozen=True)
class Attestation:
    """One statement.

    Attributes
    ----------
    kind, key
        Dataset.
    number
        Counts the dataset's statements from 1.
    generation, digest
        What was the newest generation, and the digest of its manifest.
    key_id
        Vault entry that the statement is made under.
    mac
        HMAC-SHA256 of all of it.
    """

    kind: str
    key: str
    number: int
    generation: str
    digest: str
    key_id: str
    mac: str

    def is_of(self, manifest: Manifest) -> bool:
        """Whether this is about just that manifest."""
        return (self.generation, self.digest) == (manifest.generation, manifest.digest)

    def prove(self, key: ArchiveKey) -> None:
        """Check the HMAC.

        Raises
        ------
        TamperedDataError
            If the owner did not say this with the key.
        """
        expected = _mac(
            key, self.kind, self.key, self.number, self.generation, self.digest, self.key_id
        )
        if not hmac.compare_digest(expected, self.mac):
            raise TamperedDataError(
                f"attestation {self.number} of {self.kind}/{self.key}",
                f"was not made with key {key.key_id}",
                "the database was changed; restore it from a backup",
            )


def _mac(
    key: ArchiveKey, kind: str, dataset: str, number: int, generation: str, digest: str, key_id: str
) -> str:
    secret = HKDF(algorithm=SHA256(), length=32, salt=None, info=_LABEL.encode()).derive(key.secret)
    said = canonical_json([_LABEL, kind, dataset, number, generation, digest, key_id])
    return hmac.new(secret, said, "sha256").hexdigest()


class Attestations:
    """The owner's statements in one database.

    Parameters
    ----------
    url
        SQLAlchemy URL; missing tables are created.
    """

    def __init__(self, url: str) -> None:
        self.engine = engine(url)
        create_all(self.engine)

    def attest(self, store: Store, manifest: Manifest, key: ArchiveKey) -> Attestation:
        """State that a dataset is the newest of its kind and key; saying it twice changes nothing.

        Parameters
        ----------
        store
            Holds the dataset.
        manifest
            What readers use now.
        key
            Secret of the owner's current vault entry.

        Raises
        ------
        RollbackError
            If the generation was superseded before.
        IntegrityError
            If readers use another one by now, or its manifest was edited since it was attested.
        TamperedDataError
            If the statement that stands was not made with the key that it names.
        """
        with writing(self.engine) as connection:
            if connection.dialect.name == "postgresql":
                # Of two owners' steps the second must see, and follow, what the first wrote.
                connection.execute(sa.text("LOCK acie_attestations IN EXCLUSIVE MODE"))
            current = current_manifest(store, manifest.kind, manifest.key)
            if (current.generation, current.digest) != (manifest.generation, manifest.digest):
                raise IntegrityError(
                    manifest.prefix, f"was replaced by {current.generation}", "run this again"
                )
            said = _statements(connection, manifest)
            if said and said[-1].generation == manifest.generation:
                _compare(said, manifest)
                if said[-1].key_id == key.key_id:
                    said[-1].prove(key)
                    return said[-1]
            elif manifest.generation in {each.generation for each in said}:
                raise _rolled_back(said, manifest)
            place = (manifest.kind, manifest.key, said[-1].number + 1 if said else 1)
            content = (manifest.generation, manifest.digest, key.key_id)
            made = Attestation(*place, *content, _mac(key, *place, *content))
            connection.execute(sa.insert(_rows), vars(made) | {"at": datetime.now(UTC)})
        return made

    def compare(self, manifest: Manifest) -> Attestation | None:
        """Compare the dataset that readers use with the newest statement, without any key.

        Returns
        -------
        Attestation or None
            ``None`` if nothing was ever said of the dataset.

        Raises
        ------
        RollbackError
            If it is an earlier generation than the newest.
        IntegrityError
            If it is something that the owner never attested.
        """
        with reading(self.engine) as connection:
            said = _statements(connection, manifest)
        return _compare(said, manifest) if said else None

    def authenticate(
        self, manifest: Manifest, archive_key: Callable[[str], ArchiveKey]
    ) -> Attestation | None:
        """Compare, and prove the statement with the owner's vault; for results see `compare`.

        Parameters
        ----------
        manifest
            What readers use.
        archive_key
            Gives the secret of a vault entry: ``archive_key`` of the owner's vault.

        Raises
        ------
        TamperedDataError
            If the statement was not made with the key that it names.
        LostKeyError, RevokedKeyError
            If the vault does not hold that key, or does not give it.
        RollbackError, IntegrityError
            See `compare`.
        """
        newest = self.compare(manifest)
        if newest is not None:
            try:
                key = archive_key(newest.key_id)
            except RevokedKeyError as error:
                raise RevokedKeyError(
                    manifest.prefix,
                    f"was attested under key {newest.key_id}, which is revoked",
                    "look at the dataset, then run `acie secure attest`",
                ) from error
            newest.prove(key)
        return newest


def _statements(connection: sa.Connection, manifest: Manifest) -> list[Attestation]:
    columns = [_rows.c[name] for name in Attestation.__dataclass_fields__]
    query = sa.select(*columns).where(_rows.c.kind == manifest.kind, _rows.c.key == manifest.key)
    return [Attestation(*row) for row in connection.execute(query.order_by(_rows.c.number))]


def _compare(said: list[Attestation], manifest: Manifest) -> Attestation:
    newest = said[-1]
    if newest.is_of(manifest):
        return newest
    if newest.generation == manifest.generation:
        raise IntegrityError(
            manifest.prefix,
            "is not the manifest that its owner attested",
            "it was edited; materialise it again",
        )
    if manifest.generation in {each.generation for each in said}:
        raise _rolled_back(said, manifest)
    raise IntegrityError(
        manifest.prefix,
        f"was never attested by its owner, who attested {newest.generation}",
        "materialise it again, or say that it is yours with `acie secure attest`",
    )


def _rolled_back(said: list[Attestation], manifest: Manifest) -> RollbackError:
    return RollbackError(
        manifest.prefix,
        f"was superseded by {said[-1].generation}, and put back",
        f"put the newer one back, or delete {manifest.kind}/{manifest.key}/current.json and "
        "materialise it again",
    )
