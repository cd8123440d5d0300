//! Pairs (A, B) that stand for A R - B N: the form in which Montgomery reduction leaves the product
//! of two halves.
//!
//! T = r R - m N is the pair (r, m) at once, without the second reduction that an element (a, b)
//! costs. So the product of two factors takes one product and one reduction, and multiplying by it
//!
//!   (A R - B N)(r R - m N) = R^2 (A' R - B' N)          (mod N^2)
//!   A r = A' R - m' N,  B' = (B r + A m) / R + m'       (mod N)
//!
//! three and two: seven half-size steps for two factors, where one at a time takes four each.
//! A is below N and B below R.

use super::{Scratch, SquareRing};
use crate::isa::Kernels;
use crate::limbs::{Secret, add_assign, mask, sub_into, subtract_if_not_below};

impl SquareRing {
    /// `out` stands for x y, of two halves below N; its first half is x y / R modulo N.
    pub fn shifted_product(&self, out: &mut [u64], x: &[u64], y: &[u64], s: &mut Scratch) {
        let (first, second) = out.split_at_mut(self.half);
        product(self.kernels, &mut s.low, x, y);
        self.reduce_shifted(&mut s.low, &mut s.multiplier, &mut s.reduced);
        first.copy_from_slice(&s.low[self.half..]);
        second.copy_from_slice(&s.multiplier);
    }

    /// `power` = `power` x y / R^2, for x and y of one half below N.
    pub fn shifted_multiply(&self, power: &mut [u64], x: &[u64], y: &[u64], s: &mut Scratch) {
        let (first, second) = power.split_at_mut(self.half);
        product(self.kernels, &mut s.low, x, y);
        self.reduce_shifted(&mut s.low, &mut s.multiplier, &mut s.reduced);
        let r = &s.low[self.half..];
        product(self.kernels, &mut s.high, second, r);
        let mut top = self.kernels.mul_acc(&mut s.high, first, &s.multiplier);
        product(self.kernels, &mut s.cross, first, r);
        self.reduce_shifted(&mut s.cross, &mut s.multiplier, &mut s.reduced);
        first.copy_from_slice(&s.cross[self.half..]);
        top += add_assign(&mut s.high[self.half..], &s.multiplier);
        // The quotient is below 3 N + R, so what is left is below R.
        self.reduce_high(s, top);
        second.copy_from_slice(&s.high[self.half..]);
    }

    /// `power` = `power` / R, as an element.
    pub fn shifted_element(&self, power: &mut [u64], s: &mut Scratch) {
        let second = &mut power[self.half..];
        s.low.fill(0);
        s.low[..self.half].copy_from_slice(second);
        self.reduce_shifted(&mut s.low, &mut s.multiplier, &mut s.reduced);
        sub_into(second, &self.modulus, &s.low[self.half..]);
        subtract_if_not_below(second, &mut 0, &self.modulus, 0, &mut s.reduced);
    }

    /// `x = x + y` modulo N, of halves below N.
    pub fn add_assign_mod_n(&self, x: &mut [u64], y: &[u64], s: &mut Scratch) {
        let mut top = add_assign(x, y);
        subtract_if_not_below(x, &mut top, &self.modulus, 0, &mut s.reduced);
    }

    /// `x = x (1 + t N) / R`: from an element to a plain pair.
    pub fn leave_with_factor(&self, x: &mut [u64], t: &[u64], s: &mut Scratch) {
        let mut factor = Secret::zeros(2 * self.half);
        factor[0] = 1;
        factor[self.half..][..t.len()].copy_from_slice(t);
        self.mul_assign(x, &factor, s);
    }

    /// Of T below N R, leave r below N in the upper half, and m below R with T = r R - m N.
    fn reduce_shifted(&self, t: &mut [u64], m: &mut [u64], scratch: &mut [u64]) {
        let mut top = self.kernels.redc(t, &self.modulus, self.neg_inv, m);
        let r = &mut t[self.half..];
        let excess = mask(subtract_if_not_below(r, &mut top, &self.modulus, 0, scratch));
        // What r exceeded N by is an R less in m, modulo N: m + N - R, which is not negative
        // because (T + m N) / R was not below N.
        for (kept, &n) in scratch.iter_mut().zip(self.modulus.iter()) {
            *kept = n & excess;
        }
        add_assign(m, scratch);
    }
}

fn product(kernels: &Kernels, out: &mut [u64], x: &[u64], y: &[u64]) {
    out.fill(0);
    kernels.mul_acc(out, x, y);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa;
    use crate::limbs::{padded, sub_assign};

    /// Powers of factors two at a time, against products of pairs one at a time.
    fn compare(modulus: &[u64], isa: isa::Isa) {
        let ring = SquareRing::new(modulus, isa);
        let half = ring.half();
        let mut s = ring.scratch();
        let below = |subtrahend: u64| {
            let mut value = ring.modulus().to_vec();
            sub_assign(&mut value, &padded(&[subtrahend], half));
            value
        };
        let mut middle = ring.modulus().to_vec();
        middle.iter_mut().step_by(2).for_each(|limb| *limb = 0);
        let values = [below(1), below(1), below(2), middle, padded(&[9], half), below(1), below(3)];
        for zero in [None, Some(0), Some(5)] {
            let factor = |i: usize| {
                if zero == Some(i) { vec![0; half] } else { values[i % values.len()].clone() }
            };
            let pair = |half_value: Vec<u64>| padded(&half_value, 2 * half);
            let mut power = vec![0; 2 * half];
            ring.shifted_product(&mut power, &factor(0), &factor(1), &mut s);
            let mut expected = pair(factor(0));
            ring.mul_assign(&mut expected, &pair(factor(1)), &mut s);
            for turn in 0..20 {
                let mut element = power.clone();
                ring.shifted_element(&mut element, &mut s);
                assert_eq!(element, expected);
                let (x, y) = (factor(2 * turn + 2), factor(2 * turn + 3));
                ring.shifted_multiply(&mut power, &x, &y, &mut s);
                ring.mul_assign(&mut expected, &pair(x), &mut s);
                ring.mul_assign(&mut expected, &pair(y), &mut s);
            }
        }
    }

    #[test]
    fn two_factors_at_a_time_are_one_and_another() {
        for isa in isa::ALL.into_iter().filter(|isa| isa.is_available()) {
            for bits in [64, 65, 511, 512, 1000, 1024] {
                let limbs = usize::div_ceil(bits, 64);
                let mut ones = vec![u64::MAX; limbs];
                ones[limbs - 1] >>= 64 * limbs - bits;
                let mut sparse = vec![0; limbs];
                sparse[limbs - 1] = 1 << ((bits - 1) % 64);
                sparse[0] |= 1;
                compare(&ones, isa);
                compare(&sparse, isa);
            }
        }
    }
}
