"""How numbers become Paillier plaintexts: fixed point, slots with guard bits, validity bits.

Belongs here: layouts, their sizing, and exact conversion between arrays and integers.
Does not belong here: encryption.

A plaintext holds many slots, least significant first. A slot holds one signed integer plus a bias
of 2^(value_bits - 1), so that it is never negative and sums cannot borrow from a neighbour; the
guard bits above it take the carries. All slots together stay below 2^(key_bits - 1) <= n, so sums
never wrap around the modulus either.

A layout of one slot is unpacked: the plaintext is the integer itself modulo n, without a bias.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from acie_pipelines.errors import CryptoError

__all__ = [
    "DEFAULT_ADDITIONS",
    "MAXIMUM_VALUE_BITS",
    "PackingLayout",
    "choose_fractional_bits",
    "decode_fixed_point",
    "encode_fixed_point",
    "layout_for",
    "pack_bits",
    "rows_for_bits",
    "unpack_bits",
    "unpacked_layout",
    "value_bits_for",
]

# Twelve guard bits: each bit more costs 3 % of the ciphertexts of 16-bit pixels, and longer sums
# can come in parts (`totals`).
DEFAULT_ADDITIONS = 2**12 - 1
MAXIMUM_VALUE_BITS = 62
MAXIMUM_SLOT_BITS = 64

# One quantum is at most noise_rms / 2^6.
_NOISE_RESOLUTION_BITS = 6
# Without noise, values are resolved to 2^-32 of the largest: finer than float32 can.
_NOISELESS_BITS = 32
# Beyond this no float64 but zero has that scale.
_MAXIMUM_FRACTIONAL_BITS = 1100


@dataclass(frozen=True)
class PackingLayout:
    """Layout of the slots of a plaintext.

    Attributes
    ----------
    slot_bits
        Width of a slot, at most 64 if there are several.
    value_bits
        Width of a value in two's complement, at most 62; what is left of the slot guards sums.
    slots_per_plaintext
        Values in one plaintext.
    fractional_bits
        A stored integer k stands for k * 2^-fractional_bits; 0 for integers, may be negative.
    """

    slot_bits: int
    value_bits: int
    slots_per_plaintext: int
    fractional_bits: int

    def __post_init__(self) -> None:
        if not (
            all(type(value) is int for value in vars(self).values())
            and 2 <= self.value_bits <= MAXIMUM_VALUE_BITS
            and self.value_bits < self.slot_bits
            and self.slots_per_plaintext >= 1
            and (self.slot_bits <= MAXIMUM_SLOT_BITS or self.slots_per_plaintext == 1)
            and abs(self.fractional_bits) <= _MAXIMUM_FRACTIONAL_BITS
        ):
            raise CryptoError(
                "packing layout", f"{vars(self)} is not valid", "make it with layout_for"
            )

    @property
    def packed(self) -> bool:
        """Whether values share plaintexts, and so carry a bias."""
        return self.slots_per_plaintext > 1

    @property
    def minimum(self) -> int:
        """Smallest integer a fresh slot can hold."""
        return -(1 << (self.value_bits - 1))

    @property
    def maximum(self) -> int:
        """Largest integer a fresh slot can hold."""
        return (1 << (self.value_bits - 1)) - 1

    @property
    def maximum_weight(self) -> int:
        """Largest sum of absolute weights of values that may meet in one slot."""
        return (1 << (self.slot_bits - self.value_bits)) - 1

    @property
    def quantum(self) -> float:
        """Value of the least significant bit."""
        return math.ldexp(1.0, -self.fractional_bits)

    def rows(self, count: int) -> int:
        """Plaintexts needed for `count` values."""
        return -(-count // self.slots_per_plaintext)

    def check_key(self, key_bits: int) -> None:
        """Refuse a modulus that sums could wrap around.

        Raises
        ------
        CryptoError
            If the slots do not fit below a modulus of this length.
        """
        # Signed integers of an unpacked layout stay below n / 3, which is what phe decodes.
        if self.slots_per_plaintext * self.slot_bits > key_bits - (1 if self.packed else 2):
            raise CryptoError(
                "packing layout",
                f"{self.slots_per_plaintext} slots of {self.slot_bits} bits do not fit a key of "
                f"{key_bits} bits",
                "make it with layout_for for this key",
            )

    def to_json(self) -> dict[str, int]:
        """Fields as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Any) -> "PackingLayout":
        """Read what `to_json` wrote.

        Raises
        ------
        CryptoError
            If it is something else.
        """
        try:
            return cls(**fields)
        except TypeError:
            raise CryptoError(
                "packing layout", "has missing or unknown fields", "materialise the asset again"
            ) from None


