//! Slots with AVX-512 VBMI, eight at once: eight slots of b bits are b whole bytes.
//!
//! Belongs here: rows of slots by byte permutations.
//! Does not belong here: layouts and their checks (`slots`).
//!
//! Within each group of eight, slot i starts in byte i b / 8 at bit i b mod 8, and neighbours share
//! at most that byte. So packing shifts each value to its bit, moves the bytes of the even and of
//! the odd slots to their places, and joins the two; unpacking fetches the eight bytes that hold a
//! slot and shifts back.

use crate::slots::SlotLayout;
use std::arch::x86_64::*;

/// Whether each slot of a group lies within eight bytes, and even slots share none.
pub fn fits(slot_bits: usize) -> bool {
    slot_bits >= 8 && (0..8).all(|i| i * slot_bits % 8 + slot_bits <= 64)
}

fn first_byte(slot: usize, slot_bits: usize) -> usize {
    slot * slot_bits / 8
}

/// The first `count` of 64 or fewer.
fn first_bits(count: usize) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}

#[target_feature(enable = "avx512f")]
fn lanes(values: &[u64; 8]) -> __m512i {
    // SAFETY: 64 readable bytes.
    unsafe { _mm512_loadu_si512(values.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
fn bytes(values: &[u8; 64]) -> __m512i {
    // SAFETY: 64 readable bytes.
    unsafe { _mm512_loadu_si512(values.as_ptr().cast()) }
}

fn shifts(slot_bits: usize) -> [u64; 8] {
    std::array::from_fn(|i| (i * slot_bits % 8) as u64)
}

/// # Safety
/// There are `layout.slots` values, they fit a row, and the processor has AVX-512 F, BW and VBMI.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
pub unsafe fn pack_row(layout: &SlotLayout, values: &[i64], rows: &mut [u64]) -> u64 {
    let bits = layout.slot_bits;
    let mut sources = [[0u8; 64]; 2];
    let mut present = [0u64; 2];
    for i in 0..8 {
        let bytes = first_byte(i, bits)..(i * bits + bits).div_ceil(8);
        present[i % 2] |= first_bits(bytes.end) & !first_bits(bytes.start);
        for (from, byte) in sources[i % 2][bytes].iter_mut().enumerate() {
            *byte = (8 * i + from) as u8;
        }
    }
    let (even, odd) = (bytes(&sources[0]), bytes(&sources[1]));
    let shift = lanes(&shifts(bits));
    let bias = _mm512_set1_epi64(layout.bias());
    rows[values.len() * bits / 64..layout.limbs].fill(0);
    // To the end of all rows: a masked store takes many times as long.
    let writable_bytes = 8 * rows.len();
    let mut excess = _mm512_setzero_si512();
    for (group, values) in values.chunks(8).enumerate() {
        let used = first_bits(values.len()) as __mmask8;
        // SAFETY: the mask leaves the lanes behind the values unread.
        let raw = unsafe { _mm512_maskz_loadu_epi64(used, values.as_ptr()) };
        let biased = _mm512_maskz_add_epi64(used, raw, bias);
        excess = _mm512_or_si512(excess, biased);
        let shifted = _mm512_sllv_epi64(biased, shift);
        let packed = _mm512_or_si512(
            _mm512_maskz_permutexvar_epi8(present[0], even, shifted),
            _mm512_maskz_permutexvar_epi8(present[1], odd, shifted),
        );
        let offset = group * bits;
        // What lies behind the group is zero and is written by the next one, or with the next row.
        // SAFETY: the 64 bytes, or the mask, end with the rows.
        unsafe {
            let target = rows.as_mut_ptr().cast::<i8>().add(offset);
            match writable_bytes - offset {
                64.. => _mm512_storeu_si512(target.cast(), packed),
                left => _mm512_mask_storeu_epi8(target, first_bits(left), packed),
            }
        }
    }
    _mm512_reduce_or_epi64(excess) as u64 & layout.excess()
}

/// # Safety
/// The row holds `out.len()` slots, and the processor has AVX-512 F, BW and VBMI.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
pub unsafe fn unpack_row(layout: &SlotLayout, row: &[u64], bias: i64, out: &mut [i64]) {
    let bits = layout.slot_bits;
    let source = std::array::from_fn(|byte| (first_byte(byte / 8, bits) + byte % 8) as u8);
    let source = bytes(&source);
    let shift = lanes(&shifts(bits));
    let mask = _mm512_set1_epi64(layout.slot_mask() as i64);
    let bias = _mm512_set1_epi64(bias);
    let row_bytes = 8 * row.len();
    for (group, out) in out.chunks_mut(8).enumerate() {
        let offset = group * bits;
        // SAFETY: the masks end with the row and with the values.
        unsafe {
            let from = row.as_ptr().cast::<i8>().add(offset);
            let packed = _mm512_maskz_loadu_epi8(first_bits(row_bytes - offset), from);
            let moved = _mm512_permutexvar_epi8(source, packed);
            let raw = _mm512_and_si512(_mm512_srlv_epi64(moved, shift), mask);
            let values = _mm512_sub_epi64(raw, bias);
            match out.len() {
                8 => _mm512_storeu_si512(out.as_mut_ptr().cast(), values),
                left => _mm512_mask_storeu_epi64(out.as_mut_ptr(), first_bits(left) as u8, values),
            }
        }
    }
}
