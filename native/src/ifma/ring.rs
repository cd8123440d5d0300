//! Integers modulo N^2 as pairs (a, b) that stand for a + b N, eight at once.
//!
//! The arithmetic is that of [`crate::ring`] at R = 2^(52 d) for d digits, without subtractions:
//! R exceeds N by [`SLACK_BITS`], so results of products stay below 2 N and feed further products
//! as they are. Only `write` reduces, because only there does the representation show.

use core::arch::x86_64::{__m512i, _mm512_mask_mov_epi64, _mm512_movepi64_mask};

use super::columns::{
    Doubled, Minus, Modulus, Pieces, Plus, Product, Square, TILE, add, broadcast, carried,
    carry_of, digit_of, load, reduce, store, sub, zero,
};
use super::lanes::{Converter, DIGIT_BITS, DIGIT_MASK, Lane, Lanes};
use crate::limbs::{Secret, bit_length_vartime, negated_inverse};
use crate::ring::SquareRing;

/// Room above N for unreduced values and for the sum of a whole table's corrections.
const SLACK_BITS: usize = 14;
/// Column sums fit a signed 64-bit integer, and the corrections of a table for exponents of this
/// size fit the room above N.
pub const LARGEST_MODULUS_BITS: usize = 8192;

pub struct LaneRing {
    digits: usize,
    /// Limbs of N as rows have them.
    limbs: usize,
    modulus: Lanes,
    neg_inv: Lanes,
    /// R^1 to R^4 modulo N^2 as plain pairs.
    powers_of_r: [Lanes; 4],
}

/// Working memory of one thread.
pub struct LaneScratch {
    pub first: Lanes,
    pub second: Lanes,
    pub wide: Lanes,
    pub converter: Converter,
}

impl LaneRing {
    /// `None` for a modulus beyond the sizes that column sums allow.
    pub fn new(ring: &SquareRing) -> Option<Self> {
        let bits = bit_length_vartime(ring.modulus());
        if bits > LARGEST_MODULUS_BITS {
            return None;
        }
        let digits = (bits + SLACK_BITS).div_ceil(DIGIT_BITS).next_multiple_of(TILE);
        let half = ring.half();
        let mut converter = Converter::new();
        let mut modulus = Lanes::zeros(digits);
        converter.read_shared(ring.modulus(), &mut modulus);
        let mut neg_inv = Lanes::zeros(1);
        neg_inv[0] = Lane([negated_inverse(ring.modulus()[0]) & DIGIT_MASK; 8]);

        let mut s = ring.scratch();
        let mut power = Secret::zeros(2 * half);
        power[0] = 1;
        let powers_of_r = [(); 4].map(|()| {
            for _ in 0..digits * DIGIT_BITS {
                let other = power.clone();
                ring.add_assign(&mut power, &other, &mut s);
            }
            let mut pair = Lanes::zeros(2 * digits);
            converter.read_shared(&power[..half], &mut pair[..digits]);
            converter.read_shared(&power[half..], &mut pair[digits..]);
            pair
        });
        Some(Self { digits, limbs: bits.div_ceil(64), modulus, neg_inv, powers_of_r })
    }

    pub fn digits(&self) -> usize {
        self.digits
    }

    pub fn limbs(&self) -> usize {
        self.limbs
    }

    /// The element 1.
    pub fn one(&self) -> &[Lane] {
        &self.powers_of_r[0]
    }

    /// R^`exponent` as a plain pair; the element R^(`exponent` - 1).
    pub fn power_of_r(&self, exponent: usize) -> &[Lane] {
        &self.powers_of_r[exponent - 1]
    }

    pub fn element(&self) -> Lanes {
        Lanes::zeros(2 * self.digits)
    }

    pub fn scratch(&self) -> LaneScratch {
        LaneScratch {
            first: Lanes::zeros(self.digits),
            second: Lanes::zeros(self.digits),
            wide: Lanes::zeros(2 * self.digits),
            converter: Converter::new(),
        }
    }

