"""Calls every function of acie_native on small inputs and edges, on every path, and checks it.

Belongs here: deterministic calls that Memcheck gets through in minutes; a call that errs on
purpose. Does not belong here: properties over many inputs (tests/unit/native), how the sanitised
extension is made (run.py).
"""

import sys

import numpy as np

import acie_native as an
from acie_native import _kernels

# Mersenne primes: no search, and of unequal length.
P, Q = 2**521 - 1, 2**607 - 1
N = P * Q
COUNTS = (0, 1, 7, 8, 9)
ENOUGH = 1 << 16


def encrypted_arithmetic(isa: str) -> None:
    """Encrypt, compute and decrypt around the eight rows that a vector holds."""
    public = an.PaillierPublicContext(N, isa=isa, window_bits=4)
    private = an.PaillierPrivateContext(P, Q, isa=isa, base=public.base, window_bits=4)

    def rows(values: list[int]) -> np.ndarray:
        return an.ints_to_limbs(values, public.plaintext_limbs)

    def check(ciphertexts: np.ndarray, expected: list[int]) -> None:
        found = an.limbs_to_ints(private.decrypt(ciphertexts))
        assert found == [value % N for value in expected], (isa, len(expected))

    for count in COUNTS:
        values = [(N - 1) * (i & 1) + i * (1 - 2 * (i & 1)) for i in range(count)]
        m, weights = rows(values), np.arange(count, dtype=np.int64) - 3
        exponents = an.ints_to_limbs(
            [2**public.exponent_bits - 1 - i for i in range(count)],
            -(-public.exponent_bits // 64),
        )
        c = public.encrypt(m)
        check(c, values)
        check(public.encrypt_with_exponents(m, exponents, threads=1), values)
        check(public.encrypt_with_r(m, rows([2 + i for i in range(count)])), values)
        check(public.encrypt_with_factors(m, public.random_factors(count)), values)
        check(private.encrypt(m, threads=3), values)
        check(public.rerandomise(c), values)
        assert public.validate(c).all()
        bad = np.zeros_like(c)
        assert not public.validate(bad).any()
        kept = public.load(c)
        check(kept.add(kept).store(), [2 * v for v in values])
        check(kept.subtract(kept.add(kept)).store(), [-v for v in values])
        check(kept.negate().store(), [-v for v in values])
        check(kept.add_plain(m).store(), [2 * v for v in values])
        products = [int(w) * v for w, v in zip(weights, values, strict=True)]
        check(kept.scalar_mul(weights).store(), products)
        check(kept.take(np.arange(count)[::-1].copy()).store(), values[::-1])
        both = an.CipherArray.concatenate([kept, kept])
        check(both.store(threads=2), values * 2)
        if count:
            check(kept.sum(count).store(), [sum(values)])
            matrix = np.stack([weights, -weights, weights * 100])
            check(kept.matmul(matrix).store(), [sum(products), -sum(products), 100 * sum(products)])


def hashes(isa: str) -> None:
    """Digest around the block size, in pieces and from copies."""
    data = bytes(range(256))
    for kind in (an.Streebog256, an.Streebog512):
        for size in (0, 1, 63, 64, 65, 255):
            hashed = kind(isa=isa)
            hashed.update(data[: size // 2])
            hashed.copy().update(data)
            hashed.update(data[size // 2 : size])
            assert hashed.digest() == kind(data[:size], isa="portable").digest()


def statistics(isa: str) -> None:
    """Take statistics of every pixel type, of odd lengths, with and without a mask."""
    for dtype in ("f4", "f8", "u1", "i2", "u2", "i4", "u4", "i8"):
        for count in (0, 1, 7, 8, 9, 63, 65, 1023):
            pixels = (np.arange(count) * 37 % 101).astype(dtype).reshape(1, count)
            valid = np.arange(count).reshape(1, count) % 3 > 0
            for mask in (None, valid):
                kept = pixels if mask is None else pixels[mask]
                found = an.tile_statistics(pixels, valid=mask, isa=isa)
                assert found.count == kept.size
                if kept.size:
                    assert abs(found.mean - kept.astype(float).mean()) < 1e-9
                    assert np.isfinite(found.background_rms)


def slots(isa: str) -> None:
    """Pack and unpack rows that end in the middle of a plaintext."""
    for slot_bits, value_bits, per_row, limbs in ((20, 16, 3, 1), (33, 20, 7, 4), (64, 63, 3, 3)):
        for count in (0, 1, per_row - 1, per_row, 8 * per_row + 1):
            half = 1 << (value_bits - 1)
            values = np.array([(-1) ** i * (half - 1 - i) for i in range(count)], dtype=np.int64)
            layout = {
                "slot_bits": slot_bits,
                "value_bits": value_bits,
                "slots_per_plaintext": per_row,
            }
            packed = an.pack_slots(values, limbs=limbs, isa=isa, **layout)
            assert np.array_equal(an.unpack_slots(packed, count, isa=isa, **layout), values)


def graphs() -> None:
    """Ask every question of a graph with a back-door and a front-door set."""
    # 0 -> 1 -> 2 -> 3 <- 0
    dag = an.CausalDag(4, np.array([[0, 1], [1, 2], [2, 3], [0, 3]]))
    assert list(dag.topological_order()) == [0, 1, 2, 3]
    assert dag.ancestors([2]).sum() and dag.descendants([1]).sum()
    assert dag.d_separated([1], [3], [0, 2])
    assert not dag.d_separated_each([([1], [3], [2])], threads=2)[0]
    assert dag.is_back_door_set([1], [3], [0]) and dag.is_front_door_set([1], [3], [2])
    assert list(dag.back_door_set([1], [3])) == [0]
    assert list(dag.front_door_set([1], [3])) == [2]
    assert not an.CausalDag(0, np.empty((0, 2), dtype=np.int64)).topological_order().size
    try:
        an.CausalDag(3, np.array([[0, 1], [1, 2], [2, 0]]))
    except an.CycleError as error:
        assert len(error.nodes) == 3
    else:
        raise AssertionError("a cycle was accepted")


def samples(isa: str) -> None:
    """Take intervals of point batches and the entropy of a distribution."""
    for count in (0, 1, 3, 4, 5, 9):
        events = np.arange(4.0 * count).reshape(count, 4)
        found = an.minkowski_interval(events, events[::-1].copy(), isa=isa)
        assert found.shape == (count,)
        assert np.isfinite(found).all()
    points = np.random.default_rng(1).normal(size=(65, 3)).astype(np.float32)
    assert np.isfinite(an.distribution_entropy(points).nats)


def read_beyond_the_end() -> None:
    """Read one pixel too many: the control that the sanitiser must report."""
    pixels = np.zeros(ENOUGH, dtype=np.uint8)
    _kernels.tile_statistics("u1", pixels, None, ENOUGH + 1, 3.0, 5, "portable")


if __name__ == "__main__":
    if sys.argv[1:] == ["control"]:
        read_beyond_the_end()
    else:
        for path in an.cpu_features().available:
            for work in (encrypted_arithmetic, hashes, statistics, slots, samples):
                work(path)
                sys.stdout.write(f"ok {path} {work.__name__}\n")
        graphs()
        sys.stdout.write("ok graphs\n")
