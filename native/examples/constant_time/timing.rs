//! Compares the times of sparse and of random secrets: Welch's t test on interleaved
//! measurements, after O. Reparaz, J. Balasch and I. Verbauwhede, *Dude, is my code constant
//! time?* (DATE 2017). Noise can hide a leak from it, so it adds to `trace`, which cannot be
//! fooled by noise but sees no latencies.

use crate::operations::{self, Operation, is_available};
use crate::report;
use crate::secrets::{Class, Secrets, split_mix};
use std::time::Instant;

/// The threshold that the authors take for strong evidence.
const LEAK_ABOVE: f64 = 4.5;
/// Measurements above this share of all are dropped: interrupts, mostly.
const KEPT_SHARE: f64 = 0.8;

pub fn check(path: &str, samples: usize) -> bool {
    if !is_available(path) || samples < 100 {
        eprintln!("this processor has no {path}, or there are too few samples");
        return false;
    }
    let mut passed = true;
    for operation in &operations::ALL {
        let t = t_statistic(operation, path, samples);
        let found = format!("|t| = {:.1}", t.abs());
        let leak = (t.abs() > LEAK_ABOVE).then_some(found.as_str());
        passed &= report("timing", path, operation, leak);
    }
    passed
}

fn t_statistic(operation: &Operation, path: &str, samples: usize) -> f64 {
    let mut times = [Vec::new(), Vec::new()];
    let mut order = 1;
    let mut secrets = Secrets::new(Class::Sparse);
    for sample in 0..samples {
        let random = split_mix(&mut order) as usize & 1;
        secrets.copy_from(&Secrets::new(match random {
            0 => Class::Sparse,
            _ => Class::Random(sample as u64),
        }));
        // Keys are made anew for either class: memory and caches start alike.
        let mut work = operation.prepare(path, &secrets);
        let start = Instant::now();
        work();
        times[random].push(start.elapsed().as_nanos() as f64);
    }
    let mut sorted = times.concat();
    sorted.sort_by(f64::total_cmp);
    let limit = sorted[(sorted.len() as f64 * KEPT_SHARE) as usize];
    let [fixed, random] = times.map(|times| {
        Moments::of(&times.into_iter().filter(|&time| time <= limit).collect::<Vec<_>>())
    });
    (fixed.mean - random.mean) / (fixed.variance_of_mean + random.variance_of_mean).sqrt()
}

struct Moments {
    mean: f64,
    variance_of_mean: f64,
}

impl Moments {
    fn of(times: &[f64]) -> Self {
        let count = times.len() as f64;
        let mean = times.iter().sum::<f64>() / count;
        let squares = times.iter().map(|time| (time - mean).powi(2)).sum::<f64>();
        Self { mean, variance_of_mean: squares / (count - 1.0) / count }
    }
}
