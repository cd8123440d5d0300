"""Sealing and restoring of trees as functions that a child process can run and a test can kill."""

from multiprocessing.connection import Connection
from pathlib import Path

from acie_pipelines.crypto.archive_key import ArchiveKey
from acie_pipelines.crypto.sealed_tree import seal_tree
from acie_pipelines.crypto.tree_restoring import restore_tree


class Keys:
    """One archive key."""

    def archive_key(self, key_id: str | None = None, *, allow_revoked: bool = False) -> ArchiveKey:
        return ArchiveKey("0123456789abcdef", bytes(range(32)))


def work(stage: str, source: Path, target: Path) -> list[str]:
    """Run a stage; return what failed."""
    failed: list[str] = []

    def report(outcome):
        if outcome.failed:
            failed.append(outcome.path)

    (seal_tree if stage == "seal" else restore_tree)(source, target, Keys(), report)
    return failed


def child(stage: str, source: Path, target: Path, link: Connection) -> None:
    """Run a stage; say when it starts and that it ended."""
    link.send("started")
    work(stage, source, target)
    link.send("finished")
