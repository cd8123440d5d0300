//! Memory that held a key, a plaintext or randomness holds none of it when it is freed.
//!
//! The allocator of this program looks for the secrets' 64-bit limbs and 52-bit digits in every
//! block that it takes back. A value that is only derived from them is found if it is listed in
//! `words_of`; registers and stack frames are not looked at.

#[path = "../examples/constant_time/interface.rs"]
#[expect(dead_code, reason = "declares what the other checks call, too")]
mod interface;
#[path = "../examples/constant_time/keys.rs"]
mod keys;
#[path = "../examples/constant_time/secrets.rs"]
#[expect(dead_code, reason = "makes what the other checks need, too")]
mod secrets;

use interface::*;
use secrets::{Class, EXPONENT_BITS, N_LIMBS, ROWS, Secrets};
use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

const BAD_MODULUS: i32 = 9;
const WINDOW_BITS: usize = 4;
/// Words below it are everywhere.
const SMALLEST_WORD: u64 = 1 << 40;

static WORDS: [AtomicU64; 1024] = [const { AtomicU64::new(0) }; 1024];
static WATCHED: AtomicUsize = AtomicUsize::new(0);
static FOUND: AtomicUsize = AtomicUsize::new(0);

struct Inspector;

#[global_allocator]
static ALLOCATOR: Inspector = Inspector;

