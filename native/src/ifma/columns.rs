//! Products and Montgomery reductions of eight numbers at once, column by column.
//!
//! A number is a slice of [`Lane`]s: digit i of eight numbers, 52 bits each. Results are computed
//! in tiles of [`TILE`] columns whose sums stay in registers from the first product to the carry;
//! a sum in memory would cost a load and a store for every multiply-add. One row of a tile takes
//! one register for the digit of x, `TILE + 1` for the window of y and `TILE` for the sums.
//!
//! Sums are carried only when a tile is complete: a column of the largest ring adds fewer than
//! 2^11 terms below 2^52, so it stays below 2^63 and may be treated as signed.

use core::arch::x86_64::{
    __m512i, _mm512_add_epi64, _mm512_and_si512, _mm512_load_si512, _mm512_madd52hi_epu64,
    _mm512_madd52lo_epu64, _mm512_set1_epi64, _mm512_setzero_si512, _mm512_slli_epi64,
    _mm512_srai_epi64, _mm512_store_si512, _mm512_sub_epi64,
};
use std::ops::Range;

use super::lanes::{DIGIT_BITS, DIGIT_MASK, Lane, Lanes};

/// Columns in registers at once. Divides the digit counts of the usual sizes: 20, 30, 40, 60, 80.
pub const TILE: usize = 10;

pub type Tile = [__m512i; TILE];

// Vector instructions as plain functions. They are not marked with target features, which would
// rule out `inline(always)`: being inlined, they become part of callers that are marked. Only
// functions that carry the features, or are themselves always inlined, may call them.

#[inline(always)]
pub fn load(lane: &Lane) -> __m512i {
    // SAFETY: a lane is 64 readable bytes, aligned to 64.
    unsafe { _mm512_load_si512(lane.0.as_ptr().cast()) }
}

#[inline(always)]
pub fn store(lane: &mut Lane, value: __m512i) {
    // SAFETY: a lane is 64 writable bytes, aligned to 64.
    unsafe { _mm512_store_si512(lane.0.as_mut_ptr().cast(), value) }
}

#[inline(always)]
fn lo(acc: __m512i, x: __m512i, y: &Lane) -> __m512i {
    // SAFETY: the caller carries the features, see above.
    unsafe { _mm512_madd52lo_epu64(acc, x, load(y)) }
}

#[inline(always)]
fn hi(acc: __m512i, x: __m512i, y: &Lane) -> __m512i {
    // SAFETY: the caller carries the features, see above.
    unsafe { _mm512_madd52hi_epu64(acc, x, load(y)) }
}

#[inline(always)]
pub fn add(x: __m512i, y: __m512i) -> __m512i {
    // SAFETY: the caller carries the features, see above.
    unsafe { _mm512_add_epi64(x, y) }
}

#[inline(always)]
pub fn sub(x: __m512i, y: __m512i) -> __m512i {
    // SAFETY: the caller carries the features, see above.
    unsafe { _mm512_sub_epi64(x, y) }
}

#[inline(always)]
fn and(x: __m512i, y: __m512i) -> __m512i {
    // SAFETY: the caller carries the features, see above.
    unsafe { _mm512_and_si512(x, y) }
}

#[inline(always)]
fn quadruple(x: __m512i) -> __m512i {
    // SAFETY: the caller carries the features, see above.
    unsafe { _mm512_slli_epi64::<2>(x) }
}

#[inline(always)]
pub fn zero() -> __m512i {
    // SAFETY: the caller carries the features, see above.
    unsafe { _mm512_setzero_si512() }
}

#[inline(always)]
pub fn broadcast(value: i64) -> __m512i {
    // SAFETY: the caller carries the features, see above.
    unsafe { _mm512_set1_epi64(value) }
}

/// What a sum carries into the next digit; negative sums borrow.
#[inline(always)]
pub fn carry_of(sum: __m512i) -> __m512i {
    // SAFETY: the caller carries the features, see above.
    unsafe { _mm512_srai_epi64::<{ DIGIT_BITS as u32 }>(sum) }
}

/// The digit that a sum leaves.
#[inline(always)]
pub fn digit_of(sum: __m512i) -> __m512i {
    and(sum, broadcast(DIGIT_MASK as i64))
}

#[inline(always)]
pub fn zero_tile() -> Tile {
    [zero(); TILE]
}

/// A tile's worth of digits.
#[inline(always)]
fn tile_of(digits: &[Lane], start: usize) -> &[Lane; TILE] {
    digits[start..start + TILE].try_into().expect("a slice of TILE digits")
}

