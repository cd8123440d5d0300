"""Interoperation with the reference library phe, both ways."""

import numpy as np
import phe
import pytest

from acie_native import ints_to_limbs, limbs_to_ints

from .conftest import KeyPair, seeded


@pytest.fixture
def phe_keys(pair: KeyPair) -> tuple[phe.PaillierPublicKey, phe.PaillierPrivateKey]:
    public = phe.PaillierPublicKey(pair.n)
    return public, phe.PaillierPrivateKey(public, pair.p, pair.q)


def test_same_r_gives_the_same_ciphertext(pair: KeyPair, phe_keys) -> None:
    public, _ = phe_keys
    rng = seeded(5)
    values = [0, 1, pair.n - 1, rng.randrange(pair.n)]
    r = [rng.randrange(1, pair.n) for _ in values]
    limbs = pair.public.plaintext_limbs
    got = pair.public.encrypt_with_r(ints_to_limbs(values, limbs), ints_to_limbs(r, limbs))
    want = [public.raw_encrypt(m, r_value=x) for m, x in zip(values, r, strict=True)]
    assert limbs_to_ints(got) == want


def test_phe_decrypts_ours_and_we_decrypt_theirs(pair: KeyPair, phe_keys) -> None:
    public, private = phe_keys
    values = [0, 1, 17, pair.n - 1]
    rows = ints_to_limbs(values, pair.public.plaintext_limbs)
    for context in (pair.public, pair.private):
        ours = limbs_to_ints(context.encrypt(rows))
        assert [private.raw_decrypt(c) for c in ours] == values
    theirs = [public.raw_encrypt(m) for m in values]
    encrypted = ints_to_limbs(theirs, pair.public.ciphertext_limbs)
    assert limbs_to_ints(pair.private.decrypt(encrypted)) == values


def test_arithmetic_matches_phe(pair: KeyPair, phe_keys) -> None:
    public, private = phe_keys
    limbs = pair.public.ciphertext_limbs
    a, b = (phe.EncryptedNumber(public, public.raw_encrypt(m), 0) for m in (1234, 99))
    x, y = (pair.public.load(ints_to_limbs([e.ciphertext(False)], limbs)) for e in (a, b))
    for theirs, ours in [
        (a + b, x.add(y)),
        (a - b, x.subtract(y)),
        (a * 1000, x.scalar_mul(np.array([1000]))),
        (a * -3, x.scalar_mul(np.array([-3]))),
    ]:
        want = private.raw_decrypt(theirs.ciphertext(False))
        assert limbs_to_ints(pair.private.decrypt(ours.store())) == [want]
