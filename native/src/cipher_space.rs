//! Ciphertexts under one modulus: range checks, validity, inverses, and encryption with a given r.
//!
//! Arrays of integers are rows of little-endian limbs: plaintexts `n_limbs` wide, ciphertexts
//! twice as wide. Arithmetic on many ciphertexts is in `cipher_array`.

use crate::batch::{BatchSpace, GroupWorker};
use crate::entropy;
use crate::error::{KernelError, Result};
use crate::euclid::{coprime_vartime, inverse_vartime};
use crate::groups::GroupShape;
use crate::isa::Isa;
use crate::limbs::{
    Secret, bit_length_vartime, declassified, is_below, is_below_vartime, is_nonzero, padded,
    sub_into,
};
use crate::parallel;
use crate::power;
use crate::ring::{Scratch, SquareRing};
use crate::row_worker::RowWorker;
use std::ops::Range;

pub const SMALLEST_MODULUS_BITS: usize = 512;

/// Ciphertexts under one modulus.
pub struct CipherSpace {
    ring: SquareRing,
    n_limbs: usize,
    n_squared: Vec<u64>,
    batch: Option<Box<dyn BatchSpace>>,
}

impl CipherSpace {
    pub fn new(n: &[u64], isa: Isa) -> Result<Self> {
        if n[0] & 1 == 0 || bit_length_vartime(n) < SMALLEST_MODULUS_BITS {
            return Err(KernelError::BadModulus);
        }
        let ring = SquareRing::new(n, isa);
        let mut pair = vec![0; 2 * ring.half()];
        pair[ring.half()..].copy_from_slice(ring.modulus());
        let mut n_squared = vec![0; 2 * ring.half()];
        ring.integer(&pair, &mut n_squared);
        Ok(Self { n_limbs: n.len(), batch: isa.batch_space(&ring), ring, n_squared })
    }

    pub fn ring(&self) -> &SquareRing {
        &self.ring
    }

    pub fn plaintext_limbs(&self) -> usize {
        self.n_limbs
    }

    /// How arrays keep ciphertexts.
    pub fn group_shape(&self) -> GroupShape {
        self.batch.as_ref().map_or_else(|| RowWorker::shape(&self.ring), |b| b.group_shape())
    }

