//! Powers of one base, eight exponents at once, from a table of base^(j 2^(w i)).

use core::arch::x86_64::{
    __m512i, _mm512_and_si512, _mm512_cmpeq_epi64_mask, _mm512_maskz_permutex2var_epi64,
    _mm512_srli_epi64, _mm512_ternarylogic_epi64,
};

use super::columns::{broadcast, load, store, zero};
use super::lanes::{LANES, Lane, Lanes};
use super::power::{Digits, Rows};
use super::ring::{LaneRing, LaneScratch, add_digits};
use super::shifted::Shifted;
use crate::fixed_base::positional_powers;
use crate::limbs::Secret;
use crate::ring::SquareRing;

/// Table entries that one permutation of two registers chooses from.
const GROUP: usize = 16;
/// Groups of eight exponents that share what is read of a table: reading takes longer than
/// choosing.
const SHARING: usize = 4;

/// A base's powers base^(j 2^(w i)), split as a (1 + t N): the factors a multiply modulo N^2 as
/// (a, 0), which is less work than a product of pairs, and corrections t only add up.
///
/// The lanes share the table but not the index. For every digit of an entry, that digit of all
/// entries lies together, and permutations of whole registers choose for eight lanes at once.
pub struct LanePowers {
    /// [position][digit of a, then of t][entry].
    table: Lanes,
    /// Registers per digit.
    registers: usize,
    window: usize,
    positions: usize,
}

/// Eight powers: the product of factors, an element, and the sum of corrections.
pub struct Power {
    pub product: Lanes,
    correction: Lanes,
}

impl LanePowers {
    /// A table for exponents below 2^`exponent_bits`; `base` and its inverse are elements of
    /// `rows`, whose modulus is that of `ring`.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub fn new(
        ring: &LaneRing,
        rows: &SquareRing,
        base: &[u64],
        inverse: &[u64],
        exponent_bits: usize,
        window: usize,
    ) -> Self {
        // A position beyond the exponents makes the number even; all ask for its entry 1.
        let positions = exponent_bits.div_ceil(window).next_multiple_of(2);
        let registers = (1usize << window).max(2 * GROUP) / LANES;
        let digits = ring.digits();
        let mut table = Lanes::zeros(positions * 2 * digits * registers);
        let mut s = ring.scratch();
        let bases = integers(rows, &positional_powers(rows, base, positions, window));
        let inverses = integers(rows, &positional_powers(rows, inverse, positions, window));
        let width = 2 * rows.half();
        for first in (0..positions).step_by(LANES) {
            let last = (first + LANES).min(positions);
            let mut base = ring.element();
            let mut inverse = ring.element();
            ring.read(&mut base, &bases[first * width..last * width], width, &mut s);
            ring.read(&mut inverse, &inverses[first * width..last * width], width, &mut s);
            let mut power = ring.element();
            let mut unpower = ring.element();
            power.copy_from_slice(ring.one());
            unpower.copy_from_slice(ring.one());
            let mut next = ring.element();
            let mut ratio = Lanes::zeros(digits);
            let mut correction = Lanes::zeros(digits);
            for entry in 0..1 << window {
                let (a, b) = power.split_at(digits);
                ring.mul_mod_n(&mut ratio, b, &unpower[..digits], &mut s);
                ring.leave_mod_n(&mut correction, &ratio, &mut s);
                for (digit, lane) in a.iter().chain(correction.iter()).enumerate() {
                    for (position, &value) in (first..last).zip(&lane.0) {
                        let row = (position * 2 * digits + digit) * registers;
                        table[row + entry / LANES].0[entry % LANES] = value;
                    }
                }
                ring.mul(&mut next, &power, &base, &mut s);
                std::mem::swap(&mut next, &mut power);
                ring.mul_mod_n(&mut ratio, &unpower[..digits], &inverse[..digits], &mut s);
                unpower[..digits].copy_from_slice(&ratio);
            }
        }
        Self { table, registers, window, positions }
    }

    /// Powers for groups of eight exponents. What is read of the table at two positions is used
    /// for all groups before the next two.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub fn powers(
        &self,
        ring: &LaneRing,
        exponents: &[u64],
        limbs: usize,
        s: &mut LaneScratch,
    ) -> Vec<Power> {
        let digits = ring.digits();
        let groups: Vec<_> = exponents.chunks(LANES * limbs).collect();
        let mut partial: Vec<_> = groups.iter().map(|_| Shifted::new(ring)).collect();
        let mut corrections: Vec<_> = groups.iter().map(|_| Lanes::zeros(digits)).collect();
        let mut entries =
            [(); 2].map(|()| groups.iter().map(|_| ring.element()).collect::<Vec<_>>());
        let mut choices: Vec<_> =
            groups.chunks(SHARING).map(|_| Choice::new(self.registers * LANES / GROUP)).collect();
        let mut index = Lanes::zeros(groups.len());
        let mut next = Shifted::new(ring);
        for position in (0..self.positions).step_by(2) {
            for (position, entries) in (position..).zip(&mut entries) {
                for (index, exponents) in index.iter_mut().zip(&groups) {
                    *index = Rows { exponents, limbs }.at(position, self.window);
                }
                for (choice, index) in choices.iter_mut().zip(index.chunks(SHARING)) {
                    choice.set(index);
                }
                self.choose(entries, position, &choices);
            }
            let chosen = entries[0].iter().zip(&entries[1]);
            for ((partial, correction), (x, y)) in
                partial.iter_mut().zip(&mut corrections).zip(chosen)
            {
                let ((x, t), (y, u)) = (x.split_at(digits), y.split_at(digits));
                add_digits(correction, t, zero());
                add_digits(correction, u, zero());
                if position == 0 {
                    partial.set_product(ring, x, y, s);
                } else {
                    next.set_multiple(ring, partial, x, y, s);
                    std::mem::swap(&mut next, partial);
                }
            }
        }
        let powers = partial.iter().zip(corrections).map(|(partial, correction)| {
            let mut product = ring.element();
            partial.element(ring, &mut product, s);
            Power { product, correction }
        });
        powers.collect()
    }

    /// The entries of one position that the lanes of some groups ask for, with every entry read.
    #[target_feature(enable = "avx512f,avx512dq")]
    fn choose(&self, out: &mut [Lanes], position: usize, choices: &[Choice]) {
        let width = out[0].len() * self.registers;
        let rows = self.table[position * width..][..width].chunks_exact(self.registers);
        for (digit, row) in rows.enumerate() {
            // One digit of all entries stays in the first-level cache for all groups.
            for (choice, out) in choices.iter().zip(out.chunks_mut(SHARING)) {
                for (out, chosen) in out.iter_mut().zip(choice.of(row)) {
                    store(&mut out[digit], chosen);
                }
            }
        }
    }
}

