//! Ciphertexts kept between operations in the form that their path computes with.
//!
//! Belongs here: the operations on arrays, written once for every path against [`GroupWorker`].
//! Does not belong here: arithmetic on a group, and rows of integers other than `load` and `store`.

use crate::batch::GroupWorker;
use crate::cipher_space::CipherSpace;
use crate::error::{KernelError, Result};
use crate::groups::{GroupShape, LANES, Lane, ZERO, build, reserved};
use crate::parallel;

use std::sync::Arc;

#[derive(Clone)]
pub struct CipherArray {
    space: Arc<CipherSpace>,
    rows: usize,
    groups: Vec<Lane>,
}

impl CipherArray {
    /// Take rows of integers below n^2.
    pub fn load(space: &Arc<CipherSpace>, rows: &[u64], threads: usize) -> Result<Self> {
        space.check_ciphertexts(rows)?;
        let width = space.ciphertext_limbs();
        let shape = space.group_shape();
        Self::quick(space, rows.len() / width, threads, || {
            let mut worker = space.worker();
            move |group, out| worker.load(rows_of(rows, width, shape, group), out)
        })
    }

    pub fn len(&self) -> usize {
        self.rows
    }

    pub fn space(&self) -> &CipherSpace {
        &self.space
    }

    /// Write the integers, which are below n^2 and unique.
    pub fn store(&self, out: &mut [u64], threads: usize) -> Result<()> {
        let width = self.space.ciphertext_limbs() * self.shape().rows;
        let mut blocks: Vec<&mut [u64]> = out.chunks_mut(width).collect();
        let threads = parallel::thread_count_for_quick(threads, blocks.len());
        parallel::for_row_blocks(&mut blocks, 1, threads, |first, blocks| {
            let mut worker = self.space.worker();
            for (i, rows) in blocks.iter_mut().enumerate() {
                worker.store(self.group(first + i), rows);
            }
            Ok(())
        })
    }

    pub fn add(&self, other: &Self, threads: usize) -> Result<Self> {
        self.check_form(other)?;
        assert!(self.rows == other.rows);
        Self::quick(&self.space, self.rows, threads, || {
            let mut worker = self.space.worker();
            move |group, out| worker.multiply(self.group(group), other.group(group), out)
        })
    }

    pub fn subtract(&self, other: &Self, threads: usize) -> Result<Self> {
        self.check_form(other)?;
        assert!(self.rows == other.rows);
        other.inverses(Some(self), threads)
    }

    /// Add rows of plaintexts below n.
    pub fn add_plain(&self, plaintexts: &[u64], threads: usize) -> Result<Self> {
        self.space.check_plaintexts(plaintexts)?;
        let width = self.space.plaintext_limbs();
        assert!(plaintexts.len() == self.rows * width);
        Self::quick(&self.space, self.rows, threads, || {
            let mut worker = self.space.worker();
            move |group, out| {
                let plaintexts = rows_of(plaintexts, width, self.shape(), group);
                worker.add_plain(self.group(group), plaintexts, out);
            }
        })
    }

    pub fn negate(&self, threads: usize) -> Result<Self> {
        self.inverses(None, threads)
    }

    /// Inverses modulo n^2, times another array's rows if given: one inversion modulo n a thread,
    /// and three or four products a group.
    fn inverses(&self, factors: Option<&Self>, threads: usize) -> Result<Self> {
        let shape = self.shape();
        let mut groups = reserved(self.groups.len());
        groups.resize(self.groups.len(), ZERO);
        let threads = parallel::thread_count_for_quick(threads, shape.count(self.rows));
        parallel::for_row_blocks(&mut groups, shape.width, threads, |first, out| {
            let block = first * shape.width..first * shape.width + out.len();
            let factors = factors.map(|factors| &factors.groups[block.clone()]);
            self.invert_block(&self.groups[block], factors, out)
                .map_err(|row| KernelError::NotInvertible(first * shape.rows + row))
        })?;
        Ok(Self { space: self.space.clone(), rows: self.rows, groups })
    }

