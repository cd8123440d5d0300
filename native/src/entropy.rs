//! Random bytes from the operating system (getrandom(2) on Linux, through `getentropy`).

use crate::error::{KernelError, Result};
use std::ffi::{c_int, c_void};

/// POSIX.1-2024 limit of one `getentropy` call.
const LARGEST_REQUEST_BYTES: usize = 256;

unsafe extern "C" {
    fn getentropy(buffer: *mut c_void, length: usize) -> c_int;
}

/// Fill `out` with uniform bits.
pub fn fill(out: &mut [u64]) -> Result<()> {
    for chunk in out.chunks_mut(LARGEST_REQUEST_BYTES / 8) {
        // SAFETY: the pointer and the length describe `chunk`, and every bit pattern is a u64.
        let status = unsafe { getentropy(chunk.as_mut_ptr().cast(), chunk.len() * 8) };
        if status != 0 {
            return Err(KernelError::Entropy);
        }
    }
    Ok(())
}

/// Fill `out` with a uniform number below 2^`bits`.
pub fn fill_bits(out: &mut [u64], bits: usize) -> Result<()> {
    let used = bits.div_ceil(64);
    out[used..].fill(0);
    fill(&mut out[..used])?;
    if !bits.is_multiple_of(64) {
        out[used - 1] &= (1 << (bits % 64)) - 1;
    }
    Ok(())
}
