//! Streebog, GOST R 34.11-2012 (RFC 6986).
//!
//! A state is eight little-endian words. S, P and L together map byte i of words 0 to 7 to the
//! exclusive or of one table entry each, so a round is 64 look-ups. The look-ups depend on the
//! data: this is a fingerprint of public data, not a keyed function.

use crate::isa::Isa;
use crate::streebog_constants::{A, PI, ROUND};

const BLOCK_BYTES: usize = 64;
pub type State = [u64; 8];

/// `LPS[i][x]`: what byte x at position i of a transposed word adds to the result.
static LPS: [[u64; 256]; 8] = lps_tables();

const fn lps_tables() -> [[u64; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut position = 0;
    while position < 8 {
        let mut value = 0;
        while value < 256 {
            let substituted = PI[value];
            let mut bit = 0;
            while bit < 8 {
                if substituted >> bit & 1 == 1 {
                    tables[position][value] ^= A[63 - 8 * position - bit];
                }
                bit += 1;
            }
            value += 1;
        }
        position += 1;
    }
    tables
}

#[inline(always)]
fn lps(state: &State) -> State {
    let bytes = state.map(u64::to_le_bytes);
    std::array::from_fn(|j| (0..8).fold(0, |word, i| word ^ LPS[i][usize::from(bytes[i][j])]))
}

#[inline(always)]
fn xor(a: &State, b: &State) -> State {
    std::array::from_fn(|i| a[i] ^ b[i])
}

/// The compression function g_N of one path: the hash becomes g of itself, the length and a block.
pub type Compress = unsafe fn(hash: &mut State, length: &State, block: &State);

/// `Compress` for every processor.
pub fn compress(hash: &mut State, length: &State, block: &State) {
    let mut key = lps(&xor(hash, length));
    let mut state = *block;
    for constant in &ROUND {
        state = lps(&xor(&state, &key));
        key = lps(&xor(&key, constant));
    }
    *hash = xor(&xor(&xor(&state, &key), hash), block);
}

/// 512-bit addition.
fn add(a: &mut State, b: &State) {
    let mut carry = false;
    for (x, &y) in a.iter_mut().zip(b) {
        let (sum, first) = x.overflowing_add(y);
        let (sum, second) = sum.overflowing_add(u64::from(carry));
        *x = sum;
        carry = first | second;
    }
}

fn words(block: &[u8; BLOCK_BYTES]) -> State {
    std::array::from_fn(|i| u64::from_le_bytes(std::array::from_fn(|byte| block[8 * i + byte])))
}

/// A running hash.
#[derive(Clone)]
pub struct Streebog {
    hash: State,
    length_bits: State,
    checksum: State,
    buffer: [u8; BLOCK_BYTES],
    buffered: usize,
    digest_bytes: usize,
    compress: Compress,
}

impl Streebog {
    /// `digest_bytes` is 32 or 64.
    pub fn new(digest_bytes: usize, isa: Isa) -> Self {
        let initial = if digest_bytes == 32 { u64::from_le_bytes([1; 8]) } else { 0 };
        Self {
            hash: [initial; 8],
            length_bits: [0; 8],
            checksum: [0; 8],
            buffer: [0; BLOCK_BYTES],
            buffered: 0,
            digest_bytes,
            compress: isa.streebog(),
        }
    }

    fn compress(&mut self, length: &State, block: &State) {
        // SAFETY: the path was checked to be available.
        unsafe { (self.compress)(&mut self.hash, length, block) };
    }

    pub fn update(&mut self, mut data: &[u8]) {
        if self.buffered > 0 {
            let taken = data.len().min(BLOCK_BYTES - self.buffered);
            self.buffer[self.buffered..][..taken].copy_from_slice(&data[..taken]);
            self.buffered += taken;
            data = &data[taken..];
            if self.buffered < BLOCK_BYTES {
                return;
            }
            let block = words(&self.buffer);
            self.absorb(&block, 512);
            self.buffered = 0;
        }
        let (blocks, rest) = data.as_chunks::<BLOCK_BYTES>();
        for block in blocks {
            self.absorb(&words(block), 512);
        }
        self.buffer[..rest.len()].copy_from_slice(rest);
        self.buffered = rest.len();
    }

    fn absorb(&mut self, block: &State, bits: u64) {
        let length = self.length_bits;
        self.compress(&length, block);
        add(&mut self.length_bits, &[bits, 0, 0, 0, 0, 0, 0, 0]);
        add(&mut self.checksum, block);
    }

    /// The digest of everything so far; the hash can go on.
    pub fn digest(&self, out: &mut [u8]) {
        let mut last = self.clone();
        last.buffer[self.buffered] = 1;
        last.buffer[self.buffered + 1..].fill(0);
        last.absorb(&words(&last.buffer), 8 * self.buffered as u64);
        let (length_bits, checksum) = (last.length_bits, last.checksum);
        last.compress(&[0; 8], &length_bits);
        last.compress(&[0; 8], &checksum);
        let mut bytes = [0; BLOCK_BYTES];
        for (chunk, word) in bytes.chunks_exact_mut(8).zip(last.hash) {
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        out.copy_from_slice(&bytes[BLOCK_BYTES - self.digest_bytes..]);
    }

    pub fn digest_bytes(&self) -> usize {
        self.digest_bytes
    }
}
