//! Ciphertext arrays.

use super::{guarded, input, output};
use crate::cipher_array::CipherArray;
use crate::error::Result;
use crate::public_key::PublicKey;
use std::ffi::c_int;

/// Run `work` and hand its array to the caller, who frees it.
fn made(
    out: *mut *mut CipherArray,
    detail: *mut u64,
    work: impl FnOnce() -> Result<CipherArray>,
) -> c_int {
    guarded(detail, || {
        let array = Box::into_raw(Box::new(work()?));
        // SAFETY: the caller passes a valid address.
        unsafe { *out = array };
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn acie_array_load(
    key: &PublicKey,
    ciphertexts: *const u64,
    rows: usize,
    threads: usize,
    out: *mut *mut CipherArray,
    detail: *mut u64,
) -> c_int {
    made(out, detail, || {
        // SAFETY: forwarded contract.
        let rows = unsafe { input(ciphertexts, rows * key.space.ciphertext_limbs()) };
        CipherArray::load(&key.space, rows, threads)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn acie_array_free(array: *mut CipherArray) {
    // SAFETY: the address came from one of these functions and is freed once.
    drop(unsafe { Box::from_raw(array) });
}

#[unsafe(no_mangle)]
pub extern "C" fn acie_array_rows(array: &CipherArray) -> usize {
    array.len()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn acie_array_store(
    array: &CipherArray,
    ciphertexts: *mut u64,
    threads: usize,
    detail: *mut u64,
) -> c_int {
    guarded(detail, || {
        let length = array.len() * array.space().ciphertext_limbs();
        // SAFETY: forwarded contract.
        array.store(unsafe { output(ciphertexts, length) }, threads)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn acie_array_add(
    a: &CipherArray,
    b: &CipherArray,
    threads: usize,
    out: *mut *mut CipherArray,
    detail: *mut u64,
) -> c_int {
    made(out, detail, || a.add(b, threads))
}

#[unsafe(no_mangle)]
pub extern "C" fn acie_array_subtract(
    a: &CipherArray,
    b: &CipherArray,
    threads: usize,
    out: *mut *mut CipherArray,
    detail: *mut u64,
) -> c_int {
    made(out, detail, || a.subtract(b, threads))
}

#[unsafe(no_mangle)]
pub extern "C" fn acie_array_negate(
    array: &CipherArray,
    threads: usize,
    out: *mut *mut CipherArray,
    detail: *mut u64,
) -> c_int {
    made(out, detail, || array.negate(threads))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn acie_array_add_plain(
    array: &CipherArray,
    plaintexts: *const u64,
    threads: usize,
    out: *mut *mut CipherArray,
    detail: *mut u64,
) -> c_int {
    made(out, detail, || {
        let length = array.len() * array.space().plaintext_limbs();
        // SAFETY: forwarded contract.
        array.add_plain(unsafe { input(plaintexts, length) }, threads)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn acie_array_scalar_mul(
    array: &CipherArray,
    weights: *const i64,
    threads: usize,
    out: *mut *mut CipherArray,
    detail: *mut u64,
) -> c_int {
    made(out, detail, || {
        // SAFETY: forwarded contract.
        array.scalar_mul(unsafe { input(weights, array.len()) }, threads)
    })
}

#[unsafe(no_mangle)]
pub extern "C" fn acie_array_sum(
    array: &CipherArray,
    group: usize,
    threads: usize,
    out: *mut *mut CipherArray,
    detail: *mut u64,
) -> c_int {
    made(out, detail, || array.sum(group, threads))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn acie_array_matmul(
    array: &CipherArray,
    weights: *const i64,
    outputs: usize,
    bases: usize,
    threads: usize,
    out: *mut *mut CipherArray,
    detail: *mut u64,
) -> c_int {
    made(out, detail, || {
        // SAFETY: forwarded contract.
        array.matmul(unsafe { input(weights, outputs * bases) }, outputs, threads)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn acie_array_take(
    array: &CipherArray,
    indices: *const i64,
    count: usize,
    threads: usize,
    out: *mut *mut CipherArray,
    detail: *mut u64,
) -> c_int {
    made(out, detail, || {
        // SAFETY: forwarded contract.
        array.take(unsafe { input(indices, count) }, threads)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn acie_array_concatenate(
    arrays: *const *const CipherArray,
    count: usize,
    threads: usize,
    out: *mut *mut CipherArray,
    detail: *mut u64,
) -> c_int {
    made(out, detail, || {
        // SAFETY: forwarded contract; every address is an array that lives during the call.
        let arrays: Vec<&CipherArray> =
            unsafe { input(arrays, count).iter().map(|array| &**array).collect() };
        CipherArray::concatenate(&arrays, threads)
    })
}
