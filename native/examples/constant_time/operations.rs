//! The operations on secrets, and some that leak on purpose.

use crate::interface::*;
use crate::secrets::{EXPONENT_BITS, N_LIMBS, ROWS, Secrets, split_mix};
use std::hint::black_box;

/// Work that is ready to run.
type Work = Box<dyn FnMut()>;

pub struct Operation {
    pub name: &'static str,
    /// A control: the checks must object.
    pub leaks: bool,
    /// Make keys on a path; the work that remains is what the secrets must not show in. The
    /// secrets outlive the work.
    prepare: fn(&str, &Secrets) -> Work,
}

impl Operation {
    pub fn prepare(&self, path: &str, secrets: &Secrets) -> Work {
        serve_randomness(&secrets.randomness);
        (self.prepare)(path, secrets)
    }
}

pub const ALL: [Operation; 9] = [
    Operation { name: "encrypt", leaks: false, prepare: encrypt },
    Operation { name: "rerandomise", leaks: false, prepare: rerandomise },
    Operation { name: "encrypt_with_factors", leaks: false, prepare: encrypt_with_factors },
    Operation { name: "encrypt_with_r", leaks: false, prepare: encrypt_with_r },
    Operation { name: "holder encrypt", leaks: false, prepare: holder_encrypt },
    Operation { name: "decrypt", leaks: false, prepare: decrypt },
    // Documented to take a time that depends on the weight, here a secret.
    Operation { name: "scalar_mul", leaks: true, prepare: scalar_mul },
    Operation { name: "branch on a bit", leaks: true, prepare: branch },
    Operation { name: "table look-up", leaks: true, prepare: look_up },
];

pub fn is_available(path: &str) -> bool {
    // SAFETY: a pointer and its length.
    unsafe { acie_isa_available(path.as_ptr().cast(), path.len()) != 0 }
}

/// The table's digit size that the Python interface takes for the path.
fn window(path: &str) -> usize {
    if path == "avx512ifma" { 8 } else { 6 }
}

/// Closures must capture keys whole, hence the methods `raw`.
struct Public(*mut PublicKey);

impl Public {
    fn new(path: &str, n: &[u64]) -> Self {
        let mut key = std::ptr::null_mut();
        let mut base = [0; 2 * N_LIMBS];
        base[0] = 4;
        // SAFETY: pointers with their lengths, and addresses for the results.
        let code = unsafe {
            acie_public_new(
                n.as_ptr(),
                n.len(),
                base.as_ptr(),
                EXPONENT_BITS,
                window(path),
                path.as_ptr().cast(),
                path.len(),
                &mut key,
                &mut 0,
            )
        };
        assert_eq!(code, 0);
        Self(key)
    }

    fn raw(&self) -> *const PublicKey {
        self.0
    }
}

impl Drop for Public {
    fn drop(&mut self) {
        // SAFETY: made by `new`.
        unsafe { acie_public_free(self.0) }
    }
}

struct Private(*mut PrivateKey);

impl Private {
    fn new(path: &str, secrets: &Secrets) -> Self {
        let mut key = std::ptr::null_mut();
        let n = public(&secrets.modulus());
        let mut base = [0; 2 * N_LIMBS];
        base[0] = 4;
        // SAFETY: pointers with their lengths, and addresses for the results.
        let code = unsafe {
            acie_private_new(
                n.as_ptr(),
                n.len(),
                secrets.p.as_ptr(),
                secrets.p.len(),
                secrets.q.as_ptr(),
                secrets.q.len(),
                base.as_ptr(),
                EXPONENT_BITS,
                window(path),
                path.as_ptr().cast(),
                path.len(),
                &mut key,
                &mut 0,
            )
        };
        assert_eq!(code, 0);
        Self(key)
    }

    fn raw(&self) -> *const PrivateKey {
        self.0
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        // SAFETY: made by `new`.
        unsafe { acie_private_free(self.0) }
    }
}

/// A copy that Memcheck takes for public.
fn public(secret: &[u64]) -> Vec<u64> {
    let copy = secret.to_vec();
    #[cfg(feature = "memcheck")]
    acie_kernels::memcheck::reveal(&copy);
    copy
}

/// The modulus of the first key: for operations whose secrets are not the primes.
fn common_modulus() -> Vec<u64> {
    Secrets::new(crate::secrets::Class::Sparse).modulus()
}

fn ciphertexts() -> Vec<u64> {
    let mut state = 7;
    let mut rows: Vec<u64> = (0..ROWS * 2 * N_LIMBS).map(|_| split_mix(&mut state)).collect();
    // Below the square of any modulus.
    rows.chunks_mut(2 * N_LIMBS).for_each(|row| row[2 * N_LIMBS - 1] >>= 4);
    rows
}

