//! Integers modulo N^2 as pairs (a, b) that stand for a + b N, in Montgomery form.
//!
//! Let R = 2^(64 h) with h the padded limb count of N. Montgomery reduction of T gives r and the
//! multiplier m with T = r R - m N, so m is the part that ordinary reduction modulo N throws
//! away. Keeping it makes a product modulo N^2 out of half-size steps:
//!
//!   (a + b N)(c + d N) = a c + (a d + b c) N           (mod N^2)
//!                      = R (r + s N),  a c = r R - m N,  s R = a d + b c - m  (mod N)
//!
//! which costs 5 h^2 limb products instead of the 8 h^2 of Montgomery multiplication by N^2.
//! A pair with a, b < N is unique, and 1 + m N is simply (1, m).

mod shifted;

use crate::isa::{Isa, Kernels, LIMB_BLOCK};
use crate::limbs::{
    Secret, add_assign, add_limb, double_assign, negated_inverse, sub_into, subtract_if_not_below,
    zeroise,
};

/// The modulus may be a secret prime, so that all that depends on it is overwritten when dropped.
pub struct SquareRing {
    kernels: &'static Kernels,
    half: usize,
    modulus: Secret,
    /// Low limbs and top limb of 2 N.
    twice: (Secret, u64),
    neg_inv: u64,
    /// R + `offset` is the smallest multiple of N that is not below R.
    offset: Secret,
    /// R^1 to R^4 modulo N^2, as plain pairs.
    powers_of_r: [Secret; 4],
}

impl Drop for SquareRing {
    /// The limbs that are no [`Secret`]: -1 / N gives away the lowest of N.
    fn drop(&mut self) {
        for limb in [&mut self.neg_inv, &mut self.twice.1] {
            zeroise(std::slice::from_mut(limb));
        }
    }
}

/// Working memory of one thread for one ring.
pub struct Scratch {
    low: Secret,
    high: Secret,
    cross: Secret,
    multiplier: Secret,
    reduced: Secret,
}

impl SquareRing {
    /// The ring modulo the square of an odd number.
    pub fn new(modulus: &[u64], isa: Isa) -> Self {
        let half = modulus.len().next_multiple_of(LIMB_BLOCK);
        let modulus = Secret::padded(modulus, half);
        let mut low = modulus.clone();
        let top = double_assign(&mut low);
        let mut ring = Self {
            kernels: isa.kernels(),
            half,
            neg_inv: negated_inverse(modulus[0]),
            twice: (low, top),
            offset: Secret::zeros(half),
            powers_of_r: [const { Secret(Vec::new()) }; 4],
            modulus,
        };
        let mut power = Secret::zeros(2 * half);
        power[0] = 1;
        let mut other = power.clone();
        let mut scratch = Secret::zeros(half);
        for exponent in 0..4 {
            for _ in 0..64 * half {
                other.copy_from_slice(&power);
                ring.add_with(&mut power, &other, &mut scratch);
            }
            ring.powers_of_r[exponent] = power.clone();
        }
        let mut offset = Secret::zeros(half);
        sub_into(&mut offset, &ring.modulus, &ring.powers_of_r[0][..half]);
        ring.offset = offset;
        ring
    }

    /// Limbs of N after padding; elements have twice as many.
    pub fn half(&self) -> usize {
        self.half
    }

    pub fn modulus(&self) -> &[u64] {
        &self.modulus
    }

