//! Powers with a variable base.

use crate::limbs::{Secret, bit_length_vartime, bits_at};
use crate::ring::{Scratch, SquareRing};

/// Digits of 5 bits: the table of 32 elements stays in the first-level cache.
const WINDOW_BITS: usize = 5;

/// `base^exponent` for a secret exponent below 2^`bits`: the sequence of operations and of
/// addresses depends on `bits` only.
pub fn secret_exponent(
    ring: &SquareRing,
    base: &[u64],
    exponent: &[u64],
    bits: usize,
    s: &mut Scratch,
) -> Secret {
    windowed(ring, base, exponent, bits, s, |digit, table, out| {
        ring.kernels().select(out, table, digit);
        true
    })
}

/// `base^exponent` for a public exponent: digits index the table, zero digits are skipped. The
/// base may be secret.
pub fn public_exponent(
    ring: &SquareRing,
    base: &[u64],
    exponent: &[u64],
    s: &mut Scratch,
) -> Secret {
    let bits = bit_length_vartime(exponent);
    windowed(ring, base, exponent, bits, s, |digit, table, out| {
        let width = out.len();
        out.copy_from_slice(&table[digit * width..][..width]);
        digit != 0
    })
}

/// Left-to-right fixed windows; `pick` loads a table entry and says whether to multiply by it.
fn windowed(
    ring: &SquareRing,
    base: &[u64],
    exponent: &[u64],
    bits: usize,
    s: &mut Scratch,
    pick: impl Fn(usize, &[u64], &mut [u64]) -> bool,
) -> Secret {
    let width = 2 * ring.half();
    let mut power = Secret::padded(ring.one(), width);
    if bits == 0 {
        return power;
    }
    let window = if bits <= 64 { 3 } else { WINDOW_BITS };
    let table = small_powers(ring, base, 1 << window, s);
    let digits = bits.div_ceil(window);
    let mut entry = Secret::zeros(width);
    for position in (0..digits).rev() {
        if position + 1 < digits {
            for _ in 0..window {
                ring.square_assign(&mut power, s);
            }
        }
        let digit = bits_at(exponent, position * window, window);
        if pick(digit, &table, &mut entry) {
            ring.mul_assign(&mut power, &entry, s);
        }
    }
    power
}

/// `base^0 .. base^(count - 1)`, one after another.
fn small_powers(ring: &SquareRing, base: &[u64], count: usize, s: &mut Scratch) -> Secret {
    let width = 2 * ring.half();
    let mut table = Secret::zeros(count * width);
    table[..width].copy_from_slice(ring.one());
    for row in 1..count {
        let (done, rest) = table.split_at_mut(row * width);
        let next = &mut rest[..width];
        next.copy_from_slice(&done[(row - 1) * width..]);
        ring.mul_assign(next, base, s);
    }
    table
}
