//! C interface, declared in include/acie_kernels.h. Pointers and lengths come from the Cython
//! layer, which has checked shapes and types; a panic becomes return code 1.

mod cipher_array;
mod graph;
mod paillier;
mod samples;

use crate::error::{KernelError, Result};
use crate::isa::{self, Isa};
use crate::slots::SlotLayout;
use crate::streebog::Streebog;
use crate::tile_stats::{Clip, Pixel, TileStats, tile_stats};
use std::ffi::{c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};

const PANIC: c_int = 1;

/// Run `work`; report its error, or a panic, as a code.
fn guarded(detail: *mut u64, work: impl FnOnce() -> Result<()>) -> c_int {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => 0,
        Ok(Err(error)) => {
            let (code, index) = error.code();
            // SAFETY: the caller passes a valid address.
            unsafe { *detail = index };
            code
        }
        Err(_) => PANIC,
    }
}

/// A slice that may be empty with any address.
unsafe fn input<'a, T>(data: *const T, length: usize) -> &'a [T] {
    if length == 0 {
        return &[];
    }
    assert!(data.is_aligned(), "misaligned input");
    // SAFETY: the caller vouches for `length` readable items.
    unsafe { std::slice::from_raw_parts(data, length) }
}

unsafe fn output<'a, T>(data: *mut T, length: usize) -> &'a mut [T] {
    if length == 0 {
        return &mut [];
    }
    assert!(data.is_aligned(), "misaligned output");
    // SAFETY: the caller vouches for `length` writable items that nobody else uses.
    unsafe { std::slice::from_raw_parts_mut(data, length) }
}

unsafe fn optional<'a, T>(data: *const T, length: usize) -> Option<&'a [T]> {
    // SAFETY: as for `input`.
    (!data.is_null()).then(|| unsafe { input(data, length) })
}

unsafe fn isa_named(name: *const c_char, length: usize) -> Result<Isa> {
    // SAFETY: as for `input`.
    let name = unsafe { input(name.cast::<u8>(), length) };
    std::str::from_utf8(name).map_err(|_| KernelError::UnavailableIsa).and_then(Isa::by_name)
}

fn write_text(text: &str, out: *mut c_char, size: usize) -> c_int {
    if text.len() >= size {
        return PANIC;
    }
    // SAFETY: the caller passes `size` writable bytes, and the text with its NUL fits.
    let out = unsafe { output(out.cast::<u8>(), text.len() + 1) };
    out[..text.len()].copy_from_slice(text.as_bytes());
    out[text.len()] = 0;
    0
}

#[unsafe(no_mangle)]
pub extern "C" fn acie_cpu_flags(out: *mut c_char, size: usize) -> c_int {
    write_text(&isa::detected_flags(), out, size)
}

#[unsafe(no_mangle)]
pub extern "C" fn acie_ifma_rate() -> f64 {
    isa::ifma_rate().unwrap_or(0.0)
}

