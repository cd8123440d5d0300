//! Paillier with AVX-512 IFMA: eight ciphertexts at once in digits of 52 bits.
//!
//! Belongs here: arithmetic on lanes and the batch operations built from it.
//! Does not belong here: range checks, randomness and threads, which are those of every path.

mod array;
mod columns;
mod fixed_base;
mod holder;
mod lanes;
mod multi_exponentiation;
mod power;
mod rate;
mod ring;
mod shifted;
mod space;

pub use holder::LaneHolder;
pub use rate::multiply_adds_per_second;
pub use space::{LaneEncryptor, LaneSpace};
