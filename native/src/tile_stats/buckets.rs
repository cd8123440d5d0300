//! Values of any range: counted in buckets that follow their order, and read again when asked.
//!
//! A sample divides the values into a core and two tails. The tails are copied, the core is summed
//! once: the moments of an interval that contains the core need no other look at the pixels, and
//! clipping mostly asks for those. Any other interval is a pass that masks what lies outside, which
//! includes what is not finite. A value of given rank lies in the bucket that the counts name, and
//! is selected from the values of that bucket; those around the median are copied as well. So
//! results never depend on how well the sample fits; a bad fit only costs time.

use super::Pixel;
use super::clip::{Distribution, Interval, Moments};

const BUCKETS: usize = 1 << 12;
/// What is not finite is counted here.
const NOWHERE: u16 = BUCKETS as u16;
/// Room for every bucket number, a power of two.
const COUNTERS: usize = 2 * BUCKETS;
/// As in `histogram`: neighbours are often alike.
const SETS: usize = 2;

/// Fewer pixels are all copied.
const SAMPLING_PAYS: usize = 1 << 13;
const SAMPLE: usize = 1 << 12;
/// The share of the sample in each tail.
const TAIL: usize = 32;

const LANES: usize = 16;
const BLOCK: usize = 64 * LANES;
/// Buckets of more values are searched for two different values before they are copied.
const LARGE: u64 = 1 << 13;

/// A map from values to bucket numbers that never falls.
#[derive(Clone, Copy)]
struct Scale {
    origin: f64,
    per_unit: f64,
}

impl Scale {
    /// One bucket for everything.
    const FLAT: Self = Self { origin: 0.0, per_unit: 0.0 };

    /// Number of the bucket before truncation; 0 for what is not a number.
    #[inline(always)]
    fn place(self, value: f64) -> f64 {
        let place = (value - self.origin) * self.per_unit + 1.0;
        let place = if place > 0.0 { place } else { 0.0 };
        let last = (BUCKETS - 1) as f64;
        if place < last { place } else { last }
    }
}

/// What a sample says about the values; everything else holds whatever it says.
struct Fit {
    scale: Scale,
    /// A value in the middle, from which deviations are taken.
    pivot: f64,
    /// The values between the tails; none if there is no sample.
    core: Interval,
}

#[inline(always)]
fn fit<P: Pixel>(pixels: &[P]) -> Fit {
    // Odd, so that the sample does not stay in a few columns of the image.
    let stride = (pixels.len() / SAMPLE) | 1;
    let sample = pixels.iter().step_by(stride).map(|pixel| pixel.to_f64());
    let mut sample: Vec<f64> = sample.filter(|value| value.is_finite()).collect();
    sample.sort_unstable_by(f64::total_cmp);
    let pivot = sample.get(sample.len() / 2).copied().unwrap_or(0.0);
    let margin = sample.len() / TAIL;
    if pixels.len() < SAMPLING_PAYS || margin == 0 {
        return Fit { scale: Scale::FLAT, pivot, core: (f64::MAX, f64::MIN) };
    }
    let (low, high) = (sample[margin], sample[sample.len() - 1 - margin]);
    let width = high - low;
    let scale = if width.is_finite() {
        // The first and the last bucket are for the tails.
        Scale { origin: low, per_unit: ((BUCKETS - 3) as f64 / width).min(f64::MAX) }
    } else {
        Scale::FLAT
    };
    Fit { scale, pivot, core: (low, high) }
}

/// Numbers of values and sums of their deviations from a pivot, and of the squares of those.
#[derive(Clone, Copy, Default)]
struct Sums {
    below: u64,
    count: u64,
    deviation: f64,
    square: f64,
}

