"""How many AVX-512 IFMA instructions the eight-lane Paillier operations take.

Belongs here: operation counts of the algorithms in native/README.md.
Does not belong here: the rate of instructions (`acie_native.ifma_rate`), measurements.

A number of h digits of 52 bits stands for eight at once. The counts hold whatever the processor;
divided by its rate they bound what the algorithms can reach on it.
"""

from collections.abc import Callable, Mapping

__all__ = ["multiply_adds"]

_LANES = 8
_DIGIT_BITS = 52
_TILE = 10
_SLACK_BITS = 14
_TABLE_WINDOW_BITS = 8
_SCALAR_BITS, _SCALAR_WINDOW_BITS = 32, 3
_SECRET_WINDOW_BITS = 4


def multiply_adds(operation: str, bits: int) -> float | None:
    """Count the eight-lane multiply-adds of an operation, per ciphertext.

    Parameters
    ----------
    operation
        As the ``crypto`` benchmark names it.
    bits
        Length of n.

    Returns
    -------
    float or None
        Instructions, an eighth of those for eight ciphertexts; None for operations not counted.
    """
    count = _COUNTS.get(operation)
    return None if count is None else count(bits) / _LANES


def _digits(bits: int) -> int:
    """Digits of numbers modulo one of so many bits, a whole number of register tiles."""
    return -(-(bits + _SLACK_BITS) // _DIGIT_BITS // _TILE) * _TILE


def _product(h: int) -> int:
    return 2 * h * h


def _square(h: int) -> int:
    return h * h + h


def _reduction(h: int) -> int:
    return 2 * h * h + h


def _pair_product(h: int) -> int:
    """Count a c, a d and b c of (a, b) (c, d) modulo N^2."""
    return 3 * _product(h) + 2 * _reduction(h)


def _pair_square(h: int) -> int:
    return _square(h) + _product(h) + 2 * _reduction(h)


def _fixed_base_power(h: int, exponent_bits: int) -> int:
    """Count four products and three reductions for two factors; the first two are one each."""
    pairs = -(-exponent_bits // (2 * _TABLE_WINDOW_BITS))
    later = 4 * _product(h) + 3 * _reduction(h)
    return (pairs - 1) * later + _product(h) + 2 * _reduction(h)


def _leave_with_message(h: int) -> int:
    return _product(h) + 2 * _reduction(h)


def _power(h: int, bits: int, window: int) -> int:
    """Count a table, then squares and one product for each later digit."""
    later = -(-bits // window) - 1
    half_table = (1 << (window - 1)) - 1
    squares, products = half_table + later * window, half_table + later
    return squares * _pair_square(h) + products * _pair_product(h)


def _encrypt(bits: int) -> int:
    h = _digits(bits)
    return _fixed_base_power(h, bits // 2) + _leave_with_message(h) + _product(h)


def _encrypt_by_key_holder(bits: int) -> int:
    h = _digits(bits // 2)
    message = 2 * _product(h) + _reduction(h) + _leave_with_message(h)
    # Garner's step: x_q as an integer, into the ring of p^2 and out, a product, q^2 times t.
    enter = 4 * _product(h) + 2 * _reduction(h)
    combine = enter + 2 * _reduction(h) + _pair_product(h) + 2 * _product(h) + _product(2 * h)
    return 2 * (_fixed_base_power(h, bits // 2) + message) + combine


def _decrypt(bits: int) -> int:
    h = _digits(bits // 2)
    enter = 8 * _product(h) + 2 * _reduction(h)
    leave = 2 * _reduction(h) + _product(h) + _reduction(h)
    combine = 3 * _product(h) + _reduction(h)
    return 2 * (enter + _power(h, bits // 2, _SECRET_WINDOW_BITS) + leave) + combine


def _add(bits: int) -> int:
    return _pair_product(_digits(bits))


def _scale(bits: int) -> int:
    return _power(_digits(bits), _SCALAR_BITS, _SCALAR_WINDOW_BITS)


_COUNTS: Mapping[str, Callable[[int], int]] = {
    "encrypt": _encrypt,
    "encrypt by key holder": _encrypt_by_key_holder,
    "decrypt": _decrypt,
    "add": _add,
    "scalar 32 bit": _scale,
}
