//! Statistics of one tile: moments, extremes and a sigma-clipped background.
//!
//! Belongs here: the result, the pixel types, and which method measures a tile.
//! Does not belong here: the methods (`histogram`, `buckets`) and the clipping (`clip`).

mod buckets;
mod clip;
mod histogram;
mod survey;

use crate::isa::Isa;
use buckets::Buckets;
use clip::{Distribution, EVERYTHING, background};
use histogram::Histogram;

/// A sample type.
pub trait Pixel: Copy + PartialOrd {
    /// Whether totals are exact integers.
    const INTEGER: bool;
    fn to_f64(self) -> f64;
    fn to_i64(self) -> i64;
}

macro_rules! pixel {
    ($($kind:ty: $integer:expr),*) => {
        $(impl Pixel for $kind {
            const INTEGER: bool = $integer;
            #[inline(always)]
            fn to_f64(self) -> f64 {
                self as f64
            }
            #[inline(always)]
            fn to_i64(self) -> i64 {
                self as i64
            }
        })*
    };
}

pixel!(f32: false, f64: false, u8: true, i16: true, u16: true, i32: true, u32: true, i64: true);

/// Field for field what the C interface returns. Extremes and total of integer pixels are in the
/// integer fields, those of floating-point pixels in the others.
#[repr(C)]
#[derive(Debug, Default)]
pub struct TileStats {
    pub count: u64,
    pub minimum: f64,
    pub maximum: f64,
    pub total: f64,
    pub mean: f64,
    pub variance: f64,
    pub background: f64,
    pub background_rms: f64,
    pub integer_minimum: i64,
    pub integer_maximum: i64,
    pub integer_total_low: u64,
    pub integer_total_high: i64,
}

/// When to stop clipping.
#[derive(Clone, Copy)]
pub struct Clip {
    pub sigma: f64,
    pub rounds: u32,
}

/// Statistics of the finite pixels whose `valid` byte (if there are any) is not zero.
pub fn tile_stats<P: Pixel>(pixels: &[P], valid: Option<&[u8]>, clip: Clip, isa: Isa) -> TileStats {
    let chosen;
    let pixels = match valid {
        None => pixels,
        Some(valid) => {
            chosen = select(pixels, valid);
            &chosen
        }
    };
    // The same Rust on every path: the compiler may use wider registers, and lanes are summed in
    // one order, so the bits are the same.
    #[cfg(x86_paths)]
    match isa.vectors() {
        // SAFETY: `vectors` has checked the processor.
        Vectors::Avx512 => return unsafe { measure_avx512(pixels, clip) },
        // SAFETY: likewise.
        Vectors::Avx2 => return unsafe { measure_avx2(pixels, clip) },
        Vectors::Baseline => {}
    }
    let _ = isa;
    measure(pixels, clip)
}

#[cfg(x86_paths)]
use crate::isa::Vectors;

#[cfg(x86_paths)]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn measure_avx512<P: Pixel>(pixels: &[P], clip: Clip) -> TileStats {
    measure(pixels, clip)
}

#[cfg(x86_paths)]
#[target_feature(enable = "avx2")]
fn measure_avx2<P: Pixel>(pixels: &[P], clip: Clip) -> TileStats {
    measure(pixels, clip)
}

fn select<P: Pixel>(pixels: &[P], valid: &[u8]) -> Vec<P> {
    let mut chosen = pixels.to_vec();
    let mut kept = 0;
    for (&pixel, &valid) in pixels.iter().zip(valid) {
        chosen[kept] = pixel;
        kept += usize::from(valid != 0);
    }
    chosen.truncate(kept);
    chosen
}

#[inline(always)]
fn measure<P: Pixel>(pixels: &[P], clip: Clip) -> TileStats {
    let mut stats = TileStats::default();
    if P::INTEGER {
        survey::integers(pixels, &mut stats);
    } else {
        survey::floats(pixels, &mut stats);
    }
    stats.mean = stats.total / stats.count as f64;
    let range = (stats.integer_minimum, stats.integer_maximum);
    if P::INTEGER && histogram::pays(stats.count, range) {
        summarize(Histogram::new(pixels, range), &mut stats, clip);
    } else {
        summarize(Buckets::new(pixels), &mut stats, clip);
    }
    stats
}

#[inline(always)]
fn summarize(mut values: impl Distribution, stats: &mut TileStats, clip: Clip) {
    let all = values.median(0, stats.count);
    let moments = values.within(EVERYTHING);
    stats.variance = moments.variance;
    (stats.background, stats.background_rms) = background(&mut values, all, moments, clip);
}