#[unsafe(no_mangle)]
pub extern "C" fn acie_isa_best(out: *mut c_char, size: usize) -> c_int {
    write_text(Isa::best().name(), out, size)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn acie_isa_available(name: *const c_char, length: usize) -> c_int {
    // SAFETY: forwarded contract.
    c_int::from(unsafe { isa_named(name, length) }.is_ok())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn acie_streebog_new(
    digest_bytes: usize,
    isa: *const c_char,
    isa_length: usize,
) -> *mut Streebog {
    // SAFETY: forwarded contract.
    match unsafe { isa_named(isa, isa_length) } {
        Ok(isa) => Box::into_raw(Box::new(Streebog::new(digest_bytes, isa))),
        Err(_) => std::ptr::null_mut(),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn acie_streebog_copy(hash: &Streebog) -> *mut Streebog {
    Box::into_raw(Box::new(hash.clone()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn acie_streebog_free(hash: *mut Streebog) {
    // SAFETY: the address came from `acie_streebog_new` or `_copy` and is freed once.
    drop(unsafe { Box::from_raw(hash) });
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn acie_streebog_update(
    hash: &mut Streebog,
    data: *const u8,
    size: usize,
) -> c_int {
    guarded(&mut 0, || {
        // SAFETY: forwarded contract.
        hash.update(unsafe { input(data, size) });
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn acie_streebog_digest(hash: &Streebog, out: *mut u8) -> c_int {
    guarded(&mut 0, || {
        // SAFETY: forwarded contract.
        hash.digest(unsafe { output(out, hash.digest_bytes()) });
        Ok(())
    })
}

unsafe fn typed_stats<P: Pixel>(
    pixels: *const c_void,
    valid: *const u8,
    count: usize,
    clip: Clip,
    isa: Isa,
) -> TileStats {
    // SAFETY: forwarded contract.
    let (pixels, valid) = unsafe { (input(pixels.cast::<P>(), count), optional(valid, count)) };
    tile_stats(pixels, valid, clip, isa)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn acie_tile_statistics(
    kind: c_int,
    pixels: *const c_void,
    valid: *const u8,
    count: usize,
    clip_sigma: f64,
    clip_rounds: u32,
    isa: *const c_char,
    isa_length: usize,
    out: *mut TileStats,
) -> c_int {
    guarded(&mut 0, || {
        let clip = Clip { sigma: clip_sigma, rounds: clip_rounds };
        // SAFETY: forwarded contract.
        let isa = unsafe { isa_named(isa, isa_length)? };
        let compute = match kind {
            0 => typed_stats::<f32>,
            1 => typed_stats::<f64>,
            2 => typed_stats::<u8>,
            3 => typed_stats::<i16>,
            4 => typed_stats::<u16>,
            5 => typed_stats::<i32>,
            6 => typed_stats::<u32>,
            _ => typed_stats::<i64>,
        };
        // SAFETY: forwarded contract; `kind` names the type of `pixels`.
        unsafe { *out = compute(pixels, valid, count, clip, isa) };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn acie_slots_pack(
    values: *const i64,
    count: usize,
    slot_bits: usize,
    value_bits: usize,
    slots: usize,
    limbs: usize,
    isa: *const c_char,
    isa_length: usize,
    out: *mut u64,
    detail: *mut u64,
) -> c_int {
    guarded(detail, || {
        let layout = SlotLayout { slot_bits, value_bits, slots, limbs };
        // SAFETY: forwarded contract.
        let isa = unsafe { isa_named(isa, isa_length)? };
        // SAFETY: likewise.
        let (values, out) =
            unsafe { (input(values, count), output(out, count.div_ceil(slots) * limbs)) };
        layout.pack(values, out, isa)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn acie_slots_unpack(
    plaintexts: *const u64,
    count: usize,
    bias_multiple: u64,
    slot_bits: usize,
    value_bits: usize,
    slots: usize,
    limbs: usize,
    isa: *const c_char,
    isa_length: usize,
    out: *mut i64,
    detail: *mut u64,
) -> c_int {
    guarded(detail, || {
        let layout = SlotLayout { slot_bits, value_bits, slots, limbs };
        // SAFETY: forwarded contract.
        let isa = unsafe { isa_named(isa, isa_length)? };
        // SAFETY: likewise.
        let (plaintexts, out) =
            unsafe { (input(plaintexts, count.div_ceil(slots) * limbs), output(out, count)) };
        layout.unpack(plaintexts, bias_multiple, out, isa)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_and_errors_become_codes() {
        let mut detail = 7;
        assert_eq!(guarded(&mut detail, || Ok(())), 0);
        assert_eq!(guarded(&mut detail, || Err(KernelError::Overflow(3))), 6);
        assert_eq!(detail, 3);
        let quiet = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        assert_eq!(guarded(&mut detail, || panic!("as a defect would")), PANIC);
        let in_worker = guarded(&mut detail, || {
            crate::parallel::for_row_blocks(&mut [0; 8], 1, 4, |first, _| {
                assert!(first < 4, "as a defect would");
                Ok(())
            })
        });
        assert_eq!(in_worker, PANIC);
        std::panic::set_hook(quiet);
    }

    #[test]
    fn misaligned_buffers_are_refused() {
        let values = [0i64; 3];
        let mut out = [0u64; 1];
        let misaligned = values.as_ptr().cast::<u8>().wrapping_add(1).cast();
        let isa = "portable";
        let (name, length) = (isa.as_ptr().cast(), isa.len());
        // SAFETY: 16 bytes are readable at the address, which is refused before it is read.
        let code = unsafe {
            acie_slots_pack(misaligned, 2, 32, 16, 2, 1, name, length, out.as_mut_ptr(), &mut 0)
        };
        assert_eq!(code, PANIC);
    }
}
