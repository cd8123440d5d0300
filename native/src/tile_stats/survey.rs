//! Count, extremes and total in one pass.

use super::{Pixel, TileStats};

#[inline(always)]
pub fn integers<P: Pixel>(pixels: &[P], stats: &mut TileStats) {
    stats.count = pixels.len() as u64;
    let Some(&first) = pixels.first() else {
        (stats.minimum, stats.maximum) = (f64::NAN, f64::NAN);
        return;
    };
    let (mut low, mut high, mut total) = (first, first, 0i128);
    // Short blocks keep the inner sum in 64 bits for the narrow types.
    for block in pixels.chunks(4096) {
        for &pixel in block {
            low = if pixel < low { pixel } else { low };
            high = if pixel > high { pixel } else { high };
        }
        total += if size_of::<P>() == 8 {
            block.iter().map(|pixel| i128::from(pixel.to_i64())).sum()
        } else {
            i128::from(block.iter().map(|pixel| pixel.to_i64()).sum::<i64>())
        };
    }
    (stats.minimum, stats.maximum) = (low.to_f64(), high.to_f64());
    (stats.integer_minimum, stats.integer_maximum) = (low.to_i64(), high.to_i64());
    stats.integer_total_low = total as u64;
    stats.integer_total_high = (total >> 64) as i64;
    stats.total = total as f64;
}

const LANES: usize = 16;

#[inline(always)]
pub fn floats<P: Pixel>(pixels: &[P], stats: &mut TileStats) {
    let mut low = [f64::INFINITY; LANES];
    let mut high = [f64::NEG_INFINITY; LANES];
    let mut sums = [0.0; LANES];
    let mut errors = [0.0; LANES];
    let mut counts = [0u64; LANES];
    let mut add = |lane: usize, value: f64| {
        let finite = value.is_finite();
        low[lane] = if finite & (value < low[lane]) { value } else { low[lane] };
        high[lane] = if finite & (value > high[lane]) { value } else { high[lane] };
        counts[lane] += u64::from(finite);
        // As if added in twice the precision: a running error term per lane.
        let (sum, lost) = two_sum(sums[lane], if finite { value } else { 0.0 });
        sums[lane] = sum;
        errors[lane] += lost;
    };
    let (chunks, rest) = pixels.as_chunks::<LANES>();
    for chunk in chunks {
        for (lane, pixel) in chunk.iter().enumerate() {
            add(lane, pixel.to_f64());
        }
    }
    for (lane, pixel) in rest.iter().enumerate() {
        add(lane, pixel.to_f64());
    }
    stats.count = counts.iter().sum();
    stats.total = total(&sums, &errors);
    (stats.minimum, stats.maximum) = match stats.count {
        0 => (f64::NAN, f64::NAN),
        _ => (
            low.into_iter().fold(f64::INFINITY, f64::min),
            high.into_iter().fold(f64::NEG_INFINITY, f64::max),
        ),
    };
}

/// Knuth's two-sum: the rounded sum and the exact error of it.
#[inline(always)]
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let b_part = sum - a;
    (sum, (a - (sum - b_part)) + (b - b_part))
}

fn total(sums: &[f64; LANES], errors: &[f64; LANES]) -> f64 {
    let (mut total, mut total_error) = (0.0, 0.0);
    for (&sum, &error) in sums.iter().zip(errors) {
        let (next, lost) = two_sum(total, sum);
        total = next;
        total_error += lost + error;
    }
    // Sums that leave the range of doubles have no meaningful error term.
    if total.is_finite() && total_error.is_finite() { total + total_error } else { total }
}