def layout_for(
    dtype_or_bits: DTypeLike | int,
    *,
    key_bits: int,
    additions: int = DEFAULT_ADDITIONS,
    fractional_bits: int = 0,
) -> PackingLayout:
    """Size slots for values and the sums to come.

    Parameters
    ----------
    dtype_or_bits
        An integer or boolean dtype, whose whole range is covered, or the width of the values in
        two's complement (see `value_bits_for`).
    key_bits
        Length of the modulus.
    additions
        How many values of weight 1 must fit into a slot when they are summed.
    fractional_bits
        Scale of the values.

    Raises
    ------
    CryptoError
        If the values need more than 62 bits, or values and guard together more than 64.
    """
    value_bits = dtype_or_bits if isinstance(dtype_or_bits, int) else _dtype_bits(dtype_or_bits)
    if additions < 1:
        raise CryptoError("packing layout", "leaves no room for any value", "use additions >= 1")
    slot_bits = value_bits + additions.bit_length()
    if value_bits > MAXIMUM_VALUE_BITS or slot_bits > MAXIMUM_SLOT_BITS:
        raise CryptoError(
            f"values of {value_bits} bits with {additions} additions",
            f"need more than {MAXIMUM_VALUE_BITS} bits, or slots of more than {MAXIMUM_SLOT_BITS}",
            "use a narrower dtype, a coarser scale or fewer additions",
        )
    slots = (key_bits - 1) // slot_bits
    return PackingLayout(slot_bits, value_bits, slots, fractional_bits)


def unpacked_layout(
    *, key_bits: int, value_bits: int = 32, fractional_bits: int = 0
) -> PackingLayout:
    """Lay out one value per ciphertext, with all the rest of the plaintext to guard sums.

    Every index and every product with an array works on such tensors, at the price of a ciphertext
    per value.

    Parameters
    ----------
    key_bits
        Length of the modulus.
    value_bits
        Width of fresh values in two's complement, at most 62.
    fractional_bits
        Scale of the values.

    Raises
    ------
    CryptoError
        If the widths are not valid.
    """
    return PackingLayout(key_bits - 2, value_bits, 1, fractional_bits)


def _dtype_bits(dtype_like: DTypeLike) -> int:
    dtype = np.dtype(dtype_like)
    if dtype.kind == "b":
        return 2
    if dtype.kind not in "iu":
        raise CryptoError(
            f"dtype {dtype}",
            "does not say how many bits its values need",
            "give the bits from value_bits_for and a scale from choose_fractional_bits",
        )
    return dtype.itemsize * 8 + (dtype.kind == "u")


def choose_fractional_bits(noise_rms: float, max_abs: float) -> int:
    """Choose the fixed-point scale of a plane of floats.

    The quantum 2^-f is the largest power of two that is at most ``noise_rms / 64``. Rounding to it
    adds a variance of quantum^2 / 12, less than 0.0021 % of the noise's variance, and so less than
    0.0011 % to its rms. Without noise the quantum is 2^-32 of the largest value.

    The scale is public, and with the layout's `value_bits` it tells the noise and the largest
    magnitude to within a factor of two.

    Parameters
    ----------
    noise_rms
        Standard deviation of the noise, or 0 if there is none.
    max_abs
        Largest absolute value.

    Raises
    ------
    CryptoError
        If the range from quantum to `max_abs` needs more than 62 bits: rounding more coarsely
        would silently drown the signal below one enormous sample.
    """
    if not (0 <= noise_rms < math.inf and 0 <= max_abs < math.inf):
        raise CryptoError(
            "fixed-point scale", "noise or range is not a finite number", "mask invalid samples"
        )
    if noise_rms > 0:
        # noise_rms lies in [2^(e-1), 2^e), so 2^(e-1-6) is the largest power of two that fits.
        fractional_bits = 1 + _NOISE_RESOLUTION_BITS - math.frexp(noise_rms)[1]
    elif max_abs > 0:
        fractional_bits = _NOISELESS_BITS - math.frexp(max_abs)[1]
    else:
        fractional_bits = 0
    if value_bits_for(max_abs, fractional_bits) > MAXIMUM_VALUE_BITS:
        raise CryptoError(
            "fixed-point scale",
            f"the largest sample is 2^{MAXIMUM_VALUE_BITS - 1} times the quantum that the noise "
            "asks for, or more",
            "mark extreme samples as invalid (NaN) in the observation",
        )
    return fractional_bits


def value_bits_for(max_abs: float, fractional_bits: int) -> int:
    """Bits in two's complement of values up to `max_abs` at a scale.

    Parameters
    ----------
    max_abs
        Largest absolute value, finite.
    fractional_bits
        Scale of the values.
    """
    mantissa, exponent = math.frexp(max_abs)
    if exponent + fractional_bits > MAXIMUM_VALUE_BITS:
        return exponent + fractional_bits + 1
    return max(2, round(math.ldexp(mantissa, exponent + fractional_bits)).bit_length() + 1)


