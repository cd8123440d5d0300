import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acie_native import ints_to_limbs, limbs_to_ints


@given(st.lists(st.integers(0, 2**256 - 1), max_size=8))
def test_round_trip(values: list[int]) -> None:
    limbs = ints_to_limbs(values, 4)
    assert limbs.shape == (len(values), 4)
    assert limbs.dtype == np.uint64
    assert limbs_to_ints(limbs) == values


def test_order_is_little_endian() -> None:
    assert ints_to_limbs([1 + (2 << 64)], 3).tolist() == [[1, 2, 0]]


def test_views_are_read_by_value() -> None:
    rows = ints_to_limbs([1, 2, 3, 4], 2)
    assert limbs_to_ints(rows[::2]) == [1, 3]


@pytest.mark.parametrize("value", [-1, 2**128])
def test_values_that_do_not_fit_are_refused(value: int) -> None:
    with pytest.raises(ValueError, match="value 1 is negative or wider than 2 limbs"):
        ints_to_limbs([0, value], 2)


def test_wrong_arrays_are_refused() -> None:
    with pytest.raises(ValueError, match="limbs must be at least 1"):
        ints_to_limbs([], 0)
    with pytest.raises(ValueError, match="expected uint64"):
        limbs_to_ints(np.zeros((2, 2)))