// SAFETY: the system's allocator does the work. `realloc` is the provided one, which frees the old
// block here.
unsafe impl GlobalAlloc for Inspector {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: forwarded contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let words = &WORDS[..WATCHED.load(Ordering::SeqCst)];
        if !words.is_empty() && layout.align() >= 8 {
            for i in 0..layout.size() / 8 {
                // SAFETY: within the block, which is still allocated; volatile, because its
                // content may never have been written.
                let word = unsafe { block.cast::<u64>().add(i).read_volatile() };
                if word != 0 && words.iter().any(|w| w.load(Ordering::Relaxed) == word) {
                    FOUND.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
        // SAFETY: forwarded contract.
        unsafe { System.dealloc(block, layout) }
    }
}

/// Call `work`; how many words of secrets were in the memory that it freed.
fn leaked(words: &[u64], work: impl FnOnce()) -> usize {
    for (place, &word) in WORDS.iter().zip(words) {
        place.store(word, Ordering::SeqCst);
    }
    assert!(words.len() <= WORDS.len());
    FOUND.store(0, Ordering::SeqCst);
    WATCHED.store(words.len(), Ordering::SeqCst);
    work();
    WATCHED.store(0, Ordering::SeqCst);
    FOUND.load(Ordering::SeqCst)
}

fn product(x: &[u64], y: &[u64]) -> Vec<u64> {
    let mut out = vec![0; x.len() + y.len()];
    for (i, &x) in x.iter().enumerate() {
        let mut carry = 0;
        for (j, &y) in y.iter().enumerate() {
            let t = u128::from(x) * u128::from(y) + u128::from(out[i + j]) + carry;
            out[i + j] = t as u64;
            carry = t >> 64;
        }
        out[i + y.len()] = carry as u64;
    }
    out
}

/// -1 / x modulo 2^64.
fn negated_inverse(x: u64) -> u64 {
    let inverse = (0..6)
        .fold(1u64, |inverse, _| inverse.wrapping_mul(2u64.wrapping_sub(x.wrapping_mul(inverse))));
    assert_eq!(inverse.wrapping_mul(x), 1);
    inverse.wrapping_neg()
}

fn words_of(secrets: &Secrets) -> Vec<u64> {
    let minus_one = |prime: &[u64]| -> Vec<u64> {
        let mut out = prime.to_vec();
        out[0] -= 1;
        out
    };
    let (p, q) = (&secrets.p, &secrets.q);
    let (p_minus_one, q_minus_one) = (minus_one(p), minus_one(q));
    let mut numbers = vec![
        product(p, &[2]),
        product(q, &[2]),
        product(p, p),
        product(q, q),
        product(p, &p_minus_one),
        product(q, &q_minus_one),
        // The upper half is that of n.
        product(&p_minus_one, &q_minus_one)[..p.len()].to_vec(),
        vec![negated_inverse(p[0])],
        vec![negated_inverse(q[0])],
        p_minus_one,
        q_minus_one,
    ];
    for part in [p, q, &secrets.randomness, &secrets.r, &secrets.plaintexts, &secrets.factors] {
        let rows = if part.len() > N_LIMBS { part.len() / ROWS } else { part.len() };
        numbers.extend(part.chunks(rows).map(<[u64]>::to_vec));
    }
    let mut words = Vec::new();
    for number in numbers {
        words.extend(digits(&number));
        words.extend(number);
    }
    words.retain(|&word| word >= SMALLEST_WORD);
    words
}

/// Digits of 52 bits.
fn digits(number: &[u64]) -> Vec<u64> {
    let limb = |i: usize| u128::from(number.get(i).copied().unwrap_or(0));
    (0..(64 * number.len()).div_ceil(52))
        .map(|i| {
            let (at, shift) = (52 * i / 64, 52 * i % 64);
            ((limb(at) | limb(at + 1) << 64) >> shift) as u64 & ((1 << 52) - 1)
        })
        .collect()
}

/// Call `operation` and say if secrets remained.
#[track_caller]
fn check(name: &str, path: &str, words: &[u64], expected: i32, operation: impl FnOnce() -> i32) {
    let mut code = -1;
    let found = leaked(words, || code = operation());
    assert_eq!(code, expected, "{name} on {path}");
    assert_eq!(found, 0, "words of secrets in memory that {name} freed, on {path}");
}

fn holder(path: &str, secrets: &Secrets, words: &[u64]) {
    let (isa, isa_length) = (path.as_ptr().cast(), path.len());
    let (p, q, limbs) = (secrets.p.as_ptr(), secrets.q.as_ptr(), secrets.p.len());
    let mut key = null_mut();
    let mut new = |n: &[u64]| {
        let (n, n_limbs) = (n.as_ptr(), n.len());
        let (bits, window) = (EXPONENT_BITS, WINDOW_BITS);
        serve_randomness(&secrets.r);
        // SAFETY: here and below, pointers with the lengths that the key and the rows imply.
        unsafe {
            let (base, key, detail) = (null(), &mut key, &mut 0);
            acie_private_new(
                n, n_limbs, p, limbs, q, limbs, base, bits, window, isa, isa_length, key, detail,
            )
        }
    };
    let n = secrets.modulus();
    let mut other = n.clone();
    other[0] ^= 2;
    check("a refused key", path, words, BAD_MODULUS, || new(&other));
    check("a private key", path, words, 0, || new(&n));

    let mut c = vec![0; ROWS * 2 * N_LIMBS];
    let mut m = vec![0; ROWS * N_LIMBS];
    serve_randomness(&secrets.randomness);
    check("holder encrypt", path, words, 0, || unsafe {
        let m = secrets.plaintexts.as_ptr();
        acie_private_encrypt(key, m, ROWS, c.as_mut_ptr(), 1, &mut 0)
    });
    check("decrypt", path, words, 0, || unsafe {
        acie_private_decrypt(key, c.as_ptr(), ROWS, m.as_mut_ptr(), 1, &mut 0)
    });
    assert_eq!(m, secrets.plaintexts);
    check("the end of a private key", path, words, 0, || {
        unsafe { acie_private_free(key) };
        0
    });
}

fn public(path: &str, secrets: &Secrets, words: &[u64]) {
    let n = secrets.modulus();
    let (mut key, mut out) = (null_mut(), vec![0; ROWS * 2 * N_LIMBS]);
    let out = out.as_mut_ptr();
    let m = secrets.plaintexts.as_ptr();
    serve_randomness(&secrets.r);
    // SAFETY: as above.
    check("a public key", path, words, 0, || unsafe {
        let (isa, isa_length) = (path.as_ptr().cast(), path.len());
        let (n, n_limbs) = (n.as_ptr(), n.len());
        let (bits, window) = (EXPONENT_BITS, WINDOW_BITS);
        acie_public_new(n, n_limbs, null(), bits, window, isa, isa_length, &mut key, &mut 0)
    });
    serve_randomness(&secrets.randomness);
    check("encrypt", path, words, 0, || unsafe {
        acie_public_encrypt(key, m, null(), ROWS, out, 1, &mut 0)
    });
    check("encrypt with exponents", path, words, 0, || unsafe {
        let exponents = secrets.randomness.as_ptr();
        acie_public_encrypt(key, m, exponents, ROWS, out, 1, &mut 0)
    });
    check("encrypt_with_factors", path, words, 0, || unsafe {
        let factors = secrets.factors.as_ptr();
        acie_public_encrypt_with_factors(key, m, factors, ROWS, out, 1, &mut 0)
    });
    check("encrypt_with_r", path, words, 0, || unsafe {
        acie_public_encrypt_with_r(key, m, secrets.r.as_ptr(), ROWS, out, 1, &mut 0)
    });
    check("the end of a public key", path, words, 0, || {
        unsafe { acie_public_free(key) };
        0
    });
}

#[test]
fn freed_memory_holds_no_secrets() {
    use_one_core();
    for seed in 0..2 {
        let mut secrets = Secrets::new(Class::Random(seed));
        let exponent_limbs = EXPONENT_BITS.div_ceil(64);
        for exponent in secrets.randomness.chunks_mut(exponent_limbs) {
            exponent[exponent_limbs - 1] &= u64::MAX >> (64 * exponent_limbs - EXPONENT_BITS);
        }
        let words = words_of(&secrets);
        for control in [&secrets.p, &secrets.plaintexts, &secrets.randomness] {
            let kept = control.to_vec();
            assert!(leaked(&words, || drop(black_box(kept))) > 0, "the check sees nothing");
        }
        for path in ["portable", "adx", "avx512ifma"] {
            // SAFETY: a pointer and its length.
            if unsafe { acie_isa_available(path.as_ptr().cast(), path.len()) } == 0 {
                assert_ne!(path, "portable");
                continue;
            }
            holder(path, &secrets, &words);
            public(path, &secrets, &words);
        }
    }
}
