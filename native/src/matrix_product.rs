//! Products of public integer matrices with encrypted ones.
//!
//! Belongs here: dealing the work to threads and moving ciphertexts between arrays and registers.
//! Does not belong here: which products to compute (`multi_exponentiation`).

use crate::cipher_array::CipherArray;
use crate::error::{KernelError, Result};
use crate::groups::{Lane, ZERO};
use crate::multi_exponentiation::{MultiExponentiation, Signs};
use crate::parallel;
use crate::straight_line::Program;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

/// Products of weights and columns below which the inversion and the tables of one more thread
/// cost about as much as it saves.
const FEW_PRODUCTS: usize = 2048;

/// [`Lane`]s of the registers that a thread fills at once, unless one column takes more: 4 MiB,
/// which stay in caches and yet hold columns enough to fill vectors and share an inversion.
const REGISTERS_AT_ONCE: usize = 1 << 16;

/// Outputs, bases and columns that are computed at once.
struct Part {
    outputs: Range<usize>,
    bases: Range<usize>,
    columns: Range<usize>,
}

struct Product<'a> {
    array: &'a CipherArray,
    weights: &'a [i64],
    outputs: usize,
    bases: usize,
    columns: usize,
}

impl CipherArray {
    /// Row i c + j of the result is the product over k of the rows k c + j to the power
    /// `weights`[i, k], for c columns. The weights are public.
    pub fn matmul(&self, weights: &[i64], outputs: usize, threads: usize) -> Result<Self> {
        let bases = weights.len() / outputs;
        assert!(weights.len() == outputs * bases && self.len().is_multiple_of(bases));
        let columns = self.len() / bases;
        Product { array: self, weights, outputs, bases, columns }.compute(threads)
    }
}