def encode_fixed_point(values: NDArray[Any], layout: PackingLayout) -> NDArray[np.int64]:
    """Round values to the layout's scale, half to even.

    Parameters
    ----------
    values
        Integers or flags (for a layout with no fractional bits), or finite floats of up to 64 bits.
    layout
        Scale and range.

    Returns
    -------
    NDArray
        ``round(values * 2^fractional_bits)``, of the same shape. Negative zero becomes zero.

    Raises
    ------
    CryptoError
        If a value is not finite or outside the layout's range, or the dtype is not covered.
    """
    if values.dtype.kind == "f" and values.dtype.itemsize <= 8:
        with np.errstate(over="ignore", under="ignore"):
            scaled = np.rint(np.ldexp(values.astype(np.float64), layout.fractional_bits))
        # Written so that NaN fails; both bounds are exact in float64.
        if not bool(np.all((scaled >= layout.minimum) & (scaled < -layout.minimum))):
            raise _out_of_range(layout)
        return scaled.astype(np.int64)
    if values.dtype.kind not in "iub" or layout.fractional_bits != 0:
        raise CryptoError(
            f"values of dtype {values.dtype}",
            f"cannot be encoded with {layout.fractional_bits} fractional bits",
            "use integers with 0 fractional bits, or float16, float32 or float64",
        )
    if values.size and (int(values.min()) < layout.minimum or int(values.max()) > layout.maximum):
        raise _out_of_range(layout)
    return values.astype(np.int64)


def _out_of_range(layout: PackingLayout) -> CryptoError:
    return CryptoError(
        "values",
        f"are not finite or do not fit {layout.value_bits} bits at a scale of "
        f"2^-{layout.fractional_bits}",
        "mask invalid samples and size the layout for the largest one",
    )


def decode_fixed_point(integers: NDArray[np.int64], layout: PackingLayout) -> NDArray[np.float64]:
    """Give the floats that stored integers stand for.

    Every integer that `encode_fixed_point` made from floats converts exactly. Sums and multiples
    beyond 2^53 are rounded to the nearest float64.

    Parameters
    ----------
    integers
        Stored integers.
    layout
        Their scale.
    """
    with np.errstate(under="ignore"):
        decoded: NDArray[np.float64] = np.ldexp(
            integers.astype(np.float64), -layout.fractional_bits
        )
    return decoded


def rows_for_bits(count: int, key_bits: int) -> int:
    """Plaintexts needed for `count` bits without guard.

    Parameters
    ----------
    count
        Number of bits.
    key_bits
        Length of the modulus.
    """
    return -(-count // _bits_per_plaintext(key_bits))


def _bits_per_plaintext(key_bits: int) -> int:
    # Whole limbs below the modulus: at most 63 bits are given away, and packing is a memory copy.
    return (key_bits - 1) // 64 * 64


def pack_bits(bits: NDArray[np.bool_], *, key_bits: int, limbs: int) -> NDArray[np.uint64]:
    """Pack bits, without room for sums, into plaintexts.

    Parameters
    ----------
    bits
        Flags of any shape, taken in C order.
    key_bits
        Length of the modulus.
    limbs
        Limbs of a plaintext.

    Returns
    -------
    NDArray
        ``uint64[rows, limbs]``, bits least significant first, unused ones zero.
    """
    used = _bits_per_plaintext(key_bits) // 64
    rows = rows_for_bits(bits.size, key_bits)
    packed = np.zeros(rows * used * 8, dtype=np.uint8)
    filled = np.packbits(bits.reshape(-1), bitorder="little")
    packed[: filled.size] = filled
    plaintexts = np.zeros((rows, limbs), dtype=np.uint64)
    plaintexts[:, :used] = packed.view("<u8").reshape(rows, used)
    return plaintexts


def unpack_bits(plaintexts: NDArray[np.uint64], count: int, *, key_bits: int) -> NDArray[np.bool_]:
    """Undo `pack_bits`.

    Parameters
    ----------
    plaintexts
        What `pack_bits` returned.
    count
        Number of bits that went in.
    key_bits
        Length of the modulus.

    Raises
    ------
    CryptoError
        If bits are set that `pack_bits` leaves zero, so these are not packed bits.
    """
    used = _bits_per_plaintext(key_bits) // 64
    words = np.ascontiguousarray(plaintexts[:, :used], dtype="<u8")
    flat = np.unpackbits(words.view(np.uint8).reshape(-1), bitorder="little").view(np.bool_)
    if plaintexts[:, used:].any() or flat[count:].any() or flat.size < count:
        raise CryptoError(
            "decrypted validity bits",
            "are not what was encrypted",
            "check the key and materialise the asset again",
        )
    return flat[:count]
