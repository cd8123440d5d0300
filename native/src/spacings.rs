//! Differential entropy of one-dimensional samples from the gaps between their order statistics.
//!
//! Belongs here: the estimate of Vasicek 1976 with the mean of each log gap for a uniform
//! distribution taken off exactly (see `acie_native._entropy`), and each sample's share of it.
//! Does not belong here: projections, whitening, error bars.

/// Estimate one entropy per row of `values`, each row as long as `surprisal`.
///
/// `surprisal` receives, per sample, the sum over rows of minus the log of the estimated density.
/// `digamma[k]` is digamma(k) - digamma(count + 1), the mean log of the gap between order
/// statistics that are k apart among `count` uniform samples. A gap of zero gives minus infinity.
pub fn spacing_entropies(
    values: &[f32],
    window: usize,
    digamma: &[f64],
    entropies: &mut [f64],
    surprisal: &mut [f64],
) {
    let count = surprisal.len();
    surprisal.fill(0.0);
    if count == 0 {
        return;
    }
    let mut sorted: Vec<u64> = Vec::with_capacity(count);
    let mut scratch = vec![0; count];
    for (row, entropy) in values.chunks_exact(count).zip(entropies) {
        sorted.clear();
        sorted.extend(row.iter().enumerate().map(|(i, &x)| u64::from(ordered(x)) << 32 | i as u64));
        sort_by_upper_half(&mut sorted, &mut scratch);
        let mut total = 0.0;
        for (rank, &entry) in sorted.iter().enumerate() {
            let low = rank.saturating_sub(window);
            let high = (rank + window).min(count - 1);
            let gap = value(sorted[high]) - value(sorted[low]);
            let share = gap.ln() - digamma[high - low];
            surprisal[entry as u32 as usize] += share;
            total += share;
        }
        *entropy = total / count as f64;
    }
}

/// Bits whose order as integers is the order of the numbers.
fn ordered(x: f32) -> u32 {
    let bits = x.to_bits();
    if bits >> 31 == 0 { bits | 1 << 31 } else { !bits }
}

fn value(entry: u64) -> f64 {
    let bits = (entry >> 32) as u32;
    f64::from(f32::from_bits(if bits >> 31 == 1 { bits & !(1 << 31) } else { !bits }))
}

const DIGIT_BITS: usize = 11;
const DIGITS: usize = 3;

/// Radix sort; equal halves keep their order. `scratch` is only storage.
fn sort_by_upper_half(entries: &mut Vec<u64>, scratch: &mut Vec<u64>) {
    const BUCKETS: usize = 1 << DIGIT_BITS;
    let digit = |entry: u64, k: usize| (entry >> (32 + DIGIT_BITS * k)) as usize & (BUCKETS - 1);
    let mut places = [[0_u32; BUCKETS]; DIGITS];
    for &entry in entries.iter() {
        for (k, places) in places.iter_mut().enumerate() {
            places[digit(entry, k)] += 1;
        }
    }
    for (k, places) in places.iter_mut().enumerate() {
        let mut sum = 0;
        for place in places.iter_mut() {
            sum += std::mem::replace(place, sum);
        }
        for &entry in entries.iter() {
            let place = &mut places[digit(entry, k)];
            scratch[*place as usize] = entry;
            *place += 1;
        }
        std::mem::swap(entries, scratch);
    }
}
