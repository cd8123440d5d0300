//! What the holder of the primes can do: decryption, and encryption modulo the primes' squares.
//!
//! Every exponent, table index and intermediate here is secret; only the sizes of p and q show in
//! the running time.

use crate::batch::BatchHolder;
use crate::cipher_space::CipherSpace;
use crate::error::{KernelError, Result};
use crate::fixed_base::{FixedBase, POWERS_AT_ONCE};
use crate::isa::{Isa, LIMB_BLOCK};
use crate::limbs::{Secret, declassified, is_below, is_nonzero, sub_assign};
use crate::parallel;
use crate::power;
use crate::public_key::random_exponents;
use crate::ring::{Scratch, SquareRing};

/// Ciphertexts that a thread decrypts before it looks for more.
const DECRYPTIONS_AT_ONCE: usize = 32;

/// Constants for one of the primes, here called p.
pub struct Prime {
    pub ring: SquareRing,
    pub bits: usize,
    pub minus_one: Secret,
    /// The base of the randomness and the other prime, modulo p^2, as elements.
    pub base: Secret,
    pub other: Secret,
    /// 1 / (the other prime) and its negative, modulo p^2, as elements.
    pub other_inverse: Secret,
    pub negated_other_inverse: Secret,
}

impl Prime {
    fn new(prime: &[u64], other: &[u64], base: &[u64], isa: Isa) -> Self {
        let ring = SquareRing::new(prime, isa);
        let element = |integer: &[u64]| {
            let mut out = Secret::zeros(2 * ring.half());
            ring.enter(integer, &mut out, &mut ring.scratch());
            out
        };
        let (base, other) = (element(base), element(other));
        let mut minus_one = Secret::padded(prime, ring.half());
        minus_one[0] -= 1;
        let mut new = Self {
            bits: declassified_bit_length(prime),
            minus_one,
            base,
            other_inverse: Secret::zeros(0),
            negated_other_inverse: Secret::zeros(0),
            other,
            ring,
        };
        new.other_inverse = new.inverse(&new.other);
        new.negated_other_inverse = new.other_inverse.clone();
        new.ring.negate(&mut new.negated_other_inverse, &mut new.ring.scratch());
        new
    }

    /// The inverse of an element, in a time that depends on the size of p only.
    pub fn inverse(&self, element: &[u64]) -> Secret {
        let ring = &self.ring;
        let width = 2 * ring.half();
        // The group modulo p^2 has order p^2 - p, so x^(p^2 - p - 1) = 1 / x.
        let mut exponent = Secret::zeros(width);
        let mut pair = Secret::zeros(width);
        pair[ring.half()..].copy_from_slice(ring.modulus());
        ring.integer(&pair, &mut exponent);
        sub_assign(&mut exponent, &Secret::padded(ring.modulus(), width));
        sub_assign(&mut exponent, &Secret::padded(&[1], width));
        power::secret_exponent(ring, element, &exponent, 2 * self.bits, &mut ring.scratch())
    }

    /// A table of the powers of the base.
    fn powers(&self, exponent_bits: usize, window: usize) -> Result<FixedBase> {
        FixedBase::new(&self.ring, &self.base, &self.inverse(&self.base), exponent_bits, window)
    }

    /// The plaintext modulo p.
    fn decrypt(&self, ciphertext: &[u64], s: &mut Scratch) -> Secret {
        let half = self.ring.half();
        let mut element = Secret::zeros(2 * half);
        self.ring.enter(ciphertext, &mut element, s);
        // c^(p-1) = 1 + u p modulo p^2, and u = -(other prime) m modulo p.
        let mut power = power::secret_exponent(&self.ring, &element, &self.minus_one, self.bits, s);
        self.ring.leave(&mut power, s);
        power[..half].fill(0);
        self.ring.mul_assign(&mut power, &self.negated_other_inverse, s);
        Secret::padded(&power[half..], half)
    }
}

/// The work of the key's holder, in the form that the path works with.
enum Work {
    /// Tables modulo p^2 and q^2.
    Rows([FixedBase; 2]),
    Batch(Box<dyn BatchHolder>),
}

pub struct PrivateKey {
    pub space: CipherSpace,
    /// The larger prime, so that residues modulo the other are in range for it.
    p: Prime,
    q: Prime,
    q_squared: Secret,
    /// 1 / q^2 and -R / q^2 modulo p^2, as elements.
    q2_inverse: Secret,
    negated_q2_inverse_r: Secret,
    base: Vec<u64>,
    exponent_bits: usize,
    work: Work,
}