    pub fn worker(&self) -> Box<dyn GroupWorker + '_> {
        match &self.batch {
            Some(batch) => batch.worker(),
            None => Box::new(RowWorker::new(&self.ring, self.n_limbs)),
        }
    }

    /// Whether arrays of both can be mixed.
    pub fn keeps_as(&self, other: &Self) -> bool {
        self.n_squared == other.n_squared && self.group_shape() == other.group_shape()
    }

    pub fn ciphertext_limbs(&self) -> usize {
        2 * self.n_limbs
    }

    pub fn check_plaintexts(&self, rows: &[u64]) -> Result<()> {
        below(rows, self.n_limbs, self.ring.modulus()).map_err(KernelError::PlaintextRange)
    }

    pub fn check_ciphertexts(&self, rows: &[u64]) -> Result<()> {
        let mut rows = rows.chunks(self.ciphertext_limbs());
        match rows.position(|row| !is_below_vartime(row, &self.n_squared)) {
            Some(row) => Err(KernelError::CiphertextRange(row)),
            None => Ok(()),
        }
    }

    /// As `check_ciphertexts`, for rows that are secret: only whether one is out of range shows.
    pub fn check_factors(&self, rows: &[u64]) -> Result<()> {
        below(rows, self.ciphertext_limbs(), &self.n_squared).map_err(KernelError::CiphertextRange)
    }

    /// The element of a ciphertext divided by R^2.
    fn enter_over_r(&self, ciphertext: &[u64], out: &mut [u64], s: &mut Scratch) {
        let wide = Secret::padded(ciphertext, 2 * self.ring.half());
        self.ring.enter_over_r(&wide, out, s);
    }

    /// The element of a ciphertext.
    pub fn enter(&self, ciphertext: &[u64], out: &mut [u64], s: &mut Scratch) {
        self.enter_over_r(ciphertext, out, s);
        self.ring.mul_assign(out, self.ring.power_of_r(3), s);
    }

    /// Write a plain pair as a ciphertext.
    fn write(&self, pair: &[u64], out: &mut [u64]) {
        let mut wide = Secret::zeros(2 * self.ring.half());
        self.ring.integer(pair, &mut wide);
        out.copy_from_slice(&wide[..out.len()]);
    }

    pub fn write_element(&self, element: &mut [u64], out: &mut [u64], s: &mut Scratch) {
        self.ring.leave(element, s);
        self.write(element, out);
    }

    /// Multiply an element by 1 + m n and write it as a ciphertext.
    pub fn write_with_plaintext(
        &self,
        element: &mut [u64],
        plaintext: &[u64],
        out: &mut [u64],
        s: &mut Scratch,
    ) {
        self.ring.leave_with_factor(element, plaintext, s);
        self.write(element, out);
    }

    /// Inverses modulo n^2 of rows below it, with one inversion modulo n.
    pub fn invert_rows(&self, c: &[u64], out: &mut [u64]) -> Result<()> {
        let width = self.ciphertext_limbs();
        let mut s = self.ring.scratch();
        let element_width = 2 * self.ring.half();
        let rows = out.len() / width;
        let mut elements = vec![0; rows * element_width];
        // prefixes[i] is the product of elements 0 to i.
        let mut prefixes = vec![0; rows * element_width];
        let mut product = self.ring.one().to_vec();
        for row in 0..rows {
            let at = row * element_width..(row + 1) * element_width;
            self.enter(&c[row * width..][..width], &mut elements[at.clone()], &mut s);
            self.ring.mul_assign(&mut product, &elements[at.clone()], &mut s);
            prefixes[at].copy_from_slice(&product);
        }
        let Some(mut inverse) = self.inverse(&product, &mut s) else {
            let bad = (0..rows)
                .find(|row| !self.is_unit(&elements[row * element_width..][..element_width]))
                .unwrap_or(0);
            return Err(KernelError::NotInvertible(bad));
        };
        for row in (0..rows).rev() {
            let mut element = inverse.clone();
            if row > 0 {
                let before = &prefixes[(row - 1) * element_width..][..element_width];
                self.ring.mul_assign(&mut element, before, &mut s);
            }
            let own = &elements[row * element_width..][..element_width];
            self.ring.mul_assign(&mut inverse, own, &mut s);
            self.write_element(&mut element, &mut out[row * width..][..width], &mut s);
        }
        Ok(())
    }

    /// Whether a ciphertext-wide integer shares no factor with n.
    pub fn is_coprime(&self, ciphertext: &[u64]) -> bool {
        let mut element = vec![0; 2 * self.ring.half()];
        self.enter_over_r(ciphertext, &mut element, &mut self.ring.scratch());
        self.is_unit(&element)
    }

    /// 1 per row if 0 < c < n^2 and gcd(c, n) = 1, else 0; one gcd a thread if all are valid.
    pub fn validate(&self, c: &[u64], out: &mut [u64], threads: usize) -> Result<()> {
        let width = self.ciphertext_limbs();
        let threads =
            parallel::thread_count_for_quick(threads, self.group_shape().count(out.len()));
        parallel::for_row_blocks(out, 1, threads, |first, valid| {
            let rows = first..first + valid.len();
            self.mark_units(block(c, width, &rows), valid, &mut *self.worker());
            Ok(())
        })
    }

    /// If a product has a factor of n, so has a product of one of its halves.
    fn mark_units(&self, c: &[u64], valid: &mut [u64], worker: &mut dyn GroupWorker) {
        let width = self.ciphertext_limbs();
        if c.chunks(width).all(|row| is_below_vartime(row, &self.n_squared)) {
            let mut product = vec![0; self.ring.half()];
            worker.product_mod_n(c, &mut product);
            if coprime_vartime(&product, self.ring.modulus()) {
                return valid.fill(1);
            }
        }
        if let [only] = valid {
            *only = 0;
            return;
        }
        let middle = valid.len() / 2;
        let (low, high) = valid.split_at_mut(middle);
        self.mark_units(&c[..middle * width], low, worker);
        self.mark_units(&c[middle * width..], high, worker);
    }

    /// r^n (1 + m n), the original scheme. The exponent n is public, so only r needs care: no
    /// branch and no address depends on it.
    pub fn encrypt_with_r(
        &self,
        m: &[u64],
        r: &[u64],
        out: &mut [u64],
        threads: usize,
    ) -> Result<()> {
        self.check_plaintexts(m)?;
        below(r, self.n_limbs, self.ring.modulus()).map_err(KernelError::RandomnessRange)?;
        let is_zero = |r: &[u64]| declassified(is_nonzero(r)) == 0;
        if let Some(row) = r.chunks(self.n_limbs).position(is_zero) {
            return Err(KernelError::RandomnessRange(row));
        }
        if let Some(batch) = &self.batch {
            let width = self.ciphertext_limbs();
            return parallel::for_row_blocks(out, width, threads, |first, out| {
                let rows = first..first + out.len() / width;
                batch.encrypt_with_r(
                    block(m, self.n_limbs, &rows),
                    block(r, self.n_limbs, &rows),
                    out,
                );
                Ok(())
            });
        }
        self.for_elements(out, threads, |row, _, out, s| {
            let r = &r[row * self.n_limbs..][..self.n_limbs];
            let mut power = self.nth_power(r, s);
            let plaintext = &m[row * self.n_limbs..][..self.n_limbs];
            self.write_with_plaintext(&mut power, plaintext, out, s);
            Ok(())
        })
    }

    /// r^n as an element.
    fn nth_power(&self, r: &[u64], s: &mut Scratch) -> Secret {
        let mut base = Secret::padded(r, 2 * self.ring.half());
        self.ring.mul_assign(&mut base, self.ring.power_of_r(2), s);
        power::public_exponent(&self.ring, &base, self.ring.modulus(), s)
    }

    /// (-x^2)^n for a random x, as an element: the generator of Damgard, Jurik and Nielsen.
    pub fn random_base(&self) -> Result<Secret> {
        let n = &self.ring.modulus()[..self.n_limbs];
        let mut x = Secret::zeros(self.n_limbs);
        loop {
            entropy::fill_bits(&mut x, bit_length_vartime(n))?;
            if is_below(&x, n) == 1 && coprime_vartime(&x, n) {
                break;
            }
        }
        let mut s = self.ring.scratch();
        let half = self.ring.half();
        // Squares modulo n are enough: only the residue modulo n survives the n-th power.
        let mut square = Secret::padded(&x, 2 * half);
        self.ring.mul_assign(&mut square, self.ring.power_of_r(2), &mut s);
        self.ring.square_assign(&mut square, &mut s);
        self.ring.leave(&mut square, &mut s);
        let mut negated = Secret::zeros(half);
        sub_into(&mut negated, self.ring.modulus(), &square[..half]);
        Ok(self.nth_power(&negated[..self.n_limbs], &mut s))
    }

    /// The element of a base given as a ciphertext-wide integer.
    pub fn given_base(&self, base: &[u64]) -> Result<Secret> {
        self.check_ciphertexts(base)?;
        let mut element = Secret::zeros(2 * self.ring.half());
        self.enter(base, &mut element, &mut self.ring.scratch());
        if self.is_unit(&element) { Ok(element) } else { Err(KernelError::NotInvertible(0)) }
    }

    pub fn base_integer(&self, element: &[u64]) -> Vec<u64> {
        let mut out = vec![0; self.ciphertext_limbs()];
        self.write_element(&mut element.to_vec(), &mut out, &mut self.ring.scratch());
        out
    }

    fn is_unit(&self, element: &[u64]) -> bool {
        coprime_vartime(&element[..self.ring.half()], self.ring.modulus())
    }

    /// The inverse of an element: modulo n by Euclid, lifted to n^2 by one Newton step.
    pub fn inverse(&self, element: &[u64], s: &mut Scratch) -> Option<Vec<u64>> {
        let half = self.ring.half();
        let mut plain = element.to_vec();
        self.ring.leave(&mut plain, s);
        let modulo_n = inverse_vartime(&plain[..half], self.ring.modulus())?;
        let mut u = padded(&modulo_n, 2 * half);
        self.ring.mul_assign(&mut u, self.ring.power_of_r(2), s);
        // u (2 - x u)
        let mut correction = element.to_vec();
        self.ring.mul_assign(&mut correction, &u, s);
        self.ring.negate(&mut correction, s);
        self.ring.add_assign(&mut correction, self.ring.one(), s);
        self.ring.add_assign(&mut correction, self.ring.one(), s);
        self.ring.mul_assign(&mut u, &correction, s);
        Some(u)
    }

    /// Call `work(row, element, out_row, scratch)` for each row of `out`, in parallel.
    fn for_elements<F>(&self, out: &mut [u64], threads: usize, work: F) -> Result<()>
    where
        F: Fn(usize, &mut [u64], &mut [u64], &mut Scratch) -> Result<()> + Sync,
    {
        let width = self.ciphertext_limbs();
        parallel::for_row_blocks(out, width, threads, |first, block| {
            let mut s = self.ring.scratch();
            let mut element = vec![0; 2 * self.ring.half()];
            for (i, out) in block.chunks_mut(width).enumerate() {
                work(first + i, &mut element, out, &mut s)?;
            }
            Ok(())
        })
    }
}

/// Rows of an array `width` wide.
pub fn block<'a>(array: &'a [u64], width: usize, rows: &Range<usize>) -> &'a [u64] {
    &array[rows.start * width..rows.end * width]
}

/// The first row that is not below `bound`, as an error.
fn below(rows: &[u64], width: usize, bound: &[u64]) -> std::result::Result<(), usize> {
    match rows.chunks(width).position(|row| declassified(is_below(row, bound)) == 0) {
        Some(row) => Err(row),
        None => Ok(()),
    }
}