    /// Montgomery's trick lane by lane; the first row without an inverse is an error.
    fn invert_block(
        &self,
        own: &[Lane],
        factors: Option<&[Lane]>,
        out: &mut [Lane],
    ) -> std::result::Result<(), usize> {
        let (shape, mut worker) = (self.shape(), self.space.worker());
        let width = shape.width;
        out[..width].copy_from_slice(&own[..width]);
        for start in (width..own.len()).step_by(width) {
            let (done, rest) = out.split_at_mut(start);
            worker.multiply(&done[start - width..], &own[start..][..width], &mut rest[..width]);
        }
        let Some(mut inverse) = self.invert_group(&out[own.len() - width..], &mut *worker) else {
            // A product of units is a unit, so the prefixes tell the first group without inverse.
            let prefixes: Vec<_> = out.chunks_exact(width).collect();
            let group = prefixes.partition_point(|prefix| {
                self.first_without_inverse(prefix, &mut *worker).is_none()
            });
            let group_rows = &own[group * width..][..width];
            let row = self.first_without_inverse(group_rows, &mut *worker).unwrap_or(0);
            return Err(group * shape.rows + row);
        };
        let [mut own_inverse, mut next] = [(); 2].map(|()| vec![ZERO; width]);
        for start in (0..own.len()).step_by(width).rev() {
            let (before, rest) = out.split_at_mut(start);
            if start == 0 {
                own_inverse.copy_from_slice(&inverse);
            } else {
                worker.multiply(&inverse, &before[start - width..], &mut own_inverse);
                worker.multiply(&inverse, &own[start..][..width], &mut next);
                std::mem::swap(&mut next, &mut inverse);
            }
            match factors {
                Some(factors) => {
                    worker.multiply(&own_inverse, &factors[start..][..width], &mut rest[..width]);
                }
                None => rest[..width].copy_from_slice(&own_inverse),
            }
        }
        Ok(())
    }

    fn invert_group(&self, group: &[Lane], worker: &mut dyn GroupWorker) -> Option<Vec<Lane>> {
        let mut inverses = vec![0; self.shape().rows * self.space.ciphertext_limbs()];
        let mut rows = inverses.clone();
        worker.store(group, &mut rows);
        self.space.invert_rows(&rows, &mut inverses).ok()?;
        let mut out = vec![ZERO; group.len()];
        worker.load(&inverses, &mut out);
        Some(out)
    }

    fn first_without_inverse(&self, group: &[Lane], worker: &mut dyn GroupWorker) -> Option<usize> {
        let width = self.space.ciphertext_limbs();
        let mut rows = vec![0; self.shape().rows * width];
        worker.store(group, &mut rows);
        rows.chunks(width).position(|row| !self.space.is_coprime(row))
    }

    /// c^k for public weights k, in a time that depends on them.
    pub fn scalar_mul(&self, weights: &[i64], threads: usize) -> Result<Self> {
        assert!(weights.len() == self.rows);
        let negative: Vec<i64> = (0..).zip(weights).filter(|(_, k)| **k < 0).map(|p| p.0).collect();
        let inverses =
            self.take(&negative, threads)?.negate(threads).map_err(|error| match error {
                KernelError::NotInvertible(row) => {
                    KernelError::NotInvertible(negative[row] as usize)
                }
                other => other,
            })?;
        let magnitudes: Vec<u64> = weights.iter().map(|k| k.unsigned_abs()).collect();
        let base_of = |row: usize| match negative.binary_search(&(row as i64)) {
            Ok(place) => (&inverses, place),
            Err(_) => (self, row),
        };
        let (shape, one) = (self.shape(), self.one());
        let groups = build(shape.count(self.rows), shape.width, threads, || {
            let mut worker = self.space.worker();
            let mut base = vec![ZERO; shape.width];
            let (one, base_of, magnitudes) = (&one, &base_of, &magnitudes);
            move |group, out| {
                let rows = group * shape.rows..self.rows.min((group + 1) * shape.rows);
                gather(shape, one, &mut base, |lane| rows.clone().nth(lane).map(base_of));
                worker.power(&base, &magnitudes[rows.clone()], out);
            }
        })?;
        Ok(Self { space: self.space.clone(), rows: self.rows, groups })
    }

