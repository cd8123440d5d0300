"""The secure benchmark measures what it names, on both sides."""

import pytest

from acie_pipelines.crypto.keys import PaillierPrivateKey, generate_keypair
from acie_pipelines.evaluation import bench_secure, secure_models, secure_statistics, secure_tiles
from acie_pipelines.evaluation.bench import Row
from acie_pipelines.evaluation.phe_costs import Operations
from acie_pipelines.evaluation.secure_sides import Parts
from acie_pipelines.models.images import StampClassifier
from acie_pipelines.secure.split_inference import SplitClassifier


@pytest.fixture(scope="module")
def key() -> PaillierPrivateKey:
    return generate_keypair(1024, allow_insecure_size=True)


class CountedCosts:
    """A peer that takes a second for everything."""

    def seconds(self, operations: Operations) -> float:
        return float(operations.encryptions + operations.products + operations.decryptions)


def test_layers_have_a_row_each(key: PaillierPrivateKey) -> None:
    rows = list(secure_models.layer_rows(key, 5))
    assert [row.name.split(",")[0] for row in rows] == [
        "secure/linear 64 x 512",
        "secure/convolution 8 of 5 x 5 on 12 x 12",
    ]
    for row in rows:
        assert row.unit == "s" and row.n == 5
        assert row.ratio == pytest.approx(row.peer / row.ours)


def test_split_inference_is_counted_as_the_peer_would_compute_it(
    key: PaillierPrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secure_models, "PheCosts", lambda key: CountedCosts())
    monkeypatch.setattr(secure_models, "_CASES", ((1, False),))
    rows = list(secure_models.split_rows(key, 1))
    found = {(row.name.split("/")[3], "packing" in row.peer_name): row for row in rows}
    assert found["encrypt", False].peer == 3 * 88 * 88
    # Valid convolution: 24 features of 192 weights at 21 x 21 places.
    assert found["evaluate", False].peer == 24 * 192 * 21**2
    assert found["decrypt and finish", False].peer == 24 * 21**2
    slots = (
        SplitClassifier.of(
            StampClassifier(("a", "b"), seed=0), stamps=1, key_bits=1024, symmetric=False
        )
        .model.interface.layout(1024)
        .slots_per_plaintext
    )
    assert 40 <= slots <= 48
    sent, answered = 192 * -(-441 // slots), 24 * -(-441 // slots)
    assert found["encrypt", True].peer == sent
    assert found["evaluate", True].peer == answered * 193
    assert found["decrypt and finish", True].peer == answered
    for packed in (False, True):
        parts = [row for (name, kind), row in found.items() if kind == packed and name != "all"]
        assert found["all", packed].peer == sum(row.peer for row in parts)
        assert found["all", packed].ours == pytest.approx(sum(row.ours for row in parts))


def test_parts_are_medians_without_the_first_measurement() -> None:
    parts = Parts()
    for scale in (100.0, 1.0, 3.0, 2.0):
        parts.add({"a": scale, "b": scale}, peer={"a": 6 * scale, "b": 2 * scale}, per=2)
    rows = {row.name: row for row in parts.rows("<", ">", {"peer": "slow"})}
    assert {name: (row.ours, row.peer, row.ratio, row.n) for name, row in rows.items()} == {
        "<a>": (1.0, 6.0, 6.0, 3),
        "<b>": (1.0, 2.0, 2.0, 3),
        "<all>": (2.0, 8.0, 4.0, 3),
    }
    assert {row.peer_name for row in rows.values()} == {"slow"}


def test_a_tile_takes_as_many_bytes_as_its_ciphertexts(
    key: PaillierPrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secure_tiles, "PheCosts", lambda key: CountedCosts())
    monkeypatch.setattr(secure_tiles, "_SIDE", 64)
    size, encrypt, decrypt = secure_tiles.overhead_rows(key, 5)
    # 17 bits with their sign and 12 of guard in 1023, and 256 bytes a ciphertext.
    assert size.ours == -(-(64**2) // (1023 // 29)) * 256 / (2 * 64**2)
    assert size.peer == 128.0
    assert encrypt.peer == decrypt.peer == 1e6
    assert encrypt.ours > 0 < decrypt.ours


def test_statistics_have_a_row_each(
    key: PaillierPrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(secure_statistics, "_SIDE", 64)
    monkeypatch.setattr(secure_statistics, "_PEER_ROWS", 20)
    rows = list(secure_statistics.statistics_rows(key, 5))
    assert [row.name.split(",")[0] for row in rows] == [
        "secure/sum",
        "secure/difference",
        "secure/co-addition of two epochs",
    ]
    assert all(row.unit == "s" and row.ours > 0 < row.peer for row in rows)


def test_every_measure_runs_for_every_key(
    key: PaillierPrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = Row("secure/x", 1.0, 2.0, 2.0, "s", 5, 0.0, "peer", "1")
    called: list[int] = []
    monkeypatch.setattr(bench_secure, "generate_keypair", lambda bits: called.append(bits) or key)
    monkeypatch.setattr(bench_secure, "agreement_rows", lambda: iter([row]))
    monkeypatch.setattr(bench_secure, "_MEASURES", (lambda k, n: iter([row]),) * 2)
    rows: list[Row] = []
    bench_secure.run(rows.append, key_bits=(2048, 3072))
    assert called == [2048, 3072]
    assert rows == [row] * 5
