"""Prototypes."""

from collections.abc import Callable

import numpy as np
import pytest

from acie_pipelines.secure.retrieval.prototypes import Prototype


def drawn(seed: int, count: int, dimensions: int) -> list[Prototype]:
    rng = np.random.default_rng(seed)
    # Few distinct components, so that equal scores are common.
    vectors = rng.integers(-2, 3, (count, dimensions)).astype(np.int8)
    vectors[rng.random(count) < 0.3] *= 63
    made = []
    for row, vector in enumerate(vectors):
        low = float(rng.uniform(0, 1))
        made.append(
            Prototype(
                key=f"{'Zaé_'[row % 4]}{int(rng.integers(10**6)):06d}-{row}",
                vector=vector,
                survey=str(rng.choice(["SDSS", "unWISE"])),
                band=str(rng.choice(["g", "r"])),
                label=str(rng.choice(["E", "Sb"])),
                redshift=None if row % 3 == 0 else (low, low + float(rng.uniform(0, 0.3))),
                source_key=f"source-{row}",
                source_sha256=f"{row:064x}",
            )
        )
    return made


@pytest.fixture(scope="session")
def draw() -> Callable[[int, int, int], list[Prototype]]:
    """Make prototypes from a seed, a count and a number of dimensions."""
    return drawn