impl Sums {
    /// Of the values in an interval.
    #[inline(always)]
    fn within<P: Pixel>(pixels: &[P], (low, high): Interval, pivot: f64) -> Self {
        let mut lanes = ([0u64; LANES], [0u64; LANES], [0.0; LANES], [0.0; LANES]);
        let (below, count, deviations, squares) = &mut lanes;
        let mut add = |lane: usize, value: f64| {
            let inside = (value >= low) & (value <= high);
            let deviation = if inside { value - pivot } else { 0.0 };
            below[lane] += u64::from((value < low) & (value >= f64::MIN));
            count[lane] += u64::from(inside);
            deviations[lane] += deviation;
            squares[lane] += deviation * deviation;
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
        Self {
            below: lanes.0.iter().sum(),
            count: lanes.1.iter().sum(),
            deviation: lanes.2.iter().sum(),
            square: lanes.3.iter().sum(),
        }
    }

    fn plus(self, other: Self) -> Self {
        Self {
            below: self.below + other.below,
            count: self.count + other.count,
            deviation: self.deviation + other.deviation,
            square: self.square + other.square,
        }
    }

    fn moments(self) -> Moments {
        let shift = self.deviation / self.count as f64;
        // A pivot in the middle is at most about a deviation away from the mean, so that little
        // cancels. Rounding can bring the difference below zero; what is not a number stays so.
        let variance = self.square / self.count as f64 - shift * shift;
        let variance = if variance < 0.0 { 0.0 } else { variance };
        Moments { below: self.below, count: self.count, variance }
    }
}

pub struct Buckets<'a, P> {
    pixels: &'a [P],
    fit: Fit,
    /// How many values lie in the buckets before each, and in all.
    before: Vec<u64>,
    core: Sums,
    tails: Vec<f64>,
    /// Values of the buckets that may hold the median if only tails are cut: first, last, values.
    middle: (usize, usize, Vec<f64>),
}

impl<'a, P: Pixel> Buckets<'a, P> {
    #[inline(always)]
    pub fn new(pixels: &'a [P]) -> Self {
        let fit = fit(pixels);
        let (counts, tails) = count_and_copy(pixels, &fit);
        let mut before = vec![0; BUCKETS + 1];
        for (i, count) in counts.iter().enumerate() {
            before[i + 1] = before[i] + count;
        }
        let core = Sums::within(pixels, fit.core, fit.pivot);
        // The tails count what is below the core as well.
        let core = Sums { below: 0, ..core };
        let mut buckets = Self { pixels, fit, before, core, tails, middle: (1, 0, Vec::new()) };
        let all = buckets.before[BUCKETS];
        let cut = buckets.tails.len() as u64;
        if all > cut {
            let first = buckets.bucket((all - cut) / 2);
            let last = buckets.bucket(((all + cut) / 2).min(all - 1));
            if buckets.held(first, last) <= 2 * cut + LARGE {
                buckets.middle = (first, last, buckets.copied(pixels, first, last));
            }
        }
        buckets
    }

    /// The bucket of the value of this rank.
    fn bucket(&self, rank: u64) -> usize {
        self.before.partition_point(|&before| before <= rank) - 1
    }

    /// How many values are in some buckets.
    fn held(&self, first: usize, last: usize) -> u64 {
        self.before[last + 1] - self.before[first]
    }

    /// Smallest and largest value in some buckets.
    #[inline(always)]
    fn extremes(&self, first: usize, last: usize) -> (f64, f64) {
        let (start, end) = (first as f64, (last + 1) as f64);
        let mut low = [f64::INFINITY; LANES];
        let mut high = [f64::NEG_INFINITY; LANES];
        let mut add = |lane: usize, value: f64| {
            let place = self.fit.scale.place(value);
            let inside = (place >= start) & (place < end) & value.is_finite();
            low[lane] = if inside & (value < low[lane]) { value } else { low[lane] };
            high[lane] = if inside & (value > high[lane]) { value } else { high[lane] };
        };
        let (chunks, rest) = self.pixels.as_chunks::<LANES>();
        for chunk in chunks {
            for (lane, pixel) in chunk.iter().enumerate() {
                add(lane, pixel.to_f64());
            }
        }
        for (lane, pixel) in rest.iter().enumerate() {
            add(lane, pixel.to_f64());
        }
        (
            low.into_iter().fold(f64::INFINITY, f64::min),
            high.into_iter().fold(f64::NEG_INFINITY, f64::max),
        )
    }

