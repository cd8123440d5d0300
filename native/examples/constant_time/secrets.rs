//! The secrets that an operation is run with.

use crate::keys::{KEYS, PRIME_LIMBS};

/// Ciphertexts of one call: vectors of eight are padded.
pub const ROWS: usize = 2;
pub const N_LIMBS: usize = 2 * PRIME_LIMBS;
pub const EXPONENT_BITS: usize = 130;
const EXPONENT_LIMBS: usize = EXPONENT_BITS.div_ceil(64);

pub struct Secrets {
    pub p: Vec<u64>,
    pub q: Vec<u64>,
    /// Becomes exponents.
    pub randomness: Vec<u64>,
    pub r: Vec<u64>,
    /// Of ciphertexts, modulo n^2.
    pub factors: Vec<u64>,
    pub plaintexts: Vec<u64>,
}

/// How the secrets of a run are chosen.
#[derive(Clone, Copy)]
pub enum Class {
    /// As many zero bits as possible.
    Sparse,
    /// As many ones.
    Dense,
    Random(u64),
}

impl Secrets {
    pub fn new(class: Class) -> Self {
        let mut state = match class {
            Class::Random(seed) => seed,
            _ => 1,
        };
        let mut numbers = |width: usize, rows: usize| -> Vec<u64> {
            let mut limbs: Vec<u64> = (0..width * rows)
                .map(|_| match class {
                    Class::Sparse => 0,
                    Class::Dense => u64::MAX,
                    Class::Random(_) => split_mix(&mut state),
                })
                .collect();
            // Below every modulus, whose top bit is set, and its square; not zero.
            for row in limbs.chunks_mut(width) {
                row[0] |= 1;
                row[width - 1] >>= 2;
            }
            limbs
        };
        let randomness = numbers(EXPONENT_LIMBS, ROWS);
        let [r, plaintexts, factors] =
            [N_LIMBS, N_LIMBS, 2 * N_LIMBS].map(|width| numbers(width, ROWS));
        let [p, q] = match class {
            Class::Sparse => KEYS[0],
            Class::Dense => KEYS[1],
            Class::Random(seed) => KEYS[2 + seed as usize % (KEYS.len() - 2)],
        };
        Self { p: p.to_vec(), q: q.to_vec(), randomness, r, factors, plaintexts }
    }

    #[cfg(feature = "memcheck")]
    pub fn parts(&self) -> [&[u64]; 6] {
        [&self.p, &self.q, &self.randomness, &self.r, &self.factors, &self.plaintexts]
    }

    /// Take over other secrets in place.
    pub fn copy_from(&mut self, other: &Self) {
        self.p.copy_from_slice(&other.p);
        self.q.copy_from_slice(&other.q);
        self.randomness.copy_from_slice(&other.randomness);
        self.r.copy_from_slice(&other.r);
        self.factors.copy_from_slice(&other.factors);
        self.plaintexts.copy_from_slice(&other.plaintexts);
    }

    /// p q.
    pub fn modulus(&self) -> Vec<u64> {
        let mut product = vec![0; N_LIMBS];
        for (i, &x) in self.p.iter().enumerate() {
            let mut carry = 0;
            for (j, &y) in self.q.iter().enumerate() {
                let t = u128::from(x) * u128::from(y) + u128::from(product[i + j]) + carry;
                product[i + j] = t as u64;
                carry = t >> 64;
            }
            product[i + PRIME_LIMBS] = carry as u64;
        }
        product
    }
}

/// The generator of Steele, Lea and Flood (2014), here for repeatable inputs.
pub fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
