"""Finds new observations in an inbox: each content once, in bounded slices, safe to kill.

A file is *settled* when its size and version stood still between two looks at least the settle
time apart, or when it was last modified longer ago than that; it is then hashed, and must not have
changed meanwhile. Every content is claimed in the ledger in the transaction that records its file,
so two scanners, two names or a restart never make two arrivals of it. A scanner killed between the
claim and the run request leaves a ``registered`` entry behind, which `Ledger.pending` lists.

Belongs here: which files of an inbox are new.
Does not belong here: listing and reading them (`acie_pipelines.inbox`), requesting runs.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

import sqlalchemy as sa

from acie_pipelines.database import create_all, insert, metadata, reading, writing
from acie_pipelines.errors import IntegrityError
from acie_pipelines.inbox import Inbox, Item, Refusal, content_sha256, fetch, open_inbox
from acie_pipelines.ledger import Ledger
from acie_pipelines.ledger_tables import forgotten, register_content, run_key
from acie_pipelines.observations.identity import observation_key

__all__ = ["Arrival", "Refusal", "ScanResult", "fetch", "scan"]

_BATCH = 256  # items per look into the database, and per transaction

_arrivals = sa.Table(
    "acie_arrivals",
    metadata,
    sa.Column("path", sa.Text, primary_key=True),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    # Seconds since the epoch, comparable with modification times.
    sa.Column("first_seen", sa.Double, nullable=False),
    sa.Column("unchanged_since", sa.Double, nullable=False),
    sa.Column("sha256", sa.String(64)),  # set once this version has been hashed
)


@dataclass(frozen=True)
class Arrival:
    """A content that nobody has claimed before.

    Attributes
    ----------
    path
        Absolute path or URL; `fetch` takes it.
    sha256, key
        Hash of the content and the observation key made from it.
    size
        Bytes.
    attempt
        1, or more if the content was forgotten and claimed again.
    """

    path: str
    sha256: str
    key: str
    size: int
    attempt: int

    @property
    def run_key(self) -> str:
        """Dagster run key, equal to that of the ledger entry."""
        return run_key(self.sha256, self.attempt)


@dataclass(frozen=True)
class ScanResult:
    """What one scan found.

    Attributes
    ----------
    ready
        New contents, now registered in the ledger.
    cursor
        Where the next scan goes on; empty when everything was looked at.
    examined, hashed, settling
        Items looked at, hashed, and still waiting to stand still (or to be hashed further).
    refused
        What cannot become an arrival, and why.
    """

    ready: tuple[Arrival, ...]
    cursor: str
    examined: int
    hashed: int
    settling: int
    refused: tuple[Refusal, ...]

    @property
    def complete(self) -> bool:
        """Whether the scan reached every item."""
        return not self.cursor


@dataclass(frozen=True)
class _Record:
    item: Item
    first_seen: float
    unchanged_since: float
    sha256: str | None
    claim: bool = False


@dataclass
class _Scan:
    inbox: Inbox
    ledger: Ledger
    limit: int
    settle_seconds: float
    deadline: float
    now: float
    ready: list[Arrival] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    examined: int = 0
    hashed: int = 0
    claims: int = 0
    settling: int = 0

    def exhausted(self) -> bool:
        """Whether the next item has to wait for the next scan; one is judged in any case."""
        if not self.examined:
            return False
        return max(self.hashed, self.claims) >= self.limit or time.monotonic() > self.deadline

    def known(self, batch: list[Item]) -> tuple[dict[str, sa.Row[tuple[object, ...]]], set[str]]:
        """Look up the records of a batch, and the hashes in them that may be claimed again."""
        paths = [item.path for item in batch]
        with reading(self.ledger.engine) as connection:
            query = sa.select(_arrivals).where(_arrivals.c.path.in_(paths))
            records = {row.path: row for row in connection.execute(query)}
            hashes = {row.sha256 for row in records.values() if row.sha256 is not None}
            return records, forgotten(connection, hashes)

    def judge(
        self, item: Item, row: "sa.Row[tuple[object, ...]] | None", forgot: set[str]
    ) -> _Record | None:
        """Decide about one item; ``None`` if nothing about it is new."""
        first_seen = self.now if row is None else row.first_seen
        unchanged_since = self.now
        if row is not None and (row.size, row.version) == (item.size, item.version):
            if row.sha256 in forgot:
                self.claims += 1
                return _Record(item, first_seen, row.unchanged_since, row.sha256, claim=True)
            if row.sha256 is not None:
                return None
            unchanged_since = row.unchanged_since
        sha256 = None
        if self._settled(item, unchanged_since):
            sha256 = self._hash(item)
        if sha256 is None:
            self.settling += 1
        else:
            self.claims += 1
        return _Record(item, first_seen, unchanged_since, sha256, claim=sha256 is not None)

    def _settled(self, item: Item, unchanged_since: float) -> bool:
        if self.now - unchanged_since >= self.settle_seconds:
            return True
        return item.modified is not None and self.now - item.modified >= self.settle_seconds

    def _hash(self, item: Item) -> str | None:
        try:
            sha256 = content_sha256(self.inbox, item, self.deadline)
            self.hashed += 1
            if sha256 is not None and self.inbox.again(item) != item:
                return None  # it changed while it was read; the next scan sees the new version
        except FileNotFoundError:
            return None
        except OSError as error:
            self.refused.append(Refusal(item.path, f"cannot be read ({error})"))
            return None
        return sha256

    def commit(self, records: list[_Record]) -> None:
        """Record a batch and claim its contents, all or nothing."""
        if not records:
            return
        rows = [
            {
                "path": record.item.path,
                "size": record.item.size,
                "version": record.item.version,
                "first_seen": record.first_seen,
                "unchanged_since": record.unchanged_since,
                "sha256": record.sha256,
            }
            for record in records
        ]
        with writing(self.ledger.engine) as connection:
            statement = insert(connection, _arrivals)
            changed = {
                name: statement.excluded[name]
                for name in ("size", "version", "unchanged_since", "sha256")
            }
            upsert = statement.on_conflict_do_update(index_elements=["path"], set_=changed)
            # One order for all scanners, so that none waits for another in a circle.
            connection.execute(upsert, sorted(rows, key=lambda row: str(row["path"])))
            claims = [record for record in records if record.claim]
            claims.sort(key=lambda record: (str(record.sha256), record.item.path))
            claimed = [self._claim(connection, record) for record in claims]
        self.ready.extend(arrival for arrival in claimed if arrival is not None)

    def _claim(self, connection: sa.Connection, record: _Record) -> Arrival | None:
        item, sha256 = record.item, str(record.sha256)
        key = observation_key(item.name, sha256)
        try:
            claim = register_content(
                connection, sha256=sha256, key=key, source=item.path, size=item.size
            )
        except IntegrityError as error:  # one file's misfortune must not stop the inbox
            self.refused.append(Refusal(item.path, f"{error.reason}; {error.fix}"))
            return None
        if claim is None:
            return None
        return Arrival(item.path, sha256, claim.key, item.size, claim.attempt)


def _once_around(inbox: Inbox, start: tuple[str, ...]) -> Iterator[Item | Refusal]:
    """Yield everything behind the start, then everything up to it."""
    yield from inbox.walk(start)
    if start:
        for found in inbox.walk(()):
            if isinstance(found, Item):
                if found.position > start:
                    return
                yield found


def scan(
    inbox_url: str,
    ledger: Ledger,
    *,
    cursor: str | None,
    limit: int,
    settle_seconds: float,
    time_budget_s: float,
    now: float | None = None,
) -> ScanResult:
    """Look at the inbox once around, or as far as the limits allow.

    Parameters
    ----------
    inbox_url
        Directory or fsspec URL.
    ledger
        Where contents are claimed.
    cursor
        ``ScanResult.cursor`` of the scan before; ``None`` starts at the beginning.
    limit
        At most this many files are hashed, and at most this many arrivals returned.
    settle_seconds
        How long a file must stand still.
    time_budget_s
        No new work is begun after this many seconds; a file that takes longer to hash is gone on
        with by the next scans of the same process.
    now
        Present time in seconds since the epoch; the clock by default.

    Returns
    -------
    ScanResult
        Every arrival in it is registered.

    Raises
    ------
    ConfigurationError
        If the inbox does not exist.
    StorageError
        If the inbox or the database cannot be reached; what was claimed until then is pending.
    """
    create_all(ledger.engine)
    state = _Scan(
        inbox=open_inbox(inbox_url),
        ledger=ledger,
        limit=limit,
        settle_seconds=settle_seconds,
        deadline=time.monotonic() + time_budget_s,
        now=time.time() if now is None else now,
    )
    position = tuple(cursor.split("/")) if cursor else ()
    around = _once_around(state.inbox, position)
    while batch := list(islice(around, _BATCH)):
        items = [found for found in batch if isinstance(found, Item)]
        state.refused.extend(found for found in batch if isinstance(found, Refusal))
        records, forgot = state.known(items)
        judged: list[_Record] = []
        stopped = False
        for item in items:
            if state.exhausted():
                stopped = True
                break
            record = state.judge(item, records.get(item.path), forgot)
            if record is not None:
                judged.append(record)
            position = item.position
            state.examined += 1
        state.commit(judged)
        if stopped:
            break
    else:
        position = ()
    return ScanResult(
        ready=tuple(state.ready),
        cursor="/".join(position),
        examined=state.examined,
        hashed=state.hashed,
        settling=state.settling,
        refused=tuple(state.refused),
    )
