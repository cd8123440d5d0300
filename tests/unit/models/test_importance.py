"""Smoothed weights, the tail they come from, and matrices that no factorisation likes."""

import pytest
import torch
from scipy import stats

from acie_pipelines.models.importance import smooth_weights
from acie_pipelines.models.linear_algebra import cholesky, inverse, solve


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.9])
def test_the_shape_of_the_tail_is_found(shape: float) -> None:
    ratio = stats.genpareto(shape, loc=1.0).rvs(size=(8000, 6), random_state=3)
    _, _, found = smooth_weights(torch.log(torch.from_numpy(ratio)))
    assert float(found.mean()) == pytest.approx(shape, abs=0.08)


def test_smoothed_weights_err_less_where_the_proposal_is_too_narrow() -> None:
    generator = torch.Generator().manual_seed(1)
    x = 0.6 * torch.randn(1000, 400, generator=generator, dtype=torch.float64)
    log_ratio = -0.5 * x.square() + 0.5 * (x / 0.6).square()
    smooth, effective, shape = smooth_weights(log_ratio)
    raw = torch.log_softmax(log_ratio, dim=0)
    second = [(torch.exp(each) * x.square()).sum(dim=0) for each in (smooth, raw)]
    errors = [float((each - 1).square().mean()) for each in second]
    assert errors[0] < errors[1]
    assert (effective > 20).all()
    assert float(shape.median()) > 0.3
    torch.testing.assert_close(torch.exp(smooth).sum(dim=0), torch.ones(400, dtype=torch.float64))


def test_equal_and_impossible_weights_stay_equal() -> None:
    log_ratio = torch.zeros(50, 3, dtype=torch.float64)
    log_ratio[:, 1] = -torch.inf
    log_ratio[1:, 2] = -torch.inf
    weights, effective, shape = smooth_weights(log_ratio)
    torch.testing.assert_close(torch.exp(weights[:, 0]), torch.full_like(weights[:, 0], 0.02))
    assert effective[0] == pytest.approx(50)
    assert effective[1] == 0
    assert shape[1] == torch.inf
    assert effective[2] == pytest.approx(1, abs=0.1)
    assert weights[:, :2].isfinite().all()


def test_every_matrix_has_an_answer() -> None:
    generator = torch.Generator().manual_seed(2)
    root = torch.randn(5, 4, 4, generator=generator, dtype=torch.float64)
    good = root @ root.mT
    torch.testing.assert_close(cholesky(good) @ cholesky(good).mT, good)
    bad = good.clone()
    bad[0] = 0
    bad[1] = -bad[1]
    bad[2, 0, 0] = torch.nan
    bad[3] = torch.ones(4, 4)
    factor = cholesky(bad)
    assert (torch.diagonal(factor, dim1=-2, dim2=-1) > 0).all()
    torch.testing.assert_close(factor[3] @ factor[3].mT, bad[3], rtol=0, atol=1e-9)
    torch.testing.assert_close(factor[4], torch.linalg.cholesky(good[4]))
    assert inverse(bad).isfinite().all()
    torch.testing.assert_close(inverse(good) @ good, torch.eye(4).double().expand(5, 4, 4))
    right = torch.ones(5, 4, 1, dtype=torch.float64)
    found = solve(bad, right)
    assert found.isfinite().all()
    torch.testing.assert_close(good[4] @ found[4], right[4])
