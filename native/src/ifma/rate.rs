//! How fast this core multiplies: what the measured rates of operations are compared with.

use core::arch::x86_64::{
    __m512i, _mm512_madd52hi_epu64, _mm512_madd52lo_epu64, _mm512_set1_epi64,
};
use std::hint::black_box;
use std::time::Instant;

/// Independent sums: more than the latency of an instruction times those begun in a cycle.
const SUMS: usize = 16;
/// Turns of one measurement: about a millisecond.
const TURNS: usize = 1 << 18;
const MEASUREMENTS: usize = 20;

/// Eight-lane multiply-adds per second on registers, the best of some measurements. The processor
/// must have the instructions.
pub fn multiply_adds_per_second() -> f64 {
    let best = (0..MEASUREMENTS).map(|_| {
        let start = Instant::now();
        // SAFETY: the caller has checked the processor.
        black_box(unsafe { multiply_add(black_box(3)) });
        start.elapsed().as_secs_f64()
    });
    (SUMS * TURNS) as f64 / best.fold(f64::INFINITY, f64::min)
}

#[target_feature(enable = "avx512f,avx512ifma")]
fn multiply_add(factor: i64) -> [__m512i; SUMS] {
    let factor = _mm512_set1_epi64(factor);
    let mut sums = [factor; SUMS];
    for _ in 0..TURNS {
        let (low, high) = sums.split_at_mut(SUMS / 2);
        for (low, high) in low.iter_mut().zip(high) {
            *low = _mm512_madd52lo_epu64(*low, factor, factor);
            *high = _mm512_madd52hi_epu64(*high, factor, factor);
        }
    }
    sums
}