    /// Products of `length` consecutive rows each.
    pub fn sum(&self, length: usize, threads: usize) -> Result<Self> {
        assert!(length > 0 && self.rows.is_multiple_of(length));
        let shape = self.shape();
        let outputs = self.rows / length;
        let mut sums = None;
        let mut remaining = length;
        while remaining > 1 {
            let source = sums.as_ref().unwrap_or(self);
            let threads = parallel::thread_count_for_quick(threads, shape.count(source.rows));
            // Few sums are cut into parts that fill the lanes and threads.
            let places = shape.rows * threads;
            let parts = if outputs < places { places.min(remaining / 2) } else { 1 };
            sums = Some(source.fold(outputs, remaining, parts, threads)?);
            remaining = parts;
        }
        Ok(sums.unwrap_or_else(|| self.clone()))
    }

    /// For each run of `length` rows, the products of every `parts`-th row from the first `parts`.
    fn fold(&self, outputs: usize, length: usize, parts: usize, threads: usize) -> Result<Self> {
        let (shape, one) = (self.shape(), self.one());
        let rows = outputs * parts;
        let groups = build(shape.count(rows), shape.width, threads, || {
            let mut worker = self.space.worker();
            let one = &one;
            let [mut factor, mut next] = [(); 2].map(|()| vec![ZERO; shape.width]);
            move |group: usize, out: &mut [Lane]| {
                let factor_of = |lane: usize, round: usize| {
                    let row = group * shape.rows + lane;
                    let within = row % parts + round * parts;
                    let exists = row < rows && within < length;
                    exists.then(|| (self, row / parts * length + within))
                };
                gather(shape, one, out, |lane| factor_of(lane, 0));
                for round in 1..length.div_ceil(parts) {
                    gather(shape, one, &mut factor, |lane| factor_of(lane, round));
                    worker.multiply(out, &factor, &mut next);
                    out.copy_from_slice(&next);
                }
            }
        })?;
        Ok(Self { space: self.space.clone(), rows, groups })
    }

    /// The rows of the given indices.
    pub fn take(&self, indices: &[i64], threads: usize) -> Result<Self> {
        let valid = |index: i64| usize::try_from(index).is_ok_and(|index| index < self.rows);
        if let Some(at) = indices.iter().position(|&index| !valid(index)) {
            return Err(KernelError::IndexRange(at));
        }
        let pick = |row: usize| (self, indices[row] as usize);
        Self::gathered(&self.space, indices.len(), pick, threads)
    }

    /// All rows of one array or more, one array after another.
    pub fn concatenate(arrays: &[&Self], threads: usize) -> Result<Self> {
        let space = &arrays[0].space;
        let mut starts = Vec::with_capacity(arrays.len());
        let mut rows = 0;
        for array in arrays {
            arrays[0].check_form(array)?;
            starts.push(rows);
            rows += array.rows;
        }
        let pick = |row: usize| {
            let part = starts.partition_point(|&start| start <= row) - 1;
            (arrays[part], row - starts[part])
        };
        Self::gathered(space, rows, pick, threads)
    }

    fn gathered<'a>(
        space: &Arc<CipherSpace>,
        rows: usize,
        pick: impl Fn(usize) -> (&'a Self, usize) + Sync,
        threads: usize,
    ) -> Result<Self> {
        let shape = space.group_shape();
        let one = one_of(space);
        Self::quick(space, rows, threads, || {
            let (one, pick) = (&one, &pick);
            move |group, out| {
                gather(shape, one, out, |lane| {
                    let row = group * shape.rows + lane;
                    (row < rows).then(|| pick(row))
                });
            }
        })
    }

