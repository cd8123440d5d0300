//! Groups of eight ciphertexts in the form that arrays keep.
//!
//! An element's halves are below 4 N and not reduced further: products take them as they are, and
//! only `store` writes the unique integers.

use super::lanes::{LANES, Lane, Lanes};
use super::multi_exponentiation;
use super::power::{Rows, power};
use super::ring::{LaneRing, LaneScratch};
use crate::batch::GroupWorker;
use crate::limbs::{Secret, bit_length_vartime};
use crate::straight_line::Program;

pub struct LaneWorker<'a> {
    ring: &'a LaneRing,
    s: LaneScratch,
    /// An element, and halves of one.
    pair: Lanes,
    plaintexts: Lanes,
    term: Lanes,
    /// Rows filled up to a group.
    filled: Secret,
}

impl<'a> LaneWorker<'a> {
    pub fn new(ring: &'a LaneRing) -> Self {
        Self {
            ring,
            s: ring.scratch(),
            pair: ring.element(),
            plaintexts: Lanes::zeros(ring.digits()),
            term: Lanes::zeros(ring.digits()),
            filled: Secret(Vec::with_capacity(LANES * 2 * ring.limbs())),
        }
    }

    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn load_group(&mut self, rows: &[u64], out: &mut [Lane]) {
        if rows.is_empty() {
            return out.copy_from_slice(self.ring.one());
        }
        let width = 2 * self.ring.limbs();
        let rows = fill_with_ones(rows, width, &mut self.filled.0);
        self.ring.read(out, rows, width, &mut self.s);
    }

    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn store_group(&mut self, group: &[Lane], rows: &mut [u64]) {
        self.ring.leave(&mut self.pair, group, &mut self.s);
        self.ring.write(&mut self.pair, rows, 2 * self.ring.limbs(), &mut self.s);
    }

    /// a + b N times 1 + m N is a + (b + a m) N.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn add_plain_group(&mut self, c: &[Lane], plaintexts: &[u64], out: &mut [Lane]) {
        let (ring, s) = (self.ring, &mut self.s);
        let digits = ring.digits();
        s.converter.read(plaintexts, ring.limbs(), &mut self.plaintexts);
        let r_squared = &ring.power_of_r(2)[..digits];
        ring.mul_mod_n(&mut self.term, &self.plaintexts, r_squared, s);
        out.copy_from_slice(c);
        let (a, b) = out.split_at_mut(digits);
        ring.mul_mod_n(&mut self.plaintexts, a, &self.term, s);
        ring.add_assign(b, &self.plaintexts);
        // Any number of additions must leave b below 4 N.
        for _ in 0..3 {
            ring.below_n(b);
        }
    }

    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn power_group(&mut self, c: &[Lane], exponents: &[u64], out: &mut [Lane]) {
        let largest = exponents.iter().fold(0, |bits, exponent| bits | exponent);
        let bits = bit_length_vartime(&[largest]);
        let exponents = Rows { exponents, limbs: 1 };
        out.copy_from_slice(&power(self.ring, c, &exponents, bits, &mut self.s));
    }
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn multiply_mod_n(&mut self, rows: &[u64], out: &mut [u64]) {
        let (ring, s) = (self.ring, &mut self.s);
        let (digits, width) = (ring.digits(), 2 * ring.limbs());
        let mut product = Lanes::zeros(digits);
        product.copy_from_slice(&ring.one()[..digits]);
        for rows in rows.chunks(LANES * width) {
            let rows = fill_with_ones(rows, width, &mut self.filled.0);
            s.converter.read(rows, width, &mut self.pair);
            ring.leave_mod_n(&mut self.term, &self.pair, s);
            ring.mul_mod_n(&mut self.plaintexts, &product, &self.term, s);
            std::mem::swap(&mut self.plaintexts, &mut product);
        }
        for step in [4, 2, 1] {
            for (other, lane) in self.term.iter_mut().zip(product.iter()) {
                other.0[..step].copy_from_slice(&lane.0[step..2 * step]);
            }
            ring.mul_mod_n(&mut self.plaintexts, &product, &self.term, s);
            std::mem::swap(&mut self.plaintexts, &mut product);
        }
        ring.below_n(&mut product);
        s.converter.write(&product, out, out.len());
    }
}

/// A group of rows `width` wide, with 1 for those that are missing.
fn fill_with_ones<'a>(rows: &'a [u64], width: usize, filled: &'a mut Vec<u64>) -> &'a [u64] {
    if rows.len() == LANES * width {
        return rows;
    }
    filled.clear();
    filled.extend_from_slice(rows);
    filled.resize(LANES * width, 0);
    for row in filled[rows.len()..].chunks_exact_mut(width) {
        row[0] = 1;
    }
    filled
}

impl GroupWorker for LaneWorker<'_> {
    fn load(&mut self, rows: &[u64], out: &mut [Lane]) {
        // SAFETY: here and below, a `LaneRing` exists only where the processor has the features.
        unsafe { self.load_group(rows, out) }
    }

    fn store(&mut self, group: &[Lane], rows: &mut [u64]) {
        // SAFETY: see `load`.
        unsafe { self.store_group(group, rows) }
    }

    fn multiply(&mut self, a: &[Lane], b: &[Lane], out: &mut [Lane]) {
        // SAFETY: see `load`.
        unsafe { self.ring.mul(out, a, b, &mut self.s) }
    }

    fn add_plain(&mut self, c: &[Lane], plaintexts: &[u64], out: &mut [Lane]) {
        // SAFETY: see `load`.
        unsafe { self.add_plain_group(c, plaintexts, out) }
    }

    fn power(&mut self, c: &[Lane], exponents: &[u64], out: &mut [Lane]) {
        // SAFETY: see `load`.
        unsafe { self.power_group(c, exponents, out) }
    }

    fn product_mod_n(&mut self, rows: &[u64], out: &mut [u64]) {
        // SAFETY: see `load`.
        unsafe { self.multiply_mod_n(rows, out) }
    }

    fn run(&mut self, program: &Program, columns: usize, registers: &mut [Lane]) {
        // SAFETY: see `load`.
        unsafe {
            multi_exponentiation::run(self.ring, program, columns, registers, &mut self.s);
        }
    }
}