/// Columns that can be added up tile by tile. `HIGH` says whether column `k` lies in the upper
/// half of a product of two numbers of equal length, or in the lower.
pub trait Columns {
    fn add_to<const HIGH: bool>(&self, acc: Tile, k: usize) -> Tile;
}

impl<A: Columns, B: Columns> Columns for (A, B) {
    #[inline(always)]
    fn add_to<const HIGH: bool>(&self, acc: Tile, k: usize) -> Tile {
        let acc = self.0.add_to::<HIGH>(acc, k);
        self.1.add_to::<HIGH>(acc, k)
    }
}

/// The digits of a number; nothing beyond its end.
pub struct Plus<'a>(pub &'a [Lane]);

impl Columns for Plus<'_> {
    #[inline(always)]
    fn add_to<const HIGH: bool>(&self, mut acc: Tile, k: usize) -> Tile {
        if k < self.0.len() {
            let x = tile_of(self.0, k);
            for t in 0..TILE {
                acc[t] = add(acc[t], load(&x[t]));
            }
        }
        acc
    }
}

/// The negative digits of a number; nothing beyond its end.
pub struct Minus<'a>(pub &'a [Lane]);

impl Columns for Minus<'_> {
    #[inline(always)]
    fn add_to<const HIGH: bool>(&self, mut acc: Tile, k: usize) -> Tile {
        if k < self.0.len() {
            let x = tile_of(self.0, k);
            for t in 0..TILE {
                acc[t] = sub(acc[t], load(&x[t]));
            }
        }
        acc
    }
}

/// Four times the digits of a number; nothing beyond its end.
pub struct PlusQuadruple<'a>(pub &'a [Lane]);

impl Columns for PlusQuadruple<'_> {
    #[inline(always)]
    fn add_to<const HIGH: bool>(&self, mut acc: Tile, k: usize) -> Tile {
        if k < self.0.len() {
            let x = tile_of(self.0, k);
            for t in 0..TILE {
                acc[t] = add(acc[t], quadruple(load(&x[t])));
            }
        }
        acc
    }
}

/// The negative digits of a number in the lanes whose mask is -1, not 0; nothing beyond its end.
pub struct MinusMasked<'a>(pub &'a Lane, pub &'a [Lane]);

impl Columns for MinusMasked<'_> {
    #[inline(always)]
    fn add_to<const HIGH: bool>(&self, mut acc: Tile, k: usize) -> Tile {
        if k < self.1.len() {
            let mask = load(self.0);
            let x = tile_of(self.1, k);
            for t in 0..TILE {
                acc[t] = sub(acc[t], and(mask, load(&x[t])));
            }
        }
        acc
    }
}

/// Columns raised by as many digits as given: added to the upper half of a product only.
pub struct Above<C>(pub usize, pub C);

impl<C: Columns> Columns for Above<C> {
    #[inline(always)]
    fn add_to<const HIGH: bool>(&self, acc: Tile, k: usize) -> Tile {
        if HIGH { self.1.add_to::<false>(acc, k - self.0) } else { acc }
    }
}

/// The negative of some columns; the first of a sum.
pub struct Negated<C>(pub C);

impl<C: Columns> Columns for Negated<C> {
    #[inline(always)]
    fn add_to<const HIGH: bool>(&self, acc: Tile, k: usize) -> Tile {
        let mut acc = self.0.add_to::<HIGH>(acc, k);
        for sum in &mut acc {
            *sum = sub(zero(), *sum);
        }
        acc
    }
}

/// x y, two numbers of the same length.
pub struct Product<'a>(pub &'a [Lane], pub &'a [Lane]);

impl Columns for Product<'_> {
    #[inline(always)]
    fn add_to<const HIGH: bool>(&self, acc: Tile, k: usize) -> Tile {
        let Self(x, y) = *self;
        let digits = y.len();
        if HIGH {
            let first = k - digits;
            let acc = upper_triangle(acc, tile_of(x, first), tile_of(y, digits - TILE));
            full_rows(acc, x, y, k, first + TILE..digits)
        } else {
            let acc = full_rows(acc, x, y, k, 0..k);
            lower_triangle(acc, tile_of(x, k), tile_of(y, 0))
        }
    }
}

/// The sum of products of an integer's pieces with their factors' halves from digit `start` on.
pub struct Pieces<'a> {
    pub integer: &'a [Lane],
    pub factors: &'a [Lanes],
    pub start: usize,
    pub digits: usize,
}