impl Product<'_> {
    /// Columns have nothing in common. If there are too few of them, threads take some of the
    /// outputs each, which share tables, or some of the bases, which leaves partial products.
    fn compute(&self, threads: usize) -> Result<CipherArray> {
        let longest = self.columns.max(self.outputs).max(self.bases);
        let threads = match threads {
            0 => parallel::thread_count(0, self.weights.len() * self.columns / FEW_PRODUCTS),
            some => some,
        }
        .min(longest);
        if self.columns >= threads {
            self.by_columns(threads)
        } else if self.outputs >= self.bases {
            self.by_outputs(threads)
        } else {
            self.by_bases(threads)
        }
    }

    /// In blocks of columns, so that the registers of a thread stay below a constant size.
    fn by_columns(&self, threads: usize) -> Result<CipherArray> {
        let (outputs, bases) = (0..self.outputs, 0..self.bases);
        let exponents = self.exponents(&outputs, &bases);
        let column_lanes = exponents.program.registers * self.single_width();
        let most = REGISTERS_AT_ONCE / column_lanes.max(1);
        let step = parallel::balanced(self.columns, threads, most.max(1));
        let parts = ranges(self.columns, step).map(|columns| Part {
            outputs: outputs.clone(),
            bases: bases.clone(),
            columns,
        });
        self.assembled(parts, threads, |part| self.compute_part(part, &exponents))
    }

    fn by_outputs(&self, threads: usize) -> Result<CipherArray> {
        let parts = ranges(self.outputs, self.outputs.div_ceil(threads)).map(|outputs| Part {
            outputs,
            bases: 0..self.bases,
            columns: 0..self.columns,
        });
        self.assembled(parts, threads, |part| {
            self.compute_part(part, &self.exponents(&part.outputs, &part.bases))
        })
    }

    fn by_bases(&self, threads: usize) -> Result<CipherArray> {
        let whole =
            Part { outputs: 0..self.outputs, bases: 0..self.bases, columns: 0..self.columns };
        let parts: Vec<Part> = ranges(self.bases, self.bases.div_ceil(threads))
            .map(|bases| Part { outputs: 0..self.outputs, bases, columns: 0..self.columns })
            .collect();
        let mut factors: Vec<Vec<Lane>> = vec![Vec::new(); parts.len()];
        parallel::for_each(parts.iter().zip(&mut factors), threads, |(part, factors)| {
            *factors = self.compute_part(part, &self.exponents(&part.outputs, &part.bases))?;
            Ok(())
        })?;
        self.assembled([whole].into_iter(), 1, |_| {
            let program = MultiExponentiation::product(factors.len());
            Ok(self.run(&program, self.outputs * self.columns, factors.concat()))
        })
    }

    /// The result from parts that cover it, each computed as singles [output][column].
    fn assembled(
        &self,
        parts: impl Iterator<Item = Part> + Send,
        threads: usize,
        compute: impl Fn(&Part) -> Result<Vec<Lane>> + Sync,
    ) -> Result<CipherArray> {
        let result = Mutex::new(self.array.ones(self.outputs * self.columns));
        parallel::for_each(parts, threads, |part| {
            let computed = compute(&part)?;
            let mut singles = computed.chunks_exact(self.single_width());
            let mut result = result.lock().unwrap_or_else(PoisonError::into_inner);
            for output in part.outputs {
                for (column, single) in part.columns.clone().zip(&mut singles) {
                    result.put_single(output * self.columns + column, single);
                }
            }
            Ok(())
        })?;
        Ok(result.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn exponents(&self, outputs: &Range<usize>, bases: &Range<usize>) -> MultiExponentiation {
        let rows = outputs.clone().map(|output| &self.weights[output * self.bases..]);
        let weights: Vec<i64> = rows.flat_map(|row| &row[bases.clone()]).copied().collect();
        MultiExponentiation::new(&weights, outputs.len(), bases.len())
    }

    fn compute_part(&self, part: &Part, exponents: &MultiExponentiation) -> Result<Vec<Lane>> {
        let (columns, bases) = (part.columns.len(), part.bases.len());
        let rows_of = |base| part.columns.clone().map(move |column| base * self.columns + column);
        let mut inputs = self.array.singles(part.bases.clone().flat_map(rows_of));
        match &exponents.signs {
            Signs::None => {}
            Signs::Offset => {
                let program = MultiExponentiation::product(bases);
                let product = self.run(&program, columns, inputs.clone());
                // Which base has no inverse shows when all of them are tried.
                let inverses = self.inverses(&product).map_err(|error| {
                    let located = self.inverses(&inputs).err();
                    located.map_or(error, |error| self.locate(error, part, |base| base))
                })?;
                inputs.extend(inverses);
            }
            Signs::Inverses(negated) => {
                let width = columns * self.single_width();
                let some = negated.iter().flat_map(|base| &inputs[base * width..][..width]);
                let inverses = self
                    .inverses(&some.copied().collect::<Vec<_>>())
                    .map_err(|error| self.locate(error, part, |place| negated[place]))?;
                inputs.extend(inverses);
            }
        }
        Ok(self.run(&exponents.program, columns, inputs))
    }

    /// The row of the array that an error in a part's inputs means.
    fn locate(
        &self,
        error: KernelError,
        part: &Part,
        base: impl Fn(usize) -> usize,
    ) -> KernelError {
        let KernelError::NotInvertible(place) = error else { return error };
        let columns = part.columns.len();
        let base = part.bases.start + base(place / columns);
        KernelError::NotInvertible(base * self.columns + part.columns.start + place % columns)
    }

    fn inverses(&self, singles: &[Lane]) -> Result<Vec<Lane>> {
        let width = self.single_width();
        let mut array = self.array.ones(singles.len() / width);
        for (row, single) in singles.chunks_exact(width).enumerate() {
            array.put_single(row, single);
        }
        let inverted = array.negate(1)?;
        Ok(inverted.singles(0..inverted.len()))
    }

    /// Run a program on the inputs [input][column]; gives its outputs alike.
    fn run(&self, program: &Program, columns: usize, mut registers: Vec<Lane>) -> Vec<Lane> {
        let width = columns * self.single_width();
        assert!(registers.len() == program.inputs * width);
        registers.resize(program.registers * width, ZERO);
        self.array.space().worker().run(program, columns, &mut registers);
        let one = self.array.single_one();
        let outputs = program.outputs.iter().map(|output| match *output {
            Some(register) => registers[register as usize * width..][..width].to_vec(),
            None => one.repeat(columns),
        });
        outputs.flatten().collect()
    }

    fn single_width(&self) -> usize {
        self.array.shape().single_width()
    }
}

/// 0..length in steps, the last one perhaps shorter.
fn ranges(length: usize, step: usize) -> impl Iterator<Item = Range<usize>> {
    (0..length).step_by(step).map(move |start| start..length.min(start + step))
}
