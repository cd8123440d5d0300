//! Integers of a narrow range: one count per value, and everything else from the counts, exactly.

use super::Pixel;
use super::clip::{Distribution, Interval, Moments};

/// More than a 16-bit image can need; the counts then still fit the second-level cache.
const MAXIMUM_BINS: u64 = 1 << 16;
/// Up to so many bins there are four sets of counts: neighbours in an image are often equal, and
/// counting one bin twice in a row waits for the first count to be stored.
const REPEATED_BINS: usize = 1 << 11;
const SETS: usize = 4;

/// Whether `count` values from `range.0` to `range.1` are better counted than compared.
pub fn pays(count: u64, range: (i64, i64)) -> bool {
    // Squares of offsets then add up in 64 bits.
    count > 0 && count <= u64::from(u32::MAX) && range.1.abs_diff(range.0) < MAXIMUM_BINS
}

pub struct Histogram {
    /// Value of the first bin.
    first: i64,
    counts: Vec<u32>,
}

impl Histogram {
    #[inline(always)]
    pub fn new<P: Pixel>(pixels: &[P], range: (i64, i64)) -> Self {
        let first = range.0;
        let bins = range.1.abs_diff(first) as usize + 1;
        let bin = |pixel: P| pixel.to_i64().wrapping_sub(first) as usize;
        let mut counts;
        if bins <= REPEATED_BINS {
            let mut sets = vec![[0u32; SETS]; bins];
            let (chunks, rest) = pixels.as_chunks::<SETS>();
            for chunk in chunks {
                for (set, &pixel) in chunk.iter().enumerate() {
                    sets[bin(pixel)][set] += 1;
                }
            }
            for &pixel in rest {
                sets[bin(pixel)][0] += 1;
            }
            counts = sets.iter().map(|set| set.iter().sum()).collect();
        } else {
            counts = vec![0u32; bins];
            for &pixel in pixels {
                counts[bin(pixel)] += 1;
            }
        }
        Self { first, counts }
    }

    fn value(&self, bin: usize) -> f64 {
        (self.first + bin as i64) as f64
    }

    /// Number of bins whose value is below `limit`, or equal to it if `inclusive`.
    fn bins_below(&self, limit: f64, inclusive: bool) -> usize {
        let (mut low, mut high) = (0, self.counts.len());
        while low < high {
            let middle = (low + high) / 2;
            let value = self.value(middle);
            if value < limit || (inclusive && value == limit) {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        low
    }

    fn rank(&self, rank: u64) -> f64 {
        let mut seen = 0;
        for (bin, &count) in self.counts.iter().enumerate() {
            seen += u64::from(count);
            if seen > rank {
                return self.value(bin);
            }
        }
        f64::NAN
    }
}

impl Distribution for Histogram {
    #[inline(always)]
    fn within(&mut self, (low, high): Interval) -> Moments {
        let first = self.bins_below(low, false);
        let end = self.bins_below(high, true).max(first);
        let below = self.counts[..first].iter().map(|&count| u64::from(count)).sum();
        let (mut count, mut sum, mut squares) = (0u64, 0u64, 0u64);
        for (offset, &bin) in (0u64..).zip(&self.counts[first..end]) {
            let bin = u64::from(bin);
            count += bin;
            sum += bin * offset;
            squares += bin * offset * offset;
        }
        let scatter = u128::from(count) * u128::from(squares) - u128::from(sum).pow(2);
        let variance = scatter as f64 / (count as f64 * count as f64);
        Moments { below, count, variance }
    }

    #[inline(always)]
    fn ranked(&mut self, lower: u64, upper: u64) -> (f64, f64) {
        let low = self.rank(lower);
        (low, if upper == lower { low } else { self.rank(upper) })
    }
}