/// Which entries some groups of lanes ask for.
struct Choice {
    /// Entry within a group of entries.
    within: Lanes,
    /// [group of entries][sharing]: mask of the lanes whose entry is there.
    here: Secret,
}

impl Choice {
    fn new(groups: usize) -> Self {
        Self { within: Lanes::zeros(SHARING), here: Secret::zeros(groups * SHARING) }
    }

    #[target_feature(enable = "avx512f")]
    fn set(&mut self, index: &[Lane]) {
        for (sharing, index) in index.iter().enumerate() {
            let index = load(index);
            let within = _mm512_and_si512(index, broadcast(GROUP as i64 - 1));
            store(&mut self.within[sharing], within);
            let group_of = _mm512_srli_epi64::<{ GROUP.ilog2() }>(index);
            for (group, here) in self.here.chunks_exact_mut(SHARING).enumerate() {
                let lanes = _mm512_cmpeq_epi64_mask(group_of, broadcast(group as i64));
                here[sharing] = u64::from(lanes);
            }
        }
    }

    /// One digit of the entries, from that digit of all entries.
    #[target_feature(enable = "avx512f,avx512dq")]
    #[inline]
    fn of(&self, row: &[Lane]) -> [__m512i; SHARING] {
        let within: [__m512i; SHARING] = std::array::from_fn(|sharing| load(&self.within[sharing]));
        let mut chosen = [zero(); SHARING];
        for (registers, here) in row.chunks_exact(4).zip(self.here.chunks_exact(2 * SHARING)) {
            let [a, b, c, d] = std::array::from_fn(|i| load(&registers[i]));
            let (low, high) = here.split_at(SHARING);
            for (sharing, chosen) in chosen.iter_mut().enumerate() {
                let index = within[sharing];
                let first = _mm512_maskz_permutex2var_epi64(low[sharing] as u8, a, index, b);
                let second = _mm512_maskz_permutex2var_epi64(high[sharing] as u8, c, index, d);
                *chosen = _mm512_ternarylogic_epi64::<ANY>(*chosen, first, second);
            }
        }
        chosen
    }
}

/// Truth table of a | b | c.
const ANY: i32 = 0xfe;

/// Elements as rows of integers.
fn integers(ring: &SquareRing, elements: &[u64]) -> Secret {
    let width = 2 * ring.half();
    let mut s = ring.scratch();
    let mut out = Secret::zeros(elements.len());
    let mut pair = Secret::zeros(width);
    for (element, out) in elements.chunks(width).zip(out.chunks_mut(width)) {
        pair.copy_from_slice(element);
        ring.leave(&mut pair, &mut s);
        ring.integer(&pair, out);
    }
    out
}

impl Power {
    /// Add the digits of a number to the correction: multiply the power by 1 + t N.
    #[target_feature(enable = "avx512f")]
    pub fn add_correction(&mut self, t: &[Lane]) {
        add_digits(&mut self.correction, t, zero());
    }

    /// The power times everything added, as a plain pair.
    #[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
    pub fn leave(&self, ring: &LaneRing, out: &mut [Lane], s: &mut LaneScratch) {
        ring.leave_with_factor(out, &self.product, &self.correction, s);
    }
}