impl Columns for Pieces<'_> {
    #[inline(always)]
    fn add_to<const HIGH: bool>(&self, mut acc: Tile, k: usize) -> Tile {
        for (piece, factor) in self.integer.chunks_exact(self.digits).zip(self.factors) {
            let factor = &factor[self.start..self.start + self.digits];
            acc = Product(piece, factor).add_to::<HIGH>(acc, k);
        }
        acc
    }
}

/// Twice some columns; the first of a sum.
pub struct Doubled<C>(pub C);

impl<C: Columns> Columns for Doubled<C> {
    #[inline(always)]
    fn add_to<const HIGH: bool>(&self, acc: Tile, k: usize) -> Tile {
        let mut acc = self.0.add_to::<HIGH>(acc, k);
        for sum in &mut acc {
            *sum = add(*sum, *sum);
        }
        acc
    }
}

/// x^2, the first of a sum. Tiles of digit pairs off the diagonal are computed once and doubled.
pub struct Square<'a>(pub &'a [Lane]);

impl Columns for Square<'_> {
    #[inline(always)]
    fn add_to<const HIGH: bool>(&self, mut acc: Tile, k: usize) -> Tile {
        let x = self.0;
        let (tiles, column) = (x.len() / TILE, k / TILE);
        // Row tile i meets tiles column - i (its lower part) and column - 1 - i (its upper part).
        let mut first = 0;
        if HIGH {
            first = column - tiles;
            if first + 1 < tiles {
                acc = upper_triangle(acc, tile_of(x, first * TILE), tile_of(x, x.len() - TILE));
            }
            first += 1;
        }
        let middle = column / 2;
        acc = full_rows(acc, x, x, k, first * TILE..middle * TILE);
        let own = tile_of(x, middle * TILE);
        if column % 2 == 1 {
            if middle + 1 < tiles {
                acc = lower_triangle(acc, own, tile_of(x, (middle + 1) * TILE));
            }
            diagonal::<TILE>(acc, own)
        } else {
            diagonal::<0>(acc, own)
        }
    }
}

/// Rows of x against all columns of the tile that starts at column `k`:
/// `acc[t] += lo(x[i] y[k + t - i]) + hi(x[i] y[k + t - i - 1])`.
#[inline(always)]
fn full_rows(mut acc: Tile, x: &[Lane], y: &[Lane], k: usize, rows: Range<usize>) -> Tile {
    for i in rows {
        let digit = load(&x[i]);
        let window: &[Lane; TILE + 1] =
            y[k - i - 1..k - i + TILE].try_into().expect("a slice of TILE + 1 digits");
        for t in 0..TILE {
            acc[t] = lo(acc[t], digit, &window[t + 1]);
        }
        for t in 0..TILE {
            acc[t] = hi(acc[t], digit, &window[t]);
        }
    }
    acc
}

/// Repeat a block with a constant index, so that every register of a tile is addressed statically.
macro_rules! for_each_in_tile {
    (|$index:ident| $body:block) => {
        for_each_in_tile!(@ $index $body 0 1 2 3 4 5 6 7 8 9)
    };
    (@ $index:ident $body:block $($value:literal)*) => {
        $({
            let $index: usize = $value;
            $body
        })*
    };
}

/// The product of two tiles, lower columns.
#[inline(always)]
fn lower_triangle(mut acc: Tile, x: &[Lane; TILE], y: &[Lane; TILE]) -> Tile {
    for_each_in_tile!(|s| {
        let digit = load(&x[s]);
        for t in 0..TILE {
            if t >= s {
                acc[t] = lo(acc[t], digit, &y[t - s]);
            }
        }
        for t in 0..TILE {
            if t > s {
                acc[t] = hi(acc[t], digit, &y[t - s - 1]);
            }
        }
    });
    acc
}

/// The product of two tiles, upper columns.
#[inline(always)]
fn upper_triangle(mut acc: Tile, x: &[Lane; TILE], y: &[Lane; TILE]) -> Tile {
    for_each_in_tile!(|s| {
        let digit = load(&x[s]);
        for t in 0..TILE {
            if t < s {
                acc[t] = lo(acc[t], digit, &y[TILE + t - s]);
            }
        }
        for t in 0..TILE {
            if t <= s {
                acc[t] = hi(acc[t], digit, &y[TILE - 1 + t - s]);
            }
        }
    });
    acc
}

