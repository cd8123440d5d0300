"""Random numbers addressed by seed, stream and row.

Belongs here: draws whose row i is the same whatever rows are drawn with it. Does not belong here:
what the draws mean.
"""

from typing import Final

import numpy as np
import torch
from torch import Tensor

__all__ = ["uniforms"]

_WORDS_PER_COUNTER: Final = 4
_TINY: Final = 2.0**-54


def uniforms(seed: int, stream: int, start: int, stop: int, columns: int) -> Tensor:
    """Draw rows ``start`` to ``stop`` of an endless table of uniform numbers.

    Parameters
    ----------
    seed
        Of the whole data set, not negative.
    stream
        Number of the table; tables are independent.
    start, stop
        Rows to draw.
    columns
        Width of the table.

    Returns
    -------
    Tensor
        Strictly between 0 and 1, float64, shape ``(stop - start, columns)``.

    Notes
    -----
    Philox is a counter-based generator (Salmon et al. 2011, doi:10.1145/2063384.2063405): a row is
    reached by setting the counter.
    """
    per_row = -(-columns // _WORDS_PER_COUNTER)
    key = np.random.SeedSequence([seed, stream]).generate_state(2, np.uint64)
    generator = np.random.Generator(np.random.Philox(key=key).advance(start * per_row))
    table = generator.random((stop - start, per_row * _WORDS_PER_COUNTER))[:, :columns]
    return torch.from_numpy(np.clip(table, _TINY, 1 - 2 * _TINY))
