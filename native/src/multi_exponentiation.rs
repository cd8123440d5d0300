//! Many products of powers of the same bases: encrypted dot and matrix products.
//!
//! Belongs here: how exponents become unsigned, and which products compute their powers.
//! Does not belong here: running those products (`batch::GroupWorker`).
//!
//! Output i is the product over k of base_k^W[i, k], with public exponents. Two algorithms compete;
//! both look at `bases` or outputs in groups of s and at exponents in windows of w bits, so that a
//! group's windows form a pattern of s w bits:
//!
//! - *Tables* (Straus 1964, simultaneous exponentiation): the 2^(s w) products of a group of s bases
//!   serve all outputs and all windows; an output takes one entry per group and window, and squares
//!   in between.
//! - *Buckets* (Pippenger, On the evaluation of powers and monomials, SIAM J. Comput. 9, 1980): the
//!   transposed program. For a group of s outputs, each base joins the bucket of its pattern, at
//!   the power of its window; sums over the buckets with a given bit give the outputs bit by bit.
//!
//! Tables suit many outputs, buckets many bases. Counting products decides, with squares at
//! `SQUARE_COST`.

use crate::straight_line::{Builder, Program, Value};

/// Cost of a square in products.
const SQUARE_COST: f64 = 0.7;
const LONGEST_PATTERN: usize = 10;
/// Registers of a program beyond those of its smallest form; they should share a cache.
const MOST_REGISTERS: usize = 1 << 15;

/// How signed exponents became unsigned.
pub enum Signs {
    None,
    /// They grew by a constant; a further input is the inverse of the product of all bases.
    Offset,
    /// Further inputs are the inverses of these bases.
    Inverses(Vec<usize>),
}

/// The program for a matrix of exponents.
pub struct MultiExponentiation {
    pub signs: Signs,
    /// Its inputs are the bases, followed by what `signs` says.
    pub program: Program,
}

impl MultiExponentiation {
    /// `weights` has a row of `bases` exponents for every output.
    pub fn new(weights: &[i64], outputs: usize, bases: usize) -> Self {
        assert!(weights.len() == outputs * bases);
        let lowest = weights.iter().copied().min().unwrap_or(0);
        if lowest >= 0 {
            let exponents =
                Exponents::new(outputs, bases, weights.iter().map(|&w| w as u64).collect());
            let (_, plan) = exponents.plan();
            let mut builder = Builder::new(bases);
            let results = plan.build(&exponents, &mut builder);
            return Self { signs: Signs::None, program: builder.finish(&results) };
        }
        let offset = lowest.unsigned_abs();
        let raised = weights.iter().map(|&weight| (weight as u64).wrapping_add(offset)).collect();
        let raised = Exponents::new(outputs, bases, raised);
        let (raised_cost, raised_plan) = raised.plan();
        let repair = bases + offset.ilog2() as usize + outputs;
        let negated: Vec<usize> = (0..bases)
            .filter(|base| weights.iter().skip(*base).step_by(bases).any(|&weight| weight < 0))
            .collect();
        let split = (0..outputs).flat_map(|output| {
            let row = &weights[output * bases..][..bases];
            let negative = negated.iter().map(|&base| row[base].min(0).unsigned_abs());
            row.iter().map(|&weight| weight.max(0).unsigned_abs()).chain(negative)
        });
        let split = Exponents::new(outputs, bases + negated.len(), split.collect());
        let (split_cost, split_plan) = split.plan();
        // Inverting many bases takes three products each, beside the one inversion of either way.
        let split_cost = split_cost + 3.0 * negated.len() as f64;
        if split_cost < raised_cost + repair as f64 {
            let mut builder = Builder::new(split.bases);
            let results = split_plan.build(&split, &mut builder);
            return Self { signs: Signs::Inverses(negated), program: builder.finish(&results) };
        }
        let mut builder = Builder::new(bases + 1);
        let mut results = raised_plan.build(&raised, &mut builder);
        let correction = power(&mut builder, Value::Shared(bases as u32), offset);
        for result in &mut results {
            *result = builder.multiply(*result, correction);
        }
        builder.end_layer();
        Self { signs: Signs::Offset, program: builder.finish(&results) }
    }

    /// The product of all inputs.
    pub fn product(inputs: usize) -> Program {
        let mut builder = Builder::new(inputs);
        let all = builder.inputs();
        let product = builder.products(&[all]);
        builder.finish(&product)
    }
}

/// value^exponent for a positive exponent, shared.
fn power(builder: &mut Builder, value: Value, exponent: u64) -> Value {
    let mut power = [value];
    for bit in (0..exponent.ilog2()).rev() {
        builder.repeated_squares(&mut power, 1);
        if exponent >> bit & 1 == 1 {
            power[0] = builder.multiply(power[0], value);
            builder.end_layer();
        }
    }
    power[0].shared()
}

