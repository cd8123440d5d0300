//! Damgard-Jurik-Nielsen encryption by whoever holds n, from a table of powers of one base.
//!
//! Rows are as in `cipher_space`.

use crate::batch::BatchPowers;
use crate::cipher_space::{CipherSpace, block};
use crate::entropy;
use crate::error::{KernelError, Result};
use crate::fixed_base::{FixedBase, POWERS_AT_ONCE};
use crate::groups::{ZERO, limbs_mut};
use crate::isa::Isa;
use crate::limbs::{Secret, declassified, zeroise};
use crate::parallel;
use crate::ring::Scratch;
use std::ops::Range;
use std::sync::Arc;

/// The table of a base's powers, in the form that the path works with.
enum Powers {
    Rows(FixedBase),
    Batch(Box<dyn BatchPowers>),
}

/// A modulus with the table that makes encryption fast.
pub struct PublicKey {
    pub space: Arc<CipherSpace>,
    base: Vec<u64>,
    exponent_bits: usize,
    powers: Powers,
}

impl PublicKey {
    pub fn new(
        n: &[u64],
        base: Option<&[u64]>,
        exponent_bits: usize,
        window: usize,
        isa: Isa,
    ) -> Result<Self> {
        let space = CipherSpace::new(n, isa)?;
        let element = match base {
            Some(base) => space.given_base(base)?,
            None => space.random_base()?,
        };
        let ring = space.ring();
        let inverse = space.inverse(&element, &mut ring.scratch());
        let inverse = inverse.ok_or(KernelError::NotInvertible(0))?;
        let powers = match isa.batch_powers(ring, &element, &inverse, exponent_bits, window) {
            Some(batch) => Powers::Batch(batch),
            None => Powers::Rows(FixedBase::new(ring, &element, &inverse, exponent_bits, window)?),
        };
        let base = space.base_integer(&element);
        Ok(Self { space: Arc::new(space), base, exponent_bits, powers })
    }

    /// The base as an integer, ciphertext-wide.
    pub fn base(&self) -> &[u64] {
        &self.base
    }

    pub fn exponent_limbs(&self) -> usize {
        self.exponent_bits.div_ceil(64)
    }

    /// (1 + m n) base^a; the exponents a are random unless given.
    pub fn encrypt(
        &self,
        m: &[u64],
        exponents: Option<&[u64]>,
        out: &mut [u64],
        threads: usize,
    ) -> Result<()> {
        let n_limbs = self.space.plaintext_limbs();
        self.space.check_plaintexts(m)?;
        if let Some(exponents) = exponents {
            check_bits(exponents, self.exponent_limbs(), self.exponent_bits)?;
        }
        self.for_exponents(exponents, out, threads, |rows, exponents, out| {
            let m = block(m, n_limbs, &rows);
            match &self.powers {
                Powers::Batch(batch) => batch.encrypt(m, exponents, out),
                Powers::Rows(table) => {
                    let n_limbs = self.space.plaintext_limbs();
                    let ring = self.space.ring();
                    self.for_powers(table, exponents, out, |row, [power, correction], out, s| {
                        let plaintext = &m[row * n_limbs..][..n_limbs];
                        let plaintext = Secret::padded(plaintext, ring.half());
                        ring.add_assign_mod_n(correction, &plaintext, s);
                        self.space.write_with_plaintext(power, correction, out, s);
                    });
                }
            }
        })
    }

    /// (1 + m n) f for factors f made by `encrypt` from zeros, which are as secret as exponents.
    pub fn encrypt_with_factors(
        &self,
        m: &[u64],
        factors: &[u64],
        out: &mut [u64],
        threads: usize,
    ) -> Result<()> {
        let (space, width) = (&*self.space, self.space.ciphertext_limbs());
        space.check_plaintexts(m)?;
        space.check_factors(factors)?;
        parallel::for_row_blocks(out, width, threads, |first, out| {
            let (shape, mut worker) = (space.group_shape(), space.worker());
            let [mut factor, mut product] = [(); 2].map(|()| vec![ZERO; shape.width]);
            for (part, out) in out.chunks_mut(shape.rows * width).enumerate() {
                let first = first + part * shape.rows;
                let rows = first..first + out.len() / width;
                worker.load(block(factors, width, &rows), &mut factor);
                let m = block(m, space.plaintext_limbs(), &rows);
                worker.add_plain(&factor, m, &mut product);
                worker.store(&product, out);
            }
            zeroise(limbs_mut(&mut factor));
            zeroise(limbs_mut(&mut product));
            Ok(())
        })
    }

