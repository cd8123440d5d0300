"""Central intervals of draws, as wide as few draws need.

Belongs here: the one rule by which draws become an interval. Does not belong here: who is asked how
often (`acie_pipelines.evaluation.spectral_measures`).
"""

import math
from typing import Final

import torch
from torch import Tensor

from acie_pipelines.errors import ConfigurationError

__all__ = ["central_interval", "check_draws"]

# (1 - 0.9) / 2 is a little less than 0.05; what is smaller than this is such rounding.
_DIGITS: Final = 9


def check_draws(count: int, share: float) -> None:
    """Refuse too few draws, before they are made.

    Parameters
    ----------
    count
        Draws.
    share
        Probability inside an interval, less than 1.

    Raises
    ------
    ConfigurationError
        If even the extremes of so many draws hold less than the share.
    """
    fewest = math.ceil(round(2 / (1 - share) - 1, _DIGITS))
    if count < fewest:
        raise ConfigurationError(
            "draws",
            f"{count} are too few for {100 * share:g} % intervals",
            f"take {fewest} or more",
        )


def central_interval(draws: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Interval that a further draw falls into with a given probability, as often on either side.

    Parameters
    ----------
    draws
        Exchangeable, shape ``(draws, ...)``.
    share
        Probability inside, such as 0.9.

    Returns
    -------
    tuple[Tensor, Tensor]
        Lower and upper end, shape ``(...)``; NaN where a draw is NaN.

    Raises
    ------
    ConfigurationError
        If there are too few draws; see `check_draws`.

    Notes
    -----
    Between the k-th of d ordered draws from either end the next one falls with probability
    (d + 1 - 2 k) / (d + 1), whatever their distribution: the Weibull plotting positions, type 6 of
    Hyndman & Fan 1996, The American Statistician 50, 361; a k between whole numbers is
    interpolated. Type 7, the usual one, is too narrow: of 100 draws its 90 % hold 88 %.
    """
    count = len(draws)
    check_draws(count, share)
    position = round((1 - share) / 2 * (count + 1), _DIGITS)
    whole = int(position)
    part = position - whole
    # Only the tails are ordered: sorting all draws of many spectra takes three times their memory.
    needed = whole + (part > 0)
    smallest = draws.topk(needed, dim=0, largest=False).values
    largest = draws.topk(needed, dim=0).values
    low = smallest[whole - 1].lerp(smallest[-1], part)
    high = largest[whole - 1].lerp(largest[-1], part)
    unknown = largest[0].isnan()
    return low.masked_fill(unknown, torch.nan), high.masked_fill(unknown, torch.nan)