/// Unsigned exponents of `outputs` products over `bases` bases, row by row.
pub struct Exponents {
    outputs: usize,
    bases: usize,
    values: Vec<u64>,
    bits: usize,
    /// Share of bits that are set.
    density: f64,
}

impl Exponents {
    pub fn new(outputs: usize, bases: usize, values: Vec<u64>) -> Self {
        assert!(values.len() == outputs * bases);
        let bits = values.iter().fold(0, |all, value| all | value).checked_ilog2();
        let bits = bits.map_or(0, |top| top as usize + 1);
        let set: u64 = values.iter().map(|value| u64::from(value.count_ones())).sum();
        let density = set as f64 / (values.len() * bits).max(1) as f64;
        Self { outputs, bases, values, bits, density }
    }

    /// Bits of a window of one base's exponent.
    fn window(&self, output: usize, base: usize, position: usize, width: usize) -> usize {
        let shifted = self.values[output * self.bases + base] >> (position * width);
        shifted as usize & ((1 << width) - 1)
    }

    /// The cheapest program and its cost in products.
    fn plan(&self) -> (f64, Plan) {
        let mut best = (f64::INFINITY, Plan { group: 1, window: 1, buckets: false });
        for window in 1..=self.bits.clamp(1, LONGEST_PATTERN) {
            for group in 1..=LONGEST_PATTERN / window {
                for buckets in [false, true] {
                    let plan = Plan { group, window, buckets };
                    let cost = plan.cost(self);
                    let small = group * window == 1;
                    if cost < best.0 && (small || plan.registers(self) <= MOST_REGISTERS) {
                        best = (cost, plan);
                    }
                }
            }
        }
        best
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Plan {
    group: usize,
    window: usize,
    buckets: bool,
}

impl Plan {
    fn windows(self, exponents: &Exponents) -> usize {
        exponents.bits.div_ceil(self.window)
    }

    fn registers(self, exponents: &Exponents) -> usize {
        let (bases, outputs) = (exponents.bases, exponents.outputs);
        let patterns = 1 << (self.group * self.window);
        if self.buckets {
            bases * self.windows(exponents) + patterns + outputs * self.window
        } else {
            bases.div_ceil(self.group) * patterns + outputs
        }
    }

    /// Expected products, from the share of bits that are set.
    fn cost(self, exponents: &Exponents) -> f64 {
        let (bases, outputs) = (exponents.bases as f64, exponents.outputs as f64);
        let (group, window) = (self.group as f64, self.window as f64);
        let windows = self.windows(exponents) as f64;
        let bits = (self.group * self.window) as i32;
        let patterns = f64::from(1 << bits);
        let present = 1.0 - (1.0 - exponents.density).powi(bits);
        if self.buckets {
            let groups = (outputs / group).ceil();
            let inserted = bases * windows * present;
            let squares = bases * window * (windows - 1.0).max(0.0);
            let horner = outputs * (window - 1.0) * (1.0 + SQUARE_COST);
            // Inserted products, then at every bit a fold and a sum over the upper half.
            let filled = patterns.min(inserted);
            let halves = (0..bits).map(|bit| f64::from(1 << bit).min(filled));
            let joined = inserted - filled + 2.0 * halves.sum::<f64>();
            squares * SQUARE_COST + groups * joined + horner
        } else {
            let groups = (bases / group).ceil();
            let squares = bases * (window - 1.0) + outputs * window * (windows - 1.0).max(0.0);
            let chosen = (groups * windows * present - 1.0).max(0.0);
            squares * SQUARE_COST + groups * patterns + outputs * chosen
        }
    }

    /// Values of all outputs; the first inputs are the bases.
    fn build(self, exponents: &Exponents, builder: &mut Builder) -> Vec<Value> {
        let bases = builder.inputs()[..exponents.bases].to_vec();
        if self.buckets {
            self.build_buckets(exponents, bases, builder)
        } else {
            self.build_tables(exponents, bases, builder)
        }
    }

    fn build_tables(
        self,
        exponents: &Exponents,
        bases: Vec<Value>,
        builder: &mut Builder,
    ) -> Vec<Value> {
        let Self { group, window, .. } = self;
        // powers[j][k] is base k to the power 2^j.
        let mut powers = vec![bases];
        for _ in 1..window {
            let last = &powers[powers.len() - 1];
            let mut next: Vec<Value> = last.iter().map(|value| value.shared()).collect();
            builder.repeated_squares(&mut next, 1);
            powers.push(next.iter().map(|value| value.shared()).collect());
        }
        let mut tables = vec![vec![Value::One]; exponents.bases.div_ceil(group)];
        for bit in 0..group * window {
            for (number, table) in tables.iter_mut().enumerate() {
                let base = number * group + bit / window;
                if base < exponents.bases {
                    let factor = powers[bit % window][base];
                    for entry in 0..table.len() {
                        let product = builder.multiply(table[entry], factor);
                        table.push(product.shared());
                    }
                }
            }
            builder.end_layer();
        }
        let mut outputs = vec![Value::One; exponents.outputs];
        for position in (0..self.windows(exponents)).rev() {
            builder.repeated_squares(&mut outputs, window);
            let factors: Vec<Vec<Value>> = outputs
                .iter()
                .enumerate()
                .map(|(output, &value)| {
                    let entries = tables.iter().enumerate().map(|(number, table)| {
                        let bases = number * group..((number + 1) * group).min(exponents.bases);
                        let pattern = bases.rev().fold(0, |pattern, base| {
                            pattern << window | exponents.window(output, base, position, window)
                        });
                        table[pattern]
                    });
                    let entries = entries.filter(|&entry| entry != Value::One);
                    [value]
                        .into_iter()
                        .filter(|&value| value != Value::One)
                        .chain(entries)
                        .collect()
                })
                .collect();
            outputs = builder.products(&factors);
        }
        outputs
    }

    fn build_buckets(
        self,
        exponents: &Exponents,
        bases: Vec<Value>,
        builder: &mut Builder,
    ) -> Vec<Value> {
        let Self { group, window, .. } = self;
        // powers[p][k] is base k to the power 2^(p w).
        let mut powers = vec![bases];
        for _ in 1..self.windows(exponents) {
            let mut next = powers[powers.len() - 1].clone();
            builder.repeated_squares(&mut next, window);
            powers.push(next.iter().map(|value| value.shared()).collect());
        }
        let mut bits = Vec::with_capacity(exponents.outputs * window);
        for first in (0..exponents.outputs).step_by(group) {
            let outputs = first..(first + group).min(exponents.outputs);
            let width = outputs.len() * window;
            let mut buckets = vec![Vec::new(); 1 << width];
            for (position, powers) in powers.iter().enumerate() {
                for (base, &power) in powers.iter().enumerate() {
                    let pattern = outputs.clone().rev().fold(0, |pattern, output| {
                        pattern << window | exponents.window(output, base, position, window)
                    });
                    if pattern != 0 {
                        buckets[pattern].push(power);
                    }
                }
            }
            let mut buckets = builder.products(&buckets);
            // Without their top bit, patterns fall together; afterwards those whose top bit is
            // `bit` are at 2^bit and above.
            for bit in (1..width).rev() {
                for pattern in 1..1 << bit {
                    let above = buckets[pattern + (1 << bit)];
                    buckets[pattern] = builder.multiply(buckets[pattern], above.shared());
                }
                builder.end_layer();
            }
            let lists: Vec<Vec<Value>> = (0..width)
                .map(|bit| {
                    let values = buckets[1 << bit..2 << bit].iter().map(|value| value.shared());
                    values.filter(|&value| value != Value::One).collect()
                })
                .collect();
            let products = builder.products(&lists);
            let kept: Vec<_> = products.iter().map(|value| value.register()).collect();
            builder.release(buckets.into_iter().filter(|value| !kept.contains(&value.register())));
            bits.extend(products);
        }
        let bit = |j: usize| bits.iter().skip(j).step_by(window).copied();
        let mut outputs: Vec<Value> = bit(window - 1).collect();
        for j in (0..window - 1).rev() {
            builder.repeated_squares(&mut outputs, 1);
            for (output, factor) in outputs.iter_mut().zip(bit(j)) {
                *output = builder.multiply(*output, factor.shared());
            }
            builder.end_layer();
        }
        outputs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIME: u64 = 0x1fff_ffff_ffff_ffff;

    fn mul(x: u64, y: u64) -> u64 {
        (u128::from(x) * u128::from(y) % u128::from(PRIME)) as u64
    }

    fn pow(base: u64, mut exponent: u64) -> u64 {
        let (mut power, mut square) = (1, base);
        while exponent > 0 {
            if exponent & 1 == 1 {
                power = mul(power, square);
            }
            square = mul(square, square);
            exponent >>= 1;
        }
        power
    }

    fn inverse(x: u64) -> u64 {
        pow(x, PRIME - 2)
    }

    /// Operations of a layer see what was there before it, whatever their order.
    fn run(program: &Program, inputs: &[u64]) -> Vec<u64> {
        assert_eq!(inputs.len(), program.inputs);
        let mut registers = inputs.to_vec();
        registers.resize(program.registers, 0);
        for layer in &program.layers {
            let before = registers.clone();
            for operation in &layer.operations {
                assert!(operation.out as usize >= program.inputs);
                assert!(!layer.squares || operation.left == operation.right);
                registers[operation.out as usize] =
                    mul(before[operation.left as usize], before[operation.right as usize]);
            }
        }
        assert_eq!(&registers[..inputs.len()], inputs);
        program.outputs.iter().map(|out| out.map_or(1, |at| registers[at as usize])).collect()
    }

    fn numbers(count: usize, mut state: u64) -> Vec<u64> {
        let step = |_| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
            state ^ state >> 29
        };
        (0..count).map(step).collect()
    }

    fn bases(count: usize) -> Vec<u64> {
        numbers(count, 7).into_iter().map(|x| x % (PRIME - 1) + 1).collect()
    }

    fn expected(exponents: &Exponents, bases: &[u64]) -> Vec<u64> {
        let rows = (0..exponents.outputs).map(|i| &exponents.values[i * bases.len()..]);
        rows.map(|row| {
            row.iter().zip(bases).fold(1, |all, (&value, &base)| mul(all, pow(base, value)))
        })
        .collect()
    }

    #[test]
    fn every_plan_computes_the_powers() {
        for (outputs, count) in [(1, 1), (1, 7), (7, 1), (3, 5), (5, 23), (70, 11), (2, 0)] {
            for mask in [0, 1, 3, 0x7f, 0x8080_0000_0000_0001, u64::MAX] {
                let values = numbers(outputs * count, mask ^ 3).iter().map(|x| x & mask).collect();
                let exponents = Exponents::new(outputs, count, values);
                let bases = bases(count);
                let expected = expected(&exponents, &bases);
                for window in 1..=6 {
                    for group in 1..=6 / window {
                        for buckets in [false, true] {
                            let plan = Plan { group, window, buckets };
                            let mut builder = Builder::new(count);
                            let results = plan.build(&exponents, &mut builder);
                            let program = builder.finish(&results);
                            assert_eq!(run(&program, &bases), expected, "{plan:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn signs_are_taken_into_account() {
        let extremes = [i64::MIN, i64::MAX, -1, 0, 1, -128, 127];
        let mut kinds = [0; 3];
        for (outputs, count, kept) in [(1, 1, 1), (4, 9, 1), (4, 9, 5), (40, 30, 1), (3, 50, 40)] {
            for set in 0..4 {
                let mut random = numbers(outputs * count, 99 + set).into_iter();
                let weights: Vec<i64> = (&mut random)
                    .map(|x| match (x >> 32) % kept {
                        0 if set == 0 => extremes[x as usize % extremes.len()],
                        0 if set == 1 => (x >> 8) as u8 as i8 as i64,
                        0 if set == 2 => (x >> 8) as i64 & 0xff,
                        0 => -((x >> 8) as i64 & 0xff),
                        _ => 0,
                    })
                    .collect();
                let program = MultiExponentiation::new(&weights, outputs, count);
                let bases = bases(count);
                let mut inputs = bases.clone();
                match &program.signs {
                    Signs::None => kinds[0] += 1,
                    Signs::Offset => {
                        kinds[1] += 1;
                        let product = run(&MultiExponentiation::product(count), &bases)[0];
                        inputs.push(inverse(product));
                    }
                    Signs::Inverses(negated) => {
                        kinds[2] += 1;
                        inputs.extend(negated.iter().map(|&base| inverse(bases[base])));
                    }
                }
                let expected: Vec<u64> = weights
                    .chunks(count)
                    .map(|row| {
                        row.iter().zip(&bases).fold(1, |all, (&weight, &base)| {
                            let power = pow(base, weight.unsigned_abs());
                            mul(all, if weight < 0 { inverse(power) } else { power })
                        })
                    })
                    .collect();
                assert_eq!(run(&program.program, &inputs), expected);
            }
        }
        assert!(kinds.iter().all(|&count| count > 0), "{kinds:?}");
    }

    #[test]
    fn the_expected_cost_is_near_the_true_one() {
        for (outputs, count) in [(512, 64), (64, 512), (1, 512), (512, 1), (32, 32)] {
            let values = numbers(outputs * count, 5).iter().map(|x| x >> 56).collect();
            let exponents = Exponents::new(outputs, count, values);
            let (cost, plan) = exponents.plan();
            let mut builder = Builder::new(count);
            let results = plan.build(&exponents, &mut builder);
            let program = builder.finish(&results);
            let cost_of = |squares| if squares { SQUARE_COST } else { 1.0 };
            let true_cost: f64 = program
                .layers
                .iter()
                .map(|layer| layer.operations.len() as f64 * cost_of(layer.squares))
                .sum();
            assert!((cost - true_cost).abs() < 0.2 * true_cost, "{plan:?}: {cost}, {true_cost}");
        }
    }
}
