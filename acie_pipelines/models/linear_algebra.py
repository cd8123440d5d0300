"""Factorisations of many small matrices that answer for every one of them.

Belongs here: what to do with a matrix that rounding or a hopeless guess has made indefinite,
singular or not finite. Does not belong here: what the matrices mean.

One bad matrix of a batch must not cost the answers for the others, so nothing here raises.
"""

from typing import Final

import torch
from torch import Tensor

__all__ = ["cholesky", "inverse", "solve"]

_RELATIVE_FLOOR: Final = 1e-12
_LARGEST: Final = 1e150


def cholesky(matrix: Tensor) -> Tensor:
    """Lower Cholesky factors of symmetric matrices, float64, shape ``(..., k, k)``.

    A matrix that is not positive definite gets the factor of the nearest one whose eigenvalues are
    at least 1e-12 of its largest; one that is not finite, that of the identity.
    """
    symmetric = 0.5 * (matrix + matrix.mT)
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(symmetric)
    bad = (failed > 0) | ~_finite(symmetric) | ~_finite(factor)
    if not bool(bad.any()):
        return factor
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype)
    usable = torch.where(_finite(symmetric[bad])[..., None, None], symmetric[bad], eye)
    scale, turn = torch.linalg.eigh(usable)
    scale = torch.maximum(scale, scale.amax(dim=-1, keepdim=True).clamp_min(1.0) * _RELATIVE_FLOOR)
    # R from a QR decomposition of the square root, so that rounding cannot spoil it again.
    upper = torch.linalg.qr(torch.sqrt(scale)[..., None] * turn.mT, mode="r").R
    sign = torch.where(torch.diagonal(upper, dim1=-2, dim2=-1) < 0, -1.0, 1.0)
    factor = factor.clone()
    factor[bad] = (sign[..., None] * upper).mT.contiguous()
    return factor


def solve(matrix: Tensor, right: Tensor) -> Tensor:
    """Solutions of linear systems; zero where a matrix is singular or not finite.

    Parameters
    ----------
    matrix
        Shape ``(..., k, k)``.
    right
        Shape ``(..., k, m)``.
    """
    found, failed = torch.linalg.solve_ex(matrix, right)
    good = (failed == 0) & _finite(found)
    solution: Tensor = torch.where(good[..., None, None], found, torch.zeros_like(found))
    return solution


def inverse(matrix: Tensor) -> Tensor:
    """Inverses; the pseudo-inverse of a singular matrix, the identity of one that is not finite."""
    found: Tensor
    found, failed = torch.linalg.inv_ex(matrix)
    bad = (failed > 0) | ~_finite(found)
    if not bool(bad.any()):
        return found
    eye = torch.eye(matrix.shape[-1], dtype=matrix.dtype)
    usable = torch.where(_finite(matrix[bad])[..., None, None], matrix[bad], eye)
    found = found.clone()
    found[bad] = torch.linalg.pinv(usable)
    return found


def _finite(matrix: Tensor) -> Tensor:
    """Whether all entries are numbers small enough to be multiplied, shape ``(...)``."""
    finite: Tensor = (matrix.abs() < _LARGEST).flatten(start_dim=-2).all(dim=-1)
    return finite
