//! What a path offers that computes several ciphertexts per instruction. Arguments have been
//! checked; rows are as in `public_key`; calls work on one thread.

use crate::groups::{GroupShape, Lane};
use crate::straight_line::Program;

/// Arithmetic on groups of ciphertexts in the form that arrays keep, on one thread.
///
/// Every group is full: what lies beyond the last ciphertext of an array is 1, which all
/// operations leave at 1.
pub trait GroupWorker {
    /// Bring up to a group of rows into the kept form; 1 for those that are missing.
    fn load(&mut self, rows: &[u64], out: &mut [Lane]);
    /// Write as many ciphertexts of a group as `rows` has room for.
    fn store(&mut self, group: &[Lane], rows: &mut [u64]);
    fn multiply(&mut self, a: &[Lane], b: &[Lane], out: &mut [Lane]);
    /// Multiply by 1 + m n for rows of plaintexts m; by 1 for those that are missing.
    fn add_plain(&mut self, c: &[Lane], plaintexts: &[u64], out: &mut [Lane]);
    /// Raise to public exponents of one limb; to 0 for those that are missing.
    fn power(&mut self, c: &[Lane], exponents: &[u64], out: &mut [Lane]);
    /// Multiply rows modulo n; the result may be times a unit.
    fn product_mod_n(&mut self, rows: &[u64], out: &mut [u64]);
    /// Run a program on registers of `columns` singles each, see [`GroupShape::single_width`].
    fn run(&mut self, program: &Program, columns: usize, registers: &mut [Lane]);
}

/// Arithmetic on ciphertexts under one modulus.
pub trait BatchSpace: Send + Sync {
    fn group_shape(&self) -> GroupShape;
    fn worker(&self) -> Box<dyn GroupWorker + '_>;
    fn encrypt_with_r(&self, m: &[u64], r: &[u64], out: &mut [u64]);
}

/// Encryption from a table of powers of one base.
pub trait BatchPowers: Send + Sync {
    /// (1 + m n) base^a for rows of exponents a; few enough rows to share the cache.
    fn encrypt(&self, m: &[u64], exponents: &[u64], out: &mut [u64]);
    /// c base^a.
    fn rerandomise(&self, c: &[u64], exponents: &[u64], out: &mut [u64]);
}

/// What the holder of the primes can do.
pub trait BatchHolder: Send + Sync {
    fn decrypt(&self, c: &[u64], out: &mut [u64]);
    fn encrypt(&self, m: &[u64], exponents: &[u64], out: &mut [u64]);
}