    #[inline]
    pub fn modulo(&self) -> Modulus<'_> {
        Modulus { digits: &self.modulus, neg_inv: &self.neg_inv[0] }
    }

    /// `out = x y / R`.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub fn mul(&self, out: &mut [Lane], x: &[Lane], y: &[Lane], s: &mut LaneScratch) {
        let n = self.modulo();
        let (a, b) = x.split_at(self.digits);
        let (c, d) = y.split_at(self.digits);
        let (low, high) = out.split_at_mut(self.digits);
        reduce(n, &mut s.first, low, Product(a, c));
        let m = &*s.first;
        reduce(n, &mut s.second, high, (Minus(m), (Product(a, d), Product(b, c))));
    }

    /// `out = x y / R` modulo N only, on halves.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub fn mul_mod_n(&self, out: &mut [Lane], x: &[Lane], y: &[Lane], s: &mut LaneScratch) {
        reduce(self.modulo(), &mut s.first, out, Product(x, y));
    }

    /// `out = x / R` modulo N only, on halves.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub fn leave_mod_n(&self, out: &mut [Lane], x: &[Lane], s: &mut LaneScratch) {
        reduce(self.modulo(), &mut s.first, out, Plus(x));
    }

    /// `out = x^2 / R`.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub fn square(&self, out: &mut [Lane], x: &[Lane], s: &mut LaneScratch) {
        let n = self.modulo();
        let (a, b) = x.split_at(self.digits);
        let (low, high) = out.split_at_mut(self.digits);
        reduce(n, &mut s.first, low, Square(a));
        let m = &*s.first;
        reduce(n, &mut s.second, high, (Doubled(Product(a, b)), Minus(m)));
    }

    /// `out = x (1, t)`: an element times 1 + t N is a plain pair. t is any half.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub fn leave_with_factor(&self, out: &mut [Lane], x: &[Lane], t: &[Lane], s: &mut LaneScratch) {
        let n = self.modulo();
        let (a, b) = x.split_at(self.digits);
        let (low, high) = out.split_at_mut(self.digits);
        reduce(n, &mut s.first, low, Plus(a));
        let m = &*s.first;
        reduce(n, &mut s.second, high, ((Plus(b), Minus(m)), Product(a, t)));
    }

    /// `out = x / R`: from an element to a plain pair.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub fn leave(&self, out: &mut [Lane], x: &[Lane], s: &mut LaneScratch) {
        let n = self.modulo();
        let (a, b) = x.split_at(self.digits);
        let (low, high) = out.split_at_mut(self.digits);
        reduce(n, &mut s.first, low, Plus(a));
        let m = &*s.first;
        reduce(n, &mut s.second, high, (Plus(b), Minus(m)));
    }

    /// `x = x + y`, of values and in digits that stay small enough for a few additions.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub fn add_assign(&self, x: &mut [Lane], y: &[Lane]) {
        for (x, y) in x.chunks_exact_mut(self.digits).zip(y.chunks_exact(self.digits)) {
            add_digits(x, y, zero());
        }
    }

    /// `x = c - x` for a plain pair or an element below (4 N, 4 N), with c = 0 modulo N^2.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub fn negate(&self, x: &mut [Lane]) {
        // 4 N + (4 N - 4) N = 4 N^2; the second half may dip below 0 by little, so take 8 N - 4.
        let (low, high) = x.split_at_mut(self.digits);
        subtract_from_multiple(low, &self.modulus, 4, 0);
        subtract_from_multiple(high, &self.modulus, 8, 4);
    }

    /// Factors for `enter` that take the pieces of an integer of `digits` digits to
    /// `factor` times the integer, an element.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub fn entry_factors(&self, factor: &[Lane], digits: usize, s: &mut LaneScratch) -> Vec<Lanes> {
        let mut factors = Vec::new();
        let mut next = self.element();
        self.mul(&mut next, factor, self.power_of_r(2), s);
        for _ in 0..digits.div_ceil(self.digits) {
            let mut following = self.element();
            self.mul(&mut following, &next, self.power_of_r(2), s);
            factors.push(std::mem::replace(&mut next, following));
        }
        factors
    }

    /// An element of an integer of any length: the sum of its pieces times their factors.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub fn enter(
        &self,
        out: &mut [Lane],
        integer: &[Lane],
        factors: &[Lanes],
        s: &mut LaneScratch,
    ) {
        let n = self.modulo();
        let (low, high) = out.split_at_mut(self.digits);
        let digits = self.digits;
        let pieces = |start| Pieces { integer, factors, start, digits };
        reduce(n, &mut s.first, low, pieces(0));
        let m = &*s.first;
        reduce(n, &mut s.second, high, (Minus(m), pieces(digits)));
    }

    /// As `enter`, modulo N only, into one half.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub fn enter_mod_n(
        &self,
        out: &mut [Lane],
        integer: &[Lane],
        factors: &[Lanes],
        s: &mut LaneScratch,
    ) {
        let pieces = Pieces { integer, factors, start: 0, digits: self.digits };
        reduce(self.modulo(), &mut s.first, out, pieces);
    }

    /// Reduce a plain pair to the unique one with both halves below N.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn canonical(&self, pair: &mut [Lane]) {
        let (low, high) = pair.split_at_mut(self.digits);
        let mut carry = subtract_once(low, &self.modulus);
        for digit in high.iter_mut() {
            let sum = add(load(digit), carry);
            carry = carry_of(sum);
            store(digit, digit_of(sum));
        }
        for _ in 0..3 {
            subtract_once(high, &self.modulus);
        }
    }

    /// Reduce a plain pair and compute its integer a + b N, `2 digits` long.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub fn integer(&self, out: &mut [Lane], pair: &mut [Lane]) {
        self.canonical(pair);
        let (a, b) = pair.split_at(self.digits);
        carried(out, (Plus(a), Product(b, &self.modulus)));
    }

    /// Reduce a plain pair whose first half matters no more, and return the second.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub fn second_half<'a>(&self, pair: &'a mut [Lane]) -> &'a [Lane] {
        self.canonical(pair);
        &pair[self.digits..]
    }

    /// `out = (x0 y0 + x1 y1) / R` modulo N only; the x are halves and the y elements.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub fn sum_of_products_mod_n(
        &self,
        out: &mut [Lane],
        [(x0, y0), (x1, y1)]: [(&[Lane], &[Lane]); 2],
        s: &mut LaneScratch,
    ) {
        let (y0, y1) = (&y0[..self.digits], &y1[..self.digits]);
        reduce(self.modulo(), &mut s.first, out, (Product(x0, y0), Product(x1, y1)));
    }

    /// Reduce a half that is below 2 N.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub fn below_n(&self, x: &mut [Lane]) {
        subtract_once(x, &self.modulus);
    }

    /// An element of `rows`, whose modulus is this one's, as an element in every lane.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub fn shared_element(&self, rows: &SquareRing, element: &[u64], s: &mut LaneScratch) -> Lanes {
        let mut pair = Secret::padded(element, element.len());
        rows.leave(&mut pair, &mut rows.scratch());
        let mut integer = Secret::zeros(pair.len());
        rows.integer(&pair, &mut integer);
        let mut digits = Lanes::zeros(2 * self.digits);
        s.converter.read_shared(&integer, &mut digits);
        let mut out = self.element();
        self.enter(&mut out, &digits, &self.powers_of_r[1..3], s);
        out
    }

    /// Write plain pairs as rows of integers.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub fn write(&self, pair: &mut [Lane], rows: &mut [u64], width: usize, s: &mut LaneScratch) {
        self.integer(&mut s.wide, pair);
        s.converter.write(&s.wide, rows, width);
    }

    /// Read rows of integers below N^2 as elements.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub fn read(&self, out: &mut [Lane], rows: &[u64], width: usize, s: &mut LaneScratch) {
        let mut wide = std::mem::replace(&mut s.wide, Lanes::zeros(0));
        s.converter.read(rows, width, &mut wide);
        self.enter(out, &wide, &self.powers_of_r[1..3], s);
        s.wide = wide;
    }
}

