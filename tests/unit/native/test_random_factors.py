"""Encryption with randomness computed before."""

import numpy as np
import pytest

from acie_native import ints_to_limbs, limbs_to_ints

from .conftest import KeyPair


@pytest.mark.parametrize("count", [0, 1, 7, 8, 19])
@pytest.mark.parametrize("threads", [1, 3])
def test_products_of_factors_and_plaintexts(pair: KeyPair, count: int, threads: int) -> None:
    public = pair.public
    factors = public.random_factors(count, threads=threads)
    values = [(pair.n - 1) // (i + 1) for i in range(count)]
    rows = ints_to_limbs(values, public.plaintext_limbs)
    got = public.encrypt_with_factors(rows, factors, threads=threads)
    known = limbs_to_ints(factors)
    assert len(set(known)) == count
    assert limbs_to_ints(got) == [
        (1 + m * pair.n) * f % pair.square for m, f in zip(values, known, strict=True)
    ]
    assert limbs_to_ints(pair.private.decrypt(got)) == values
    assert not any(limbs_to_ints(pair.private.decrypt(factors)))


def test_operands_are_checked(small_pair: KeyPair) -> None:
    public = small_pair.public
    factors = public.random_factors(2)
    rows = ints_to_limbs([1, 2], public.plaintext_limbs)
    with pytest.raises(ValueError, match="2 rows"):
        public.encrypt_with_factors(rows, factors[:1])
    with pytest.raises(ValueError, match="ciphertext 1 is not below"):
        public.encrypt_with_factors(
            rows, np.concatenate([factors[:1], np.full_like(factors[:1], 2**64 - 1)])
        )
    with pytest.raises(ValueError, match="plaintext 0 is not below"):
        public.encrypt_with_factors(
            ints_to_limbs([small_pair.n, 2], public.plaintext_limbs), factors
        )
