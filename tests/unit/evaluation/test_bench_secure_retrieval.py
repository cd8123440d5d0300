"""The benchmark of encrypted queries measures what it names, on both sides."""

import pytest

from acie_pipelines.crypto.keys import generate_keypair
from acie_pipelines.evaluation import secure_retrieval
from acie_pipelines.evaluation.phe_costs import Operations


class CountedCosts:
    """A peer that takes a second for everything."""

    def seconds(self, operations: Operations) -> float:
        return float(operations.encryptions + operations.products + operations.decryptions)


def test_queries_are_counted_as_the_peer_would_compute_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(secure_retrieval, "PheCosts", lambda key: CountedCosts())
    monkeypatch.setattr(secure_retrieval, "_PROTOTYPES", (30,))
    key = generate_keypair(1024, allow_insecure_size=True)
    rows = {row.name.split("/")[2]: row for row in secure_retrieval.query_rows(key, 2)}
    assert {part: row.peer for part, row in rows.items()} == {
        "encrypt": 64,
        "score": 64 * 30,
        "decrypt and rank": 30,
        "all": 64 + 64 * 30 + 30,
    }
    for row in rows.values():
        assert row.ours > 0 and row.ratio == pytest.approx(row.peer / row.ours)
        assert row.n == 2 and "extrapolated" in row.peer_name