/// `x += y` with carries, the first of which is given.
#[target_feature(enable = "avx512f")]
#[inline]
pub fn add_digits(x: &mut [Lane], y: &[Lane], mut carry: __m512i) {
    for (x, y) in x.iter_mut().zip(y) {
        let sum = add(add(load(x), load(y)), carry);
        carry = carry_of(sum);
        store(x, digit_of(sum));
    }
}

/// `out = -x` but for the borrow, which is returned: -1 or 0.
#[target_feature(enable = "avx512f")]
#[inline]
pub fn negate_digits(out: &mut [Lane], x: &[Lane]) -> __m512i {
    let mut borrow = zero();
    for (out, x) in out.iter_mut().zip(x) {
        let sum = sub(borrow, load(x));
        borrow = carry_of(sum);
        store(out, digit_of(sum));
    }
    borrow
}

/// `x = multiple * n - offset - x` with borrows; not negative.
#[target_feature(enable = "avx512f")]
#[inline]
fn subtract_from_multiple(x: &mut [Lane], n: &[Lane], multiple: i64, offset: i64) {
    let mut carry = broadcast(-offset);
    for (x, n) in x.iter_mut().zip(n) {
        let mut sum = sub(carry, load(x));
        for _ in 0..multiple {
            sum = add(sum, load(n));
        }
        carry = carry_of(sum);
        store(x, digit_of(sum));
    }
}

