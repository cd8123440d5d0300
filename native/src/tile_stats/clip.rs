//! Sigma clipping of any distribution that can be asked for moments and medians of intervals.
//!
//! Follows `astropy.stats.sigma_clip(cenfunc="median", stdfunc="std")`: each round keeps what lies
//! within `sigma` deviations of the median of what the round before kept, and the bounds of the
//! last round are applied to all values.

use super::Clip;

/// Lowest and highest value that counts.
pub type Interval = (f64, f64);

/// All finite values.
pub const EVERYTHING: Interval = (f64::MIN, f64::MAX);

/// What lies in an interval.
#[derive(Clone, Copy)]
pub struct Moments {
    /// Values below the interval.
    pub below: u64,
    /// Values in the interval.
    pub count: u64,
    /// Population variance of the values in the interval; NaN for none.
    pub variance: f64,
}

/// Values that can be measured again and again.
pub trait Distribution {
    /// Moments of the values in an interval.
    fn within(&mut self, interval: Interval) -> Moments;

    /// Values of ranks `lower` and `upper`, which is `lower` or the next.
    fn ranked(&mut self, lower: u64, upper: u64) -> (f64, f64);

    /// Median of `count` values above the lowest `below`; NaN for none.
    #[inline(always)]
    fn median(&mut self, below: u64, count: u64) -> f64 {
        if count == 0 {
            return f64::NAN;
        }
        let (lower, upper) = self.ranked(below + (count - 1) / 2, below + count / 2);
        // Halves first: the sum of two large values could overflow.
        if lower == upper { lower } else { 0.5 * lower + 0.5 * upper }
    }
}

/// Median and standard deviation after clipping, from the median and the moments of all values.
#[inline(always)]
pub fn background(
    values: &mut impl Distribution,
    mut center: f64,
    all: Moments,
    clip: Clip,
) -> (f64, f64) {
    let mut kept = (EVERYTHING, all);
    let mut bounds = EVERYTHING;
    for round in 0..clip.rounds {
        let reach = clip.sigma * kept.1.variance.sqrt();
        bounds = overlap(EVERYTHING, (center - reach, center + reach));
        let before = kept.1.count;
        let interval = overlap(kept.0, bounds);
        kept = (interval, values.within(interval));
        if kept.1.count == before || kept.1.count == 0 {
            break;
        }
        if round + 1 < clip.rounds {
            center = values.median(kept.1.below, kept.1.count);
        }
    }
    let last = if bounds == kept.0 { kept.1 } else { values.within(bounds) };
    (values.median(last.below, last.count), last.variance.sqrt())
}

/// Bounds that are no numbers stay so: nothing lies between them.
#[inline(always)]
fn overlap(outer: Interval, inner: Interval) -> Interval {
    (
        if outer.0 > inner.0 { outer.0 } else { inner.0 },
        if outer.1 < inner.1 { outer.1 } else { inner.1 },
    )
}
