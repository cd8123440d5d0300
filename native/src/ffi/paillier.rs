//! Paillier keys, and the operations on rows.

use super::{guarded, input, isa_named, optional, output};
use crate::private_key::PrivateKey;
use crate::public_key::PublicKey;
use std::ffi::{c_char, c_int};

#[unsafe(no_mangle)]
pub unsafe extern "C" fn acie_public_new(
    n: *const u64,
    n_limbs: usize,
    base: *const u64,
    exponent_bits: usize,
    window_bits: usize,
    isa: *const c_char,
    isa_length: usize,
    out: *mut *mut PublicKey,
    detail: *mut u64,
) -> c_int {
    guarded(detail, || {
        // SAFETY: forwarded contract.
        unsafe {
            let n = input(n, n_limbs);
            let base = optional(base, 2 * n_limbs);
            let isa = isa_named(isa, isa_length)?;
            let key = PublicKey::new(n, base, exponent_bits, window_bits, isa)?;
            *out = Box::into_raw(Box::new(key));
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn acie_public_free(key: *mut PublicKey) {
    // SAFETY: the address came from `acie_public_new` and is freed once.
    drop(unsafe { Box::from_raw(key) });
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn acie_public_base(
    key: &PublicKey,
    out: *mut u64,
    detail: *mut u64,
) -> c_int {
    guarded(detail, || {
        // SAFETY: forwarded contract.
        unsafe { output(out, key.base().len()) }.copy_from_slice(key.base());
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn acie_public_encrypt(
    key: &PublicKey,
    plaintexts: *const u64,
    exponents: *const u64,
    rows: usize,
    out: *mut u64,
    threads: usize,
    detail: *mut u64,
) -> c_int {
    guarded(detail, || {
        // SAFETY: forwarded contract.
        let (m, exponents, out) = unsafe {
            (
                input(plaintexts, rows * key.space.plaintext_limbs()),
                optional(exponents, rows * key.exponent_limbs()),
                output(out, rows * key.space.ciphertext_limbs()),
            )
        };
        key.encrypt(m, exponents, out, threads)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn acie_public_encrypt_with_factors(
    key: &PublicKey,
    plaintexts: *const u64,
    factors: *const u64,
    rows: usize,
    out: *mut u64,
    threads: usize,
    detail: *mut u64,
) -> c_int {
    guarded(detail, || {
        // SAFETY: forwarded contract.
        let (m, factors, out) = unsafe {
            (
                input(plaintexts, rows * key.space.plaintext_limbs()),
                input(factors, rows * key.space.ciphertext_limbs()),
                output(out, rows * key.space.ciphertext_limbs()),
            )
        };
        key.encrypt_with_factors(m, factors, out, threads)
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn acie_public_encrypt_with_r(
    key: &PublicKey,
    plaintexts: *const u64,
    r: *const u64,
    rows: usize,
    out: *mut u64,
    threads: usize,
    detail: *mut u64,
) -> c_int {
    guarded(detail, || {
        // SAFETY: forwarded contract.
        let (m, r, out) = unsafe {
            (
                input(plaintexts, rows * key.space.plaintext_limbs()),
                input(r, rows * key.space.plaintext_limbs()),
                output(out, rows * key.space.ciphertext_limbs()),
            )
        };
        key.space.encrypt_with_r(m, r, out, threads)
    })
}

/// A function from ciphertexts to `$width` output limbs, given the rows.
macro_rules! on_ciphertexts {
    ($name:ident, $key:ty, $length:expr, $method:expr) => {
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            key: &$key,
            ciphertexts: *const u64,
            rows: usize,
            out: *mut u64,
            threads: usize,
            detail: *mut u64,
        ) -> c_int {
            guarded(detail, || {
                // SAFETY: forwarded contract.
                let (c, out) = unsafe {
                    (
                        input(ciphertexts, rows * key.space.ciphertext_limbs()),
                        output(out, $length(key, rows)),
                    )
                };
                $method(key, c, out, threads)
            })
        }
    };
}

on_ciphertexts!(
    acie_public_rerandomise,
    PublicKey,
    |key: &PublicKey, rows| rows * key.space.ciphertext_limbs(),
    |key: &PublicKey, c: &[u64], out: &mut [u64], threads| key.rerandomise(c, out, threads)
);
on_ciphertexts!(
    acie_public_validate,
    PublicKey,
    |_, rows| rows,
    |key: &PublicKey, c: &[u64], out: &mut [u64], threads| key.space.validate(c, out, threads)
);
on_ciphertexts!(
    acie_private_decrypt,
    PrivateKey,
    |key: &PrivateKey, rows| rows * key.space.plaintext_limbs(),
    |key: &PrivateKey, c: &[u64], out: &mut [u64], threads| key.decrypt(c, out, threads)
);

#[unsafe(no_mangle)]
pub unsafe extern "C" fn acie_private_new(
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
) -> c_int {
    guarded(detail, || {
        // SAFETY: forwarded contract.
        unsafe {
            let n = input(n, n_limbs);
            let primes = [input(p, p_limbs), input(q, q_limbs)];
            let base = optional(base, 2 * n_limbs);
            let isa = isa_named(isa, isa_length)?;
            let key = PrivateKey::new(n, primes, base, exponent_bits, window_bits, isa)?;
            *out = Box::into_raw(Box::new(key));
        }
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn acie_private_free(key: *mut PrivateKey) {
    // SAFETY: the address came from `acie_private_new` and is freed once.
    drop(unsafe { Box::from_raw(key) });
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn acie_private_base(
    key: &PrivateKey,
    out: *mut u64,
    detail: *mut u64,
) -> c_int {
    guarded(detail, || {
        // SAFETY: forwarded contract.
        unsafe { output(out, key.base().len()) }.copy_from_slice(key.base());
        Ok(())
    })
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn acie_private_encrypt(
    key: &PrivateKey,
    plaintexts: *const u64,
    rows: usize,
    out: *mut u64,
    threads: usize,
    detail: *mut u64,
) -> c_int {
    guarded(detail, || {
        // SAFETY: forwarded contract.
        let (m, out) = unsafe {
            (
                input(plaintexts, rows * key.space.plaintext_limbs()),
                output(out, rows * key.space.ciphertext_limbs()),
            )
        };
        key.encrypt(m, out, threads)
    })
}
