//! Minkowski intervals that keep their digits near the light cone.
//!
//! Belongs here: s^2 = |dr|^2 - (c dt)^2 for pairs of events, to about the last bit whatever
//! cancels. Does not belong here: any other arithmetic on events.
//!
//! First every difference, product and sum carries its rounding error along (two-sum: Knuth;
//! two-product by a fused multiply-add: Ogita, Rump and Oishi 2005, "Accurate sum and dot
//! product"). Where so much cancels that this is not enough, the value is computed exactly as an
//! expansion (Shewchuk 1997, "Adaptive precision floating-point arithmetic").

use crate::isa::Isa;

const LANES: usize = 8;

/// Fall back to exact arithmetic below this part of the sum of squares. The compensated result
/// errs by less than 2^-100 of that sum: every square has a handful of second-order roundings, of
/// 2^-106 each. So above it the relative error is below 2^-53 before the last rounding.
const ENOUGH: f64 = 1.0 / (1_u64 << 47) as f64;

type Event = [f64; 4];

pub fn intervals(from: &[Event], to: &[Event], speed: f64, out: &mut [f64], isa: Isa) {
    #[cfg(x86_paths)]
    if isa.fuses() {
        // SAFETY: the processor has both.
        return unsafe { with_fma(from, to, speed, out) };
    }
    let _ = isa;
    portable(from, to, speed, out);
}

#[cfg(x86_paths)]
#[target_feature(enable = "avx2,fma")]
fn with_fma(from: &[Event], to: &[Event], speed: f64, out: &mut [f64]) {
    portable(from, to, speed, out);
}

/// Without a fused multiply-add in hardware the C library supplies one, with the same results.
#[inline(always)]
fn portable(from: &[Event], to: &[Event], speed: f64, out: &mut [f64]) {
    let (from_blocks, from_rest) = from.as_chunks::<LANES>();
    let (to_blocks, to_rest) = to.as_chunks::<LANES>();
    let (out_blocks, out_rest) = out.as_chunks_mut::<LANES>();
    for ((from, to), out) in from_blocks.iter().zip(to_blocks).zip(out_blocks) {
        block(from, to, speed, out);
    }
    if !out_rest.is_empty() {
        let (mut from, mut to, mut out) = ([[0.0; 4]; LANES], [[0.0; 4]; LANES], [0.0; LANES]);
        from[..from_rest.len()].copy_from_slice(from_rest);
        to[..to_rest.len()].copy_from_slice(to_rest);
        block(&from, &to, speed, &mut out);
        out_rest.copy_from_slice(&out[..out_rest.len()]);
    }
}

#[inline(always)]
fn block(from: &[Event; LANES], to: &[Event; LANES], speed: f64, out: &mut [f64; LANES]) {
    let mut sizes = [0.0; LANES];
    for lane in 0..LANES {
        (out[lane], sizes[lane]) = compensated(&from[lane], &to[lane], speed);
    }
    for lane in 0..LANES {
        // Infinities and NaN stay as they are.
        let doubtful = out[lane].abs() < ENOUGH * sizes[lane];
        if doubtful && sizes[lane].is_finite() {
            out[lane] = exact(&from[lane], &to[lane], speed);
        }
    }
}

/// The interval and the sum of the squares in it.
#[inline(always)]
fn compensated(from: &Event, to: &Event, speed: f64) -> (f64, f64) {
    let (high, low) = two_difference(to[0], from[0]);
    let (scaled, error) = two_product(speed, high);
    let (square, error) = square_of(scaled, speed.mul_add(low, error));
    let (mut sum, mut carried, mut size) = (-square, -error, square);
    for k in 1..4 {
        let (high, low) = two_difference(to[k], from[k]);
        let (square, error) = square_of(high, low);
        let (next, lost) = two_sum(sum, square);
        sum = next;
        carried += lost + error;
        size += square;
    }
    // Beyond the range of doubles the errors mean nothing.
    if size.is_finite() { (sum + carried, size) } else { (sum, size) }
}

#[inline(always)]
fn square_of(high: f64, low: f64) -> (f64, f64) {
    let (square, error) = two_product(high, high);
    (square, (2.0 * high).mul_add(low, error))
}

#[inline(always)]
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let sum = a + b;
    let b_part = sum - a;
    (sum, (a - (sum - b_part)) + (b - b_part))
}

#[inline(always)]
fn two_difference(a: f64, b: f64) -> (f64, f64) {
    two_sum(a, -b)
}

#[inline(always)]
fn two_product(a: f64, b: f64) -> (f64, f64) {
    let product = a * b;
    (product, a.mul_add(b, -product))
}

/// The interval without any rounding but the last.
#[cold]
#[inline(never)]
fn exact(from: &Event, to: &Event, speed: f64) -> f64 {
    let mut total = Expansion(Vec::with_capacity(64));
    let (high, low) = two_difference(to[0], from[0]);
    let ((a, b), (c, d)) = (two_product(speed, high), two_product(speed, low));
    total.add_square(&[a, b, c, d], -1.0);
    for k in 1..4 {
        let (high, low) = two_difference(to[k], from[k]);
        total.add_square(&[high, low], 1.0);
    }
    total.0.iter().sum()
}

/// A number as a sum of doubles whose bits do not overlap, smallest first, none zero.
struct Expansion(Vec<f64>);

impl Expansion {
    fn add(&mut self, value: f64) {
        let mut carried = value;
        let mut kept = 0;
        for k in 0..self.0.len() {
            let (sum, lost) = two_sum(carried, self.0[k]);
            if lost != 0.0 {
                self.0[kept] = lost;
                kept += 1;
            }
            carried = sum;
        }
        self.0.truncate(kept);
        if carried != 0.0 {
            self.0.push(carried);
        }
    }

    fn add_square(&mut self, parts: &[f64], sign: f64) {
        for &a in parts {
            for &b in parts {
                let (product, error) = two_product(a, b);
                self.add(sign * product);
                self.add(sign * error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_path_with_fma_agrees_bit_for_bit() {
        let mut state = 7_u64;
        let mut next = || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (state >> 11) as f64 / (1_u64 << 53) as f64 - 0.5
        };
        let mut events = || -> Vec<Event> { (0..203).map(|_| [(); 4].map(|()| next())).collect() };
        let (from, mut to) = (events(), events());
        to[5] = from[5];
        to[6] = from[6].map(|value| value + 1e-9);
        let (mut fast, mut slow) = (vec![0.0; 203], vec![0.0; 203]);
        intervals(&from, &to, 0.7, &mut fast, Isa::best());
        portable(&from, &to, 0.7, &mut slow);
        assert_eq!(fast, slow);
        assert_eq!(fast[5], 0.0);
    }
}