    /// Those of the values that are in some buckets.
    #[inline(always)]
    fn copied<Q: Pixel>(&self, values: &[Q], first: usize, last: usize) -> Vec<f64> {
        let (start, end) = (first as f64, (last + 1) as f64);
        let mut found = Vec::with_capacity(self.held(first, last) as usize + BLOCK);
        for block in values.chunks(BLOCK) {
            copy_some(block, &mut found, |value| {
                let place = self.fit.scale.place(value);
                (place >= start) & (place < end) & value.is_finite()
            });
        }
        found
    }
}

/// Append the chosen values of a block.
#[inline(always)]
fn copy_some<P: Pixel>(block: &[P], found: &mut Vec<f64>, chosen: impl Fn(f64) -> bool) {
    let mut values = [0.0; BLOCK];
    let mut choice = [false; BLOCK];
    for ((value, choice), pixel) in values.iter_mut().zip(&mut choice).zip(block) {
        *value = pixel.to_f64();
        *choice = chosen(*value);
    }
    // Every value is written, the position moves on only behind chosen ones: no branch to
    // mispredict.
    let mut kept = found.len();
    found.resize(kept + block.len(), 0.0);
    for (value, choice) in values.iter().zip(&choice).take(block.len()) {
        found[kept] = *value;
        kept += usize::from(*choice);
    }
    found.truncate(kept);
}

/// Count the values per bucket, and copy the tails.
#[inline(always)]
fn count_and_copy<P: Pixel>(pixels: &[P], fit: &Fit) -> (Vec<u64>, Vec<f64>) {
    let mut sets = vec![[0u32; COUNTERS]; SETS];
    let mut counts = vec![0u64; BUCKETS];
    let mut tails = Vec::new();
    let (low, high) = fit.core;
    // Counts of a part fit 32 bits.
    for part in pixels.chunks(1 << 30) {
        for block in part.chunks(BLOCK) {
            let mut numbers = [0u16; BLOCK];
            for (number, pixel) in numbers.iter_mut().zip(block) {
                let value = pixel.to_f64();
                // SAFETY: `place` gives numbers from 0 to BUCKETS - 1.
                let place: i32 = unsafe { fit.scale.place(value).to_int_unchecked() };
                *number = if value.is_finite() { place as u16 } else { NOWHERE };
            }
            let numbers = &numbers[..block.len()];
            for (i, &number) in numbers.iter().enumerate() {
                sets[i % SETS][usize::from(number) % COUNTERS] += 1;
            }
            copy_some(block, &mut tails, |value| {
                let inside = (value >= low) & (value <= high);
                value.is_finite() & !inside
            });
        }
        for set in &mut sets {
            for (count, part) in counts.iter_mut().zip(&*set) {
                *count += u64::from(*part);
            }
            set.fill(0);
        }
    }
    (counts, tails)
}

impl<P: Pixel> Distribution for Buckets<'_, P> {
    #[inline(always)]
    fn within(&mut self, interval: Interval) -> Moments {
        let core = self.fit.core;
        let contains_core = interval.0 <= core.0 && core.1 <= interval.1;
        if contains_core || core.0 > core.1 {
            let tails = Sums::within(&self.tails, interval, self.fit.pivot);
            return self.core.plus(tails).moments();
        }
        Sums::within(self.pixels, interval, self.fit.pivot).moments()
    }

    #[inline(always)]
    fn ranked(&mut self, lower: u64, upper: u64) -> (f64, f64) {
        let (first, last) = (self.bucket(lower), self.bucket(upper));
        let mut values = if self.middle.0 <= first && last <= self.middle.1 {
            self.copied(&self.middle.2, first, last)
        } else {
            if self.held(first, last) > LARGE {
                let (low, high) = self.extremes(first, last);
                if low == high {
                    return (low, low);
                }
            }
            self.copied(self.pixels, first, last)
        };
        let rank = (upper - self.before[first]) as usize;
        let (left, &mut high, _) = values.select_nth_unstable_by(rank, f64::total_cmp);
        if lower == upper {
            return (high, high);
        }
        (left.iter().copied().fold(f64::NEG_INFINITY, f64::max), high)
    }
}
