//! Eight numbers side by side: storage, and conversion from and to rows of 64-bit limbs.

pub use crate::groups::{LANES, Lane, ZERO};
use crate::limbs::zeroise;

pub const DIGIT_BITS: usize = 52;
pub const DIGIT_MASK: u64 = (1 << DIGIT_BITS) - 1;

/// Digits of eight numbers that are overwritten when dropped.
#[derive(Clone)]
pub struct Lanes(Vec<Lane>);

impl Lanes {
    pub fn zeros(digits: usize) -> Self {
        Self(vec![ZERO; digits])
    }
}

impl Drop for Lanes {
    fn drop(&mut self) {
        let limbs = self.0.len() * LANES;
        // SAFETY: `Lane` is `repr(C)` with LANES limbs and no padding.
        zeroise(unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), limbs) });
    }
}

impl std::ops::Deref for Lanes {
    type Target = [Lane];
    fn deref(&self) -> &[Lane] {
        &self.0
    }
}

impl std::ops::DerefMut for Lanes {
    fn deref_mut(&mut self) -> &mut [Lane] {
        &mut self.0
    }
}

/// Limbs of up to eight rows, transposed and then cut into digits.
pub struct Converter {
    limbs: Lanes,
}

impl Converter {
    pub fn new() -> Self {
        Self { limbs: Lanes::zeros(0) }
    }

    /// Make room for rows of `width` limbs and a zero above.
    fn clear(&mut self, width: usize) {
        if self.limbs.len() < width + 1 {
            self.limbs = Lanes::zeros(width + 1);
        } else {
            self.limbs.fill(ZERO);
        }
    }

    /// Digits of the rows, which are `width` limbs wide; lanes beyond the last row hold 0.
    pub fn read(&mut self, rows: &[u64], width: usize, out: &mut [Lane]) {
        self.clear(width);
        for (lane, row) in rows.chunks(width).enumerate() {
            for (limb, &value) in self.limbs.iter_mut().zip(row) {
                limb.0[lane] = value;
            }
        }
        self.cut(width, out);
    }

    /// Digits of one row in every lane.
    pub fn read_shared(&mut self, row: &[u64], out: &mut [Lane]) {
        self.clear(row.len());
        for (limb, &value) in self.limbs.iter_mut().zip(row) {
            *limb = Lane([value; LANES]);
        }
        self.cut(row.len(), out);
    }

    fn cut(&self, width: usize, out: &mut [Lane]) {
        for (i, digit) in out.iter_mut().enumerate() {
            let (limb, shift) = (i * DIGIT_BITS / 64, i * DIGIT_BITS % 64);
            if limb >= width {
                *digit = ZERO;
                continue;
            }
            let (low, high) = (&self.limbs[limb].0, &self.limbs[limb + 1].0);
            for lane in 0..LANES {
                // Two shifts, because one by 64 would overflow.
                let above = high[lane] << 1 << (63 - shift);
                digit.0[lane] = (low[lane] >> shift | above) & DIGIT_MASK;
            }
        }
    }

    /// Rows of `width` limbs from digits; the lanes beyond the last row are dropped.
    pub fn write(&mut self, digits: &[Lane], rows: &mut [u64], width: usize) {
        self.clear(width);
        let at = |i: usize| digits.get(i).unwrap_or(&ZERO);
        for i in 0..width {
            let (digit, shift) = (i * 64 / DIGIT_BITS, i * 64 % DIGIT_BITS);
            let (low, middle, high) = (at(digit), at(digit + 1), at(digit + 2));
            for (lane, limb) in self.limbs[i].0.iter_mut().enumerate() {
                *limb = low.0[lane] >> shift | middle.0[lane] << (DIGIT_BITS - shift);
                if shift > 2 * DIGIT_BITS - 64 {
                    *limb |= high.0[lane] << (2 * DIGIT_BITS - shift);
                }
            }
        }
        for (lane, row) in rows.chunks_mut(width).enumerate() {
            for (value, limb) in row.iter_mut().zip(self.limbs.iter()) {
                *value = limb.0[lane];
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_survive_conversion() {
        for width in 1..40usize {
            for count in [1, 3, 8] {
                let mut state = 1u64;
                let rows: Vec<u64> = (0..width * count)
                    .map(|i| {
                        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                        if i % 5 == 0 { u64::MAX } else { state }
                    })
                    .collect();
                let mut converter = Converter::new();
                let mut digits = vec![ZERO; (64 * width).div_ceil(DIGIT_BITS) + 3];
                converter.read(&rows, width, &mut digits);
                assert!(digits.iter().all(|digit| digit.0.iter().all(|&d| d <= DIGIT_MASK)));
                let mut back = vec![0; rows.len()];
                converter.write(&digits, &mut back, width);
                assert_eq!(back, rows);
            }
        }
    }
}
