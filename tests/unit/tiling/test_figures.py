"""The histogram shows the samples it was given."""

import numpy as np
import pytest

from acie_pipelines.tiling.figures import histogram_figure


def test_counts_every_finite_sample_of_the_central_range() -> None:
    values = np.concatenate([np.arange(1000.0), [np.nan, np.inf]])
    (axis,) = histogram_figure(values, "flux [nJy]").axes
    heights = sum(patch.get_height() for patch in axis.patches)
    assert heights == pytest.approx(998, abs=1)
    assert axis.get_xlabel() == "flux [nJy]"
    assert axis.lines[0].get_xdata()[0] == pytest.approx(499.5)


@pytest.mark.parametrize("values", [np.full(4, np.nan), np.full(4, 7.0)])
def test_nothing_or_one_value_is_no_error(values: np.ndarray) -> None:
    assert histogram_figure(values, "flux").axes
