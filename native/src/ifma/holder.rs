//! The operations of the holder of the primes, eight ciphertexts at once.
//!
//! Exponents are shared by the lanes, elements are not; everything is secret but sizes.

use super::columns::{Plus, Product, carried};
use super::fixed_base::LanePowers;
use super::lanes::{DIGIT_BITS, LANES, Lane, Lanes};
use super::power::{Shared, power};
use super::ring::{LARGEST_MODULUS_BITS, LaneRing, LaneScratch};
use crate::batch::BatchHolder;
use crate::limbs::Secret;
use crate::private_key::Prime;

struct LanePrime {
    ring: LaneRing,
    bits: usize,
    minus_one: Secret,
    /// Take a ciphertext to its element modulo p^2.
    ciphertext_factors: Vec<Lanes>,
    /// Take a plaintext m to m times the other prime, modulo p.
    plaintext_factors: Vec<Lanes>,
    /// -1 / (the other prime) modulo p, as an element.
    negated_other_inverse: Lanes,
    powers: LanePowers,
}

impl LanePrime {
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn new(prime: &Prime, n_limbs: usize, exponent_bits: usize, window: usize) -> Option<Self> {
        let rows = &prime.ring;
        let ring = LaneRing::new(rows)?;
        let mut s = ring.scratch();
        let inverse = prime.inverse(&prime.base);
        let powers = LanePowers::new(&ring, rows, &prime.base, &inverse, exponent_bits, window);
        let ciphertext_factors = ring.entry_factors(ring.one(), digits_of(2 * n_limbs), &mut s);
        // A plain factor makes a plain product.
        let other = ring.shared_element(rows, &prime.other, &mut s);
        let mut plain = ring.element();
        ring.leave(&mut plain, &other, &mut s);
        let plaintext_factors = ring.entry_factors(&plain, digits_of(n_limbs), &mut s);
        let negated_other_inverse = ring.shared_element(rows, &prime.negated_other_inverse, &mut s);
        Some(Self {
            ring,
            bits: prime.bits,
            minus_one: prime.minus_one.clone(),
            ciphertext_factors,
            plaintext_factors,
            negated_other_inverse,
            powers,
        })
    }

    /// The plaintexts modulo p, below p.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn decrypt(&self, ciphertext: &[Lane], out: &mut [Lane], s: &mut LaneScratch) {
        let ring = &self.ring;
        let mut element = ring.element();
        ring.enter(&mut element, ciphertext, &self.ciphertext_factors, s);
        // c^(p-1) = 1 + u p modulo p^2, and u = -(other prime) m modulo p.
        let power = power(ring, &element, &Shared(&self.minus_one), self.bits, s);
        ring.leave(&mut element, &power, s);
        let u = ring.second_half(&mut element);
        ring.mul_mod_n(out, u, &self.negated_other_inverse[..ring.digits()], s);
        ring.below_n(out);
    }
}

pub struct LaneHolder {
    p: LanePrime,
    q: LanePrime,
    n_limbs: usize,
    exponent_limbs: usize,
    /// q and q^2 in the digits of p and p^2.
    q_digits: Lanes,
    q_squared: Lanes,
    /// 1 / q and its negative modulo p, as elements.
    q_inverse: Lanes,
    negated_q_inverse: Lanes,
    /// 1 / q^2 modulo p^2, as an element.
    q2_inverse: Lanes,
    /// Take an integer below q^2 to its element modulo p^2.
    q_factors: Vec<Lanes>,
}

