//! Powers of eight numbers at once, each with its own base.

use core::arch::x86_64::{_mm512_cmpeq_epi64_mask, _mm512_mask_mov_epi64};

use super::columns::{TILE, broadcast, load, store, zero_tile};
use super::lanes::{LANES, Lane, Lanes};
use super::ring::{LaneRing, LaneScratch};
use crate::limbs::bits_at;

/// Digits of an exponent, one per lane, from position 0.
pub trait Digits {
    fn at(&self, position: usize, window: usize) -> Lane;
}

/// One exponent for all lanes.
pub struct Shared<'a>(pub &'a [u64]);

impl Digits for Shared<'_> {
    fn at(&self, position: usize, window: usize) -> Lane {
        Lane([bits_at(self.0, position * window, window) as u64; LANES])
    }
}

/// Rows of exponents, `limbs` wide; lanes beyond the last row have exponent 0.
pub struct Rows<'a> {
    pub exponents: &'a [u64],
    pub limbs: usize,
}

impl Digits for Rows<'_> {
    fn at(&self, position: usize, window: usize) -> Lane {
        let mut digits = [0; LANES];
        for (digit, exponent) in digits.iter_mut().zip(self.exponents.chunks(self.limbs)) {
            *digit = bits_at(exponent, position * window, window) as u64;
        }
        Lane(digits)
    }
}

/// Elements to the power of `bits`-bit exponents by fixed windows. The sequence of operations and
/// of addresses depends on `bits` only.
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
pub fn power(
    ring: &LaneRing,
    base: &[Lane],
    exponents: &impl Digits,
    bits: usize,
    s: &mut LaneScratch,
) -> Lanes {
    let width = 2 * ring.digits();
    let mut power = ring.element();
    if bits == 0 {
        power.copy_from_slice(ring.one());
        return power;
    }
    let window = match bits {
        0..=4 => 1,
        5..=12 => 2,
        13..=64 => 3,
        _ => 4,
    };
    let mut table = Lanes::zeros(width << window);
    table[..width].copy_from_slice(ring.one());
    table[width..2 * width].copy_from_slice(base);
    for entry in 2..1 << window {
        let (done, rest) = table.split_at_mut(entry * width);
        let half = &done[entry / 2 * width..][..width];
        if entry % 2 == 0 {
            ring.square(&mut rest[..width], half, s);
        } else {
            ring.mul(&mut rest[..width], &done[(entry - 1) * width..], base, s);
        }
    }
    let digits = bits.div_ceil(window);
    let mut next = ring.element();
    let mut entry = ring.element();
    select(&mut power, &table, &exponents.at(digits - 1, window));
    for position in (0..digits - 1).rev() {
        for _ in 0..window {
            ring.square(&mut next, &power, s);
            std::mem::swap(&mut next, &mut power);
        }
        select(&mut entry, &table, &exponents.at(position, window));
        ring.mul(&mut next, &power, &entry, s);
        std::mem::swap(&mut next, &mut power);
    }
    power
}

/// Entry `index[lane]` of each lane's table, with every entry read.
#[target_feature(enable = "avx512f")]
fn select(out: &mut [Lane], table: &[Lane], index: &Lane) {
    let width = out.len();
    let index = load(index);
    for (block, out) in out.chunks_exact_mut(TILE).enumerate() {
        let mut chosen = zero_tile();
        for (number, entry) in table.chunks_exact(width).enumerate() {
            let here = _mm512_cmpeq_epi64_mask(index, broadcast(number as i64));
            let digits = &entry[block * TILE..][..TILE];
            for (chosen, digit) in chosen.iter_mut().zip(digits) {
                *chosen = _mm512_mask_mov_epi64(*chosen, here, load(digit));
            }
        }
        for (out, chosen) in out.iter_mut().zip(chosen) {
            store(out, chosen);
        }
    }
}
