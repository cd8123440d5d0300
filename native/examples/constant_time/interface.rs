//! The part of include/acie_kernels.h that handles secrets, and the two system calls that make
//! runs repeatable.

use acie_kernels as _;
use std::cell::Cell;
use std::ffi::{c_char, c_int, c_void};

#[repr(C)]
pub struct PublicKey {
    _opaque: [u8; 0],
}

#[repr(C)]
pub struct CipherArray {
    _opaque: [u8; 0],
}

#[repr(C)]
pub struct PrivateKey {
    _opaque: [u8; 0],
}

unsafe extern "C" {
    pub fn acie_isa_available(name: *const c_char, length: usize) -> c_int;
    pub fn acie_public_new(
        n: *const u64,
        n_limbs: usize,
        base: *const u64,
        exponent_bits: usize,
        window_bits: usize,
        isa: *const c_char,
        isa_length: usize,
        out: *mut *mut PublicKey,
        detail: *mut u64,
    ) -> c_int;
    pub fn acie_public_free(key: *mut PublicKey);
    pub fn acie_public_encrypt(
        key: *const PublicKey,
        plaintexts: *const u64,
        exponents: *const u64,
        rows: usize,
        out: *mut u64,
        threads: usize,
        detail: *mut u64,
    ) -> c_int;
    pub fn acie_public_encrypt_with_factors(
        key: *const PublicKey,
        plaintexts: *const u64,
        factors: *const u64,
        rows: usize,
        out: *mut u64,
        threads: usize,
        detail: *mut u64,
    ) -> c_int;
    pub fn acie_public_encrypt_with_r(
        key: *const PublicKey,
        plaintexts: *const u64,
        r: *const u64,
        rows: usize,
        out: *mut u64,
        threads: usize,
        detail: *mut u64,
    ) -> c_int;
    pub fn acie_array_load(
        key: *const PublicKey,
        ciphertexts: *const u64,
        rows: usize,
        threads: usize,
        out: *mut *mut CipherArray,
        detail: *mut u64,
    ) -> c_int;
    pub fn acie_array_free(array: *mut CipherArray);
    pub fn acie_array_scalar_mul(
        array: *const CipherArray,
        weights: *const i64,
        threads: usize,
        out: *mut *mut CipherArray,
        detail: *mut u64,
    ) -> c_int;
    pub fn acie_public_rerandomise(
        key: *const PublicKey,
        ciphertexts: *const u64,
        rows: usize,
        out: *mut u64,
        threads: usize,
        detail: *mut u64,
    ) -> c_int;
    pub fn acie_private_new(
        n: *const u64,
        n_limbs: usize,
        p: *const u64,
        p_limbs: usize,
        q: *const u64,
        q_limbs: usize,
        base: *const u64,
        exponent_bits: usize,
        window_bits: usize,
        isa: *const c_char,
        isa_length: usize,
        out: *mut *mut PrivateKey,
        detail: *mut u64,
    ) -> c_int;
    pub fn acie_private_free(key: *mut PrivateKey);
    pub fn acie_private_decrypt(
        key: *const PrivateKey,
        ciphertexts: *const u64,
        rows: usize,
        out: *mut u64,
        threads: usize,
        detail: *mut u64,
    ) -> c_int;
    pub fn acie_private_encrypt(
        key: *const PrivateKey,
        plaintexts: *const u64,
        rows: usize,
        out: *mut u64,
        threads: usize,
        detail: *mut u64,
    ) -> c_int;

    fn sched_setaffinity(process: c_int, size: usize, mask: *const u64) -> c_int;
}

thread_local! {
    static RANDOMNESS: Cell<(*const u64, usize)> = const { Cell::new((std::ptr::null(), 0)) };
}

/// Serve `bytes` wherever the crate asks for entropy, from the start each time this is called.
pub fn serve_randomness(limbs: &[u64]) {
    RANDOMNESS.set((limbs.as_ptr(), limbs.len()));
}

/// Takes the place of the C library's function.
#[unsafe(no_mangle)]
extern "C" fn getentropy(buffer: *mut c_void, length: usize) -> c_int {
    let (source, left) = RANDOMNESS.get();
    assert!(length.is_multiple_of(8) && length / 8 <= left, "too little randomness was served");
    // SAFETY: the caller's buffer holds `length` bytes, and so many are left of the source.
    unsafe {
        std::ptr::copy_nonoverlapping(source, buffer.cast(), length / 8);
        RANDOMNESS.set((source.add(length / 8), left - length / 8));
    }
    0
}

/// Keep the crate from starting threads, whose order would show in addresses.
pub fn use_one_core() {
    let mask = [1u64; 1];
    // SAFETY: the mask is eight readable bytes.
    let status = unsafe { sched_setaffinity(0, 8, mask.as_ptr()) };
    assert_eq!(status, 0, "cannot stay on one core");
}
