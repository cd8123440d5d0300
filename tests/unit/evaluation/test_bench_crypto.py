"""The crypto benchmark prints every row, and counts multiply-adds as the algorithm makes them."""

import pytest

from acie_native import cpu_features, ifma_rate
from acie_pipelines.evaluation import bench_crypto
from acie_pipelines.evaluation.bench import Row
from acie_pipelines.evaluation.ifma_floor import multiply_adds

BITS = 2048


class Digits:
    """Counts multiply-adds of schoolbook products and reductions, one digit at a time."""

    def __init__(self, digits: int) -> None:
        self.digits, self.count = digits, 0

    def product(self, times: int = 1) -> None:
        for _ in range(times * self.digits):
            for _ in range(self.digits):
                self.count += 2  # low and high halves

    def reduction(self) -> None:
        for _ in range(self.digits):
            self.count += 1  # the digit of the multiplier
            for _ in range(self.digits):
                self.count += 2


@pytest.mark.parametrize(("bits", "digits"), [(1024, 20), (2048, 40), (3072, 60)])
def test_additions_and_encryptions_count_their_digit_products(bits: int, digits: int) -> None:
    add = Digits(digits)
    add.product(3)
    add.reduction()
    add.reduction()
    assert multiply_adds("add", bits) == add.count / 8

    encrypt = Digits(digits)
    for pair in range(bits // 2 // 16):
        encrypt.product()
        encrypt.reduction()
        if pair > 0:
            encrypt.product(3)
            encrypt.reduction()
            encrypt.reduction()
    encrypt.reduction()  # back to an element
    encrypt.product()  # the corrections and the message
    encrypt.reduction()
    encrypt.reduction()
    encrypt.product()  # the integer of the pair
    assert multiply_adds("encrypt", bits) == encrypt.count / 8


def test_operations_without_a_count_have_no_floor() -> None:
    assert multiply_adds("subtract", 2048) is None


def test_rate_is_positive_where_the_processor_multiplies_eight_lanes() -> None:
    rate = ifma_rate()
    if "avx512ifma" in cpu_features().available:
        assert rate is not None
        assert rate > 0
    else:
        assert rate is None


@pytest.mark.slow
def test_every_row_appears(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_ROWS", "_PEER_ROWS"):
        monkeypatch.setattr(bench_crypto, name, dict.fromkeys(bench_crypto._ROWS, 8))
    monkeypatch.setattr(bench_crypto, "_ROWS", {**bench_crypto._ROWS, "sum of 4096": 4096})
    monkeypatch.setattr(bench_crypto, "_ROW_PATH_ROWS", {"encrypt": 2, "decrypt": 2})
    monkeypatch.setattr(bench_crypto, "_TILE_SIDE", 16)
    monkeypatch.setattr(bench_crypto, "_MATRICES", {"matrix product 8 x 4": (8, 4)})
    monkeypatch.setattr(bench_crypto, "cpu_count", lambda: 1)
    rows: list[Row] = []
    bench_crypto.run(rows.append, key_bits=(BITS,))
    names = {row.name for row in rows}
    expected = {
        f"{name}/{BITS} bit/1 core" for name in [*bench_crypto._ROWS, "matrix product 8 x 4"]
    }
    expected |= {f"{name} packed 16 bit tile/{BITS} bit/1 core" for name in ("encrypt", "decrypt")}
    expected |= {
        f"{name}, {path} path/{BITS} bit/1 core"
        for name in ("encrypt", "decrypt")
        for path in set(cpu_features().available) - {"avx512ifma"}
    }
    assert names == {f"crypto/{name}" for name in expected}
    assert all(row.ours > 0 and row.peer > 0 for row in rows)
    assert all(0 < (row.fraction_of_floor or 0.5) < 1.2 for row in rows)
