//! The public Paillier operations, eight ciphertexts at once.

use super::array::LaneWorker;
use super::fixed_base::LanePowers;
use super::lanes::{LANES, Lanes};
use super::power::{Shared, power};
use super::ring::LaneRing;
use crate::batch::{BatchPowers, BatchSpace, GroupWorker};
use crate::groups::GroupShape;
use crate::limbs::bit_length_vartime;
use crate::ring::SquareRing;

pub struct LaneSpace {
    ring: LaneRing,
    n: Vec<u64>,
}

impl LaneSpace {
    /// `None` for a modulus beyond the sizes of [`LaneRing`]. The processor must have the
    /// instructions.
    pub fn new(ring: &SquareRing) -> Option<Self> {
        let lane_ring = LaneRing::new(ring)?;
        let n = ring.modulus()[..lane_ring.limbs()].to_vec();
        Some(Self { ring: lane_ring, n })
    }

    fn width(&self) -> usize {
        2 * self.ring.limbs()
    }

    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn encrypt_rows_with_r(&self, m: &[u64], r: &[u64], out: &mut [u64]) {
        let (ring, width) = (&self.ring, self.width());
        let mut s = ring.scratch();
        let [mut x, mut base, mut pair] = [(); 3].map(|()| ring.element());
        let mut t = Lanes::zeros(ring.digits());
        let groups = m.chunks(LANES * ring.limbs()).zip(r.chunks(LANES * ring.limbs()));
        let bits = bit_length_vartime(&self.n);
        for ((m, r), out) in groups.zip(out.chunks_mut(LANES * width)) {
            s.converter.read(r, ring.limbs(), &mut x);
            ring.mul(&mut base, &x, ring.power_of_r(2), &mut s);
            let nth = power(ring, &base, &Shared(&self.n), bits, &mut s);
            s.converter.read(m, ring.limbs(), &mut t);
            ring.leave_with_factor(&mut pair, &nth, &t, &mut s);
            ring.write(&mut pair, out, width, &mut s);
        }
    }
}

impl BatchSpace for LaneSpace {
    fn group_shape(&self) -> GroupShape {
        GroupShape { rows: LANES, width: 2 * self.ring.digits() }
    }

    fn worker(&self) -> Box<dyn GroupWorker + '_> {
        Box::new(LaneWorker::new(&self.ring))
    }

    fn encrypt_with_r(&self, m: &[u64], r: &[u64], out: &mut [u64]) {
        // SAFETY: `LaneSpace` exists only where the processor has the features.
        unsafe { self.encrypt_rows_with_r(m, r, out) }
    }
}

/// Encryption under a public key.
pub struct LaneEncryptor {
    ring: LaneRing,
    powers: LanePowers,
    exponent_limbs: usize,
}

impl LaneEncryptor {
    /// `base` and `inverse` are elements of `rows`.
    pub fn new(
        rows: &SquareRing,
        base: &[u64],
        inverse: &[u64],
        exponent_bits: usize,
        window: usize,
    ) -> Option<Self> {
        let ring = LaneRing::new(rows)?;
        // SAFETY: the caller has checked the processor, as for `LaneSpace::new`.
        let powers = unsafe { LanePowers::new(&ring, rows, base, inverse, exponent_bits, window) };
        Some(Self { ring, powers, exponent_limbs: exponent_bits.div_ceil(64) })
    }

    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn encrypt_rows(&self, m: &[u64], exponents: &[u64], out: &mut [u64]) {
        let (ring, width) = (&self.ring, 2 * self.ring.limbs());
        let mut s = ring.scratch();
        let mut t = Lanes::zeros(ring.digits());
        let mut pair = ring.element();
        let powers = self.powers.powers(ring, exponents, self.exponent_limbs, &mut s);
        let groups = m.chunks(LANES * ring.limbs()).zip(out.chunks_mut(LANES * width));
        for (mut power, (m, out)) in powers.into_iter().zip(groups) {
            s.converter.read(m, ring.limbs(), &mut t);
            power.add_correction(&t);
            power.leave(ring, &mut pair, &mut s);
            ring.write(&mut pair, out, width, &mut s);
        }
    }

    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    fn rerandomise_rows(&self, c: &[u64], exponents: &[u64], out: &mut [u64]) {
        let (ring, width) = (&self.ring, 2 * self.ring.limbs());
        let mut s = ring.scratch();
        let [mut x, mut next, mut pair] = [(); 3].map(|()| ring.element());
        let powers = self.powers.powers(ring, exponents, self.exponent_limbs, &mut s);
        let groups = c.chunks(LANES * width).zip(out.chunks_mut(LANES * width));
        for (mut power, (c, out)) in powers.into_iter().zip(groups) {
            ring.read(&mut x, c, width, &mut s);
            ring.mul(&mut next, &power.product, &x, &mut s);
            std::mem::swap(&mut next, &mut power.product);
            power.leave(ring, &mut pair, &mut s);
            ring.write(&mut pair, out, width, &mut s);
        }
    }
}

impl BatchPowers for LaneEncryptor {
    fn encrypt(&self, m: &[u64], exponents: &[u64], out: &mut [u64]) {
        // SAFETY: `LaneEncryptor` exists only where the processor has the features.
        unsafe { self.encrypt_rows(m, exponents, out) }
    }

    fn rerandomise(&self, c: &[u64], exponents: &[u64], out: &mut [u64]) {
        // SAFETY: see `encrypt`.
        unsafe { self.rerandomise_rows(c, exponents, out) }
    }
}
