//! Events and samples.

use super::{guarded, input, isa_named, output};
use crate::minkowski::intervals;
use crate::spacings::spacing_entropies;
use std::ffi::{c_char, c_int};

#[unsafe(no_mangle)]
pub unsafe extern "C" fn acie_minkowski(
    from: *const f64,
    to: *const f64,
    count: usize,
    speed: f64,
    isa: *const c_char,
    isa_length: usize,
    out: *mut f64,
) -> c_int {
    guarded(&mut 0, || {
        // SAFETY: forwarded contract.
        let (isa, from, to, out) = unsafe {
            (
                isa_named(isa, isa_length)?,
                input(from.cast::<[f64; 4]>(), count),
                input(to.cast::<[f64; 4]>(), count),
                output(out, count),
            )
        };
        intervals(from, to, speed, out, isa);
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn acie_spacing_entropies(
    values: *const f32,
    rows: usize,
    count: usize,
    window: usize,
    digamma: *const f64,
    entropies: *mut f64,
    surprisal: *mut f64,
) -> c_int {
    guarded(&mut 0, || {
        // SAFETY: forwarded contract.
        let (values, digamma, entropies, surprisal) = unsafe {
            (
                input(values, rows * count),
                input(digamma, 2 * window + 1),
                output(entropies, rows),
                output(surprisal, count),
            )
        };
        spacing_entropies(values, window, digamma, entropies, surprisal);
        Ok(())
    })
}
