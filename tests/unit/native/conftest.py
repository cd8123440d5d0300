import random
from dataclasses import dataclass

import gmpy2
import pytest

import acie_native
from acie_native import PaillierPrivateContext, PaillierPublicContext


def seeded(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - repeatable inputs, not secrets


def prime_of(bits: int, rng: random.Random) -> int:
    # The two top bits are set, so that a product of two has full length.
    while True:
        candidate = int(gmpy2.next_prime(rng.getrandbits(bits) | 3 << (bits - 2)))
        if candidate.bit_length() == bits:
            return candidate


@dataclass(frozen=True)
class KeyPair:
    p: int
    q: int
    n: int
    public: PaillierPublicContext
    private: PaillierPrivateContext

    @property
    def square(self) -> int:
        return self.n**2


def make_pair(p_bits: int, q_bits: int, isa: str) -> KeyPair:
    rng = seeded(p_bits * 10_000 + q_bits)
    p, q = prime_of(p_bits, rng), prime_of(q_bits, rng)
    public = PaillierPublicContext(p * q, isa=isa, window_bits=4)
    private = PaillierPrivateContext(p, q, isa=isa, base=public.base, window_bits=4)
    return KeyPair(p, q, p * q, public, private)


@pytest.fixture(scope="session", params=acie_native.cpu_features().available)
def isa(request: pytest.FixtureRequest) -> str:
    return request.param


# Full limbs, limbs that need padding to a block, a modulus that ends inside a limb, and primes of
# unequal size in both orders.
@pytest.fixture(
    scope="session",
    params=[(256, 256), (512, 512), (320, 320), (300, 301), (256, 384), (520, 300)],
    ids=lambda sizes: f"{sizes[0]}+{sizes[1]}",
)
def pair(request: pytest.FixtureRequest, isa: str) -> KeyPair:
    return make_pair(*request.param, isa)


@pytest.fixture(scope="session")
def small_pair(isa: str) -> KeyPair:
    return make_pair(256, 256, isa)
