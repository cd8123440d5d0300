//! Row kernels in plain Rust. They define what every other path must return, bit for bit.

use crate::isa::{self, Kernels};
use crate::limbs::mask;

pub static KERNELS: Kernels = isa::table(mul_acc, redc, select);

/// Limbs of a multiplier that are taken at once: a limb of the sum is loaded and stored once for
/// all of them.
const ROWS: usize = 4;

/// `acc + (y * multiplier + above)`, limb by limb; returns what remains above `acc`.
#[inline(always)]
fn mul_add_rows(
    acc: &mut [u64],
    y: &[u64],
    multiplier: &[u64; ROWS],
    mut above: [u64; ROWS],
) -> [u64; ROWS] {
    for (a, &limb) in acc.iter_mut().zip(y) {
        let mut carry = *a;
        let mut sums = [0; ROWS];
        for row in 0..ROWS {
            let t = mul_add(limb, multiplier[row], above[row], carry);
            sums[row] = t as u64;
            carry = (t >> 64) as u64;
        }
        *a = sums[0];
        above = [sums[1], sums[2], sums[3], carry];
    }
    above
}

#[inline(always)]
fn mul_add(x: u64, y: u64, a: u64, b: u64) -> u128 {
    u128::from(x) * u128::from(y) + u128::from(a) + u128::from(b)
}

/// `limbs += above + carry`; returns the carry.
#[inline(always)]
fn add_rows(limbs: &mut [u64], above: [u64; ROWS], mut carry: u64) -> u64 {
    for (limb, above) in limbs.iter_mut().zip(above) {
        let t = u128::from(*limb) + u128::from(above) + u128::from(carry);
        *limb = t as u64;
        carry = (t >> 64) as u64;
    }
    carry
}

unsafe fn mul_acc(
    acc: *mut u64,
    x: *const u64,
    x_limbs: usize,
    y: *const u64,
    y_limbs: usize,
) -> u64 {
    // SAFETY: the caller passes arrays of these lengths, see `Kernels::mul_acc`.
    let (acc, x, y) = unsafe {
        (
            std::slice::from_raw_parts_mut(acc, x_limbs + y_limbs),
            std::slice::from_raw_parts(x, x_limbs),
            std::slice::from_raw_parts(y, y_limbs),
        )
    };
    let mut carry = 0;
    for (block, multiplier) in x.as_chunks::<ROWS>().0.iter().enumerate() {
        let (sum, rest) = acc[block * ROWS..].split_at_mut(y_limbs);
        let above = mul_add_rows(sum, y, multiplier, [0; ROWS]);
        carry = add_rows(&mut rest[..ROWS], above, carry);
    }
    carry
}

/// `ROWS` limbs of the multiplier that makes the lowest limbs of `acc` zero, with what their
/// products with the lowest limbs of `n` leave above.
#[inline(always)]
fn multiplier_rows(acc: &[u64], n: &[u64], neg_inv: u64) -> ([u64; ROWS], [u64; ROWS]) {
    let mut sum = [0; 2 * ROWS];
    sum[..ROWS].copy_from_slice(&acc[..ROWS]);
    let mut multiplier = [0; ROWS];
    for row in 0..ROWS {
        multiplier[row] = sum[row].wrapping_mul(neg_inv);
        let mut carry = 0;
        for column in 0..ROWS {
            let t = mul_add(n[column], multiplier[row], sum[row + column], carry);
            sum[row + column] = t as u64;
            carry = (t >> 64) as u64;
        }
        sum[row + ROWS] = carry;
    }
    (multiplier, [sum[ROWS], sum[ROWS + 1], sum[ROWS + 2], sum[ROWS + 3]])
}

unsafe fn redc(acc: *mut u64, n: *const u64, limbs: usize, neg_inv: u64, m: *mut u64) -> u64 {
    // SAFETY: the caller passes arrays of these lengths, see `Kernels::redc`.
    let (acc, n, m) = unsafe {
        (
            std::slice::from_raw_parts_mut(acc, 2 * limbs),
            std::slice::from_raw_parts(n, limbs),
            std::slice::from_raw_parts_mut(m, limbs),
        )
    };
    let mut carry = 0;
    for (block, m) in m.as_chunks_mut::<ROWS>().0.iter_mut().enumerate() {
        let (sum, rest) = acc[block * ROWS..].split_at_mut(limbs);
        let (multiplier, above) = multiplier_rows(sum, n, neg_inv);
        sum[..ROWS].fill(0);
        let above = mul_add_rows(&mut sum[ROWS..], &n[ROWS..], &multiplier, above);
        carry = add_rows(&mut rest[..ROWS], above, carry);
        *m = multiplier;
    }
    carry
}

/// 1 if equal, else 0, without a branch.
#[inline(always)]
pub fn equal(a: usize, b: usize) -> u64 {
    let difference = (a ^ b) as u64;
    1 ^ ((difference | difference.wrapping_neg()) >> 63)
}

/// Kept apart so that the AVX2 path compiles the same text with wider registers.
#[inline(always)]
pub unsafe fn select_rows(
    out: *mut u64,
    table: *const u64,
    rows: usize,
    width: usize,
    index: usize,
) {
    const LANES: usize = 16;
    // SAFETY: `out` holds `width` and `table` `rows * width` limbs; `width` is a multiple of 16.
    let (out, table) = unsafe {
        (
            std::slice::from_raw_parts_mut(out, width),
            std::slice::from_raw_parts(table, rows * width),
        )
    };
    for (block, chunk) in out.chunks_exact_mut(LANES).enumerate() {
        let mut chosen = [0u64; LANES];
        for row in 0..rows {
            let keep = mask(equal(row, index));
            let entry = &table[row * width + block * LANES..][..LANES];
            for lane in 0..LANES {
                chosen[lane] |= entry[lane] & keep;
            }
        }
        chunk.copy_from_slice(&chosen);
    }
}

unsafe fn select(out: *mut u64, table: *const u64, rows: usize, width: usize, index: usize) {
    // SAFETY: same contract.
    unsafe { select_rows(out, table, rows, width, index) }
}
