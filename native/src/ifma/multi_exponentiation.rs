//! Programs of products on single ciphertexts, eight operations at once.
//!
//! Operations of a layer choose their registers freely, so a register keeps one number's digits
//! together, and eight of them are transposed into lanes on the way in and back on the way out: 24
//! shuffles for eight digits, little beside the product.

use core::arch::x86_64::{
    __m512i, _mm512_shuffle_i64x2, _mm512_unpackhi_epi64, _mm512_unpacklo_epi64,
};

use super::columns::{load, store, zero};
use super::lanes::Lanes;
use super::ring::{LaneRing, LaneScratch};
use crate::groups::{LANES, Lane};
use crate::straight_line::{Operation, Program};

/// Run a program on numbers that lie as [register][column].
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
pub fn run(
    ring: &LaneRing,
    program: &Program,
    columns: usize,
    registers: &mut [Lane],
    s: &mut LaneScratch,
) {
    let digits = 2 * ring.digits();
    let width = digits.div_ceil(LANES);
    assert!(registers.len() == program.registers * columns * width);
    let [mut left, mut right, mut out] = [(); 3].map(|()| Lanes::zeros(width * LANES));
    let mut places = [[0; LANES]; 3];
    for layer in &program.layers {
        let count = layer.operations.len() * columns;
        for first in (0..count).step_by(LANES) {
            for lane in 0..LANES {
                // Lanes beyond the last operation repeat it.
                let number = (first + lane).min(count - 1);
                let Operation { out, left, right } = layer.operations[number / columns];
                for (places, register) in places.iter_mut().zip([left, right, out]) {
                    places[lane] = (register as usize * columns + number % columns) * width;
                }
            }
            gather(&mut left, registers, &places[0]);
            if layer.squares {
                ring.square(&mut out[..digits], &left[..digits], s);
            } else {
                gather(&mut right, registers, &places[1]);
                ring.mul(&mut out[..digits], &left[..digits], &right[..digits], s);
            }
            scatter(&out, registers, &places[2]);
        }
    }
}

/// Numbers at eight places, side by side.
#[target_feature(enable = "avx512f")]
fn gather(out: &mut [Lane], registers: &[Lane], places: &[usize; LANES]) {
    for (block, out) in out.chunks_exact_mut(LANES).enumerate() {
        let mut rows = [zero(); LANES];
        for (row, place) in rows.iter_mut().zip(places) {
            *row = load(&registers[place + block]);
        }
        let columns = transposed(&rows);
        for (out, column) in out.iter_mut().zip(columns) {
            store(out, column);
        }
    }
}

/// Undo `gather`.
#[target_feature(enable = "avx512f")]
fn scatter(lanes: &[Lane], registers: &mut [Lane], places: &[usize; LANES]) {
    for (block, lanes) in lanes.chunks_exact(LANES).enumerate() {
        let mut columns = [zero(); LANES];
        for (column, lane) in columns.iter_mut().zip(lanes) {
            *column = load(lane);
        }
        let rows = transposed(&columns);
        for (place, row) in places.iter().zip(rows) {
            store(&mut registers[place + block], row);
        }
    }
}

// Library functions that take closures would not be compiled for these instructions, hence loops.

/// Eight registers of eight, rows and columns exchanged.
#[target_feature(enable = "avx512f")]
#[inline]
fn transposed(rows: &[__m512i; LANES]) -> [__m512i; LANES] {
    let mut columns = [zero(); LANES];
    for odd in 0..2 {
        // Pairs of rows, then pairs of pairs, then halves.
        let mut pairs = [zero(); LANES / 2];
        for (i, pair) in pairs.iter_mut().enumerate() {
            let (above, below) = (rows[2 * i], rows[2 * i + 1]);
            *pair = match odd {
                0 => _mm512_unpacklo_epi64(above, below),
                _ => _mm512_unpackhi_epi64(above, below),
            };
        }
        let low = _mm512_shuffle_i64x2::<0x88>(pairs[0], pairs[1]);
        let high = _mm512_shuffle_i64x2::<0x88>(pairs[2], pairs[3]);
        columns[odd] = _mm512_shuffle_i64x2::<0x88>(low, high);
        columns[odd + 4] = _mm512_shuffle_i64x2::<0xdd>(low, high);
        let low = _mm512_shuffle_i64x2::<0xdd>(pairs[0], pairs[1]);
        let high = _mm512_shuffle_i64x2::<0xdd>(pairs[2], pairs[3]);
        columns[odd + 2] = _mm512_shuffle_i64x2::<0x88>(low, high);
        columns[odd + 6] = _mm512_shuffle_i64x2::<0xdd>(low, high);
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::isa::Isa;

    #[test]
    fn gathering_takes_numbers_into_lanes_and_back() {
        if !Isa::Avx512Ifma.is_available() {
            return;
        }
        let mut registers: Vec<Lane> = (0..40u64)
            .map(|block| Lane(std::array::from_fn(|digit| 100 * block + digit as u64)))
            .collect();
        let places = [10, 0, 38, 4, 6, 6, 20, 12];
        let mut lanes = vec![Lane([0; LANES]); 2 * LANES];
        // SAFETY: the features were checked.
        unsafe { gather(&mut lanes, &registers, &places) };
        for (digit, lane) in lanes.iter().enumerate() {
            for (value, place) in lane.0.iter().zip(places) {
                assert_eq!(*value, registers[place + digit / LANES].0[digit % LANES]);
            }
        }
        let before = registers.clone();
        for place in places {
            registers[place..place + 2].fill(Lane([0; LANES]));
        }
        // SAFETY: the features were checked.
        unsafe { scatter(&lanes, &mut registers, &places) };
        assert_eq!(registers, before);
    }
}
