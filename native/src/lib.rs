//! Kernels behind `acie_native`: encrypted arithmetic, Streebog, tile statistics, slot packing,
//! causal graphs, space-time intervals, spacings.
//!
//! Belongs here: arithmetic that must be fast or must not leak secrets through its timing.
//! Does not belong here: file formats, key storage, anything that knows about pipelines.

#[cfg(x86_paths)]
mod adx;
mod batch;
mod cipher_array;
mod cipher_space;
mod dag;
mod entropy;
mod error;
mod euclid;
mod ffi;
mod fixed_base;
mod front_door;
mod groups;
#[cfg(x86_paths)]
mod ifma;
mod isa;
mod limbs;
mod matrix_product;
#[cfg(feature = "memcheck")]
pub mod memcheck;
mod minkowski;
mod multi_exponentiation;
mod parallel;
mod portable;
mod power;
mod private_key;
mod public_key;
mod ring;
mod row_worker;
mod separation;
mod slots;
#[cfg(x86_paths)]
mod slots_vbmi;
mod spacings;
mod straight_line;
mod streebog;
mod streebog_constants;
#[cfg(x86_paths)]
mod streebog_gfni;
mod tile_stats;