impl LaneHolder {
    /// `None` for a modulus beyond the sizes of [`LaneRing`]: exponents may be as long as that.
    /// The processor must have the instructions.
    pub fn new(
        primes: [&Prime; 2],
        n_limbs: usize,
        exponent_bits: usize,
        window: usize,
    ) -> Option<Self> {
        if 64 * n_limbs > LARGEST_MODULUS_BITS {
            return None;
        }
        // SAFETY: the caller has checked the processor.
        unsafe { Self::build(primes, n_limbs, exponent_bits, window) }
    }

    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn build(
        [p_rows, q_rows]: [&Prime; 2],
        n_limbs: usize,
        exponent_bits: usize,
        window: usize,
    ) -> Option<Self> {
        let p = LanePrime::new(p_rows, n_limbs, exponent_bits, window)?;
        let q = LanePrime::new(q_rows, n_limbs, exponent_bits, window)?;
        let ring = &p.ring;
        let digits = ring.digits();
        let mut s = ring.scratch();
        let mut q_digits = Lanes::zeros(digits);
        s.converter.read_shared(&q_rows.ring.modulus()[..q.ring.limbs()], &mut q_digits);
        let mut q_squared = Lanes::zeros(2 * digits);
        carried(&mut q_squared, Product(&q_digits, &q_digits));
        let q_inverse = ring.shared_element(&p_rows.ring, &p_rows.other_inverse, &mut s);
        let mut q2_inverse = ring.element();
        ring.square(&mut q2_inverse, &q_inverse, &mut s);
        let q_factors = ring.entry_factors(ring.one(), 2 * digits, &mut s);
        Some(Self {
            n_limbs,
            exponent_limbs: exponent_bits.div_ceil(64),
            q_digits,
            q_squared,
            negated_q_inverse: p.negated_other_inverse.clone(),
            q_inverse,
            q2_inverse,
            q_factors,
            p,
            q,
        })
    }

    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn decrypt_rows(&self, c: &[u64], out: &mut [u64]) {
        let (p, q) = (&self.p, &self.q);
        let digits = p.ring.digits();
        let width = 2 * self.n_limbs;
        let mut s_p = p.ring.scratch();
        let mut s_q = q.ring.scratch();
        let mut in_p = Lanes::zeros(p.ciphertext_factors.len() * digits);
        let mut in_q = Lanes::zeros(q.ciphertext_factors.len() * q.ring.digits());
        let [mut m_p, mut m_q, mut t] = [(); 3].map(|()| Lanes::zeros(digits));
        let mut m = Lanes::zeros(2 * digits);
        let groups = c.chunks(LANES * width).zip(out.chunks_mut(LANES * self.n_limbs));
        for (c, out) in groups {
            s_p.converter.read(c, width, &mut in_p);
            s_q.converter.read(c, width, &mut in_q);
            p.decrypt(&in_p, &mut m_p, &mut s_p);
            q.decrypt(&in_q, &mut m_q[..q.ring.digits()], &mut s_q);
            // m = m_q + q t with t = (m_p - m_q) / q modulo p.
            p.ring.sum_of_products_mod_n(
                &mut t,
                [(&m_p, &self.q_inverse), (&m_q, &self.negated_q_inverse)],
                &mut s_p,
            );
            p.ring.below_n(&mut t);
            carried(&mut m, (Plus(&m_q), Product(&self.q_digits, &t)));
            s_p.converter.write(&m, out, self.n_limbs);
        }
    }

    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn encrypt_rows(&self, m: &[u64], exponents: &[u64], out: &mut [u64]) {
        let mut s_p = self.p.ring.scratch();
        let mut s_q = self.q.ring.scratch();
        let x_p = self.p.encrypt(m, self.n_limbs, exponents, self.exponent_limbs, &mut s_p);
        let x_q = self.q.encrypt(m, self.n_limbs, exponents, self.exponent_limbs, &mut s_q);
        let width = 2 * self.n_limbs;
        for ((x_p, x_q), out) in x_p.into_iter().zip(x_q).zip(out.chunks_mut(LANES * width)) {
            self.combine(&x_p, x_q, out, &mut s_p);
        }
    }

    /// x = x_q + q^2 t with t = (x_p - x_q) / q^2 modulo p^2, from plain pairs of both rings.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn combine(&self, x_p: &[Lane], mut x_q: Lanes, out: &mut [u64], s: &mut LaneScratch) {
        let ring = &self.p.ring;
        let digits = ring.digits();
        let mut low = Lanes::zeros(4 * digits);
        self.q.ring.integer(&mut low[..2 * self.q.ring.digits()], &mut x_q);
        let [mut entered, mut difference, mut t] = [(); 3].map(|()| ring.element());
        ring.enter(&mut entered, &low[..2 * digits], &self.q_factors, s);
        ring.leave(&mut difference, &entered, s);
        ring.negate(&mut difference);
        ring.add_assign(&mut difference, x_p);
        ring.mul(&mut entered, &difference, &self.q2_inverse, s);
        ring.integer(&mut t, &mut entered);
        let mut x = Lanes::zeros(4 * digits);
        carried(&mut x, (Plus(&low), Product(&self.q_squared, &t)));
        s.converter.write(&x, out, 2 * self.n_limbs);
    }
}

impl LanePrime {
    /// Encryptions modulo p^2, as plain pairs.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn encrypt(
        &self,
        m: &[u64],
        n_limbs: usize,
        exponents: &[u64],
        exponent_limbs: usize,
        s: &mut LaneScratch,
    ) -> Vec<Lanes> {
        let ring = &self.ring;
        let mut digits = Lanes::zeros(self.plaintext_factors.len() * ring.digits());
        let mut t = Lanes::zeros(ring.digits());
        let powers = self.powers.powers(ring, exponents, exponent_limbs, s);
        powers
            .into_iter()
            .zip(m.chunks(LANES * n_limbs))
            .map(|(mut power, m)| {
                // 1 + m n = 1 + (m times the other prime) p.
                s.converter.read(m, n_limbs, &mut digits);
                ring.enter_mod_n(&mut t, &digits, &self.plaintext_factors, s);
                power.add_correction(&t);
                let mut pair = ring.element();
                power.leave(ring, &mut pair, s);
                pair
            })
            .collect()
    }
}

/// Digits that hold as many limbs.
fn digits_of(limbs: usize) -> usize {
    (64 * limbs).div_ceil(DIGIT_BITS)
}

impl BatchHolder for LaneHolder {
    fn decrypt(&self, c: &[u64], out: &mut [u64]) {
        // SAFETY: `LaneHolder` exists only where the processor has the features.
        unsafe { self.decrypt_rows(c, out) }
    }

    fn encrypt(&self, m: &[u64], exponents: &[u64], out: &mut [u64]) {
        // SAFETY: see `decrypt`.
        unsafe { self.encrypt_rows(m, exponents, out) }
    }
}