impl PrivateKey {
    /// `n` must be `p q`; p and q are distinct odd primes, which the caller has checked.
    pub fn new(
        n: &[u64],
        primes: [&[u64]; 2],
        base: Option<&[u64]>,
        exponent_bits: usize,
        window: usize,
        isa: Isa,
    ) -> Result<Self> {
        let [p, q] = match declassified(is_below(primes[0], primes[1])) {
            1 => [primes[1], primes[0]],
            _ => primes,
        };
        let space = CipherSpace::new(n, isa)?;
        let mut difference = product(p, q, isa);
        difference.iter_mut().zip(n).for_each(|(limb, n)| *limb ^= n);
        if n.len() > difference.len() || declassified(is_nonzero(&difference)) == 1 {
            return Err(KernelError::BadModulus);
        }
        let element = match base {
            Some(base) => space.given_base(base)?,
            None => space.random_base()?,
        };
        let base = space.base_integer(&element);
        let p = Prime::new(p, q, &base, isa);
        let q = Prime::new(q, &p.ring.modulus()[..p.bits.div_ceil(64)], &base, isa);
        let work = match isa.batch_holder([&p, &q], n.len(), exponent_bits, window) {
            Some(batch) => Work::Batch(batch),
            None => {
                Work::Rows([p.powers(exponent_bits, window)?, q.powers(exponent_bits, window)?])
            }
        };
        let mut s = p.ring.scratch();
        let mut q2_inverse = p.other_inverse.clone();
        p.ring.square_assign(&mut q2_inverse, &mut s);
        let mut negated_q2_inverse_r = q2_inverse.clone();
        p.ring.negate(&mut negated_q2_inverse_r, &mut s);
        p.ring.mul_assign(&mut negated_q2_inverse_r, p.ring.power_of_r(2), &mut s);
        let mut q_squared = Secret::zeros(2 * q.ring.half());
        let mut pair = Secret::zeros(2 * q.ring.half());
        pair[q.ring.half()..].copy_from_slice(q.ring.modulus());
        q.ring.integer(&pair, &mut q_squared);
        drop(s);
        Ok(Self {
            space,
            p,
            q,
            q_squared,
            q2_inverse,
            negated_q2_inverse_r,
            base,
            exponent_bits,
            work,
        })
    }

    pub fn base(&self) -> &[u64] {
        &self.base
    }

    pub fn decrypt(&self, c: &[u64], out: &mut [u64], threads: usize) -> Result<()> {
        self.space.check_ciphertexts(c)?;
        let width = self.space.ciphertext_limbs();
        let n_limbs = self.space.plaintext_limbs();
        parallel::for_row_chunks(out, n_limbs, DECRYPTIONS_AT_ONCE, threads, |first, block| {
            if let Work::Batch(batch) = &self.work {
                let rows = block.len() / n_limbs;
                batch.decrypt(&c[first * width..(first + rows) * width], block);
                return Ok(());
            }
            let mut scratch_p = self.p.ring.scratch();
            let mut scratch_q = self.q.ring.scratch();
            for (i, out) in block.chunks_mut(n_limbs).enumerate() {
                let ciphertext = &c[(first + i) * width..][..width];
                let m_p = self.p.decrypt(ciphertext, &mut scratch_p);
                let m_q = self.q.decrypt(ciphertext, &mut scratch_q);
                self.combine_residues(&m_p, &m_q, out, &mut scratch_p);
            }
            Ok(())
        })
    }

    /// m = m_q + q t with t = (m_p - m_q) / q modulo p.
    fn combine_residues(&self, m_p: &[u64], m_q: &[u64], out: &mut [u64], s: &mut Scratch) {
        let ring = &self.p.ring;
        let half = ring.half();
        let mut t = Secret::padded(m_p, 2 * half);
        ring.mul_assign(&mut t, &self.p.other_inverse, s);
        let mut subtrahend = Secret::padded(m_q, 2 * half);
        ring.mul_assign(&mut subtrahend, &self.p.negated_other_inverse, s);
        ring.add_assign(&mut t, &subtrahend, s);
        let mut m = Secret::padded(m_q, half + m_q.len());
        ring.kernels().mul_acc(&mut m, &t[..half], self.q.ring.modulus());
        out.copy_from_slice(&m[..out.len()]);
    }

