//! Memory of ciphertext arrays: groups of as many ciphertexts as a path computes at once.
//!
//! A group is a slice of [`Lane`]s. On a path that computes one ciphertext at a time it holds one
//! element, limb after limb; with eight lanes every [`Lane`] is a digit of eight elements.

use crate::error::Result;
use crate::parallel;
use std::mem::MaybeUninit;

/// Numbers that a register holds.
pub const LANES: usize = 8;

/// One register's worth of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Lane(pub [u64; LANES]);

pub const ZERO: Lane = Lane([0; LANES]);

/// How ciphertexts lie in groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupShape {
    /// Ciphertexts in a group: 1 or [`LANES`].
    pub rows: usize,
    /// [`Lane`]s in a group.
    pub width: usize,
}

impl GroupShape {
    /// Groups that hold `rows` ciphertexts.
    pub fn count(self, rows: usize) -> usize {
        rows.div_ceil(self.rows)
    }

    /// Copy one ciphertext from a place in one group to a place in another.
    pub fn copy_row(self, from: &[Lane], from_row: usize, to: &mut [Lane], to_row: usize) {
        if self.rows == 1 {
            to.copy_from_slice(from);
            return;
        }
        for (to, from) in to.iter_mut().zip(from) {
            to.0[to_row] = from.0[from_row];
        }
    }

    /// [`Lane`]s of a single: one ciphertext with its limbs or digits together.
    pub fn single_width(self) -> usize {
        if self.rows == 1 { self.width } else { self.width.div_ceil(LANES) }
    }

    /// Copy one ciphertext of a group to a single.
    pub fn take_single(self, group: &[Lane], row: usize, single: &mut [Lane]) {
        if self.rows == 1 {
            single.copy_from_slice(group);
            return;
        }
        for (digit, lane) in limbs_mut(single).iter_mut().zip(group) {
            *digit = lane.0[row];
        }
    }

    /// Undo `take_single`.
    pub fn put_single(self, single: &[Lane], group: &mut [Lane], row: usize) {
        if self.rows == 1 {
            group.copy_from_slice(single);
            return;
        }
        for (lane, digit) in group.iter_mut().zip(limbs(single)) {
            lane.0[row] = *digit;
        }
    }
}

/// The limbs of a group that holds one element.
pub fn limbs(group: &[Lane]) -> &[u64] {
    // SAFETY: `Lane` is `repr(C)` with LANES limbs and no padding.
    unsafe { std::slice::from_raw_parts(group.as_ptr().cast(), group.len() * LANES) }
}

pub fn limbs_mut(group: &mut [Lane]) -> &mut [u64] {
    // SAFETY: as for `limbs`, and any limbs make a `Lane`.
    unsafe { std::slice::from_raw_parts_mut(group.as_mut_ptr().cast(), group.len() * LANES) }
}

/// Room for `length` lanes, in large pages where the system has them: with small ones, the first
/// write to a fresh page costs as much as several additions.
pub fn reserved(length: usize) -> Vec<Lane> {
    let mut lanes = Vec::with_capacity(length);
    #[cfg(target_os = "linux")]
    advise_large_pages(&mut lanes.spare_capacity_mut()[..length]);
    lanes
}

#[cfg(target_os = "linux")]
fn advise_large_pages(memory: &mut [MaybeUninit<Lane>]) {
    use std::ffi::{c_int, c_void};
    const LARGE_PAGE_BYTES: usize = 2 << 20;
    /// `MADV_HUGEPAGE` of <sys/mman.h>.
    const ADVICE: c_int = 14;
    unsafe extern "C" {
        fn madvise(start: *mut c_void, bytes: usize, advice: c_int) -> c_int;
    }
    let start = memory.as_mut_ptr().cast::<u8>();
    let skipped = start.addr().wrapping_neg() % LARGE_PAGE_BYTES;
    let bytes = size_of_val(memory).saturating_sub(skipped) / LARGE_PAGE_BYTES * LARGE_PAGE_BYTES;
    if bytes > 0 {
        // SAFETY: the range lies within `memory`, and this advice never changes its content. It
        // may be refused, which costs nothing but time later.
        unsafe { madvise(start.add(skipped).cast(), bytes, ADVICE) };
    }
}

/// `count` groups, each computed by what `prepare` makes for a thread: `work(group_number, out)`.
///
/// Groups are computed in memory that stays in the first-level cache and copied from there, so
/// that a large result is written once.
pub fn build<W>(
    count: usize,
    width: usize,
    threads: usize,
    prepare: impl Fn() -> W + Sync,
) -> Result<Vec<Lane>>
where
    W: FnMut(usize, &mut [Lane]),
{
    let mut groups = reserved(count * width);
    let memory = &mut groups.spare_capacity_mut()[..count * width];
    parallel::for_row_blocks(memory, width, threads, |first, block| {
        let mut work = prepare();
        let mut group = vec![ZERO; width];
        for (i, out) in block.chunks_exact_mut(width).enumerate() {
            work(first + i, &mut group);
            for (out, lane) in out.iter_mut().zip(&group) {
                *out = MaybeUninit::new(*lane);
            }
        }
        Ok(())
    })?;
    // SAFETY: every group of the `count` has been written above.
    unsafe { groups.set_len(count * width) };
    Ok(groups)
}
