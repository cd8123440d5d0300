//! Powers of one fixed base, from a table of base^(j 2^(w i)).
//!
//! An entry is split as a (1 + t N): the factors a multiply modulo N^2 two at a time (see
//! `ring/shifted.rs`), and the corrections t only add up.

use crate::error::Result;
use crate::limbs::{Secret, bits_at};
use crate::parallel;
use crate::ring::{Scratch, SquareRing};

pub struct FixedBase {
    /// For each digit position, 2^`window` pairs (a, t); secret when the ring's modulus is.
    table: Secret,
    window: usize,
    digits: usize,
}

/// Exponents to pass to one `power_batch`: the table rows of one digit position are scanned for
/// all of them while they are in the second-level cache.
pub const POWERS_AT_ONCE: usize = 128;

impl FixedBase {
    /// A table for exponents below 2^`exponent_bits`; `base` and its inverse are elements.
    pub fn new(
        ring: &SquareRing,
        base: &[u64],
        inverse: &[u64],
        exponent_bits: usize,
        window: usize,
    ) -> Result<Self> {
        let width = 2 * ring.half();
        // A position beyond the exponents makes the number even; all ask for its entry 1.
        let digits = exponent_bits.div_ceil(window).next_multiple_of(2);
        let bases = positional_powers(ring, base, digits, window);
        let inverses = positional_powers(ring, inverse, digits, window);
        let row_width = width << window;
        let mut table = Secret::zeros(digits * row_width);
        parallel::for_row_blocks(&mut table, row_width, 0, |first, block| {
            for (i, row) in block.chunks_mut(row_width).enumerate() {
                let at = (first + i) * width..(first + i + 1) * width;
                split_powers(ring, &bases[at.clone()], &inverses[at], row);
            }
            Ok(())
        })?;
        Ok(Self { table, window, digits })
    }

    /// One power per row of `exponents`: a product into the rows of `out`, as elements, and a sum
    /// modulo N into those of `corrections`. Every table entry of a digit is read for every
    /// exponent, so addresses say nothing about exponents.
    pub fn power_batch(
        &self,
        ring: &SquareRing,
        exponents: &[u64],
        exponent_limbs: usize,
        out: &mut [u64],
        corrections: &mut [u64],
        s: &mut Scratch,
    ) {
        let (half, width) = (ring.half(), 2 * ring.half());
        let row_width = width << self.window;
        let mut entries = [Secret::zeros(width), Secret::zeros(width)];
        for digit in (0..self.digits).step_by(2) {
            let rows = &self.table[digit * row_width..][..2 * row_width];
            let results = out.chunks_mut(width).zip(corrections.chunks_mut(half));
            for ((power, correction), exponent) in results.zip(exponents.chunks(exponent_limbs)) {
                let rows = rows.chunks(row_width).zip(digit..);
                for ((row, digit), entry) in rows.zip(&mut entries) {
                    let index = bits_at(exponent, digit * self.window, self.window);
                    ring.kernels().select(entry, row, index);
                    ring.add_assign_mod_n(correction, &entry[half..], s);
                }
                let [x, y] = entries.each_ref().map(|entry| &entry[..half]);
                if digit == 0 {
                    ring.shifted_product(power, x, y, s);
                } else {
                    ring.shifted_multiply(power, x, y, s);
                }
            }
        }
        for power in out.chunks_mut(width) {
            ring.shifted_element(power, s);
        }
    }
}

/// Powers base^0, base^1, ... as pairs (a, t), one after another.
fn split_powers(ring: &SquareRing, base: &[u64], inverse: &[u64], out: &mut [u64]) {
    let (half, width) = (ring.half(), 2 * ring.half());
    let mut s = ring.scratch();
    let mut power = Secret::padded(ring.one(), width);
    let mut unpower = Secret::padded(ring.one(), width);
    let mut product = Secret::zeros(width);
    let one = Secret::padded(&[1], half);
    for entry in out.chunks_mut(width) {
        // t = b / a modulo N, which leaves Montgomery form as it is divided by a.
        let (a, b) = power.split_at(half);
        entry[..half].copy_from_slice(a);
        ring.shifted_product(&mut product, b, &unpower[..half], &mut s);
        let ratio = Secret::padded(&product[..half], half);
        ring.shifted_product(&mut product, &ratio, &one, &mut s);
        entry[half..].copy_from_slice(&product[..half]);
        ring.mul_assign(&mut power, base, &mut s);
        ring.shifted_product(&mut product, &unpower[..half], &inverse[..half], &mut s);
        std::mem::swap(&mut product, &mut unpower);
    }
}

/// Elements base^(2^(w i)) for i below `digits`, one after another.
pub fn positional_powers(ring: &SquareRing, base: &[u64], digits: usize, window: usize) -> Secret {
    let width = 2 * ring.half();
    let mut s = ring.scratch();
    let mut positional = Secret::zeros(digits * width);
    positional[..width].copy_from_slice(base);
    for digit in 1..digits {
        let (done, rest) = positional.split_at_mut(digit * width);
        let next = &mut rest[..width];
        next.copy_from_slice(&done[(digit - 1) * width..]);
        for _ in 0..window {
            ring.square_assign(next, &mut s);
        }
    }
    positional
}
