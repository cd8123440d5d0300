//! Little-endian multi-limb helpers. Functions whose name ends in `_vartime` may branch on
//! values; the others run in a time that depends on lengths only.

use std::hint::black_box;
use std::sync::atomic::{Ordering, compiler_fence};

#[cfg(x86_paths)]
#[inline(always)]
fn add_carry(a: u64, b: u64, carry: u8, out: &mut u64) -> u8 {
    core::arch::x86_64::_addcarry_u64(carry, a, b, out)
}

#[cfg(x86_paths)]
#[inline(always)]
fn sub_borrow(a: u64, b: u64, borrow: u8, out: &mut u64) -> u8 {
    core::arch::x86_64::_subborrow_u64(borrow, a, b, out)
}

#[cfg(not(x86_paths))]
#[inline(always)]
fn add_carry(a: u64, b: u64, carry: u8, out: &mut u64) -> u8 {
    let sum = u128::from(a) + u128::from(b) + u128::from(carry);
    *out = sum as u64;
    (sum >> 64) as u8
}

#[cfg(not(x86_paths))]
#[inline(always)]
fn sub_borrow(a: u64, b: u64, borrow: u8, out: &mut u64) -> u8 {
    let (first, under_first) = a.overflowing_sub(b);
    let (second, under_second) = first.overflowing_sub(u64::from(borrow));
    *out = second;
    u8::from(under_first) | u8::from(under_second)
}

/// `a += b`, both of the same length; returns the carry.
pub fn add_assign(a: &mut [u64], b: &[u64]) -> u64 {
    debug_assert_eq!(a.len(), b.len());
    let mut carry = 0;
    for (x, &y) in a.iter_mut().zip(b) {
        carry = add_carry(*x, y, carry, x);
    }
    u64::from(carry)
}

/// Add a single limb; returns the carry.
pub fn add_limb(a: &mut [u64], limb: u64) -> u64 {
    let mut carry = limb;
    for x in a {
        let (sum, over) = x.overflowing_add(carry);
        *x = sum;
        carry = u64::from(over);
    }
    carry
}

/// `a -= b`, both of the same length; returns the borrow.
pub fn sub_assign(a: &mut [u64], b: &[u64]) -> u64 {
    debug_assert_eq!(a.len(), b.len());
    let mut borrow = 0;
    for (x, &y) in a.iter_mut().zip(b) {
        borrow = sub_borrow(*x, y, borrow, x);
    }
    u64::from(borrow)
}

/// `out = a - b`; returns the borrow.
pub fn sub_into(out: &mut [u64], a: &[u64], b: &[u64]) -> u64 {
    let mut borrow = 0;
    for ((o, &x), &y) in out.iter_mut().zip(a).zip(b) {
        borrow = sub_borrow(x, y, borrow, o);
    }
    u64::from(borrow)
}

/// Double in place; returns the bit shifted out.
pub fn double_assign(a: &mut [u64]) -> u64 {
    let mut carry = 0;
    for x in a {
        let next = *x >> 63;
        *x = (*x << 1) | carry;
        carry = next;
    }
    carry
}

/// All ones if `bit` is 1, zero if it is 0; opaque to the optimiser so that it stays a mask.
#[inline(always)]
pub fn mask(bit: u64) -> u64 {
    black_box(0u64.wrapping_sub(bit))
}

/// Subtract `modulus` from `top * 2^(64 len) + a` if that is not negative; returns 1 if it was
/// subtracted. `modulus_top` is the limb of the modulus above `a`'s length.
pub fn subtract_if_not_below(
    a: &mut [u64],
    top: &mut u64,
    modulus: &[u64],
    modulus_top: u64,
    scratch: &mut [u64],
) -> u64 {
    let borrow = sub_into(scratch, a, modulus);
    let (reduced, under_first) = top.overflowing_sub(modulus_top);
    let (reduced, under_second) = reduced.overflowing_sub(borrow);
    let subtracted = 1 ^ (u64::from(under_first) | u64::from(under_second));
    let keep_reduced = mask(subtracted);
    for (x, &y) in a.iter_mut().zip(scratch.iter()) {
        *x ^= (*x ^ y) & keep_reduced;
    }
    *top ^= (*top ^ reduced) & keep_reduced;
    subtracted
}

