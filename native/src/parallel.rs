//! Row-parallel loops on scoped threads.

use crate::error::Result;
use std::sync::{Mutex, PoisonError};
use std::thread;

/// Threads to use for `rows` rows when the caller asked for `requested` (0: all cores that the
/// scheduler lets this process use).
pub fn thread_count(requested: usize, rows: usize) -> usize {
    let wanted = match requested {
        0 => thread::available_parallelism().map_or(1, usize::from),
        some => some,
    };
    wanted.min(rows).max(1)
}

/// Rows below which a thread costs more than it saves when the work is about a microsecond a row.
const FEW_ROWS: usize = 32;

/// As `thread_count`, for work that is quickly done: fewer threads unless asked for.
pub fn thread_count_for_quick(requested: usize, rows: usize) -> usize {
    match requested {
        0 if rows < 2 * FEW_ROWS => 1,
        0 => thread_count(0, rows / FEW_ROWS),
        some => thread_count(some, rows),
    }
}

/// Call `work(first_row, rows_of_out)` on disjoint parts of `out`, whose rows are `width` wide.
/// The first error in row order wins; a panic in a worker continues in the caller.
pub fn for_row_blocks<T, F>(out: &mut [T], width: usize, requested: usize, work: F) -> Result<()>
where
    T: Send,
    F: Fn(usize, &mut [T]) -> Result<()> + Sync,
{
    let rows = out.len() / width;
    if rows == 0 {
        return Ok(());
    }
    let threads = thread_count(requested, rows);
    let rows_each = rows.div_ceil(threads);
    let blocks = out.chunks_mut(rows_each * width).enumerate();
    for_each(blocks, threads, |(part, block)| work(part * rows_each, block))
}

/// Call `work` on items that threads, this one among them, take as they become free, so that a
/// slowed core does not keep the others waiting. No items are taken after an error; of several
/// errors, that of the first item wins.
pub fn for_each<I, F>(items: I, threads: usize, work: F) -> Result<()>
where
    I: Iterator + Send,
    F: Fn(I::Item) -> Result<()> + Sync,
{
    let state = Mutex::new((items.enumerate().fuse(), None));
    // A panic elsewhere leaves nothing half done here.
    let locked = || state.lock().unwrap_or_else(PoisonError::into_inner);
    let take = || {
        let (items, first_error) = &mut *locked();
        if first_error.is_some() { None } else { items.next() }
    };
    let until_empty = || {
        while let Some((number, item)) = take() {
            if let Err(error) = work(item) {
                let (_, first_error) = &mut *locked();
                if first_error.as_ref().is_none_or(|&(first, _)| number < first) {
                    *first_error = Some((number, error));
                }
            }
        }
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (1..threads).map(|_| scope.spawn(until_empty)).collect();
        until_empty();
        for worker in workers {
            worker.join().unwrap_or_else(|cause| std::panic::resume_unwind(cause));
        }
    });
    match locked().1.take() {
        Some((_, error)) => Err(error),
        None => Ok(()),
    }
}

/// Rows that vector paths compute together; chunks are multiples of it.
const ROWS_TOGETHER: usize = 8;

/// As `for_row_blocks`, in chunks of at most `most` rows (a multiple of [`ROWS_TOGETHER`]) that
/// threads take as they become free.
pub fn for_row_chunks<F>(
    out: &mut [u64],
    width: usize,
    most: usize,
    requested: usize,
    work: F,
) -> Result<()>
where
    F: Fn(usize, &mut [u64]) -> Result<()> + Sync,
{
    let rows = out.len() / width;
    if rows == 0 {
        return Ok(());
    }
    let threads = thread_count(requested, rows);
    let chunk = balanced(rows, threads, most).next_multiple_of(ROWS_TOGETHER).min(most);
    let chunks = out.chunks_mut(chunk * width).enumerate();
    for_each(chunks, threads, |(number, block)| work(number * chunk, block))
}

/// Rows of parts of at most `most` rows, so that every thread gets as many parts as any other, of
/// nearly equal size.
pub fn balanced(rows: usize, threads: usize, most: usize) -> usize {
    let rounds = rows.div_ceil(threads * most);
    rows.div_ceil(threads * rounds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::KernelError;

    #[test]
    fn chunks_cover_every_row_once() {
        for rows in [0, 1, 7, 8, 9, 127, 128, 129, 300, 1000] {
            for threads in [1, 2, 3, 16] {
                let mut out = vec![0; 3 * rows];
                let done = for_row_chunks(&mut out, 3, 128, threads, |first, block| {
                    assert!(first.is_multiple_of(ROWS_TOGETHER) && block.len() <= 3 * 128);
                    for (i, value) in block.iter_mut().enumerate() {
                        *value += (3 * first + i) as u64 + 1;
                    }
                    Ok(())
                });
                assert_eq!(done, Ok(()));
                assert!(out.iter().zip(1..).all(|(&value, expected)| value == expected));
            }
        }
    }

    #[test]
    fn parts_are_balanced() {
        assert_eq!([1, 8, 9, 12].map(|rows| balanced(rows, 2, 3)), [1, 2, 3, 3]);
        assert_eq!(balanced(100, 1, 1000), 100);
    }

    #[test]
    fn of_several_errors_the_first_wins() {
        for threads in [1, 3] {
            let failed = for_each(0..100, threads, |number| match number % 4 {
                3 => Err(KernelError::IndexRange(number)),
                _ => Ok(()),
            });
            assert_eq!(failed, Err(KernelError::IndexRange(3)));
        }
    }

    #[test]
    fn chunks_report_errors() {
        for threads in [1, 3] {
            let failed = for_row_chunks(&mut [0; 500], 1, 8, threads, |first, _| match first {
                8 => Err(KernelError::Entropy),
                _ => Ok(()),
            });
            assert_eq!(failed, Err(KernelError::Entropy));
        }
    }
}
