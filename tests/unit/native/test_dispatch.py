import dataclasses
import subprocess
import sys

import pytest

import acie_native
from acie_native import PaillierPublicContext, cpu_features

ODD = 2**512 + 1


def test_features_are_frozen_and_consistent() -> None:
    features = cpu_features()
    assert features.isa in features.available
    assert features.available[-1] == "portable"
    with pytest.raises(dataclasses.FrozenInstanceError):
        features.isa = "other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("path", "needs"),
    [
        ("adx", {"bmi2", "adx", "avx2"}),
        ("avx512ifma", {"bmi2", "adx", "avx2", "avx512f", "avx512dq", "avx512ifma"}),
    ],
)
def test_a_path_is_offered_where_the_processor_has_it(path: str, needs: set[str]) -> None:
    features = cpu_features()
    assert (path in features.available) == (needs <= set(features.flags))


@pytest.mark.parametrize("path", cpu_features().available)
def test_environment_chooses_the_path(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACIE_NATIVE_ISA", path)
    assert cpu_features().isa == path
    assert PaillierPublicContext(ODD, base=1, window_bits=1).isa == path


def test_unavailable_path_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACIE_NATIVE_ISA", "vector9000")
    with pytest.raises(ValueError, match="'vector9000' is not available here"):
        cpu_features()
    with pytest.raises(ValueError, match="not available"):
        PaillierPublicContext(ODD)


def test_override_reaches_a_new_process() -> None:
    code = "import acie_native; print(acie_native.cpu_features().isa)"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={"ACIE_NATIVE_ISA": "portable"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "portable"


def test_public_names_are_sorted_and_present() -> None:
    assert list(acie_native.__all__) == sorted(acie_native.__all__)
    assert all(hasattr(acie_native, name) for name in acie_native.__all__)