    /// Encryptions with the same distribution as the public key's, at about half the work.
    pub fn encrypt(&self, m: &[u64], out: &mut [u64], threads: usize) -> Result<()> {
        self.space.check_plaintexts(m)?;
        let width = self.space.ciphertext_limbs();
        let n_limbs = self.space.plaintext_limbs();
        parallel::for_row_chunks(out, width, POWERS_AT_ONCE, threads, |first, out| {
            let rows = out.len() / width;
            let exponents = random_exponents(rows, self.exponent_bits)?;
            let m = &m[first * n_limbs..(first + rows) * n_limbs];
            match &self.work {
                Work::Batch(batch) => batch.encrypt(m, &exponents, out),
                Work::Rows(tables) => self.encrypt_rows(tables, m, &exponents, out),
            }
            Ok(())
        })
    }

    fn encrypt_rows(
        &self,
        [table_p, table_q]: &[FixedBase; 2],
        m: &[u64],
        exponents: &[u64],
        out: &mut [u64],
    ) {
        let (p, q, n) = (&self.p.ring, &self.q.ring, self.space.ring());
        let width = self.space.ciphertext_limbs();
        let rows = out.len() / width;
        let limbs = self.exponent_bits.div_ceil(64);
        let (width_p, width_q) = (2 * p.half(), 2 * q.half());
        let (mut s_p, mut s_q, mut s_n) = (p.scratch(), q.scratch(), n.scratch());
        let mut powers_p = Secret::zeros(rows * width_p);
        let mut powers_q = Secret::zeros(rows * width_q);
        let mut corrections_p = Secret::zeros(rows * p.half());
        let mut corrections_q = Secret::zeros(rows * q.half());
        let mut element = Secret::zeros(2 * n.half());
        table_p.power_batch(p, exponents, limbs, &mut powers_p, &mut corrections_p, &mut s_p);
        table_q.power_batch(q, exponents, limbs, &mut powers_q, &mut corrections_q, &mut s_q);
        let corrections = corrections_p.chunks(p.half()).zip(corrections_q.chunks(q.half()));
        let powers = powers_p.chunks_mut(width_p).zip(powers_q.chunks_mut(width_q));
        let plaintexts = m.chunks(self.space.plaintext_limbs());
        let powers = powers.zip(corrections).zip(plaintexts);
        for ((((x_p, x_q), (t_p, t_q)), m), out) in powers.zip(out.chunks_mut(width)) {
            p.leave_with_factor(x_p, t_p, &mut s_p);
            q.leave_with_factor(x_q, t_q, &mut s_q);
            let power = self.combine_powers(x_p, x_q, &mut s_p);
            self.space.enter(&power, &mut element, &mut s_n);
            self.space.write_with_plaintext(&mut element, m, out, &mut s_n);
        }
    }

    /// x = x_q + q^2 t with t = (x_p - x_q) / q^2 modulo p^2, from plain pairs of both rings.
    fn combine_powers(&self, x_p: &mut [u64], x_q: &[u64], s: &mut Scratch) -> Secret {
        let ring = &self.p.ring;
        let mut x_q_integer = Secret::zeros(x_q.len());
        self.q.ring.integer(x_q, &mut x_q_integer);
        let padded_x_q = Secret::padded(&x_q_integer, x_p.len());
        let mut subtrahend = Secret::zeros(x_p.len());
        ring.enter_over_r(&padded_x_q, &mut subtrahend, s);
        ring.mul_assign(&mut subtrahend, &self.negated_q2_inverse_r, s);
        // A plain pair times an element is a plain pair.
        ring.mul_assign(x_p, &self.q2_inverse, s);
        ring.add_assign(x_p, &subtrahend, s);
        let mut t = Secret::zeros(x_p.len());
        ring.integer(x_p, &mut t);
        let mut x = Secret::padded(&x_q_integer, t.len() + self.q_squared.len());
        ring.kernels().mul_acc(&mut x, &t, &self.q_squared);
        Secret::padded(&x[..self.space.ciphertext_limbs()], self.space.ciphertext_limbs())
    }
}

/// The length of a prime, which is no secret; of its limbs only the top one decides it.
fn declassified_bit_length(prime: &[u64]) -> usize {
    let Some((&top, below)) = prime.split_last() else { return 0 };
    match declassified(top.leading_zeros().into()) {
        64 => declassified_bit_length(below),
        zeros => 64 * prime.len() - zeros as usize,
    }
}

/// p q, extended with zeros.
fn product(p: &[u64], q: &[u64], isa: Isa) -> Secret {
    let limbs = p.len().max(q.len()).next_multiple_of(LIMB_BLOCK);
    let mut out = Secret::zeros(2 * limbs);
    isa.kernels().mul_acc(&mut out, &Secret::padded(p, limbs), &Secret::padded(q, limbs));
    out
}