/// Finish a square: add the pairs within one tile, double, and add the squares of digits.
/// `FROM` chooses the lower (0) or the upper (`TILE`) columns.
#[inline(always)]
fn diagonal<const FROM: usize>(mut acc: Tile, x: &[Lane; TILE]) -> Tile {
    for_each_in_tile!(|s| {
        let digit = load(&x[s]);
        for (t, sum) in acc.iter_mut().enumerate() {
            // Column FROM + t takes the low half of digits s and u, and the high half one below.
            let u = (FROM + t).wrapping_sub(s);
            if u > s && u < TILE {
                *sum = lo(*sum, digit, &x[u]);
            }
            let u = u.wrapping_sub(1);
            if u > s && u < TILE {
                *sum = hi(*sum, digit, &x[u]);
            }
        }
    });
    for (t, sum) in acc.iter_mut().enumerate() {
        let digit = &x[(FROM + t) / 2];
        let double = add(*sum, *sum);
        *sum = match t % 2 {
            0 => lo(double, load(digit), digit),
            _ => hi(double, load(digit), digit),
        };
    }
    acc
}

/// Carry through a complete tile, store its digits and return the carry out.
#[inline(always)]
fn carry_tile(acc: Tile, mut carry: __m512i, out: &mut [Lane]) -> __m512i {
    let out: &mut [Lane; TILE] = out.try_into().expect("a slice of TILE digits");
    for (out, sum) in out.iter_mut().zip(acc) {
        let sum = add(sum, carry);
        carry = carry_of(sum);
        store(out, digit_of(sum));
    }
    carry
}

/// The digits of a sum given by columns: `out` is as long as a product.
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
#[inline]
pub fn carried(out: &mut [Lane], columns: impl Columns) {
    let mut carry = zero();
    let half = out.len() / 2;
    for k in (0..half).step_by(TILE) {
        let acc = columns.add_to::<false>(zero_tile(), k);
        carry = carry_tile(acc, carry, &mut out[k..k + TILE]);
    }
    for k in (half..2 * half).step_by(TILE) {
        let acc = columns.add_to::<true>(zero_tile(), k);
        carry = carry_tile(acc, carry, &mut out[k..k + TILE]);
    }
}

/// Modulus of a reduction: N in every lane and -1 / N modulo 2^52.
#[derive(Clone, Copy)]
pub struct Modulus<'a> {
    pub digits: &'a [Lane],
    pub neg_inv: &'a Lane,
}

/// Montgomery reduction of T given by columns: digits of r and m with T = r R - m N. T may be as
/// low as 1 - R, and r is exact but not reduced: 0 <= r < T / R + N. Returns the carry out of r,
/// which is 0 then; with columns that exceed these bounds, r is that much times R more.
#[target_feature(enable = "avx512f,avx512dq,avx512ifma")]
#[inline]
pub fn reduce(n: Modulus, m: &mut [Lane], r: &mut [Lane], columns: impl Columns) -> __m512i {
    let digits = n.digits.len();
    assert!(m.len() == digits && r.len() == digits);
    let lowest = tile_of(n.digits, 0);
    let mut carry = zero();
    for k in (0..digits).step_by(TILE) {
        let acc = columns.add_to::<false>(zero_tile(), k);
        let mut acc = full_rows(acc, m, n.digits, k, 0..k);
        let m: &mut [Lane; TILE] =
            (&mut m[k..k + TILE]).try_into().expect("a slice of TILE digits");
        for_each_in_tile!(|s| {
            acc[s] = add(acc[s], carry);
            let q = lo(zero(), acc[s], n.neg_inv);
            store(&mut m[s], q);
            // Adding the low half of q N makes the low digit zero, so the carry is that of
            // rounding up, and need not wait for q.
            carry = carry_of(add(acc[s], broadcast(DIGIT_MASK as i64)));
            for t in 0..TILE {
                if t > s {
                    acc[t] = lo(acc[t], q, &lowest[t - s]);
                }
            }
            for t in 0..TILE {
                if t == s + 1 {
                    carry = hi(carry, q, &lowest[0]);
                } else if t > s {
                    acc[t] = hi(acc[t], q, &lowest[t - s - 1]);
                }
            }
        });
    }
    for k in (digits..2 * digits).step_by(TILE) {
        let acc = columns.add_to::<true>(zero_tile(), k);
        let acc = Product(m, n.digits).add_to::<true>(acc, k);
        carry = carry_tile(acc, carry, &mut r[k - digits..k - digits + TILE]);
    }
    carry
}
