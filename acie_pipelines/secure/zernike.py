"""Zernike polynomials on the pixels of a disc.

Belongs here: the polynomials and their moments as weights of an image.
Does not belong here: rounding to integers (`layers`).

F. Zernike, Physica 1, 689 (1934). The moments of an image are those of M. R. Teague, J. Opt. Soc.
Am. 70, 920 (1980): ``A_nm = (n + 1) / pi * sum f V*_nm dA`` with ``V_nm = R_nm(r) exp(i m theta)``
over the unit disc. Their absolute values do not change when the image is turned.
"""

import math

import numpy as np
from numpy.typing import NDArray

from acie_pipelines.errors import ModelError

__all__ = ["moment_weights", "orders", "radial"]


def orders(degree: int) -> tuple[tuple[int, int], ...]:
    """List the pairs ``(n, m)`` with ``0 <= m <= n <= degree`` and even ``n - m``.

    Moments of negative m are the complex conjugates of the others.

    Parameters
    ----------
    degree
        Greatest n.
    """
    return tuple((n, m) for n in range(degree + 1) for m in range(n % 2, n + 1, 2))


def radial(n: int, m: int, radius: NDArray[np.float64]) -> NDArray[np.float64]:
    """Radial polynomial R_nm; 1 at the rim.

    Parameters
    ----------
    n, m
        Degree and frequency, ``0 <= m <= n``, with even difference.
    radius
        Of any shape, 0 to 1.

    Raises
    ------
    ModelError
        If there is no such polynomial.
    """
    if not 0 <= m <= n or (n - m) % 2:
        raise ModelError(
            f"Zernike order ({n}, {m})",
            "does not exist",
            "use 0 <= m <= n, both odd or both even",
        )
    value = np.zeros_like(radius)
    for k in range((n - m) // 2, -1, -1):
        # (n - k)! / (k! ((n + m) / 2 - k)! ((n - m) / 2 - k)!), in exact integers.
        coefficient = (-1) ** k * math.comb(n - k, k) * math.comb(n - 2 * k, (n - m) // 2 - k)
        value += coefficient * radius ** (n - 2 * k)
    return value


def moment_weights(side: int, degree: int) -> NDArray[np.float64]:
    """Weights that give the moments of a square image.

    Parameters
    ----------
    side
        Pixels along a side; the disc touches the edges, pixels whose centre lies outside are left
        out.
    degree
        Greatest n.

    Returns
    -------
    NDArray
        Shape ``(len(orders(degree)), 2, side, side)``: of the real and the imaginary part.
    """
    centres = (2 * np.arange(side) + 1 - side) / side
    x, y = centres, centres[:, None]
    radius = np.hypot(x, y)
    inside = radius <= 1
    area = (2 / side) ** 2
    angle = np.arctan2(y, x)
    weights = []
    for n, m in orders(degree):
        scaled = (n + 1) / math.pi * area * inside * radial(n, m, np.minimum(radius, 1))
        weights.append([scaled * np.cos(m * angle), -scaled * np.sin(m * angle)])
    return np.array(weights)