    /// An array whose groups take about a microsecond a row.
    fn quick<W>(
        space: &Arc<CipherSpace>,
        rows: usize,
        threads: usize,
        prepare: impl Fn() -> W + Sync,
    ) -> Result<Self>
    where
        W: FnMut(usize, &mut [Lane]),
    {
        let shape = space.group_shape();
        let count = shape.count(rows);
        let threads = parallel::thread_count_for_quick(threads, count);
        let groups = build(count, shape.width, threads, prepare)?;
        Ok(Self { space: space.clone(), rows, groups })
    }

    /// Rows as singles, one after another; see [`GroupShape::single_width`].
    pub fn singles(&self, rows: impl Iterator<Item = usize>) -> Vec<Lane> {
        let shape = self.shape();
        let mut singles = Vec::new();
        for row in rows {
            let start = singles.len();
            singles.resize(start + shape.single_width(), ZERO);
            let single = &mut singles[start..];
            shape.take_single(self.group(row / shape.rows), row % shape.rows, single);
        }
        singles
    }

    /// An array of ones under the same modulus.
    pub fn ones(&self, rows: usize) -> Self {
        let groups = self.one().repeat(self.shape().count(rows));
        Self { space: self.space.clone(), rows, groups }
    }

    pub fn put_single(&mut self, row: usize, single: &[Lane]) {
        let shape = self.shape();
        assert!(row < self.rows);
        let group = &mut self.groups[row / shape.rows * shape.width..][..shape.width];
        shape.put_single(single, group, row % shape.rows);
    }

    /// The ciphertext 1 as a single.
    pub fn single_one(&self) -> Vec<Lane> {
        let mut single = vec![ZERO; self.shape().single_width()];
        self.shape().take_single(&self.one(), 0, &mut single);
        single
    }

    pub fn shape(&self) -> GroupShape {
        self.space.group_shape()
    }

    fn group(&self, number: usize) -> &[Lane] {
        let width = self.shape().width;
        &self.groups[number * width..][..width]
    }

    fn one(&self) -> Vec<Lane> {
        one_of(&self.space)
    }

    fn check_form(&self, other: &Self) -> Result<()> {
        let same = Arc::ptr_eq(&self.space, &other.space) || self.space.keeps_as(&other.space);
        if same { Ok(()) } else { Err(KernelError::OtherForm) }
    }
}

/// A group of ones.
fn one_of(space: &CipherSpace) -> Vec<Lane> {
    let mut one = vec![ZERO; space.group_shape().width];
    space.worker().load(&[], &mut one);
    one
}

/// The rows of an array `width` wide that one group takes.
fn rows_of(rows: &[u64], width: usize, shape: GroupShape, group: usize) -> &[u64] {
    let start = group * shape.rows * width;
    &rows[start..rows.len().min(start + shape.rows * width)]
}

/// Fill a group with ciphertexts from anywhere, and with 1 where there is none.
fn gather<'a>(
    shape: GroupShape,
    one: &[Lane],
    out: &mut [Lane],
    source: impl Fn(usize) -> Option<(&'a CipherArray, usize)>,
) {
    let mut sources = [None; LANES];
    for (lane, place) in sources[..shape.rows].iter_mut().enumerate() {
        *place = source(lane);
    }
    let sources = &sources[..shape.rows];
    if let Some((array, first)) = sources[0]
        && first.is_multiple_of(shape.rows)
        && (first..).zip(sources).all(|(row, place)| {
            place.is_some_and(|(other, at)| at == row && std::ptr::eq(other, array))
        })
    {
        return out.copy_from_slice(array.group(first / shape.rows));
    }
    for (lane, place) in sources.iter().enumerate() {
        match place {
            Some((array, row)) => {
                shape.copy_row(array.group(row / shape.rows), row % shape.rows, out, lane);
            }
            None => shape.copy_row(one, 0, out, lane),
        }
    }
}
