"""Parameters that both Paillier contexts take, and their defaults.

Belongs here: checks of a context's arguments.
Does not belong here: operations, or checks of arrays (`_arrays`).
"""

from acie_native._arrays import Limbs, ints_to_limbs

__all__ = ["base_limbs", "checked_exponent_bits", "checked_modulus", "checked_window"]

SMALLEST_MODULUS_BITS = 512
# The path with vectors of eight scans a table row for all of them, so that longer rows pay.
DEFAULT_WINDOW_BITS = {"avx512ifma": 8}
OTHER_DEFAULT_WINDOW_BITS = 6
LARGEST_WINDOW_BITS = 10


def checked_modulus(n: int) -> int:
    """Return the modulus if it is odd and large enough, else raise ValueError."""
    if n % 2 == 0 or n.bit_length() < SMALLEST_MODULUS_BITS:
        raise ValueError(
            f"n must be odd and have at least {SMALLEST_MODULUS_BITS} bits, "
            f"got {n.bit_length()} bits"
        )
    return n


def checked_window(window_bits: int | None, isa: str) -> int:
    """Return the window: what suits the path unless given."""
    if window_bits is None:
        return DEFAULT_WINDOW_BITS.get(isa, OTHER_DEFAULT_WINDOW_BITS)
    if not 1 <= window_bits <= LARGEST_WINDOW_BITS:
        raise ValueError(f"window_bits must be 1 to {LARGEST_WINDOW_BITS}, got {window_bits}")
    return window_bits


def checked_exponent_bits(exponent_bits: int | None, n: int) -> int:
    """Return the exponent size: half the modulus unless given."""
    half = -(-n.bit_length() // 2)
    if exponent_bits is None:
        return half
    if not half <= exponent_bits <= n.bit_length():
        raise ValueError(
            f"exponent_bits must be {half} to {n.bit_length()} for this n, got {exponent_bits}"
        )
    return exponent_bits


def base_limbs(base: int | None, n: int, limbs: int) -> Limbs | None:
    """Return the limbs of a given base."""
    if base is None:
        return None
    if not 0 < base < n * n:
        raise ValueError("base must lie between 0 and n squared")
    return ints_to_limbs([base], limbs).reshape(-1)