    /// Fresh encryptions of the same plaintexts.
    pub fn rerandomise(&self, c: &[u64], out: &mut [u64], threads: usize) -> Result<()> {
        let width = self.space.ciphertext_limbs();
        self.space.check_ciphertexts(c)?;
        self.for_exponents(None, out, threads, |rows, exponents, out| {
            let c = block(c, width, &rows);
            match &self.powers {
                Powers::Batch(batch) => batch.rerandomise(c, exponents, out),
                Powers::Rows(table) => {
                    let mut element = vec![0; 2 * self.space.ring().half()];
                    self.for_powers(table, exponents, out, |row, [power, correction], out, s| {
                        self.space.enter(&c[row * width..][..width], &mut element, s);
                        self.space.ring().mul_assign(power, &element, s);
                        self.space.write_with_plaintext(power, correction, out, s);
                    });
                }
            }
        })
    }

    /// Call `work(rows, exponents, out_rows)` for blocks of rows that share a scan of the table;
    /// the exponents are random unless given.
    fn for_exponents<F>(
        &self,
        exponents: Option<&[u64]>,
        out: &mut [u64],
        threads: usize,
        work: F,
    ) -> Result<()>
    where
        F: Fn(Range<usize>, &[u64], &mut [u64]) + Sync,
    {
        let width = self.space.ciphertext_limbs();
        let limbs = self.exponent_limbs();
        parallel::for_row_chunks(out, width, POWERS_AT_ONCE, threads, |first, out| {
            let rows = first..first + out.len() / width;
            let own = match exponents {
                Some(given) => Secret(block(given, limbs, &rows).to_vec()),
                None => random_exponents(rows.len(), self.exponent_bits)?,
            };
            work(rows, &own, out);
            Ok(())
        })
    }

    /// Call `finish(row, [power, correction], out_row, scratch)` for each exponent, whose power is
    /// an element times 1 + correction n.
    fn for_powers(
        &self,
        table: &FixedBase,
        exponents: &[u64],
        out: &mut [u64],
        mut finish: impl FnMut(usize, [&mut [u64]; 2], &mut [u64], &mut Scratch),
    ) {
        let ring = self.space.ring();
        let width = self.space.ciphertext_limbs();
        let element_width = 2 * ring.half();
        let mut s = ring.scratch();
        let rows = out.len() / width;
        let limbs = self.exponent_limbs();
        let mut powers = Secret::zeros(rows * element_width);
        let mut corrections = Secret::zeros(rows * ring.half());
        table.power_batch(ring, exponents, limbs, &mut powers, &mut corrections, &mut s);
        let powers = powers.chunks_mut(element_width).zip(corrections.chunks_mut(ring.half()));
        for (row, ((power, correction), out)) in powers.zip(out.chunks_mut(width)).enumerate() {
            finish(row, [power, correction], out, &mut s);
        }
    }
}

/// Rows of uniform numbers below 2^`bits`.
pub fn random_exponents(rows: usize, bits: usize) -> Result<Secret> {
    let limbs = bits.div_ceil(64);
    let mut exponents = Secret::zeros(rows * limbs);
    entropy::fill(&mut exponents)?;
    for exponent in exponents.chunks_mut(limbs) {
        exponent[limbs - 1] &= u64::MAX >> (64 * limbs - bits);
    }
    Ok(exponents)
}

/// Error with the first row that is not below 2^`bits`, for rows of just enough limbs.
fn check_bits(rows: &[u64], width: usize, bits: usize) -> Result<()> {
    let unused = 64 * width - bits;
    let fits = |row: &[u64]| unused == 0 || declassified(row[width - 1] >> (64 - unused)) == 0;
    match rows.chunks(width).position(|row| !fits(row)) {
        Some(row) => Err(KernelError::RandomnessRange(row)),
        None => Ok(()),
    }
}
