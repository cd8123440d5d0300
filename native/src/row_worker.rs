//! Groups of one ciphertext, on the row kernels: an element of [`SquareRing`] each. Working memory is
//! overwritten when freed, because the rows may be factors that hide plaintexts.

use crate::batch::GroupWorker;
use crate::groups::{GroupShape, LANES, Lane, ZERO, limbs, limbs_mut};
use crate::limbs::Secret;
use crate::power;
use crate::ring::{Scratch, SquareRing};
use crate::straight_line::Program;

pub struct RowWorker<'a> {
    ring: &'a SquareRing,
    /// Limbs of N as rows have them.
    limbs: usize,
    s: Scratch,
    pair: Secret,
}

impl<'a> RowWorker<'a> {
    pub fn new(ring: &'a SquareRing, limbs: usize) -> Self {
        Self { ring, limbs, s: ring.scratch(), pair: Secret::zeros(2 * ring.half()) }
    }

    pub fn shape(ring: &SquareRing) -> GroupShape {
        GroupShape { rows: 1, width: 2 * ring.half() / LANES }
    }
}

impl GroupWorker for RowWorker<'_> {
    fn load(&mut self, rows: &[u64], out: &mut [Lane]) {
        let out = limbs_mut(out);
        if rows.is_empty() {
            out.copy_from_slice(self.ring.one());
            return;
        }
        let wide = Secret::padded(rows, 2 * self.ring.half());
        self.ring.enter_over_r(&wide, out, &mut self.s);
        self.ring.mul_assign(out, self.ring.power_of_r(3), &mut self.s);
    }

    fn store(&mut self, group: &[Lane], rows: &mut [u64]) {
        self.pair.copy_from_slice(limbs(group));
        self.ring.leave(&mut self.pair, &mut self.s);
        let mut wide = Secret::zeros(2 * self.ring.half());
        self.ring.integer(&self.pair, &mut wide);
        rows.copy_from_slice(&wide[..rows.len()]);
    }

    fn multiply(&mut self, a: &[Lane], b: &[Lane], out: &mut [Lane]) {
        out.copy_from_slice(a);
        self.ring.mul_assign(limbs_mut(out), limbs(b), &mut self.s);
    }

    fn add_plain(&mut self, c: &[Lane], plaintexts: &[u64], out: &mut [Lane]) {
        let half = self.ring.half();
        let factor = &mut self.pair;
        factor.fill(0);
        factor[0] = 1;
        factor[half..half + plaintexts.len()].copy_from_slice(plaintexts);
        self.ring.mul_assign(factor, self.ring.power_of_r(2), &mut self.s);
        out.copy_from_slice(c);
        self.ring.mul_assign(limbs_mut(out), factor, &mut self.s);
    }

    fn power(&mut self, c: &[Lane], exponents: &[u64], out: &mut [Lane]) {
        let power = power::public_exponent(self.ring, limbs(c), exponents, &mut self.s);
        limbs_mut(out).copy_from_slice(&power);
    }

    fn product_mod_n(&mut self, rows: &[u64], out: &mut [u64]) {
        let (ring, width) = (self.ring, 2 * self.ring.half());
        let mut product = ring.one().to_vec();
        for row in rows.chunks(2 * self.limbs) {
            ring.enter_over_r(&Secret::padded(row, width), &mut self.pair, &mut self.s);
            ring.mul_assign(&mut product, &self.pair, &mut self.s);
        }
        out.copy_from_slice(&product[..ring.half()]);
    }

    fn run(&mut self, program: &Program, columns: usize, registers: &mut [Lane]) {
        let width = Self::shape(self.ring).single_width();
        let mut product = vec![ZERO; width];
        for layer in &program.layers {
            for operation in &layer.operations {
                for column in 0..columns {
                    let at = |register: u32| {
                        let place = (register as usize * columns + column) * width;
                        place..place + width
                    };
                    product.copy_from_slice(&registers[at(operation.left)]);
                    if layer.squares {
                        self.ring.square_assign(limbs_mut(&mut product), &mut self.s);
                    } else {
                        let right = limbs(&registers[at(operation.right)]);
                        self.ring.mul_assign(limbs_mut(&mut product), right, &mut self.s);
                    }
                    registers[at(operation.out)].copy_from_slice(&product);
                }
            }
        }
    }
}
