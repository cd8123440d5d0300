"""Intervals of draws hold what they claim, however few the draws."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from acie_pipelines.errors import ConfigurationError
from acie_pipelines.models.intervals import central_interval, check_draws

TRUTHS = 40_000


def normal(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator)


def skewed(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return -torch.log1p(-torch.rand(*shape, generator=generator))


def two_peaks(generator: torch.Generator, *shape: int) -> torch.Tensor:
    sign = torch.rand(*shape, generator=generator).round() * 2 - 1
    return torch.randn(*shape, generator=generator) + 5 * sign


@pytest.mark.parametrize("law", [normal, skewed, two_peaks])
@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize("count", [20, 50, 100, 200])
def test_a_further_draw_falls_inside_as_often_as_stated(
    count: int, share: float, law: Callable[..., torch.Tensor]
) -> None:
    generator = torch.Generator().manual_seed(30)
    draws, truth = law(generator, count, TRUTHS), law(generator, TRUTHS)
    low, high = central_interval(draws, share)
    four_sigma = 4 * (share * (1 - share) / TRUTHS) ** 0.5
    inside = ((low <= truth) & (truth <= high)).double().mean()
    assert float(inside) == pytest.approx(share, abs=four_sigma)
    # As often below as above.
    for beyond in (truth < low, truth > high):
        assert float(beyond.double().mean()) == pytest.approx((1 - share) / 2, abs=four_sigma)


def test_the_usual_quantiles_are_too_narrow() -> None:
    generator = torch.Generator().manual_seed(31)
    draws, truth = normal(generator, 100, TRUTHS), normal(generator, TRUTHS)
    low, high = draws.quantile(torch.tensor([0.05, 0.95]), dim=0)
    inside = ((low <= truth) & (truth <= high)).double().mean()
    assert float(inside) == pytest.approx((101 - 2 * 5.95) / 101, abs=0.005)


@given(
    count=st.integers(1, 120),
    share=st.sampled_from([0.0, 0.1, 0.5, 0.683, 0.9, 0.95, 0.99]),
    seed=st.integers(0, 1000),
)
def test_it_is_the_weibull_rule(count: int, share: float, seed: int) -> None:
    draws = torch.randn(
        count, 2, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    if count < round(2 / (1 - share) - 1, 9):
        with pytest.raises(ConfigurationError, match=f"{count} are too few"):
            central_interval(draws, share)
        return
    edges = ((1 - share) / 2, (1 + share) / 2)
    expected = np.quantile(draws.numpy(), edges, axis=0, method="weibull")
    for found, one in zip(central_interval(draws, share), expected, strict=True):
        np.testing.assert_allclose(found.numpy(), one, rtol=1e-9, atol=1e-9)


def test_extremes_of_nineteen_bound_ninety_per_cent() -> None:
    draws = torch.randperm(19, generator=torch.Generator().manual_seed(1)).float()
    assert [float(end) for end in central_interval(draws, 0.9)] == [0.0, 18.0]
    check_draws(19, 0.9)
    with pytest.raises(ConfigurationError, match="18 are too few for 90 % intervals; take 19"):
        check_draws(18, 0.9)


def test_a_draw_that_is_no_number_leaves_no_interval() -> None:
    draws = torch.arange(40.0)[:, None].repeat(1, 2)
    draws[7, 1] = torch.nan
    for end in central_interval(draws, 0.5):
        assert end.isnan().tolist() == [False, True]
