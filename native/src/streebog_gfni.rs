//! Streebog's compression function with AVX-512 VBMI and GFNI: one register holds a state.
//!
//! Belongs here: the transformations S, P and L on registers.
//! Does not belong here: padding, counters and the portable tables (`streebog`).
//!
//! States are kept transposed: byte 8 k + j is byte k of word j. The inputs are the bytes of the
//! words in order, so they are transposed first (one permutation); P is the transposition of the
//! next state, and disappears in the permutations that L needs anyhow.
//!
//! - S: `vpermi2b` looks up 128 entries, the top bit chooses between two halves of Pi.
//! - L: byte k of a word is the sum over i of an 8 x 8 bit matrix M(k, i) times byte i. Four
//!   permutations bring byte k + t of every word to lane k, t = 0 to 3, and `gf2p8affineqb`
//!   multiplies by M(k, k + t). The other four products, M(k, k + 4 + t), are formed where their
//!   bytes already are, in lane k + 4, and exchange halves as a sum.
//!
//! The key schedule and the state are two independent chains per round.

use crate::streebog::State;
use crate::streebog_constants::{A, PI, ROUND};
use std::arch::x86_64::*;

#[repr(C, align(64))]
struct Register<T>(T);

const fn load<T>(register: &'static Register<T>) -> __m512i {
    const { assert!(size_of::<T>() == 64) };
    // SAFETY: both are 64 bytes of plain data, and the source is aligned to 64.
    unsafe { *std::ptr::from_ref(register).cast() }
}

static SUBSTITUTION: [Register<[u8; 64]>; 4] = {
    let mut quarters = [const { Register([0; 64]) }; 4];
    let mut i = 0;
    while i < 256 {
        quarters[i / 64].0[i % 64] = PI[i];
        i += 1;
    }
    quarters
};

/// `STEP[t]` brings byte i = k + t mod 8 of word j to position 8 k + j, from position 8 j + i: that
/// of the words in order, or of byte j of word i in a transposed state. `STEP[0]` transposes.
static STEP: [Register<[u8; 64]>; 4] = {
    let mut steps = [const { Register([0; 64]) }; 4];
    let mut index = 0;
    while index < 256 {
        let (t, k, j) = (index / 64, index / 8 % 8, index % 8);
        steps[t].0[8 * k + j] = (8 * j + (k + t) % 8) as u8;
        index += 1;
    }
    steps
};

/// Lane k of `MATRICES[0][t]` holds M(k, k + t), that of `MATRICES[1][t]` M(k + 4, k + t).
static MATRICES: [[Register<[u64; 8]>; 4]; 2] = {
    let mut matrices = [const { [const { Register([0; 8]) }; 4] }; 2];
    let mut index = 0;
    while index < 64 {
        let (half, t, k) = (index / 32, index / 8 % 4, index % 8);
        matrices[half][t].0[k] = matrix((k + 4 * half) % 8, (k + t) % 8);
        index += 1;
    }
    matrices
};

/// M(`output_byte`, `input_byte`) as `gf2p8affineqb` wants it: the row of output bit 7 first.
const fn matrix(output_byte: usize, input_byte: usize) -> u64 {
    let mut rows = 0;
    let mut output_bit = 0;
    while output_bit < 8 {
        let mut input_bit = 0;
        while input_bit < 8 {
            let column = A[63 - 8 * input_byte - input_bit];
            let entry = column >> (8 * output_byte + output_bit) & 1;
            rows |= entry << (8 * (7 - output_bit) + input_bit);
            input_bit += 1;
        }
        output_bit += 1;
    }
    rows
}

/// The round constants, transposed.
static CONSTANTS: [Register<[u8; 64]>; 12] = {
    let mut constants = [const { Register([0; 64]) }; 12];
    let mut round = 0;
    while round < 12 {
        let mut i = 0;
        while i < 64 {
            constants[round].0[i] = ROUND[round][i % 8].to_le_bytes()[i / 8];
            i += 1;
        }
        round += 1;
    }
    constants
};

struct Tables {
    substitution: [__m512i; 4],
    step: [__m512i; 4],
    matrices: [[__m512i; 4]; 2],
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,gfni")]
fn xor3(a: __m512i, b: __m512i, c: __m512i) -> __m512i {
    _mm512_ternarylogic_epi64::<0x96>(a, b, c)
}

/// L P S of `state`, plus `addend`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,gfni")]
fn lps(tables: &Tables, state: __m512i, addend: __m512i) -> __m512i {
    let [pi0, pi1, pi2, pi3] = tables.substitution;
    let low = _mm512_permutex2var_epi8(pi0, state, pi1);
    let high = _mm512_permutex2var_epi8(pi2, state, pi3);
    let bytes = _mm512_mask_blend_epi8(_mm512_movepi8_mask(state), low, high);
    let moved: [__m512i; 4] =
        std::array::from_fn(|t| _mm512_permutexvar_epi8(tables.step[t], bytes));
    let [near, far] = tables.matrices.map(|matrices| {
        let [a, b, c, d] =
            std::array::from_fn(|t| _mm512_gf2p8affine_epi64_epi8::<0>(moved[t], matrices[t]));
        _mm512_xor_si512(xor3(a, b, c), d)
    });
    xor3(near, _mm512_shuffle_i64x2::<0b01_00_11_10>(far, far), addend)
}

/// The compression function g_N: `hash` becomes g of itself, the length and the block.
///
/// # Safety
/// The processor has AVX-512 F, BW, VBMI and GFNI.
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,gfni")]
pub unsafe fn compress(hash: &mut State, length: &State, block: &State) {
    let tables = Tables {
        substitution: std::array::from_fn(|i| load(&SUBSTITUTION[i])),
        step: std::array::from_fn(|i| load(&STEP[i])),
        matrices: std::array::from_fn(|half| std::array::from_fn(|t| load(&MATRICES[half][t]))),
    };
    let transpose = tables.step[0];
    // SAFETY: a state is 64 bytes, little-endian words in order.
    let read = |state: &State| unsafe {
        _mm512_permutexvar_epi8(transpose, _mm512_loadu_si512(state.as_ptr().cast()))
    };
    let (h, m) = (read(hash), read(block));
    // The key is one step ahead, so that the two chains, which compete for the same ports, do not
    // wait for their first results at the same time.
    let zero = _mm512_setzero_si512();
    let mut key = lps(&tables, _mm512_xor_si512(h, read(length)), zero);
    let mut sum = _mm512_xor_si512(m, key);
    key = lps(&tables, _mm512_xor_si512(key, load(&CONSTANTS[0])), zero);
    for constant in &CONSTANTS[1..] {
        let next = lps(&tables, _mm512_xor_si512(key, load(constant)), zero);
        sum = lps(&tables, sum, key);
        key = next;
    }
    sum = lps(&tables, sum, key);
    let result = _mm512_permutexvar_epi8(transpose, xor3(sum, h, m));
    // SAFETY: as for reading.
    unsafe { _mm512_storeu_si512(hash.as_mut_ptr().cast(), result) };
}
