//! Many biased fixed-point values in one plaintext, least significant slot first.
//!
//! Belongs here: layouts, and packing with ordinary instructions.
//! Does not belong here: eight slots at once (`slots_vbmi`).

use crate::error::{KernelError, Result};
use crate::isa::Isa;

/// Slots of `slot_bits` bits that hold values of `value_bits` bits plus 2^(value_bits - 1).
pub struct SlotLayout {
    pub slot_bits: usize,
    pub value_bits: usize,
    pub slots: usize,
    pub limbs: usize,
}

impl SlotLayout {
    pub fn bias(&self) -> i64 {
        // 2^63 for 64 bits, modulo 2^64 as all that is done with it.
        (1u64 << (self.value_bits - 1)) as i64
    }

    /// Bits that no biased value has.
    pub fn excess(&self) -> u64 {
        u64::MAX.checked_shl(self.value_bits as u32).unwrap_or(0)
    }

    pub fn slot_mask(&self) -> u64 {
        u64::MAX >> (64 - self.slot_bits)
    }

    /// Unused slots of the last row hold the value 0, so that rows can be added.
    pub fn pack(&self, values: &[i64], out: &mut [u64], isa: Isa) -> Result<()> {
        let pack = isa.pack_row(self);
        let mut excess = 0;
        let (whole, rest) = values.split_at(values.len() / self.slots * self.slots);
        let whole = whole.chunks_exact(self.slots);
        let last_row = whole.len() * self.limbs;
        for (index, values) in whole.enumerate() {
            // SAFETY: as many values as slots; the path was checked to be available.
            excess |= unsafe { pack(self, values, &mut out[index * self.limbs..]) };
        }
        if !rest.is_empty() {
            let mut padded = vec![0; self.slots];
            padded[..rest.len()].copy_from_slice(rest);
            // SAFETY: likewise.
            excess |= unsafe { pack(self, &padded, &mut out[last_row..]) };
        }
        if excess == 0 {
            return Ok(());
        }
        let fits = |value: &i64| value.wrapping_add(self.bias()) as u64 & self.excess() == 0;
        let first = values.iter().position(|value| !fits(value)).unwrap_or(0);
        Err(KernelError::Overflow(first))
    }

    /// Slots minus `bias_multiple` biases: the sums of as many packed values.
    pub fn unpack(
        &self,
        plaintexts: &[u64],
        bias_multiple: u64,
        out: &mut [i64],
        isa: Isa,
    ) -> Result<()> {
        let bias = i128::from(bias_multiple) << (self.value_bits - 1);
        let rows = plaintexts.chunks_exact(self.limbs).zip(out.chunks_mut(self.slots));
        match i64::try_from(bias) {
            // The difference of two such numbers cannot overflow.
            Ok(bias) if self.slot_bits < 64 => {
                let unpack = isa.unpack_row(self);
                for (row, out) in rows {
                    // SAFETY: at most as many values as slots; the path was checked.
                    unsafe { unpack(self, row, bias, out) };
                }
            }
            _ => {
                for (index, (row, out)) in rows.enumerate() {
                    for (slot, value) in out.iter_mut().enumerate() {
                        let raw = self.slot(row, slot);
                        *value = i64::try_from(i128::from(raw) - bias)
                            .map_err(|_| KernelError::Overflow(index * self.slots + slot))?;
                    }
                }
            }
        }
        Ok(())
    }

    #[inline(always)]
    fn slot(&self, row: &[u64], slot: usize) -> u64 {
        let position = slot * self.slot_bits;
        let (word, shift) = (position / 64, position % 64);
        let mut raw = row[word] >> shift;
        if shift + self.slot_bits > 64 {
            raw |= row[word + 1] << (64 - shift);
        }
        raw & self.slot_mask()
    }
}

/// Pack as many values as slots into the first row of what is given, whose rest may be overwritten;
/// returns what exceeded the bits of a value.
pub type PackRow = unsafe fn(&SlotLayout, &[i64], &mut [u64]) -> u64;

/// Unpack the first slots of a row less a bias.
pub type UnpackRow = unsafe fn(&SlotLayout, &[u64], i64, &mut [i64]);

pub fn pack_row(layout: &SlotLayout, values: &[i64], rows: &mut [u64]) -> u64 {
    let row = &mut rows[..layout.limbs];
    let (bias, forbidden, slot_bits) = (layout.bias(), layout.excess(), layout.slot_bits);
    let (mut word, mut filled, mut next, mut excess) = (0, 0, 0, 0);
    for &value in values {
        let biased = value.wrapping_add(bias) as u64;
        excess |= biased & forbidden;
        word |= biased << filled;
        filled += slot_bits;
        if filled >= 64 {
            row[next] = word;
            next += 1;
            filled -= 64;
            word = if filled > 0 { biased >> (slot_bits - filled) } else { 0 };
        }
    }
    if let Some(rest) = row.get_mut(next..) {
        rest.fill(0);
        if let Some(last) = rest.first_mut() {
            *last = word;
        }
    }
    excess
}

pub fn unpack_row(layout: &SlotLayout, row: &[u64], bias: i64, out: &mut [i64]) {
    for (slot, value) in out.iter_mut().enumerate() {
        *value = layout.slot(row, slot) as i64 - bias;
    }
}
