//! Cross-entropy of rows of logits, in float64.

use crate::kernel::per_level;
use crate::math::double::exp;
use crate::simd::{self, Level};
use std::cell::Cell;

/// Elements for which there is room on the stack.
pub(super) const ROOM: usize = 1024;

/// What a row of logits is compared with.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// One class number a row, `[batch]`.
    Classes(&'a [usize]),
    /// One probability a class, `[batch, n]`: one-hot rows, or softened ones.
    Rows(&'a [f32]),
}

impl<'a> Target<'a> {
    /// Those of some rows, for `n` classes.
    pub(super) fn rows(self, rows: std::ops::Range<usize>, n: usize) -> Self {
        match self {
            Self::Classes(classes) => Self::Classes(&classes[rows]),
            Self::Rows(all) => Self::Rows(&all[rows.start * n..rows.end * n]),
        }
    }
}

per_level! {
    fn exponentials<>(x: &mut [f64]) where [] {
        for x in x {
            *x = exp(*x);
        }
    }
}

/// The sum over rows of `-sum over k of p[k] log softmax(logits)[k]`, for `logits[rows, n]`; with `out`, `weight` times its
/// gradient `softmax(logits) - p` is written there.
pub(super) fn rows(n: usize, logits: &[f32], target: Target<'_>, out: Option<(f64, &mut [f32])>) -> f64 {
    if logits.len() <= ROOM {
        return rows_in(&mut [0.0; ROOM][..logits.len()], n, logits, target, out);
    }
    // Taken, not borrowed: nothing can be in its way.
    let mut scratch = SCRATCH.take();
    scratch.resize(scratch.len().max(logits.len()), 0.0);
    let total = rows_in(&mut scratch[..logits.len()], n, logits, target, out);
    SCRATCH.set(scratch);
    total
}

thread_local! {
    /// Room for a row that is too long for the stack, kept for the next one.
    static SCRATCH: Cell<Vec<f64>> = const { Cell::new(Vec::new()) };
}

/// [`rows`] with room for as many numbers as there are logits.
fn rows_in(scratch: &mut [f64], n: usize, logits: &[f32], target: Target<'_>, out: Option<(f64, &mut [f32])>) -> f64 {
    // With the largest logit of a row taken out, no exponential overflows.
    for (row, shifted) in logits.chunks_exact(n).zip(scratch.chunks_exact_mut(n)) {
        let largest = largest(row);
        for (shifted, &logit) in shifted.iter_mut().zip(row) {
            *shifted = f64::from(logit) - largest;
        }
    }
    exponentials(simd::level(), scratch);
    let mut total = 0.0;
    for (i, (row, powers)) in logits.chunks_exact(n).zip(scratch.chunks_exact_mut(n)).enumerate() {
        let sum: f64 = powers.iter().sum();
        total += value(row, libm::log(sum), target.rows(i..i + 1, n));
        for power in powers {
            *power /= sum;
        }
    }
    if let Some((weight, out)) = out {
        gradient(n, scratch, target, weight, out);
    }
    total
}

fn largest(row: &[f32]) -> f64 {
    f64::from(row.iter().fold(f32::NEG_INFINITY, |largest, &logit| largest.max(logit)))
}

/// The loss of one row whose `log(sum(exp(row - largest)))` is `normaliser`.
fn value(row: &[f32], normaliser: f64, target: Target<'_>) -> f64 {
    let largest = largest(row);
    let cost = |k: usize| normaliser - (f64::from(row[k]) - largest);
    match target {
        Target::Classes(class) => cost(class[0]),
        // A class that is ruled out (logit -inf) and not the target costs nothing, where 0 times infinity is NaN.
        Target::Rows(p) => p.iter().enumerate().filter(|(_, p)| **p != 0.0).map(|(k, &p)| f64::from(p) * cost(k)).sum(),
    }
}

fn gradient(n: usize, softmax: &[f64], target: Target<'_>, weight: f64, out: &mut [f32]) {
    match target {
        Target::Classes(classes) => {
            for ((row, out), &class) in softmax.chunks_exact(n).zip(out.chunks_exact_mut(n)).zip(classes) {
                for (out, &s) in out.iter_mut().zip(row) {
                    *out = (weight * s) as f32;
                }
                out[class] = (weight * (row[class] - 1.0)) as f32;
            }
        }
        Target::Rows(p) => {
            for ((out, &s), &p) in out.iter_mut().zip(softmax).zip(p) {
                *out = (weight * (s - f64::from(p))) as f32;
            }
        }
    }
}