fn encrypt(path: &str, secrets: &Secrets) -> Work {
    let key = Public::new(path, &common_modulus());
    let plaintexts = secrets.plaintexts.as_ptr();
    let mut out = vec![0; ROWS * 2 * N_LIMBS];
    // SAFETY: here and below, the arrays have the lengths that the key and the rows imply.
    Box::new(move || unsafe {
        let none = std::ptr::null();
        let code =
            acie_public_encrypt(key.raw(), plaintexts, none, ROWS, out.as_mut_ptr(), 1, &mut 0);
        assert_eq!(code, 0);
    })
}

fn rerandomise(path: &str, _: &Secrets) -> Work {
    let key = Public::new(path, &common_modulus());
    let ciphertexts = ciphertexts();
    let mut out = vec![0; ROWS * 2 * N_LIMBS];
    Box::new(move || unsafe {
        let c = ciphertexts.as_ptr();
        let code = acie_public_rerandomise(key.raw(), c, ROWS, out.as_mut_ptr(), 1, &mut 0);
        assert_eq!(code, 0);
    })
}

fn encrypt_with_factors(path: &str, secrets: &Secrets) -> Work {
    let key = Public::new(path, &common_modulus());
    let (m, factors) = (secrets.plaintexts.as_ptr(), secrets.factors.as_ptr());
    let mut out = vec![0; ROWS * 2 * N_LIMBS];
    Box::new(move || unsafe {
        let out = out.as_mut_ptr();
        let code = acie_public_encrypt_with_factors(key.raw(), m, factors, ROWS, out, 1, &mut 0);
        assert_eq!(code, 0);
    })
}

fn encrypt_with_r(path: &str, secrets: &Secrets) -> Work {
    let key = Public::new(path, &common_modulus());
    let (plaintexts, r) = (secrets.plaintexts.as_ptr(), secrets.r.as_ptr());
    let mut out = vec![0; ROWS * 2 * N_LIMBS];
    Box::new(move || unsafe {
        let code =
            acie_public_encrypt_with_r(key.raw(), plaintexts, r, ROWS, out.as_mut_ptr(), 1, &mut 0);
        assert_eq!(code, 0);
    })
}

fn holder_encrypt(path: &str, secrets: &Secrets) -> Work {
    let key = Private::new(path, secrets);
    let plaintexts = secrets.plaintexts.as_ptr();
    let mut out = vec![0; ROWS * 2 * N_LIMBS];
    Box::new(move || unsafe {
        let code = acie_private_encrypt(key.raw(), plaintexts, ROWS, out.as_mut_ptr(), 1, &mut 0);
        assert_eq!(code, 0);
    })
}

fn decrypt(path: &str, secrets: &Secrets) -> Work {
    let key = Private::new(path, secrets);
    let ciphertexts = ciphertexts();
    let mut out = vec![0; ROWS * N_LIMBS];
    Box::new(move || unsafe {
        let c = ciphertexts.as_ptr();
        let code = acie_private_decrypt(key.raw(), c, ROWS, out.as_mut_ptr(), 1, &mut 0);
        assert_eq!(code, 0);
    })
}

fn scalar_mul(path: &str, secrets: &Secrets) -> Work {
    let key = Public::new(path, &common_modulus());
    let ciphertexts = ciphertexts();
    let weights = secrets.randomness.as_ptr().cast();
    let mut array = std::ptr::null_mut();
    // SAFETY: the array keeps what it needs of the key.
    let code =
        unsafe { acie_array_load(key.raw(), ciphertexts.as_ptr(), ROWS, 1, &mut array, &mut 0) };
    assert_eq!(code, 0);
    Box::new(move || unsafe {
        let mut out = std::ptr::null_mut();
        let code = acie_array_scalar_mul(array, weights, 1, &mut out, &mut 0);
        assert_eq!(code, 0);
        acie_array_free(out);
        acie_array_free(array);
    })
}

fn branch(_: &str, secrets: &Secrets) -> Work {
    let secret = secrets.randomness[1];
    Box::new(move || {
        for bit in 0..64 {
            if black_box(secret) >> bit & 1 == 1 {
                black_box(bit);
            }
        }
    })
}

const TABLE_BITS: u32 = 18;

fn look_up(_: &str, secrets: &Secrets) -> Work {
    let secret = secrets.randomness[1];
    // Larger than the second-level cache, so that it shows in the time, too.
    let table: Vec<u64> = (0..1 << TABLE_BITS).collect();
    Box::new(move || {
        for shift in 0..64 - TABLE_BITS {
            let index = black_box(secret) >> shift & ((1 << TABLE_BITS) - 1);
            black_box(table[index as usize]);
        }
    })
}
