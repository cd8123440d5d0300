"""Measurements: kept, made once, made again when the code changed, torn lines dropped."""

from pathlib import Path

import pytest

from acie_pipelines.errors import ConfigurationError
from acie_pipelines.evaluation import measurements
from acie_pipelines.evaluation.measurements import (
    Measured,
    Measurements,
    mean_and_spread,
    source_fingerprint,
)

CODE = ("evaluation/measurements.py",)


class Counted:
    """Work that counts how often it was done."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> Measured:
        self.times += 1
        return Measured({"error": 0.1 * self.times}, {"curve": [1.0, 2.0]})


def test_a_measurement_is_made_once(tmp_path: Path) -> None:
    work = Counted()
    first = Measurements(tmp_path).measure("part", "side", 3, work, depends_on=CODE)
    again = Measurements(tmp_path)
    assert again.measure("part", "side", 3, work, depends_on=CODE) == first
    assert work.times == 1
    assert again.of("part", "side") == {3: first}
    again.measure("part", "side", 4, work, depends_on=CODE)
    again.measure("part", "other", 3, work, depends_on=CODE)
    assert work.times == 3
    assert Measurements(tmp_path).sides("part") == ["side", "other"]


def test_changed_code_measures_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = Counted()
    Measurements(tmp_path).measure("part", "side", 3, work, depends_on=CODE)
    monkeypatch.setattr(measurements, "source_fingerprint", lambda packages: "other")
    found = Measurements(tmp_path).measure("part", "side", 3, work, depends_on=CODE)
    assert work.times == 2
    assert Measurements(tmp_path).of("part", "side") == {3: found}


def test_fingerprints_follow_sources() -> None:
    assert source_fingerprint(CODE) == source_fingerprint(CODE)
    assert source_fingerprint(CODE) != source_fingerprint(("causal",))
    assert source_fingerprint(("causal",)) != source_fingerprint(("causal", *CODE))


def test_a_torn_last_line_is_dropped_and_a_foreign_file_refused(tmp_path: Path) -> None:
    work = Counted()
    found = Measurements(tmp_path).measure("part", "side", 3, work, depends_on=CODE)
    path = tmp_path / "measurements.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:20])
    assert Measurements(tmp_path).of("part", "side") == {3: found}
    assert path.read_bytes() == whole
    path.write_bytes(b"{}\n")
    with pytest.raises(ConfigurationError, match="line 1 is no measurement"):
        Measurements(tmp_path)


class Model:
    """As little of a model as can be kept."""

    def spec(self) -> dict[str, object]:
        return {"width": 3}

    def weights(self) -> bytes:
        return b"abc"

    @classmethod
    def load(cls, spec: bytes, weights: bytes) -> "Model":
        assert (spec, weights) == (b'{"width": 3}', b"abc")
        return cls()


def test_a_model_is_trained_once(tmp_path: Path) -> None:
    made = []

    def make() -> Model:
        made.append(1)
        return Model()

    for _ in range(2):
        Measurements(tmp_path).model("network", make, Model.load, depends_on=CODE)
    assert made == [1]


def test_spread_is_relative_and_zero_of_one_seed() -> None:
    assert mean_and_spread([2.0, 4.0]) == pytest.approx((3.0, 2**0.5 / 3))
    assert mean_and_spread([2.0]) == (2.0, 0.0)
    assert mean_and_spread([0.0, 0.0]) == (0.0, 0.0)