    pub fn kernels(&self) -> &'static Kernels {
        self.kernels
    }

    /// The element 1.
    pub fn one(&self) -> &[u64] {
        &self.powers_of_r[0]
    }

    /// R^`exponent` as a plain pair; the element R^(`exponent` - 1).
    pub fn power_of_r(&self, exponent: usize) -> &[u64] {
        &self.powers_of_r[exponent - 1]
    }

    pub fn scratch(&self) -> Scratch {
        Scratch {
            low: Secret::zeros(2 * self.half),
            high: Secret::zeros(2 * self.half),
            cross: Secret::zeros(2 * self.half),
            multiplier: Secret::zeros(self.half),
            reduced: Secret::zeros(self.half),
        }
    }

    /// `x = x y / R`.
    pub fn mul_assign(&self, x: &mut [u64], y: &[u64], s: &mut Scratch) {
        let (a, b) = x.split_at(self.half);
        let (c, d) = y.split_at(self.half);
        s.low.fill(0);
        self.kernels.mul_acc(&mut s.low, a, c);
        self.reduce_low(s);
        let mut top = self.kernels.mul_acc(&mut s.high, a, d);
        top += self.kernels.mul_acc(&mut s.high, b, c);
        self.reduce_high(s, top);
        self.store(x, s);
    }

    /// `x = x^2 / R`.
    pub fn square_assign(&self, x: &mut [u64], s: &mut Scratch) {
        let (a, b) = x.split_at(self.half);
        self.square_into(a, s);
        self.reduce_low(s);
        s.cross.fill(0);
        self.kernels.mul_acc(&mut s.cross, a, b);
        let mut top = double_assign(&mut s.cross);
        top += add_assign(&mut s.high, &s.cross);
        self.reduce_high(s, top);
        self.store(x, s);
    }

    /// `x = x / R`: from an element to the plain pair.
    pub fn leave(&self, x: &mut [u64], s: &mut Scratch) {
        s.low.fill(0);
        s.low[..self.half].copy_from_slice(&x[..self.half]);
        self.reduce_low(s);
        let carry = add_assign(&mut s.high[..self.half], &x[self.half..]);
        add_limb(&mut s.high[self.half..], carry);
        self.reduce_high(s, 0);
        self.store(x, s);
    }

    /// The pair of `integer` / R, for an integer of `2 half` limbs below N R.
    pub fn enter_over_r(&self, integer: &[u64], out: &mut [u64], s: &mut Scratch) {
        s.low.copy_from_slice(integer);
        self.reduce_low(s);
        self.reduce_high(s, 0);
        self.store(out, s);
    }

    /// The element of an integer of any length.
    pub fn enter(&self, integer: &[u64], out: &mut [u64], s: &mut Scratch) {
        let mut piece = Secret::zeros(2 * self.half);
        let mut term = Secret::zeros(2 * self.half);
        out.fill(0);
        for limbs in integer.chunks(self.half).rev() {
            piece.fill(0);
            piece[..limbs.len()].copy_from_slice(limbs);
            self.enter_over_r(&piece, &mut term, s);
            self.mul_assign(&mut term, self.power_of_r(3), s);
            self.mul_assign(out, self.power_of_r(2), s);
            self.add_assign(out, &term, s);
        }
    }

    /// `x = x + y` for plain pairs or elements.
    pub fn add_assign(&self, x: &mut [u64], y: &[u64], s: &mut Scratch) {
        self.add_with(x, y, &mut s.reduced);
    }

    /// `x = -x`, as an element.
    pub fn negate(&self, x: &mut [u64], s: &mut Scratch) {
        // N^2 - 1 = (N - 1) + (N - 1) N, brought into Montgomery form.
        let mut minus_one = Secret::zeros(2 * self.half);
        for part in minus_one.chunks_mut(self.half) {
            part.copy_from_slice(&self.modulus);
            part[0] -= 1;
        }
        self.mul_assign(&mut minus_one, self.power_of_r(2), s);
        self.mul_assign(x, &minus_one, s);
    }

    /// The integer a + b N of a plain pair.
    pub fn integer(&self, pair: &[u64], out: &mut [u64]) {
        out[..self.half].copy_from_slice(&pair[..self.half]);
        out[self.half..].fill(0);
        self.kernels.mul_acc(out, &pair[self.half..], &self.modulus);
    }

    fn add_with(&self, x: &mut [u64], y: &[u64], scratch: &mut [u64]) {
        let (a, b) = x.split_at_mut(self.half);
        let mut top = add_assign(a, &y[..self.half]);
        let carry = subtract_if_not_below(a, &mut top, &self.modulus, 0, scratch);
        let mut top = add_assign(b, &y[self.half..]);
        top += add_limb(b, carry);
        subtract_if_not_below(b, &mut top, &self.modulus, 0, scratch);
    }

    /// `low = a^2`. Blocks above the diagonal are computed once and doubled.
    fn square_into(&self, a: &[u64], s: &mut Scratch) {
        s.low.fill(0);
        s.cross.fill(0);
        for start in (0..self.half).step_by(LIMB_BLOCK) {
            let end = start + LIMB_BLOCK;
            let block = &a[start..end];
            self.kernels.mul_acc(&mut s.cross[2 * start..2 * end], block, block);
            if end < self.half {
                // Rows before wrote up to limb start + half; this adds above and below it.
                let target = &mut s.low[start + end..end + self.half];
                self.kernels.mul_acc(target, block, &a[end..]);
            }
        }
        double_assign(&mut s.low);
        add_assign(&mut s.low, &s.cross);
    }

    /// Reduce `low`, leave r in its upper half, and start `high` with the multiple of N that
    /// carries -m and the part of r that exceeded N.
    fn reduce_low(&self, s: &mut Scratch) {
        let mut top = self.kernels.redc(&mut s.low, &self.modulus, self.neg_inv, &mut s.multiplier);
        let r = &mut s.low[self.half..];
        let excess = subtract_if_not_below(r, &mut top, &self.modulus, 0, &mut s.reduced);
        let (below, above) = s.high.split_at_mut(self.half);
        let borrow = sub_into(below, &self.offset, &s.multiplier);
        above.fill(0);
        above[0] = 1 + excess - borrow;
    }

    /// Reduce `high` and subtract N up to three times.
    fn reduce_high(&self, s: &mut Scratch, mut top: u64) {
        top += self.kernels.redc(&mut s.high, &self.modulus, self.neg_inv, &mut s.multiplier);
        let quotient = &mut s.high[self.half..];
        let scratch = &mut s.reduced;
        subtract_if_not_below(quotient, &mut top, &self.twice.0, self.twice.1, scratch);
        subtract_if_not_below(quotient, &mut top, &self.modulus, 0, scratch);
    }

    fn store(&self, out: &mut [u64], s: &Scratch) {
        out[..self.half].copy_from_slice(&s.low[self.half..]);
        out[self.half..].copy_from_slice(&s.high[self.half..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa;

    /// Small enough for u128: N of 60 bits, N^2 of 120.
    const N: u64 = 0x0fff_ffff_ffff_fd21;

    fn to_u128(limbs: &[u64]) -> u128 {
        u128::from(limbs[0]) | u128::from(limbs[1]) << 64
    }

    fn mul_mod(mut x: u128, mut y: u128, modulus: u128) -> u128 {
        let mut sum = 0;
        while y > 0 {
            if y & 1 == 1 {
                sum = (sum + x) % modulus;
            }
            x = (x + x) % modulus;
            y >>= 1;
        }
        sum
    }

    #[test]
    fn products_match_u128_on_every_path() {
        let square = u128::from(N) * u128::from(N);
        let values = [0, 1, u128::from(N) - 1, u128::from(N), square - 1, square / 3];
        for isa in isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            let ring = SquareRing::new(&[N], isa);
            let mut s = ring.scratch();
            let enter = |value: u128, s: &mut Scratch| {
                let mut out = vec![0; 2 * ring.half()];
                ring.enter(&[value as u64, (value >> 64) as u64], &mut out, s);
                out
            };
            let leave = |mut x: Vec<u64>, s: &mut Scratch| {
                ring.leave(&mut x, s);
                let mut out = vec![0; 2 * ring.half()];
                ring.integer(&x, &mut out);
                to_u128(&out)
            };
            for x in values {
                for y in values {
                    let mut product = enter(x, &mut s);
                    let other = enter(y, &mut s);
                    ring.mul_assign(&mut product, &other, &mut s);
                    assert_eq!(leave(product, &mut s), mul_mod(x, y, square));
                }
                let mut squared = enter(x, &mut s);
                ring.square_assign(&mut squared, &mut s);
                assert_eq!(leave(squared, &mut s), mul_mod(x, x, square));
                let mut negated = enter(x, &mut s);
                ring.negate(&mut negated, &mut s);
                assert_eq!(leave(negated, &mut s), (square - x) % square);
            }
        }
    }
}