/// 1 if `a < b`, else 0. The shorter one is extended with zeros.
pub fn is_below(a: &[u64], b: &[u64]) -> u64 {
    let mut borrow = 0;
    let mut ignored = 0;
    for i in 0..a.len().max(b.len()) {
        let x = a.get(i).copied().unwrap_or(0);
        let y = b.get(i).copied().unwrap_or(0);
        borrow = sub_borrow(x, y, borrow, &mut ignored);
    }
    u64::from(borrow)
}

/// Whether `a < b` for numbers of any length, from the top.
pub fn is_below_vartime(a: &[u64], b: &[u64]) -> bool {
    let limb = |x: &[u64], i: usize| x.get(i).copied().unwrap_or(0);
    for i in (0..a.len().max(b.len())).rev() {
        let (x, y) = (limb(a, i), limb(b, i));
        if x != y {
            return x < y;
        }
    }
    false
}

/// 1 if `a` is not zero, else 0.
pub fn is_nonzero(a: &[u64]) -> u64 {
    let any = a.iter().fold(0, |any, &limb| any | limb);
    (any | any.wrapping_neg()) >> 63
}

/// A value derived from secrets that callers may see: everything else that branches on a secret
/// is a defect, and Memcheck says so.
#[inline(always)]
pub fn declassified(value: u64) -> u64 {
    #[cfg(feature = "memcheck")]
    let value = crate::memcheck::revealed(value);
    value
}

pub fn is_zero_vartime(a: &[u64]) -> bool {
    a.iter().all(|&limb| limb == 0)
}

/// Number of bits without leading zeros.
pub fn bit_length_vartime(a: &[u64]) -> usize {
    a.iter().rposition(|&limb| limb != 0).map_or(0, |i| 64 * i + 64 - a[i].leading_zeros() as usize)
}

/// `width` (at most 32) bits from position `start`; bits beyond the end read as zero.
pub fn bits_at(a: &[u64], start: usize, width: usize) -> usize {
    let limb = start / 64;
    let shift = start % 64;
    let low = a.get(limb).copied().unwrap_or(0) >> shift;
    let high = if shift == 0 { 0 } else { a.get(limb + 1).copied().unwrap_or(0) << (64 - shift) };
    ((low | high) & ((1 << width) - 1)) as usize
}

/// `-1 / odd mod 2^64` by Newton iteration; every step doubles the correct bits.
pub fn negated_inverse(odd: u64) -> u64 {
    let mut inverse = odd; // correct to 3 bits
    for _ in 0..5 {
        inverse = inverse.wrapping_mul(2u64.wrapping_sub(odd.wrapping_mul(inverse)));
    }
    inverse.wrapping_neg()
}

/// Overwrite secrets in a way the optimiser must keep.
pub fn zeroise(a: &mut [u64]) {
    for limb in a.iter_mut() {
        // SAFETY: `limb` is a valid, exclusive reference.
        unsafe { std::ptr::write_volatile(limb, 0) };
    }
    compiler_fence(Ordering::SeqCst);
}

/// Limbs that are overwritten when dropped.
#[derive(Clone)]
pub struct Secret(pub Vec<u64>);

impl Secret {
    pub fn zeros(limbs: usize) -> Self {
        Self(vec![0; limbs])
    }

    /// `source` extended with zeros to `limbs`.
    pub fn padded(source: &[u64], limbs: usize) -> Self {
        Self(padded(source, limbs))
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        zeroise(&mut self.0);
    }
}

impl std::ops::Deref for Secret {
    type Target = [u64];
    fn deref(&self) -> &[u64] {
        &self.0
    }
}

impl std::ops::DerefMut for Secret {
    fn deref_mut(&mut self) -> &mut [u64] {
        &mut self.0
    }
}

pub fn padded(source: &[u64], limbs: usize) -> Vec<u64> {
    let mut out = vec![0; limbs];
    out[..source.len()].copy_from_slice(source);
    out
}