/// Subtract n from the lanes that are not below it; returns 1 in those lanes.
#[target_feature(enable = "avx512f,avx512dq")]
fn subtract_once(x: &mut [Lane], n: &[Lane]) -> __m512i {
    let mut borrow = zero();
    for (x, n) in x.iter().zip(n) {
        let difference = add(sub(load(x), load(n)), borrow);
        borrow = carry_of(difference);
    }
    // All ones in the lanes to leave alone.
    let below = _mm512_movepi64_mask(borrow);
    let mut borrow = zero();
    for (x, n) in x.iter_mut().zip(n) {
        let term = _mm512_mask_mov_epi64(load(n), below, zero());
        let difference = add(sub(load(x), term), borrow);
        borrow = carry_of(difference);
        store(x, digit_of(difference));
    }
    _mm512_mask_mov_epi64(broadcast(1), below, zero())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;
    use crate::limbs::sub_assign;

    fn integers(ring: &SquareRing, values: &[Vec<u64>]) -> Vec<u64> {
        values.iter().flat_map(|value| crate::limbs::padded(value, 2 * ring.half())).collect()
    }

    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn compare(modulus: &[u64]) {
        let rows = SquareRing::new(modulus, Isa::Portable);
        let ring = LaneRing::new(&rows).expect("a supported size");
        let width = 2 * rows.half();
        // 0, 1, N, N^2 - 1, N^2 - N, all ones below N^2, and mixtures of these.
        let mut square = vec![0; width];
        let mut pair = vec![0; width];
        pair[rows.half()..].copy_from_slice(rows.modulus());
        rows.integer(&pair, &mut square);
        let below = |subtrahend: &[u64]| {
            let mut value = square.clone();
            sub_assign(&mut value, &crate::limbs::padded(subtrahend, width));
            value
        };
        let ones = vec![u64::MAX; (bit_length_vartime(&square) - 1) / 64];
        let values = [
            vec![0],
            vec![1],
            modulus.to_vec(),
            below(&[1]),
            below(modulus),
            ones.clone(),
            below(&ones),
            vec![u64::MAX],
        ];
        let x = integers(&rows, &values);
        let mut s = ring.scratch();
        let mut row_scratch = rows.scratch();
        for turn in 0..values.len() {
            let mut others = values.to_vec();
            others.rotate_left(turn);
            let y = integers(&rows, &others);
            let [mut a, mut b, mut product, mut pair] = [(); 4].map(|()| ring.element());
            ring.read(&mut a, &x, width, &mut s);
            ring.read(&mut b, &y, width, &mut s);
            ring.mul(&mut product, &a, &b, &mut s);
            if turn == 0 {
                ring.square(&mut pair, &a, &mut s);
                let mut squared = vec![0; x.len()];
                let mut plain = ring.element();
                ring.leave(&mut plain, &pair, &mut s);
                ring.write(&mut plain, &mut squared, width, &mut s);
                ring.leave(&mut plain, &product, &mut s);
                let mut multiplied = vec![0; x.len()];
                ring.write(&mut plain, &mut multiplied, width, &mut s);
                assert_eq!(squared, multiplied);
            }
            ring.leave(&mut pair, &product, &mut s);
            let mut got = vec![0; x.len()];
            ring.write(&mut pair, &mut got, width, &mut s);
            for ((x, y), got) in x.chunks(width).zip(y.chunks(width)).zip(got.chunks(width)) {
                let [mut a, mut b] = [(); 2].map(|()| vec![0; width]);
                rows.enter(x, &mut a, &mut row_scratch);
                rows.enter(y, &mut b, &mut row_scratch);
                rows.mul_assign(&mut a, &b, &mut row_scratch);
                rows.leave(&mut a, &mut row_scratch);
                rows.integer(&a, &mut b);
                assert_eq!(got, b);
            }
        }
    }

    #[test]
    fn lanes_agree_with_rows_at_the_edges() {
        if !Isa::Avx512Ifma.is_available() {
            return;
        }
        // Sizes around digits, tiles and limbs; every modulus is odd.
        for bits in [64, 506, 507, 1024, 1026, 1027, 1536, 2048, 3072, 4096, LARGEST_MODULUS_BITS] {
            let limbs = usize::div_ceil(bits, 64);
            let mut ones = vec![u64::MAX; limbs];
            ones[limbs - 1] >>= 64 * limbs - bits;
            let mut sparse = vec![0; limbs];
            sparse[limbs - 1] = 1 << ((bits - 1) % 64);
            sparse[0] |= 1;
            // SAFETY: the features were checked.
            unsafe {
                compare(&ones);
                compare(&sparse);
            }
        }
    }

    #[test]
    fn sizes_beyond_the_sums_are_refused() {
        let ring = SquareRing::new(&[u64::MAX; LARGEST_MODULUS_BITS / 64 + 1], Isa::Portable);
        assert!(LaneRing::new(&ring).is_none());
    }
}
